"""One-Shot Aggregation networks: VoVNet (Lee et al. 2019, arXiv 1904.09730), VoVNetV2 (arXiv 1911.06667), and the space
around them. Leaves searching, training and measuring to whoever imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import nn

from search_spaces.base import Trial, look_up
from search_spaces.features import FeatureNetwork
from search_spaces.layers import (
    ACTIVATIONS,
    ConvNormAct,
    EffectiveSE,
    Head,
    Network,
    Operation,
    Plan,
    SeparableConvNormAct,
    operation,
)
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
Count = Annotated[int, Whole(1, 64)]


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The convolutions before the first stage.

    Attributes:
        kind: ``cifar``, one 3×3 of stride 1; ``imagenet``, the paper's three 3×3 of strides 2, 1, 2. After the first
            convolution the stem is depthwise separable if the first stage is.
        width: Channels that leave the stem.
        inner_width: Channels of the first two convolutions of an ``imagenet`` stem.
    """

    kind: Annotated[str, OneOf(("cifar", "imagenet"))] = "cifar"
    width: Channels = 16
    inner_width: Channels = 64

    def __post_init__(self) -> None:
        check_record(self)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: a down-sampling, then OSA modules that share their settings.

    Attributes:
        depth: OSA modules.
        layers: 3×3 convolutions per module.
        conv_channels: Channels of each 3×3.
        concat_channels: Channels of the 1×1 over the concatenation, which leave the module.
        downsample: Before the first module: ``maxpool`` (3×3, stride 2, ceil mode: the paper's), ``conv`` (3×3, stride 2)
            or ``none``.
        bottleneck: Whether a 1×1 stands before each 3×3.
        bottleneck_ratio: Channels of that 1×1 ÷ ``conv_channels``.
        identity: Whether a shortcut passes each module but the first of the stage, where the channels may change.
        ese: In which modules the channels are reweighted: ``every`` (the authors' code), the ``last`` of the stage (timm)
            or ``none``. True and false are read as ``every`` and ``none``.
        depthwise: Whether the 3×3 are depthwise separable, behind a 1×1 that brings the input to ``conv_channels``.
    """

    depth: Count = 1
    layers: Count = 5
    conv_channels: Channels
    concat_channels: Channels
    downsample: Annotated[str, OneOf(("maxpool", "conv", "none"))] = "maxpool"
    bottleneck: Annotated[bool, Flag()] = False
    bottleneck_ratio: Annotated[float, Real(0.01, 16)] = 0.5
    identity: Annotated[bool, Flag()] = False
    ese: Annotated[str, OneOf(("none", "last", "every"), {False: "none", True: "every"})] = "none"
    depthwise: Annotated[bool, Flag()] = False

    def __post_init__(self) -> None:
        check_record(self)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An OSA network, apart from its input channels and classes."""

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
        halvings = sum(stage.downsample != "none" for stage in self.stages)
        return int(2 ** (halvings + 2 * (self.stem.kind == "imagenet")))

    def to_dict(self) -> dict[str, Any]:
        """See `base.Architecture.to_dict`."""
        return {"family": "osa", **plain(self)}

    def widened(self, factor: float, turn: float = 0.0) -> Architecture:
        """Return the architecture with all channels times ``factor`` (see `spec.widened`)."""
        return widened(self, factor, turn)


class OSAModule(nn.Module):
    """Convolutions in a chain, aggregated once; (N, in, H, W) → (N, concat, H, W).

    The input and the output of every layer are concatenated and brought to ``concat_channels`` by a 1×1.
    ``bottleneck_channels`` are those of a 1×1 before each 3×3, ``None`` for none.
    """

    def __init__(
        self,
        in_channels: int,
        conv_channels: int,
        concat_channels: int,
        layers: int,
        bottleneck_channels: int | None,
        identity: bool,
        ese: bool,
        depthwise: bool,
        activation: str,
    ) -> None:
        super().__init__()
        conv = SeparableConvNormAct if depthwise else ConvNormAct
        width = in_channels
        self.reduction: nn.Module = nn.Identity()
        if depthwise and bottleneck_channels is None and width != conv_channels:
            self.reduction = ConvNormAct(width, conv_channels, 1, 1, activation)
            width = conv_channels
        self.layers = nn.ModuleList()
        for _ in range(layers):
            if bottleneck_channels is None:
                self.layers.append(conv(width, conv_channels, 3, 1, activation))
            else:
                squeeze = ConvNormAct(width, bottleneck_channels, 1, 1, activation)
                self.layers.append(nn.Sequential(squeeze, conv(bottleneck_channels, conv_channels, 3, 1, activation)))
            width = conv_channels
        self.concat = ConvNormAct(in_channels + layers * conv_channels, concat_channels, 1, 1, activation)
        self.ese = EffectiveSE(concat_channels) if ese else nn.Identity()
        self.identity = identity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, concat, H, W) of (N, in, H, W)."""
        outputs = [x]
        out: torch.Tensor = self.reduction(x)
        for layer in self.layers:
            out = layer(out)
            outputs.append(out)
        out = self.ese(self.concat(torch.cat(outputs, dim=1)))
        return out + x if self.identity else out


def lower(architecture: Architecture, in_channels: int, num_classes: int) -> Plan:
    """Return the operations that the architecture stands for, without what is not built."""
    first, activation = architecture.stages[0], architecture.activation
    channels = architecture.stem.width
    stages = []
    for stage in architecture.stages:
        stages.append(_lower_stage(stage, channels, activation))
        channels = stage.concat_channels
    return Plan(
        stem=_lower_stem(architecture.stem, in_channels, first.depthwise, activation),
        stages=tuple(stages),
        head=(operation(Head, channels, num_classes),),
    )


def _lower_stem(stem: Stem, in_channels: int, depthwise: bool, activation: str) -> tuple[Operation, ...]:
    if stem.kind == "cifar":
        return (operation(ConvNormAct, in_channels, stem.width, 3, 1, activation),)
    conv = SeparableConvNormAct if depthwise else ConvNormAct
    return (
        operation(ConvNormAct, in_channels, stem.inner_width, 3, 2, activation),
        operation(conv, stem.inner_width, stem.inner_width, 3, 1, activation),
        operation(conv, stem.inner_width, stem.width, 3, 2, activation),
    )


def _lower_stage(stage: Stage, channels: int, activation: str) -> tuple[Operation, ...]:
    operations = []
    if stage.downsample == "maxpool":
        operations.append(operation(nn.MaxPool2d, kernel_size=3, stride=2, ceil_mode=True))
    elif stage.downsample == "conv":
        conv = SeparableConvNormAct if stage.depthwise else ConvNormAct
        operations.append(operation(conv, channels, channels, 3, 2, activation))
    for index in range(stage.depth):
        module = operation(
            OSAModule,
            in_channels=channels,
            conv_channels=stage.conv_channels,
            concat_channels=stage.concat_channels,
            layers=stage.layers,
            bottleneck_channels=_bottleneck_channels(stage, channels),
            identity=stage.identity and index > 0,
            ese=stage.ese == "every" or (stage.ese == "last" and index == stage.depth - 1),
            depthwise=stage.depthwise,
            activation=activation,
        )
        operations.append(module)
        channels = stage.concat_channels
    return tuple(operations)


def _bottleneck_channels(stage: Stage, in_channels: int) -> int | None:
    if not stage.bottleneck:
        return None
    channels = max(1, round(stage.bottleneck_ratio * stage.conv_channels))
    # A single separable layer behind a 1×1 of its own width is what a depthwise module builds anyway.
    reduces = stage.depthwise and stage.layers == 1 and channels == stage.conv_channels != in_channels
    return None if reduces else channels


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
    return read_record(Architecture, mapping, "architecture", family="osa")


_SLIM, _FULL = (64, 80, 96, 112), (128, 160, 192, 224)


def _vovnet(
    conv: Sequence[int],
    concat: Sequence[int],
    depth: Sequence[int],
    stem: Stem = Stem(kind="imagenet", width=128),
    **common: Any,
) -> Architecture:
    """Return a network of one row of `PRESETS`: a value per stage, max-pools between the stages."""
    stages = tuple(
        Stage(
            depth=d,
            conv_channels=c,
            concat_channels=o,
            downsample="maxpool" if index else "none",
            **common,
        )
        for index, (c, o, d) in enumerate(zip(conv, concat, depth, strict=True))
    )
    return Architecture(stem=stem, stages=stages)


_V2: dict[str, Any] = {"identity": True, "ese": "last"}
_NARROW = Stem(kind="imagenet", width=64)
_WIDE = (256, 512, 768, 1024)
# V1 (table 1 of the paper) as timm builds it, without shortcuts; V2 with timm's eSE in the last module of each stage.
# osa_densenet40 is the paper's CIFAR network: DenseNet-40 with each dense block replaced by a module of five layers of 43
# channels. The module's output takes the width that the dense block had, and a max-pool the place of the transition.
# *_bottleneck are ours, to show what bottlenecks cost: each 3×3 stands behind a 1×1 of half its channels.
PRESETS: dict[str, Architecture] = {
    "vovnet27_slim": _vovnet(_SLIM, (128, 256, 384, 512), (1, 1, 1, 1)),
    "vovnet39": _vovnet(_FULL, _WIDE, (1, 1, 2, 2)),
    "vovnet57": _vovnet(_FULL, _WIDE, (1, 1, 4, 3)),
    "vovnet27_slim_bottleneck": _vovnet(_SLIM, (128, 256, 384, 512), (1, 1, 1, 1), bottleneck=True),
    "vovnet39_bottleneck": _vovnet(_FULL, _WIDE, (1, 1, 2, 2), bottleneck=True),
    "vovnet57_bottleneck": _vovnet(_FULL, _WIDE, (1, 1, 4, 3), bottleneck=True),
    "ese_vovnet19b_slim_dw": _vovnet(_SLIM, (112, 256, 384, 512), (1, 1, 1, 1), _NARROW, layers=3, depthwise=True, **_V2),
    "ese_vovnet19b_dw": _vovnet(_FULL, _WIDE, (1, 1, 1, 1), _NARROW, layers=3, depthwise=True, **_V2),
    "ese_vovnet19b_slim": _vovnet(_SLIM, (112, 256, 384, 512), (1, 1, 1, 1), layers=3, **_V2),
    "ese_vovnet39b": _vovnet(_FULL, _WIDE, (1, 1, 2, 2), **_V2),
    "ese_vovnet57b": _vovnet(_FULL, _WIDE, (1, 1, 4, 3), **_V2),
    "ese_vovnet99b": _vovnet(_FULL, _WIDE, (1, 3, 9, 3), **_V2),
    "osa_densenet40": _vovnet((43, 43, 43), (160, 304, 448), (1, 1, 1), Stem(kind="cifar", width=16)),
}


@dataclass(frozen=True, kw_only=True)
class OSASpace:
    """A space of OSA networks. Each value is what `Stem`, `Stage` and `Architecture` say under its name, and may be

    - fixed, a list of choices, or a range ``{low, high, step, log}``: one answer, which all stages share;
    - ``{each: …}`` with one of these inside: every stage decides for itself; ``{per_stage: […]}``: each in its own domain.

    ``stem`` is a mapping of its values. A ``downsample`` that is not per stage stands before every stage but the first.

    Raises:
        SpaceError: If a value cannot be used.
    """

    stem: Spec = field(default_factory=dict)
    activation: Spec = "relu"
    stages: Spec = 3
    depth: Spec = 1
    layers: Spec = 5
    conv_channels: Spec = 43
    concat_channels: Spec = 160
    downsample: Spec = "maxpool"
    bottleneck: Spec = False
    bottleneck_ratio: Spec = 0.5
    identity: Spec = False
    ese: Spec = "none"
    depthwise: Spec = False
    _rules: Mapping[str, Rule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rules", read_rules(Architecture, vars(self)))

    def suggest(self, trial: Trial) -> Architecture:
        """Ask ``trial`` for what is open, and for nothing that would change nothing, and return the architecture."""
        stages = self._rules["stages"].ask(trial)
        return Architecture(
            stem=Stem(**self._stem(trial)),
            activation=self._rules["activation"].ask(trial),
            stages=tuple(Stage(**self._stage(trial, index)) for index in range(stages)),
        )

    def _stem(self, trial: Trial) -> dict[str, Any]:
        values = {name: self._rules[f"stem.{name}"].ask(trial) for name in ("kind", "width")}
        if values["kind"] == "imagenet":
            values["inner_width"] = self._rules["stem.inner_width"].ask(trial)
        return values

    def _stage(self, trial: Trial, index: int) -> dict[str, Any]:
        names = ["depth", "layers", "conv_channels", "concat_channels", "bottleneck", "ese", "depthwise"]
        values = {name: self._rules[name].ask(trial, index) for name in names}
        if values["bottleneck"]:
            values["bottleneck_ratio"] = self._rules["bottleneck_ratio"].ask(trial, index)
        if values["depth"] > 1:
            values["identity"] = self._rules["identity"].ask(trial, index)
        values["downsample"] = "none"
        if index > 0 or self._rules["downsample"].scope == "per_stage":
            values["downsample"] = self._rules["downsample"].ask(trial, index)
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
