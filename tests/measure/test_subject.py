"""A network as it is measured: copied, in the conditions' format, its norms settled; the original is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nas.errors import InputError
from nas.measure import device, subject


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_model_and_input_are_in_the_conditions_format(precision: str) -> None:
    original = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = copy.deepcopy(original.state_dict())
    net = subject.make(original, (3, 8, 8), device="cpu", batch_size=2, precision=precision)
    model, x = net.model, net.example
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert not any(module.training for module in model.modules())
    assert {tensor.dtype for tensor in (x, *model[0].parameters())} == {dtype}
    # As mixed precision trains and scores them.
    assert {tensor.dtype for tensor in (*model[1].parameters(), model[1].running_mean)} == {torch.float32}
    assert x.shape == (2, 3, 8, 8) and net.device == torch.device("cpu")
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert net.run().dtype == dtype
    assert original.training and original[0].weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    state = torch.get_rng_state()
    assert torch.equal(subject.of(original, (3, 8, 8), net.conditions).example, x)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_batch_of_the_same_network() -> None:
    net = subject.make(nn.Conv2d(3, 4, 3), (3, 8, 6), device="cpu", batch_size=2)
    larger = net.at_batch(5)
    assert larger.model is net.model and larger.example.shape == (5, 3, 8, 6) and larger.conditions.batch_size == 5
    assert net.conditions.batch_size == 2
    assert [len(swept.run()) for swept in net.sweep((1, 4))] == [1, 4]


def test_a_word_that_cannot_be_used() -> None:
    with pytest.raises(InputError, match="device=tpu is unknown"):
        subject.make(nn.Identity(), (3, 8, 8), device="tpu")


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_bf16_network_computes_what_autocast_scores(memory_format: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8)).eval()
    for norm in (model[1], model[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.num_batches_tracked.fill_(1)
    net = subject.make(model, (3, 12, 12), device="cpu", batch_size=4, precision="bf16", memory_format=memory_format)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scored = model(net.example.float())
    with device.numeric_context(net.conditions):
        timed = net.run()
    assert timed.dtype == scored.dtype == torch.bfloat16
    torch.testing.assert_close(timed.float(), scored.float(), rtol=0, atol=float(scored.abs().max()) / 128)


def deep(depth: int) -> nn.Sequential:
    block = [layer for _ in range(depth) for layer in (nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *block).eval().requires_grad_(False)


def test_untrained_norms_are_settled_so_that_activations_live() -> None:
    torch.manual_seed(0)
    model = deep(40)
    assert model(torch.randn(4, 3, 8, 8)).std() < 1e-9
    net = subject.make(model, (3, 8, 8), device="cpu", batch_size=4)
    assert 0.1 < net.run().std() < 10
    assert not any(module.training for module in net.model.modules())
    assert net.model[2].momentum == 0.1
    again = subject.make(net.model, (3, 8, 8), device="cpu", batch_size=2)
    assert all(torch.equal(value, net.model.state_dict()[name]) for name, value in again.model.state_dict().items())


def test_norms_settle_on_a_single_image_and_a_single_position() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    norm = subject.make(model, (3, 4, 4), device="cpu", batch_size=1).model[2]
    assert int(norm.num_batches_tracked) == 1
    assert bool((norm.running_var > 0).all())


def test_settling_searches_for_no_algorithms_and_timing_does() -> None:
    searching = []

    class Noted(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            searching.append(torch.backends.cudnn.benchmark)
            return super().forward(input)

    net = subject.make(Noted(3), (3, 4, 4), device="cpu", batch_size=2)
    with device.numeric_context(net.conditions):
        net.run()
    assert searching == [False, True]
