"""The OSA family against timm's VoVNets, published figures, and its own words."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import osa
from search_spaces.base import SpaceError

# Parameters with 1000 classes and GFLOPs at 224² (two per multiply-add), counted on timm 1.0; the first is the paper's.
FIGURES = {
    "vovnet27_slim": (3_525_736, 4.353),
    "vovnet39": (22_600_296, 14.144),
    "vovnet57": (36_640_296, 17.860),
    "ese_vovnet19b_slim_dw": (1_897_752, 0.796),
    "ese_vovnet19b_dw": (6_543_080, 2.667),
    "ese_vovnet19b_slim": (3_166_136, 3.360),
    "ese_vovnet39b": (24_568_936, 14.148),
    "ese_vovnet57b": (38_608_936, 17.864),
    "ese_vovnet99b": (63_199_272, 32.976),
}
IN_TIMM = {
    "vovnet39": "vovnet39a",
    "vovnet57": "vovnet57a",
    "ese_vovnet39b": "ese_vovnet39b",
    "ese_vovnet19b_slim": "ese_vovnet19b_slim",
    "ese_vovnet19b_dw": "ese_vovnet19b_dw",
    "ese_vovnet19b_slim_dw": "ese_vovnet19b_slim_dw",
}


def randomise(model: nn.Module) -> None:
    """Draw norm statistics, scales and every bias, so that a swapped or forgotten tensor shows in the output."""
    generator = torch.Generator().manual_seed(7)

    def draw(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.empty_like(tensor).uniform_(low, high, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                draw(module.running_mean, -0.3, 0.3)
                draw(module.running_var, 0.5, 2.0)
                draw(module.weight, 0.5, 1.5)
            bias = getattr(module, "bias", None)
            if isinstance(bias, torch.Tensor):
                draw(bias, -0.3, 0.3)


def copy_state_in_order(source: nn.Module, target: nn.Module) -> None:
    ours, theirs = target.state_dict(), source.state_dict()
    assert [t.shape for t in ours.values()] == [t.shape for t in theirs.values()]
    target.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))


def stage(**values: object) -> osa.Stage:
    return osa.Stage(**{"conv_channels": 8, "concat_channels": 12, **values})  # type: ignore[arg-type]


def network(*stages: osa.Stage, stem: osa.Stem | None = None, in_channels: int = 3) -> nn.Module:
    return osa.build(osa.Architecture(stem=stem or osa.Stem(width=6), stages=stages), in_channels, 10)


def convolutions(model: nn.Module) -> list[tuple[int, int, int, int, int]]:
    """Return (in, out, kernel, stride, groups) of every convolution in order."""
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.groups)
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_and_flops_of_the_presets(name: str) -> None:
    params, gflops = FIGURES[name]
    with torch.device("meta"):
        model = osa.build(osa.preset(name), in_channels=3, num_classes=1000)
        image = torch.zeros(1, 3, 224, 224)
    assert sum(p.numel() for p in model.parameters()) == params
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert round(counter.get_total_flops() / 1e9, 3) == gflops


@pytest.mark.parametrize("name", IN_TIMM)
def test_a_preset_gives_timms_output_with_timms_state(name: str) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(IN_TIMM[name], pretrained=False).eval()
    randomise(theirs)
    with torch.device("meta"):
        ours = osa.build(osa.preset(name), 3, 1000).eval()
    ours = ours.to_empty(device="cpu")
    copy_state_in_order(theirs, ours)
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected, found = theirs(image), ours(image)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_cifar_preset_holds_five_layers_of_43_channels_between_densenet40s_widths() -> None:
    architecture = osa.preset("osa_densenet40")
    assert [(s.layers, s.conv_channels, s.concat_channels) for s in architecture.stages] == [
        (5, 43, 160),
        (5, 43, 304),
        (5, 43, 448),
    ]
    model = osa.build(architecture, 3, 10)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_bottleneck_stands_before_each_3x3() -> None:
    model = network(stage(layers=2, bottleneck=True, bottleneck_ratio=0.25))
    assert convolutions(model) == [
        (3, 6, 3, 1, 1),
        (6, 2, 1, 1, 1),
        (2, 8, 3, 1, 1),
        (8, 2, 1, 1, 1),
        (2, 8, 3, 1, 1),
        (6 + 2 * 8, 12, 1, 1, 1),
    ]


def test_a_depthwise_module_reduces_only_where_the_channels_differ() -> None:
    different = network(stage(layers=1, depthwise=True))
    assert convolutions(different)[1:] == [(6, 8, 1, 1, 1), (8, 8, 3, 1, 8), (8, 8, 1, 1, 1), (14, 12, 1, 1, 1)]
    equal = network(stage(layers=1, depthwise=True), stem=osa.Stem(width=8))
    assert convolutions(equal)[1:] == [(8, 8, 3, 1, 8), (8, 8, 1, 1, 1), (16, 12, 1, 1, 1)]


@pytest.mark.parametrize(("ese", "expected"), [("none", []), ("last", [2]), ("every", [0, 1, 2]), (False, []), (True, [0, 1, 2])])
def test_ese_stands_in_the_modules_that_it_names(ese: str | bool, expected: list[int]) -> None:
    model = network(stage(depth=3, ese=ese, downsample="none"))
    modules = [m for m in model.modules() if isinstance(m, osa.OSAModule)]
    assert [i for i, m in enumerate(modules) if isinstance(m.ese, osa.EffectiveSE)] == expected


def test_the_shortcut_adds_the_input_of_each_module_but_the_first() -> None:
    torch.manual_seed(0)
    with_it = network(stage(depth=3, identity=True, downsample="none")).eval()
    without = network(stage(depth=3, identity=False, downsample="none")).eval()
    without.load_state_dict(with_it.state_dict())
    x = with_it.stem(torch.randn(2, 3, 8, 8))
    first, *later = without.stages[0]
    expected = first(x)
    for module in later:
        expected = module(expected) + expected
    torch.testing.assert_close(with_it.stages[0](x), expected)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("kinds", [("none", "none"), ("none", "maxpool"), ("conv", "none"), ("conv", "maxpool")])
def test_the_stride_is_what_the_network_divides_its_input_by(stem: str, kinds: tuple[str, str]) -> None:
    stages = tuple(stage(layers=1, downsample=kind) for kind in kinds)
    architecture = osa.Architecture(stem=osa.Stem(kind=stem, width=6, inner_width=4), stages=stages)
    with torch.device("meta"):
        model = osa.build(architecture, 1, 10)
        features = model.stages(model.stem(torch.zeros(1, 1, 64, 64)))
    assert features.shape[-1] == 64 // architecture.stride


def test_the_initial_weights_follow_one_rule() -> None:
    torch.manual_seed(0)
    model = network(stage(conv_channels=64, concat_channels=256, depthwise=True, ese="every"), stem=osa.Stem(width=64))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight.numel() / module.in_channels  # of one input channel
            std = module.weight.std().item()
            assert std == pytest.approx((2 / fan_out) ** 0.5, rel=0.12)
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.1)
        if getattr(module, "bias", None) is not None:
            assert not module.bias.any()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"layers": 0}, "layers is 0; give a whole number from 1 to 64."),
        ({"conv_channels": 43.0}, "conv_channels is 43.0"),
        ({"depth": True}, "depth is true"),
        ({"identity": 1}, "identity is 1; give true or false."),
        ({"downsample": "avgpool"}, "downsample is 'avgpool'; give one of maxpool, conv, none."),
        ({"bottleneck_ratio": float("nan")}, "bottleneck_ratio is nan"),
    ],
)
def test_a_stage_refuses_what_it_cannot_be(values: dict[str, object], says: str) -> None:
    with pytest.raises(SpaceError) as caught:
        stage(**values)
    assert says in str(caught.value)
