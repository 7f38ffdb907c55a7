"""Full training of one network: every epoch is checkpointed, and the same call goes on from the last one.

The recipe's parts are ``mixing``'s, ``ema``'s and ``recipe``'s; scoring is the caller's. Importing this leaves Lightning alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import torch
from torch import nn

from nas.errors import InputError
from nas.train.augment import step_shape
from nas.train.data import DataBundle, DataRequest, indexed, load_bundle
from nas.train.recipe import TrainingDiverged, ieee_fp32, place
from nas.train.settings import FullSettings, NumericFormat, TrainSettings

__all__ = ["FullResult", "Hold", "Part", "TrainingDiverged", "check_devices", "fit_full", "full_learning_rate", "resolve_full"]

Part = Literal["train", "train+validation"]


class Hold(Protocol):
    """What a training holds while it runs, such as its devices."""

    def __enter__(self) -> object:
        """Take it."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        """Let go of it."""
        ...

    def give_way(self) -> None:
        """Let those have it who wait for it, and take it again after them."""
        ...


@dataclasses.dataclass(frozen=True)
class FullResult:
    """What a full training came to; the network itself was trained in place.

    Attributes:
        epochs: Epochs trained, those before a resumption included.
        train_loss: Mean loss of each, as the recipe has it: smoothed, and against mixed labels.
        learning_rates: At the end of each.
        epoch_seconds: Wall time of each.
        images: Images that an epoch shows.
        resumed_at: Epochs that were done when this call began.
    """

    epochs: int
    train_loss: tuple[float, ...]
    learning_rates: tuple[float, ...]
    epoch_seconds: tuple[float, ...]
    images: int
    resumed_at: int

    @property
    def train_seconds(self) -> float:
        """Wall time of all epochs."""
        return sum(self.epoch_seconds)


def resolve_full(settings: FullSettings, brief: TrainSettings, numeric: NumericFormat) -> tuple[FullSettings, NumericFormat]:
    """Return the recipe and the number format with what is left open filled in from the search's own."""
    found = dataclasses.replace(
        settings, batch_size=settings.batch_size or brief.batch_size, peak_lr=settings.peak_lr or brief.peak_lr
    )
    return found, NumericFormat(
        numeric.precision if settings.precision == "auto" else settings.precision,
        numeric.memory_format if settings.memory_format == "auto" else settings.memory_format,
    )


def full_learning_rate(step: int, steps: int, settings: FullSettings) -> float:
    """Return the rate in the middle of one step out of ``steps``: a line up to ``peak_lr``, then the schedule's way down to 0."""
    assert settings.peak_lr is not None
    at, up = (step + 0.5) / steps, settings.warmup_fraction
    if at < up:
        return settings.peak_lr * at / up
    left = (1 - at) / (1 - up)
    return settings.peak_lr * (left if settings.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)


def fit_full(
    model: nn.Module,
    request: DataRequest,
    settings: FullSettings,
    numeric: NumericFormat,
    device: torch.device | str,
    seed: int,
    *,
    on: Part,
    checkpoints: Path | None = None,
    on_epoch: Callable[[int, int, float], None] | None = None,
    hold: Hold | None = None,
) -> FullResult:
    """Train ``model`` in place; it ends on the CPU, in evaluation mode, with the weights to keep.

    With ``checkpoints`` the training can be killed at any moment: the same call goes on from the newest usable checkpoint
    in that folder, and ends, on a CPU, with the weights that it would have had without the interruption.

    Args:
        model: Maps float32 ``[n, C, H, W]`` to logits ``[n, classes]``; its weights are those to begin with.
        request: The data.
        settings: The recipe, ``batch_size`` and ``peak_lr`` filled in (``resolve_full``).
        numeric: Arithmetic and layout.
        device: Where to train; with several ``settings.devices``, which kind.
        seed: Origin of the order of images, of augmentation and of what the model draws while it trains.
        on: The images to train on.
        checkpoints: Folder for one checkpoint per epoch, of which the newest two are kept; ``None`` for none that stay.
        on_epoch: Called after each epoch with the number of epochs done and to be done, and its loss; with several devices
            in the process of the first, so it must be picklable then.
        hold: Held while it trains, and given way with between epochs; with several devices likewise in the process of the first.

    Raises:
        TrainingDiverged: If the loss becomes NaN or infinite.
        InputError: A checkpoint belongs to another training, or none of those that are there can be used; there are too many
            devices, or an image cannot be read any more.
        torch.OutOfMemoryError: As it comes.
        OSError: A checkpoint cannot be written.
    """
    if settings.batch_size is None or settings.peak_lr is None:
        raise ValueError("batch_size and peak_lr must be filled in")
    if checkpoints is None:
        with tempfile.TemporaryDirectory() as folder:
            return fit_full(
                model, request, settings, numeric, device, seed, on=on, checkpoints=Path(folder), on_epoch=on_epoch, hold=hold
            )
    from nas.train.full_module import FullModule, run_full

    device = indexed(device)
    bundle = load_bundle(request, device)
    check_devices(settings, device, bundle, on)
    several = settings.devices > 1
    digest = _identity(model, bundle, settings, numeric, seed, on)
    found = newest_checkpoint(checkpoints, digest)
    done = 0 if found is None else int(found[1]["full"]["epochs"])
    with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []), ieee_fp32():
        # What other processes take over must not lie on a GPU yet.
        place(model, numeric, torch.device("cpu") if several else device)
        model.train()
        if done < settings.epochs:
            module = FullModule(model, request, settings, numeric, seed, on, digest, on_epoch, hold)
            held: AbstractContextManager[object] = nullcontext() if hold is None or several else hold
            with held:
                run_full(module, checkpoints, None if found is None else found[0], device)
            found = newest_checkpoint(checkpoints, digest)
    assert found is not None
    saved = found[1]
    prefix = "ema.average." if settings.ema_decay else "model."
    state = {name.removeprefix(prefix): tensor for name, tensor in saved["state_dict"].items() if name.startswith(prefix)}
    model.to("cpu").load_state_dict(state)
    model.eval()
    told = saved["full"]
    return FullResult(
        epochs=int(told["epochs"]),
        train_loss=tuple(told["train_loss"]),
        learning_rates=tuple(told["learning_rates"]),
        epoch_seconds=tuple(told["epoch_seconds"]),
        images=int(told["images"]),
        resumed_at=done,
    )


def newest_checkpoint(folder: Path, identity: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint that can be used, with its content; ``None`` if there is none at all.

    Raises:
        InputError: It belongs to another training, or all that are there are damaged.
    """
    paths = sorted(folder.glob("*.ckpt"), reverse=True)
    damaged = []
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:  # torch reads it without looking at its checksums
                if (spoilt := archive.testzip()) is not None:
                    raise ValueError(f"{spoilt} has another checksum")
            saved = torch.load(path, map_location="cpu", weights_only=True)
            theirs = json.loads(saved["full"]["identity"])
        except Exception as error:  # noqa: BLE001 - a damaged file may break a reader in any way, and an older one may do
            damaged.append(f"{path} ({(str(error) or type(error).__name__).splitlines()[0][:100]})")
            continue
        # An older checkpoint does not say how its images were augmented.
        theirs.setdefault("augmentation", identity.get("augmentation"))
        if other := [key for key in identity if theirs.get(key) != identity[key]]:
            key = other[0]
            raise InputError(
                f"{path} was made with {key}={theirs.get(key)!r} and not {identity[key]!r}: set it back, or begin anew with "
                "overwrite=true."
            )
        return path, saved
    if damaged:
        raise InputError(f"no checkpoint can be used, the newest is {damaged[0]}: begin anew with overwrite=true.")
    return None


def _identity(
    model: nn.Module, bundle: DataBundle, settings: FullSettings, numeric: NumericFormat, seed: int, on: Part
) -> dict[str, Any]:
    """Return what must be the same for a resumed training to be the one that was stopped."""
    names = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items())
    return {
        "network": hashlib.sha256(names.encode()).hexdigest()[:16],
        "data": f"{bundle.fingerprint}/{bundle.split_digest}",
        "augmentation": [bundle.settings.crop_padding, bundle.settings.flip],
        "on": on,
        "seed": seed,
        **dataclasses.asdict(settings),
        **dataclasses.asdict(numeric),
    }


def check_devices(settings: FullSettings, device: torch.device, bundle: DataBundle, on: Part) -> None:
    """Refuse more devices than there are, or than the images of a step can be shared among: batch norm needs two on each.

    Args:
        settings: The recipe, ``batch_size`` filled in.
        device: Where to train; with several ``settings.devices``, which kind.
        bundle: The data.
        on: The images to train on.

    Raises:
        InputError: There are too many.
    """
    if settings.devices == 1:
        return
    assert settings.batch_size is not None
    images = bundle.sizes["train"] + (bundle.sizes["validation"] if on == "train+validation" else 0)
    size = step_shape(images, settings.batch_size)[1]
    if size < 2 * settings.devices:
        raise InputError(
            f"train.devices={settings.devices} leaves less than two images of a step to each, which shows {size} "
            f"(train.batch_size={settings.batch_size}, {images} images): lower train.devices or raise train.batch_size."
        )
    if device.type == "cuda" and settings.devices > torch.cuda.device_count():
        raise InputError(f"train.devices={settings.devices} is more than the {torch.cuda.device_count()} GPUs here: lower it.")
