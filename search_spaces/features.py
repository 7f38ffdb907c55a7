"""Networks without their heads that return the maps of their stages, as detectors and segmenters want them.

What the networks are made of is `layers`' and the families'.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from search_spaces.base import SpaceError, show
from search_spaces.layers import Plan, initialise, sequence


class FeatureInfo:
    """What a `FeatureNetwork` returns, with the methods that timm's ``feature_info`` has.

    Attributes:
        info: For each map, in order: ``num_chs``, its channels; ``reduction``, the input's side ÷ its side; ``module``, the
            name of what puts it out; ``index``, its number among all maps of the network.
    """

    def __init__(self, info: Sequence[dict[str, Any]]) -> None:
        self.info = list(info)

    def channels(self) -> list[int]:
        """Return the channels of each map."""
        return [int(one["num_chs"]) for one in self.info]

    def reduction(self) -> list[int]:
        """Return the stride of each map against the input."""
        return [int(one["reduction"]) for one in self.info]

    def module_name(self) -> list[str]:
        """Return the name of the module that each map comes from."""
        return [str(one["module"]) for one in self.info]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.info[index]

    def __len__(self) -> int:
        return len(self.info)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.info)


class FeatureNetwork(nn.Module):
    """The stem and the stages of a plan, up to the last that is asked for: (N, C, H, W) → a list of maps.

    Map 0 is the stem's: its last one before it reaches the first stage's stride, as timm has it, or its output where it
    does not shrink the image step by step. Maps 1, 2, … are the stages'. Weights have the names that they have in `Network`.

    Args:
        plan: The network.
        in_channels: Channels of its input.
        features: Which maps, ascending; negative ones count from the last stage.

    Attributes:
        feature_info: What comes out.

    Raises:
        SpaceError: ``features`` names a map that is not there, or none, or is not ascending.
    """

    def __init__(self, plan: Plan, in_channels: int, features: Sequence[int]) -> None:
        super().__init__()
        wanted = _checked(features, len(plan.stages))
        self.stem = sequence(plan.stem)
        self.stages = nn.Sequential(*(sequence(stage) for stage in plan.stages[: wanted[-1]]))
        initialise(self)
        self._wanted = frozenset(wanted)
        self._stem_steps = _stem_steps(plan, in_channels) if 0 in wanted else 0
        self.feature_info = FeatureInfo(_info(plan, in_channels, wanted, self._stem_steps))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of images (N, C, H, W)."""
        maps = []
        for step, layer in enumerate(_leaves(self.stem), start=1):
            x = layer(x)
            if step == self._stem_steps:
                maps.append(x)
        for index, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if index in self._wanted:
                maps.append(x)
        return maps


def _checked(features: Sequence[int], stages: int) -> list[int]:
    known = f"give an ascending list out of 0 (the stem) to {stages} (the last stage)"
    try:
        given = [operator.index(feature) for feature in features]
    except TypeError:
        raise SpaceError(f"features is {show(features)}; {known}.") from None
    wanted = [feature + stages + 1 if feature < 0 else feature for feature in given]
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < 0 or wanted[-1] > stages:
        raise SpaceError(f"features is {show(list(given))}; {known}.")
    return wanted


def _leaves(module: nn.Module) -> list[nn.Module]:
    """Return what a chain of chains consists of, in order."""
    if type(module).forward is nn.Sequential.forward:
        return [leaf for child in module.children() for leaf in _leaves(child)]
    return [module]


def _stem_steps(plan: Plan, in_channels: int) -> int:
    """Return after how many leaves of the stem map 0 is taken."""
    side = _side(plan)
    with torch.device("meta"), torch.no_grad():
        x = torch.zeros(1, in_channels, side, side)
        reductions = []
        for leaf in _leaves(sequence(plan.stem).eval()):
            x = leaf(x)
            reductions.append(side // x.shape[-1])
    between = [step for step, reduction in enumerate(reductions, start=1) if 1 < reduction < reductions[-1]]
    return between[-1] if between else len(reductions)


def _info(plan: Plan, in_channels: int, wanted: Sequence[int], stem_steps: int) -> list[dict[str, Any]]:
    side = _side(plan)
    found = []
    with torch.device("meta"), torch.no_grad():
        stem = sequence(plan.stem).eval()
        x = torch.zeros(1, in_channels, side, side)
        names = [name for name, module in stem.named_modules() if module in _leaves(stem)]
        for step, leaf in enumerate(_leaves(stem), start=1):
            x = leaf(x)
            if step == stem_steps:
                found.append((0, x, f"stem.{names[step - 1]}"))
        for index, operations in enumerate(plan.stages[: wanted[-1]], start=1):
            x = sequence(operations).eval()(x)
            if index in wanted:
                found.append((index, x, f"stages.{index - 1}"))
    return [
        {"index": index, "num_chs": x.shape[1], "reduction": side // x.shape[-1], "module": module} for index, x, module in found
    ]


def _side(plan: Plan) -> int:
    """Return an input side that every stride of the plan divides: each stage halves at most once, a stem twice."""
    return int(2 ** (len(plan.stages) + 3))
