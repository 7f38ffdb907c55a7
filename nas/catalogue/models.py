"""Finds networks by name: our presets, torchvision's, timm's, and architectures in YAML files; all are built with fresh weights.

Leaves what was published about them to `published`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from nas.errors import InputError
from search_spaces import dense, osa
from search_spaces.base import SpaceError, Trial, from_yaml, show

Source = Literal["preset", "torchvision", "timm", "file"]
Found = osa.Architecture | dense.Architecture

MISSING: Mapping[str, str] = {
    "bninception": "BN-Inception is in neither torchvision nor timm",
    "nasnetamobile": "NASNet-A-Mobile is in neither torchvision nor timm; timm has only nasnetalarge",
    "shufflenet_v1": "ShuffleNet v1 is in neither torchvision nor timm; torchvision's shufflenet_v2_* are of another design",
}
"""Networks that people compare with and that no library which we use builds, and why they cannot be measured."""


class MissingModel(InputError):  # noqa: N818 - what is missing is the model; a table goes on without it
    """The name is one of `MISSING`: a known network that cannot be built. A table gives it a row without figures."""


@dataclass(frozen=True)
class Reference:
    """A network that can be built by name.

    Attributes:
        name: As it was asked for; for a file its stem, or ``study/trial`` in a study's folder.
        source: Where it is from.
        key: What is built, whatever it was called: the library and its name there, or family and hash of the architecture.
        input_size: Side of the square image that it was designed for, in pixels.
    """

    name: str
    source: Source
    key: str
    input_size: int
    _builder: Callable[[int, int], nn.Module] = field(repr=False, compare=False)

    def build(self, in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
        """Return the network, (N, in_channels, H, W) → (N, num_classes), with fresh weights and without auxiliary heads.

        The weights are drawn from torch's generator. Whether the network can take an image shows when it is run.
        """
        return self._builder(in_channels, num_classes)


def find(name: str) -> Reference:
    """Return the network with this name, without building it.

    ``preset:``, ``torchvision:`` and ``timm:`` before a name say where to look, and a name that ends in ``.yaml`` is the path
    of an architecture. A plain name is looked up among our OSA networks, then in torchvision, among our other presets, and
    in timm: ``densenet121`` is torchvision's, ``ese_vovnet39b`` ours (the same network as timm's).

    Raises:
        MissingModel: It is in `MISSING`.
        InputError: There is no such model; names those nearest to it.
    """
    if name.endswith((".yaml", ".yml")):
        return from_file(name)
    source, _, bare = name.rpartition(":")
    if bare in MISSING:
        raise MissingModel(f"model {name!r} cannot be built: {MISSING[bare]}; take it off the list.")
    if source and source not in _SOURCES:
        raise InputError(f"model {name!r} is sought in {source!r}; put one of {', '.join(_SOURCES)} before the colon.")
    if source:
        order = [_SOURCES[source]]
    elif bare in osa.PRESETS:
        order = [_preset]
    else:
        order = [_torchvision, _preset, _timm]
    for look in order:
        reference = look(name, bare)
        if reference is not None:
            return reference
    raise InputError(f"model {name!r} is not known{_near(bare, source)}")


def _near(bare: str, source: str) -> str:
    known = {"preset": _preset_names, "torchvision": _torchvision_names, "timm": _timm_names}
    names = [name for key, listed in known.items() if source in ("", key) for name in listed()]
    # Both libraries have resnet18: a name is proposed once.
    near = [repr(known) for known in difflib.get_close_matches(bare.lower(), sorted(set(names)), n=3, cutoff=0.6)]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    where = source or "torchvision or timm, one of our presets"
    return f"; give a name of {where}, or the path of an architecture's YAML file."


def _preset_names() -> Iterable[str]:
    return (*osa.PRESETS, *dense.PRESETS)


def _preset(name: str, bare: str) -> Reference | None:
    architecture = osa.PRESETS.get(bare) or dense.PRESETS.get(bare)
    return None if architecture is None else _of_architecture(name, "preset", architecture)


def _of_architecture(name: str, source: Source, architecture: Found) -> Reference:
    key = f"{architecture.to_dict()['family']}:{architecture.id}"
    size = 224 if architecture.stem.kind == "imagenet" else 32
    return Reference(name, source, key, size, partial(_build_architecture, architecture))


def _build_architecture(
    architecture: Found, in_channels: int, num_classes: int, features: Sequence[int] | None = None
) -> nn.Module:
    if isinstance(architecture, osa.Architecture):
        return osa.build(architecture, in_channels, num_classes, features)
    return dense.build(architecture, in_channels, num_classes, features)


def _torchvision_names() -> Iterable[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models)  # without a module it lists detectors and videos' networks too
    return names


def _torchvision(name: str, bare: str) -> Reference | None:
    if bare not in _torchvision_names():
        return None
    from torchvision import models

    crops = {weights.name: int(weights.transforms.keywords["crop_size"]) for weights in models.get_model_weights(bare)}
    # What has no V1 was tuned at several sizes, of which the smallest is the one that it is built for by default.
    size = crops.get("IMAGENET1K_V1", min(crops.values()))
    return Reference(name, "torchvision", f"torchvision:{bare}", size, partial(_build_torchvision, bare))


def _build_torchvision(bare: str, in_channels: int, num_classes: int) -> nn.Module:
    from torchvision import models

    # These two grow auxiliary heads for training unless told otherwise, and warn unless told how to draw weights.
    heads = {"aux_logits": False, "init_weights": True} if bare in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(bare, weights=None, num_classes=num_classes, **heads)
    if in_channels != 3:
        _widen(model, in_channels)
    return model


def _widen(model: nn.Module, in_channels: int) -> None:
    """Put a convolution for another number of channels in the place of the first; torch's own initial weights."""
    path, first = next((path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    parent, _, attribute = path.rpartition(".")
    replacement = nn.Conv2d(
        in_channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # a pair, which torch annotates as a tuple of any length
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
        device=first.weight.device,
    )
    setattr(model.get_submodule(parent), attribute, replacement)


def _timm_names() -> Iterable[str]:
    import timm

    names: list[str] = timm.list_models()
    return names


def _timm(name: str, bare: str) -> Reference | None:
    import timm

    architecture, _, tag = bare.partition(".")
    # Names that timm has given up are not listed, though it would still build them.
    if architecture not in _timm_names() or (tag and bare not in timm.list_pretrained(f"{architecture}.*")):
        return None
    weights = timm.get_pretrained_cfg(bare)
    size = int(weights.input_size[-1]) if weights else 224
    return Reference(name, "timm", f"timm:{bare}", size, partial(_build_timm, bare))


def _build_timm(bare: str, in_channels: int, num_classes: int) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(bare, pretrained=False, in_chans=in_channels, num_classes=num_classes)
    return model


_SOURCES: Mapping[str, Callable[[str, str], Reference | None]] = {
    "preset": _preset,
    "torchvision": _torchvision,
    "timm": _timm,
}


def from_file(path: Path | str) -> Reference:
    """Return the network that an architecture's YAML file describes, such as ``runs/<study>/trials/<n>/architecture.yaml``.

    Raises:
        InputError: The file cannot be read, or describes no architecture of the families osa and dense.
    """
    path = Path(path)
    architecture = _read(path)
    if isinstance(architecture, ReferenceArchitecture):
        return find(architecture.name)
    return _of_architecture(_file_name(path), "file", architecture)


def as_candidate(name: str) -> ReferenceArchitecture | Found:
    """Return the network with this name as an architecture of `ReferenceSpace`; of a file, what it describes.

    Raises:
        InputError: As `find` does.
    """
    if name.endswith((".yaml", ".yml")):
        architecture = _read(Path(name))
        if not isinstance(architecture, ReferenceArchitecture):
            return architecture
        name = architecture.name
    return ReferenceArchitecture(find(name).name)


def _read(path: Path) -> ReferenceArchitecture | Found:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InputError(f"model {path} cannot be read ({reason}); give the path of an architecture's YAML file.") from None
    try:
        architecture = from_yaml(ReferenceSpace(), text)
    except SpaceError as error:
        raise InputError(f"model {path}: {error}") from None
    assert isinstance(architecture, ReferenceArchitecture | osa.Architecture | dense.Architecture)
    return architecture


def _file_name(path: Path) -> str:
    match path.absolute().parts:
        case (*_, study, "trials", number, _):
            return f"{study}/{number}"
        case (*_, folder, "architecture.yaml"):
            return folder
    return path.stem


@dataclass(frozen=True)
class ReferenceArchitecture:
    """A named network in the form of a search's candidate.

    Attributes:
        name: What `find` takes; not the path of a file.
    """

    name: str

    @property
    def id(self) -> str:
        """``ref-`` and the name: two names of one network are two references."""
        return f"ref-{self.name.replace(':', '-')}"

    @property
    def stride(self) -> int:
        """1, so that no size of image is refused by it: whether the network can take one shows when it is run."""
        return 1

    def to_dict(self) -> dict[str, Any]:
        """See `search_spaces.base.Architecture.to_dict`."""
        return {"family": "reference", "name": self.name}


@dataclass(frozen=True)
class ReferenceSpace:
    """The space of named networks, and of all that an architecture's YAML file may hold.

    Attributes:
        models: Names to choose from when it is searched; building needs none.
    """

    models: tuple[str, ...] = ()

    def suggest(self, trial: Trial) -> ReferenceArchitecture:
        """Ask ``trial`` for one of ``models``."""
        if not self.models:
            raise SpaceError("space.models is empty; name the networks to choose from.")
        return self.preset(trial.suggest_categorical("model", self.models))

    def build(
        self,
        architecture: ReferenceArchitecture | Found,
        in_channels: int,
        num_classes: int,
        features: Sequence[int] | None = None,
    ) -> nn.Module:
        """See `search_spaces.base.SearchSpace.build`, and `osa.build` for ``features``; an unknown name raises InputError."""
        if not isinstance(architecture, ReferenceArchitecture):
            return _build_architecture(architecture, in_channels, num_classes, features)
        if features is not None:
            raise SpaceError(f"features cannot be given for {architecture.name}; timm and torchvision have ways of their own.")
        return find(architecture.name).build(in_channels, num_classes)

    def preset(self, name: str) -> ReferenceArchitecture:
        """Return the reference with this name, which is looked up when it is built."""
        return ReferenceArchitecture(name)

    def from_dict(self, mapping: Mapping[str, Any]) -> ReferenceArchitecture | Found:
        """See `search_spaces.base.SearchSpace.from_dict`."""
        family = mapping.get("family") if isinstance(mapping, Mapping) else None
        if family == "osa":
            return osa.from_dict(mapping)
        if family == "dense":
            return dense.from_dict(mapping)
        if family != "reference":
            raise SpaceError(f"architecture.family is {show(family)}; give one of osa, dense, reference.")
        name = mapping.get("name")
        if mapping.keys() != {"family", "name"} or not isinstance(name, str) or name.endswith((".yaml", ".yml")):
            raise SpaceError(f"architecture is {show(dict(mapping))}; a reference has nothing but the name of a network.")
        return ReferenceArchitecture(name)
