from __future__ import annotations

import json

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from nas.errors import InputError, RunError
from nas.measure.complexity import Complexity, count


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_agrees_with_torchvisions_published_figures(name: str) -> None:
    published = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].meta
    cost = count(torchvision.models.get_model(name), (3, 224, 224))
    assert cost.params == published["num_params"]
    # torchvision publishes giga multiply-adds, to three digits and with a few of the operations that are not ours.
    assert cost.mult_adds / 1e9 == pytest.approx(published["_ops"], abs=0.0015)
    assert cost.flops == 2 * cost.mult_adds


def test_resnet18_to_the_last_operation() -> None:
    cost = count(torchvision.models.resnet18(), (3, 224, 224))
    assert (cost.params, cost.mult_adds) == (11_689_512, 1_814_073_344)
    assert sum(layer.mult_adds for layer in cost.layers) == cost.mult_adds
    assert {"native_batch_norm", "relu", "add"} <= set(cost.uncounted)
    assert "convolution" not in cost.uncounted and "addmm" not in cost.uncounted


def test_vovnet39_as_published() -> None:
    cost = count(timm.create_model("vovnet39a"), (3, 224, 224))
    assert (cost.params, round(cost.flops / 1e9, 3)) == (22_600_296, 14.144)


def densenet40() -> nn.Sequential:
    """Only what memory access depends on: the convolutions and the maps that they see (growth 12, three blocks of 12)."""

    class Grow(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, 12, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, self.conv(x)], 1)

    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    channels = 16
    for block in range(3):
        if block:
            layers += [nn.Conv2d(channels, channels, 1, bias=False), nn.AvgPool2d(2)]
        layers += [Grow(channels + 12 * layer) for layer in range(12)]
        channels += 12 * 12
    return nn.Sequential(*layers)


def test_memory_access_of_densenet40_as_known() -> None:
    assert count(densenet40(), (3, 32, 32)).mem_access == 3_679_504


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    groups=st.sampled_from([1, 2, 4]),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    bias=st.booleans(),
)
def test_convolution_costs_one_multiplication_per_product(
    kernel: int, stride: int, padding: int, groups: int, per_group: tuple[int, int], size: tuple[int, int], bias: bool
) -> None:
    c_in, c_out = (groups * channels for channels in per_group)
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=bias)
    cost = count(conv, (c_in, *size))
    # All-one weights on an all-one input add up to one per multiplication; the padding is multiplied too.
    padded = torch.ones(1, c_in, size[0] + 2 * padding, size[1] + 2 * padding)
    ones = functional.conv2d(padded, torch.ones_like(conv.weight), stride=stride, groups=groups)
    assert cost.mult_adds == int(ones.sum())
    assert cost.mem_access == c_in * size[0] * size[1] + ones.numel() + conv.weight.numel()
    assert cost.params == conv.weight.numel() + bias * c_out


def test_depthwise_layer_in_detail() -> None:
    cost = count(nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), nn.Flatten(), nn.Linear(128, 5)), (8, 8, 8))
    conv, linear = cost.layers
    assert (conv.name, conv.kind, conv.input_shape, conv.output_shape) == ("0", "conv", (8, 8, 8), (8, 4, 4))
    assert (conv.params, conv.mult_adds, conv.mem_access) == (80, 9 * 8 * 16, 512 + 128 + 72)
    assert (linear.name, linear.kind, linear.mult_adds, linear.mem_access) == ("2", "linear", 640, None)
    assert cost.mem_access == conv.mem_access


def test_transposed_convolution_costs_its_adjoint() -> None:
    up = count(nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2), (6, 8, 8))
    down = count(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 16, 16))
    assert up.mult_adds == down.mult_adds
    assert up.mem_access == down.mem_access


class FunctionalPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight)


def test_functional_convolution_is_found_and_named() -> None:
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 8, 1))
    model.add_module("odd", FunctionalPart())
    with pytest.raises(RunError, match=r"thop 1,536, FlopCounterMode 11,904, closed form 1,536, in 'odd'"):
        count(model, (3, 8, 8))


class SamePadded(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


def test_subclass_that_thop_does_not_know_is_counted() -> None:
    assert count(SamePadded(3, 5, 2), (3, 6, 6)).mult_adds == 36 * 12 * 5
    cost = count(timm.create_model("tf_mobilenetv3_small_100"), (3, 224, 224))
    assert cost.params == 2_542_856


def test_layer_that_is_shared_counts_once_in_parameters_and_each_time_in_work() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    shared = nn.Sequential(nn.Sequential(conv, nn.ReLU()), nn.Sequential(conv), conv)
    cost = count(shared, (4, 6, 6))
    assert (cost.params, cost.mult_adds, len(cost.layers)) == (144, 3 * 36 * 144, 3)


class LooksAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if float(x.sum()) <= 0 else x


def test_network_that_looks_at_values_is_counted_by_running_it() -> None:
    assert count(LooksAtValues(), (1, 5, 5)).mult_adds == 9 * 2 * 9


def test_broken_network_raises_its_own_error() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        count(nn.Conv2d(3, 4, 3), (1, 8, 8))


def test_model_is_left_as_it_was_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(2, 3, 6, 6))
    model[1].eval()
    model[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        cost = count(model.bfloat16(), (3, 6, 6))
    model.float()
    assert cost.mult_adds == 16 * 27 * 4 + 64 * 2
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 1
    assert model.state_dict().keys() == state.keys()
    assert not any(module._forward_hooks or "total_ops" in module._buffers for module in model.modules())
    assert torch.equal(model.state_dict()["1.running_mean"], state["1.running_mean"].bfloat16().float())
    assert capsys.readouterr() == ("", "")


def test_survives_json() -> None:
    cost = count(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)), (3, 6, 6))
    assert Complexity.from_dict(json.loads(json.dumps(cost.to_dict()))) == cost


def test_foreign_json_is_refused_by_field() -> None:
    stored = count(nn.Linear(4, 2), (1, 2, 4)).to_dict()
    del stored["flops"]
    with pytest.raises(InputError, match=r"Complexity .*\(flops\)"):
        Complexity.from_dict(stored)
