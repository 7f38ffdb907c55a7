from __future__ import annotations

import json
import math
from typing import Any

import pytest
import thop
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nas.drawing import kind_of
from nas.errors import InputError, RunError
from nas.measure.complexity import Complexity, count
from search_spaces import dense, osa


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


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    groups=st.sampled_from([1, 2]),
    per_group=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
)
def test_memory_access_is_bounded_and_the_bound_is_met_where_both_maps_are_equal(
    kernel: int, stride: int, groups: int, per_group: tuple[int, int], size: tuple[int, int]
) -> None:
    c_in, c_out = (groups * channels for channels in per_group)
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    (layer,) = count(conv, (c_in, *size)).layers
    assert layer.mem_access is not None and layer.mem_access_bound is not None
    same = math.prod(layer.input_shape) == math.prod(layer.output_shape)
    assert layer.mem_access_bound == layer.mem_access if same else layer.mem_access_bound < layer.mem_access


def test_no_split_of_the_channels_needs_less_memory_access_than_the_bound() -> None:
    # All 1x1 convolutions with 3,600 weights on a 7x7 map do the same work.
    costs = {
        c_in: count(nn.Conv2d(c_in, 3600 // c_in, 1, bias=False), (c_in, 7, 7)) for c_in in range(1, 3601) if 3600 % c_in == 0
    }
    assert len({cost.mult_adds for cost in costs.values()}) == 1
    (bound,) = {cost.mem_access_bound for cost in costs.values()}
    best = min(costs, key=lambda c_in: costs[c_in].mem_access)
    assert best == 60 and costs[best].mem_access == bound and costs[best].mem_access_over_bound == 1
    assert costs[1].mem_access_over_bound == (49 * 3601 + 3600) / (2 * 49 * 60 + 3600)


def test_a_network_without_convolutions_has_no_memory_access_to_compare() -> None:
    cost = count(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2))
    assert (cost.mem_access, cost.mem_access_bound, cost.mem_access_over_bound) == (0, 0, None)


def test_one_shot_aggregation_is_nearer_to_its_bound_than_a_dense_network() -> None:
    with torch.device("meta"):
        osa_net, dense_net = osa.build(osa.preset("vovnet39"), 3, 1000), dense.build(dense.preset("densenet121"), 3, 1000)
    osa_ratio, dense_ratio = (count(model, (3, 224, 224)).mem_access_over_bound for model in (osa_net, dense_net))
    assert osa_ratio is not None and dense_ratio is not None
    assert 1 < osa_ratio < 1.03 and 1.1 < dense_ratio < 1.15


def test_run_for_real_and_by_shapes_a_network_costs_the_same() -> None:
    model = torchvision.models.get_model("shufflenet_v2_x0_5")
    real, shapes = count(model, (3, 64, 64)), count(model.to("meta"), (3, 64, 64))
    assert real.layers == shapes.layers and real.params == shapes.params


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
    for device in ("cpu", "meta"):
        with pytest.raises(RunError, match=r"disagree in 'odd': thop 0, FlopCounterMode 10,368, closed form 0; use conv"):
            count(model.to(device), (3, 8, 8))


class Skips(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return x


class DoesItTwice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


def test_layers_that_disagree_are_found_where_their_total_agrees() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), Skips(4, 4, 1), DoesItTwice(4, 4, 1))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.to("meta")(torch.zeros(1, 4, 6, 6))
    assert counter.get_total_flops() == 2 * 3 * 36 * 16
    with pytest.raises(
        RunError, match=r"in '1': thop 576, FlopCounterMode 0, .* 576; '2': thop 576, FlopCounterMode 1,152, .* 576;"
    ):
        count(model, (4, 6, 6))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_only_the_networks_own_operations_are_named_as_uncounted(device: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 2))
    assert count(model.to(device), (3, 6, 6)).uncounted == ("native_batch_norm", "relu")


def test_only_some_of_many_disagreements_are_named() -> None:
    with pytest.raises(RunError, match=r"'0'.*'1'.*'2'.*; and in 2 more places;"):
        count(nn.Sequential(*(Skips(4, 4, 1) for _ in range(5))), (4, 6, 6))


class Gram(nn.Module):
    """Products of activations with one another, as in attention; no weights take part."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2)
        mixed = functional.scaled_dot_product_attention(rows, rows, rows)
        return (rows.mT @ rows)[:, :1] + (rows[0] @ rows[0].mT)[:1, :1] + mixed.sum()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_products_of_activations_are_named_as_uncounted(device: str) -> None:
    cost = count(nn.Sequential(nn.Conv2d(3, 4, 1), Gram(), nn.Linear(25, 2)).to(device), (3, 5, 5))
    assert cost.mult_adds == 3 * 4 * 25 + 25 * 2
    assert {"bmm", "mm"} <= set(cost.uncounted)


class FunctionalLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 5))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_functional_linear_layer_is_found_and_named(device: str) -> None:
    with pytest.raises(RunError, match=r"disagree in 'FunctionalLinear': thop 0, FlopCounterMode 150, closed form 0"):
        count(FunctionalLinear().to(device), (3, 5, 5))


def test_layer_within_a_layer_is_counted_for_itself() -> None:
    class Adapted(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 6)
            self.low_rank = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 6))

        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + self.low_rank(input)

    cost = count(nn.Sequential(nn.Flatten(), Adapted()), (1, 2, 4))
    assert {layer.name: layer.mult_adds for layer in cost.layers} == {"1": 48, "1.low_rank.0": 16, "1.low_rank.1": 12}


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x0_5", "densenet121"])
def test_each_layer_as_thop_counts_the_whole_network(name: str) -> None:
    model = torchvision.models.get_model(name)
    cost = count(model, (3, 64, 64))

    def flat(tree: dict[str, tuple[float, float, dict[str, Any]]], prefix: str = "") -> dict[str, float]:
        found = {}
        for key, (operations, _, inside) in tree.items():
            found |= {f"{prefix}{key}": operations, **flat(inside, f"{prefix}{key}.")}
        return found

    _, _, tree = thop.profile(model, inputs=(torch.zeros(1, 3, 64, 64),), verbose=False, ret_layer_info=True)
    by_thop = flat(tree)
    assert {layer.name: layer.mult_adds for layer in cost.layers} == {layer.name: by_thop[layer.name] for layer in cost.layers}


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


def test_record_made_before_kernels_were_kept_can_be_read() -> None:
    stored = json.loads(json.dumps(count(nn.Conv2d(9, 9, 3, groups=9), (9, 4, 4)).to_dict()))
    assert kind_of(Complexity.from_dict(stored).layers[0]) == "depthwise conv 3×3"
    del stored["layers"][0]["kernel_size"], stored["layers"][0]["groups"]
    assert kind_of(Complexity.from_dict(stored).layers[0]) == "conv"


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), "depthwise conv 3×3"),
        (nn.Conv2d(4, 8, 1), "conv 1×1"),
        (nn.Conv2d(4, 8, (1, 3), groups=2), "2 groups, conv 1×3"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4 * 4 * 4, 2)), "linear"),
    ],
)
def test_what_a_layer_is_called(layer: nn.Module, kind: str) -> None:
    assert [kind_of(cost) for cost in count(layer, (4, 4, 4)).layers] == [kind]


def test_foreign_json_is_refused_by_field() -> None:
    stored = count(nn.Linear(4, 2), (1, 2, 4)).to_dict()
    del stored["flops"]
    with pytest.raises(InputError, match=r"Complexity .*\(flops\)"):
        Complexity.from_dict(stored)
