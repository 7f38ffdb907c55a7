"""Backbones: the maps that timm's own networks give, with the same weights; and that a head's absence changes nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from search_spaces import dense, osa
from search_spaces.base import SpaceError


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1 + ("weight" in name))


@pytest.mark.parametrize(("name", "theirs"), [("vovnet39", "vovnet39a"), ("ese_vovnet39b", "ese_vovnet39b")])
def test_the_maps_are_those_of_timm(name: str, theirs: str) -> None:
    whole: Any = timm.create_model(theirs, pretrained=False)
    randomise(whole)
    reference: Any = timm.create_model(theirs, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3)).eval()
    reference.load_state_dict(_renamed(whole, reference))
    ours: Any = osa.build(osa.preset(name), 3, 1000, features=(0, 1, 2, 3)).eval()
    full = osa.build(osa.preset(name), 3, 1000)
    full.load_state_dict(dict(zip(full.state_dict(), whole.state_dict().values(), strict=True)))
    ours.load_state_dict({key: full.state_dict()[key] for key in ours.state_dict()})
    assert ours.feature_info.channels() == reference.feature_info.channels()
    assert ours.feature_info.reduction() == reference.feature_info.reduction() == [2, 4, 8, 16]
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for mine, other in zip(ours(x), reference(x), strict=True):
            assert mine.shape == other.shape
            assert (mine - other).abs().max() < 1e-4 * other.abs().max()


def _renamed(whole: nn.Module, features: nn.Module) -> dict[str, torch.Tensor]:
    """Return a timm network's state under the names that it has with features_only, where dots are underscores at the top."""
    state = whole.state_dict()
    flat = {key.replace(".", "_"): value for key, value in state.items()}
    return {key: flat[key.replace(".", "_")] for key in features.state_dict()}


@pytest.mark.parametrize("module", [osa, dense])
@pytest.mark.parametrize("size", [32, 33, 48])
def test_the_last_map_is_what_the_head_sees(module: Any, size: int) -> None:
    preset = module.preset("osa_densenet40" if module is osa else "densenet40")
    torch.manual_seed(0)
    full = module.build(preset, 3, 10).eval()
    backbone = module.build(preset, 3, 10, features=(-2, -1)).eval()
    backbone.load_state_dict({key: full.state_dict()[key] for key in backbone.state_dict()})
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        maps = backbone(x)
        assert torch.equal(full.head(maps[-1]), full(x))
    info = backbone.feature_info
    assert [one["index"] for one in info] == [2, 3] and info[1]["module"] == "stages.2" and len(info) == 2
    assert [found.shape[1] for found in maps] == info.channels()
    if size == 32:
        assert [size // found.shape[-1] for found in maps] == info.reduction() == [2, 4]


def test_what_comes_after_the_last_map_is_not_built() -> None:
    backbone: Any = osa.build(osa.preset("vovnet39"), 3, 1000, features=(1,))
    assert not any(name.startswith(("stages.1", "head")) for name in backbone.state_dict())


def test_the_stem_alone() -> None:
    small: Any = osa.build(osa.preset("osa_densenet40"), 3, 10, features=[0])
    assert small.feature_info.reduction() == [1] and small.feature_info.channels() == [16]
    large: Any = dense.build(dense.preset("densenet121"), 3, 10, features=(0, 1))
    assert large.feature_info.reduction() == [2, 4] and large.feature_info.channels() == [64, 256]


@pytest.mark.parametrize("features", [(), (4,), (-5,), (2, 1), (1, 1), ("a",), (1.5,), 3])
def test_maps_that_are_not_there(features: Any) -> None:
    with pytest.raises(SpaceError, match=r"features is .*0 \(the stem\) to 3 \(the last stage\)"):
        osa.build(osa.preset("osa_densenet40"), 3, 10, features=features)
