"""The DenseNet family against torchvision and the paper's CIFAR network."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from search_spaces import dense


def mem_access(model: nn.Module, image: torch.Tensor) -> int:
    """Return h_in·w_in·c_in + h_out·w_out·c_out + k²·c_in·c_out ÷ groups, in elements, over every convolution."""
    total = 0

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += inputs[0].numel() + output.numel() + module.weight.numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(image)
    for hook in hooks:
        hook.remove()
    return total


def test_densenet121_gives_torchvisions_output_with_torchvisions_state() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.densenet121(weights=None).eval()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
            elif isinstance(module, nn.Linear):
                module.bias.uniform_(-0.3, 0.3)
    ours = dense.build(dense.preset("densenet121"), 3, 1000).eval()
    state = theirs.state_dict().values()
    assert [t.shape for t in ours.state_dict().values()] == [t.shape for t in state]
    ours.load_state_dict(dict(zip(ours.state_dict(), state, strict=True)))
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected, found = theirs(image), ours(image)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", [name for name in dense.PRESETS if name != "densenet40"])
def test_the_state_has_the_shapes_of_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None)
        ours = dense.build(dense.preset(name), 3, 1000)
    assert [t.shape for t in ours.state_dict().values()] == [t.shape for t in theirs.state_dict().values()]


def test_densenet40_has_the_published_size_and_memory_access_cost() -> None:
    with torch.device("meta"):
        model = dense.build(dense.preset("densenet40"), in_channels=3, num_classes=10)
        cost = mem_access(model, torch.zeros(1, 3, 32, 32))
    assert cost == 3_679_504
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 1.0  # table 2 of the paper


@pytest.mark.parametrize(("stem", "stages"), [("cifar", 1), ("cifar", 3), ("imagenet", 2), ("imagenet", 3)])
def test_the_stride_is_what_the_network_divides_its_input_by(stem: str, stages: int) -> None:
    stage = dense.Stage(layers=2, growth=4)
    architecture = dense.Architecture(stem=dense.Stem(kind=stem, width=6), stages=(stage,) * stages)
    with torch.device("meta"):
        model = dense.build(architecture, 1, 10)
        features = model.stages(model.stem(torch.zeros(1, 1, 64, 64)))
    assert features.shape[-1] == 64 // architecture.stride


def test_compression_and_bottleneck_round_as_torchvision_does() -> None:
    stages = tuple(dense.Stage(layers=3, growth=5, bottleneck=True, compression=0.5) for _ in range(3))
    architecture = dense.Architecture(stem=dense.Stem(kind="imagenet", width=9), stages=stages)
    with torch.device("meta"):
        ours = dense.build(architecture, 3, 7)
        theirs = torchvision.models.DenseNet(growth_rate=5, block_config=(3, 3, 3), num_init_features=9, bn_size=4, num_classes=7)
    assert [t.shape for t in ours.state_dict().values()] == [t.shape for t in theirs.state_dict().values()]
