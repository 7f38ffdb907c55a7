"""Densely connected networks (DenseNet; Huang et al. 2017, arXiv 1608.06993), the family that OSA networks are compared
with, and the space around them. Leaves searching, training and measuring to whoever imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import nn

from search_spaces.base import Trial, look_up
from search_spaces.features import FeatureNetwork
from search_spaces.layers import ACTIVATIONS, Head, Network, Operation, Plan, activate, operation
from search_spaces.spec import (
    Flag,
    OneOf,
    Real,
    Record,
    Rule,
    Spec,
    Stages,
    Whole,
    Width,
    check_record,
    plain,
    read_record,
    read_rules,
    widened,
)

Channels = Annotated[int, Width(1, 8192)]


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The convolution before the first stage.

    Attributes:
        kind: ``cifar``, one 3×3 of stride 1; ``imagenet``, a 7×7 of stride 2, norm, activation and a max-pool of stride 2.
        width: Channels that leave the stem.
    """

    kind: Annotated[str, OneOf(("cifar", "imagenet"))] = "cifar"
    width: Channels = 16

    def __post_init__(self) -> None:
        check_record(self)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: a transition that halves the side (not before the first stage), then a dense block.

    Attributes:
        layers: 3×3 convolutions of the dense block.
        growth: Channels that each of them adds.
        bottleneck: Whether a 1×1 stands before each 3×3.
        bottleneck_ratio: Channels of that 1×1 ÷ ``growth``.
        compression: Channels that leave the transition ÷ those that enter it; of no meaning in the first stage.
    """

    layers: Annotated[int, Whole(1, 128)]
    growth: Channels
    bottleneck: Annotated[bool, Flag()] = False
    bottleneck_ratio: Annotated[float, Real(0.01, 16)] = 4.0
    compression: Annotated[float, Real(0.01, 1)] = 1.0

    def __post_init__(self) -> None:
        check_record(self)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A DenseNet, apart from its input channels and classes."""

    stem: Annotated[Stem, Record(Stem)]
    activation: Annotated[str, OneOf(ACTIVATIONS)] = "relu"
    stages: Annotated[tuple[Stage, ...], Stages(Stage, most=8)]

    def __post_init__(self) -> None:
        check_record(self)

    @property
    def id(self) -> str:
        """See `base.Architecture.id`."""
        return lower(self, in_channels=1, num_classes=1).id

    @property
    def stride(self) -> int:
        """See `base.Architecture.stride`."""
        return int(2 ** (len(self.stages) - 1 + 2 * (self.stem.kind == "imagenet")))

    def to_dict(self) -> dict[str, Any]:
        """See `base.Architecture.to_dict`."""
        return {"family": "dense", **plain(self)}

    def widened(self, factor: float, turn: float = 0.0) -> Architecture:
        """Return the architecture with all channels times ``factor`` (see `spec.widened`)."""
        return widened(self, factor, turn)


class NormActConv(nn.Sequential):
    """Batch norm, activation, convolution of stride 1 ("same" padding, no bias); (N, in, H, W) → (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, activation: str) -> None:
        super().__init__(
            nn.BatchNorm2d(in_channels),
            activate(activation),
            nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        )


class DenseLayer(nn.Module):
    """Adds ``growth`` channels to its input; (N, in, H, W) → (N, in + growth, H, W).

    ``bottleneck_channels`` are those of a 1×1 before the 3×3, ``None`` for none.
    """

    def __init__(self, in_channels: int, growth: int, bottleneck_channels: int | None, activation: str) -> None:
        super().__init__()
        if bottleneck_channels is None:
            self.layer: nn.Module = NormActConv(in_channels, growth, 3, activation)
        else:
            self.layer = nn.Sequential(
                NormActConv(in_channels, bottleneck_channels, 1, activation),
                NormActConv(bottleneck_channels, growth, 3, activation),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input with the new channels behind it."""
        return torch.cat([x, self.layer(x)], dim=1)


class Transition(nn.Sequential):
    """A 1×1 behind its norm and activation, then a 2×2 average pool; (N, in, H, W) → (N, out, ⌊H/2⌋, ⌊W/2⌋)."""

    def __init__(self, in_channels: int, out_channels: int, activation: str) -> None:
        super().__init__(NormActConv(in_channels, out_channels, 1, activation), nn.AvgPool2d(2, 2))


class NormActHead(nn.Sequential):
    """Batch norm, activation, global average pool and linear classifier; (N, C, H, W) → (N, classes)."""

    def __init__(self, channels: int, num_classes: int, activation: str) -> None:
        super().__init__(nn.BatchNorm2d(channels), activate(activation), Head(channels, num_classes))


class PoolingStem(nn.Sequential):
    """7×7 convolution of stride 2, norm, activation, 3×3 max-pool of stride 2; (N, in, H, W) → (N, out, ⌈H/4⌉, ⌈W/4⌉)."""

    def __init__(self, in_channels: int, out_channels: int, activation: str) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 7, 2, 3, bias=False),
            nn.BatchNorm2d(out_channels),
            activate(activation),
            nn.MaxPool2d(3, 2, 1),
        )


def lower(architecture: Architecture, in_channels: int, num_classes: int) -> Plan:
    """Return the operations that the architecture stands for, without what is not built."""
    channels, activation = architecture.stem.width, architecture.activation
    stages = []
    for index, stage in enumerate(architecture.stages):
        operations: list[Operation] = []
        if index > 0:
            compressed = max(1, int(stage.compression * channels))
            operations.append(operation(Transition, channels, compressed, activation))
            channels = compressed
        inner = max(1, round(stage.bottleneck_ratio * stage.growth)) if stage.bottleneck else None
        for _ in range(stage.layers):
            operations.append(operation(DenseLayer, channels, stage.growth, inner, activation))
            channels += stage.growth
        stages.append(tuple(operations))
    return Plan(
        stem=(_lower_stem(architecture.stem, in_channels, activation),),
        stages=tuple(stages),
        head=(operation(NormActHead, channels, num_classes, activation),),
    )


def _lower_stem(stem: Stem, in_channels: int, activation: str) -> Operation:
    if stem.kind == "imagenet":
        return operation(PoolingStem, in_channels, stem.width, activation)
    # No norm here: each layer of the first block has one of its own before anything else.
    return operation(nn.Conv2d, in_channels, stem.width, kernel_size=3, padding=1, bias=False)


def build(architecture: Architecture, in_channels: int, num_classes: int, features: Sequence[int] | None = None) -> nn.Module:
    """Return the network, (N, in_channels, H, W) → (N, num_classes), with fresh weights on torch's default device.

    With ``features``, such as ``(1, 2, 3)``, it has no head and returns the list of those stages' maps instead, 0 being the
    stem's; ``feature_info`` says their channels and strides (see `FeatureNetwork`).
    """
    plan = lower(architecture, in_channels, num_classes)
    return Network(plan) if features is None else FeatureNetwork(plan, in_channels, features)


def preset(name: str) -> Architecture:
    """Return the architecture with this name in `PRESETS`; raise SpaceError if there is none."""
    return look_up(PRESETS, name)


def from_dict(mapping: Mapping[str, Any]) -> Architecture:
    """Return the architecture whose ``to_dict`` is ``mapping``; raise SpaceError if it describes none."""
    return read_record(Architecture, mapping, "architecture", family="dense")


def _densenet(stem: Stem, growth: int, layers: Sequence[int], **common: Any) -> Architecture:
    """Return a network of one row of `PRESETS`: layers per stage, the rest alike in all."""
    return Architecture(stem=stem, stages=tuple(Stage(layers=count, growth=growth, **common) for count in layers))


_BC: dict[str, Any] = {"bottleneck": True, "compression": 0.5}
# Table 1 of the paper, and its DenseNet (L=40, k=12) for CIFAR, without bottlenecks or compression.
PRESETS: dict[str, Architecture] = {
    "densenet40": _densenet(Stem(), 12, (12, 12, 12)),
    "densenet121": _densenet(Stem(kind="imagenet", width=64), 32, (6, 12, 24, 16), **_BC),
    "densenet161": _densenet(Stem(kind="imagenet", width=96), 48, (6, 12, 36, 24), **_BC),
    "densenet169": _densenet(Stem(kind="imagenet", width=64), 32, (6, 12, 32, 32), **_BC),
    "densenet201": _densenet(Stem(kind="imagenet", width=64), 32, (6, 12, 48, 32), **_BC),
}


@dataclass(frozen=True, kw_only=True)
class DenseSpace:
    """A space of DenseNets. Each value is what `Stem`, `Stage` and `Architecture` say under its name, and may be

    - fixed, a list of choices, or a range ``{low, high, step, log}``: one answer, which all stages share;
    - ``{each: …}`` with one of these inside: every stage decides for itself; ``{per_stage: […]}``: each in its own domain.

    ``stem`` is a mapping of its values.

    Raises:
        SpaceError: If a value cannot be used.
    """

    stem: Spec = field(default_factory=dict)
    activation: Spec = "relu"
    stages: Spec = 3
    layers: Spec = 12
    growth: Spec = 12
    bottleneck: Spec = False
    bottleneck_ratio: Spec = 4.0
    compression: Spec = 1.0
    _rules: Mapping[str, Rule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rules", read_rules(Architecture, vars(self)))

    def suggest(self, trial: Trial) -> Architecture:
        """Ask ``trial`` for what is open, and for nothing that would change nothing, and return the architecture."""
        stages = self._rules["stages"].ask(trial)
        return Architecture(
            stem=Stem(**{name: self._rules[f"stem.{name}"].ask(trial) for name in ("kind", "width")}),
            activation=self._rules["activation"].ask(trial),
            stages=tuple(Stage(**self._stage(trial, index)) for index in range(stages)),
        )

    def _stage(self, trial: Trial, index: int) -> dict[str, Any]:
        names = ["layers", "growth", "bottleneck"] + ["compression"] * (index > 0)
        values = {name: self._rules[name].ask(trial, index) for name in names}
        if values["bottleneck"]:
            values["bottleneck_ratio"] = self._rules["bottleneck_ratio"].ask(trial, index)
        return values

    def build(
        self, architecture: Architecture, in_channels: int, num_classes: int, features: Sequence[int] | None = None
    ) -> nn.Module:
        """See `build`."""
        return build(architecture, in_channels, num_classes, features)

    def preset(self, name: str) -> Architecture:
        """See `preset`."""
        return preset(name)

    def from_dict(self, mapping: Mapping[str, Any]) -> Architecture:
        """See `from_dict`."""
        return from_dict(mapping)
