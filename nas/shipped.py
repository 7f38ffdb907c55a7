"""A network as it is shipped: a folder with its weights, its architecture and all that it takes to use it; read back checked.

Nothing in it is executed when it is read: weights are safetensors, everything else is plain data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from nas.catalogue import ReferenceSpace
from nas.errors import InputError
from nas.files import write_bytes, write_json, write_text
from search_spaces.base import SearchSpace, SpaceError

WEIGHTS = "model.safetensors"
_KEY = "osa-nas"
_FORMAT = 2
FAMILIES = ("osa", "dense", "reference")


@dataclass(frozen=True)
class Description:
    """What a network is and what it takes; plain data.

    Attributes:
        name: What to call it.
        study: Whose trial it was, ``None`` if of none.
        trial: Its number.
        architecture: ``to_dict()`` of the architecture.
        space: The ``space`` configuration, for a network of a user's own family; ``None`` for ours.
        input_shape: One image: (channels, height, width).
        classes: Names, in the order of the logits.
        mean: Per channel, of pixels scaled to 0..1; what the network takes are ``(pixels - mean) / std``.
        std: As ``mean``.
    """

    name: str
    study: str | None
    trial: int | None
    architecture: Mapping[str, Any]
    space: Mapping[str, Any] | None
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Normalise(nn.Module):
    """Turns pixels scaled to 0..1, (N, C, H, W), into what a network was trained on."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(x - mean) / std``."""
        return (x - self.mean) / self.std


class Normalised(nn.Module):
    """A network that takes pixels scaled to 0..1."""

    def __init__(self, model: nn.Module, description: Description) -> None:
        super().__init__()
        self.normalise = Normalise(description.mean, description.std)
        self.model = model
        if hasattr(model, "feature_info"):
            self.feature_info = model.feature_info

    def forward(self, x: Tensor) -> Any:
        """Return what the network returns."""
        return self.model(self.normalise(x))


def write_model(folder: Path, model: nn.Module, description: Description) -> None:
    """Write ``model.safetensors``, ``architecture.yaml`` and ``model.json`` into ``folder``; the weights last.

    The weights' file alone suffices to load the network: it holds the description too.
    """
    write_json(folder / "model.json", _plain(description))
    write_text(folder / "architecture.yaml", yaml.safe_dump(_plain(description)["architecture"], sort_keys=False))
    write_bytes(folder / WEIGHTS, pack(model.state_dict(), description))


def pack(state: Mapping[str, Tensor], description: Description) -> bytes:
    """Return the weights' file: all parameters and buffers as they are, on the CPU, with the description and a digest."""
    from safetensors.torch import save

    # Copies: tensors that share memory, or lie in another order, are refused.
    state = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    packed = {"format": _FORMAT, "digest": _digest(state, _plain(description)), "description": _plain(description)}
    return save(state, metadata={"format": "pt", _KEY: json.dumps(packed)})


def read_description(path: Path | str) -> Description:
    """Return what a shipped network is; ``path`` is its folder or its weights' file.

    Raises:
        InputError: There is none, or the file is damaged or of another kind.
    """
    return _read(Path(path))[0]


def load_model(
    path: Path | str,
    *,
    features: Sequence[int] | None = None,
    normalise: bool = False,
    device: torch.device | str = "cpu",
    space: SearchSpace | None = None,
) -> nn.Module:
    """Load a network that ``nas.retrain`` wrote, in evaluation mode.

    Args:
        path: Its folder, or ``model.safetensors`` alone.
        features: Return the maps of these stages instead of logits, such as ``(1, 2, 3)``; ``feature_info`` says their
            channels and strides.
        normalise: Whether it takes pixels scaled to 0..1, instead of ``(pixels - mean) / std`` with the description's figures.
        device: Where it shall be.
        space: The design space, for a network of a family of your own.

    Returns:
        float32 (N, C, H, W) → logits (N, classes), or a list of maps.

    Raises:
        InputError: The file is missing, damaged or of another kind, or its network cannot be built from it.
    """
    description, state = _read(Path(path))
    model = _build(Path(path), description, features, space)
    wanted = model.state_dict()
    try:
        model.load_state_dict(state if features is None else {key: state[key] for key in wanted})
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{path} does not hold the weights of its own architecture ({reason}): retrain the network.") from None
    model = Normalised(model, description) if normalise else model
    return model.to(device).eval()


def weights_file(path: Path) -> Path:
    """Return the weights' file of a folder, or ``path`` itself.

    Raises:
        InputError: There is none.
    """
    file = path / WEIGHTS if os.path.isdir(path) else path
    if not os.path.exists(file):
        raise InputError(f"model={path} holds no {WEIGHTS}: give the folder that nas.retrain wrote.")
    return file


def _build(path: Path, description: Description, features: Sequence[int] | None, space: SearchSpace | None) -> nn.Module:
    family = description.architecture.get("family")
    if space is None and family not in FAMILIES:
        raise InputError(
            f"{path} is of the family {family!r}, which is not ours: load it with load_model(path, space=<its space>)."
        )
    builder: Any = space or ReferenceSpace()
    extra = {} if features is None else {"features": features}
    try:
        architecture = builder.from_dict(dict(description.architecture))
        model: nn.Module = builder.build(architecture, description.input_shape[0], len(description.classes), **extra)
    except SpaceError as error:
        raise InputError(f"{path}: {error}") from None
    except TypeError:
        if features is None:
            raise
        raise InputError(f"{path} cannot give features: its family {family!r} returns logits only.") from None
    return model


def _read(path: Path) -> tuple[Description, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    file = weights_file(path)
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({_first_line(error)}): retrain the network, or restore the file.") from None
    if _KEY not in metadata:
        raise InputError(f"{file} was not written by this project: give the folder that nas.retrain wrote.")
    try:
        packed = json.loads(metadata[_KEY])
        number, digest, plain = packed["format"], packed["digest"], packed["description"]
        if number != _FORMAT:
            raise InputError(f"{file} has format {number}, and this version reads {_FORMAT}: install the version that wrote it.")
        description = Description(**{**plain, **{name: tuple(plain[name]) for name in ("input_shape", "classes", "mean", "std")}})
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} has a damaged description ({_first_line(error)}): retrain the network.") from None
    if _digest(state, plain) != digest:
        raise InputError(f"{file} is damaged: it does not hold what was written; retrain the network, or restore it.")
    return description, state


def _plain(description: Description) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(description)))
    return plain


def _digest(state: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
