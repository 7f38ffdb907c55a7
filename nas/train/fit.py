"""Brief training of one model: some epochs of a schedule, the score on the validation part, and a state to go on from.

The model's initial weights are the caller's; the number format is ``nas.train.probe``'s choice.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
import time
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from nas.errors import InputError
from nas.failures import is_out_of_memory
from nas.train.data import DataBundle, indexed
from nas.train.recipe import TrainingDiverged, ieee_fp32, place, score
from nas.train.settings import NumericFormat, TrainSettings

__all__ = ["EpochScore", "StateError", "TrainResult", "TrainingDiverged", "fit"]

_STATE_FORMAT = 2

# Loading a state, torch tells a fault of the device, and that its memory is exhausted, as one of the state.
_DEVICE_FAULT = re.compile(r"CUDA( driver)? error|CUDA out of memory|(CUBLAS|CUDNN)_STATUS", re.IGNORECASE)


class StateError(InputError):
    """A training state cannot be gone on with; the same training can begin anew."""


@dataclasses.dataclass(frozen=True)
class EpochScore:
    """How a model did on the validation part in the course of its training.

    Attributes:
        epoch: After so many epochs.
        top1: Fraction whose first guess was right.
        loss: Mean cross-entropy, without smoothing.
    """

    epoch: int
    top1: float
    loss: float


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a brief training came to.

    Attributes:
        top1: Validation images whose first guess is right, as a fraction.
        top5: Validation images whose class is among the first ``min(5, classes)`` guesses, as a fraction.
        validation_loss: Mean cross-entropy on the validation part, without smoothing.
        epochs: Epochs trained so far, those before a resumption included.
        train_loss: Mean smoothed loss of each of them.
        curve: The scores after those epochs that were asked for, and at the end of each call, in order.
        train_seconds: Wall time so far, that before a resumption included: set-up, epochs and scoring, without what ``on_epoch``
            waited.
        images_per_s: Training images per second of this call's epochs, without set-up and scoring; ``None`` if it had none.
        state: What ``resume`` takes to go on exactly, if it was asked for; loads with ``weights_only=True``.
    """

    top1: float
    top5: float
    validation_loss: float
    epochs: int
    train_loss: tuple[float, ...]
    curve: tuple[EpochScore, ...]
    train_seconds: float
    images_per_s: float | None
    state: bytes | None = dataclasses.field(default=None, repr=False)


def fit(
    model: nn.Module,
    bundle: DataBundle,
    settings: TrainSettings,
    numeric: NumericFormat,
    device: torch.device | str,
    seed: int,
    *,
    until_epoch: int | None = None,
    resume: bytes | None = None,
    keep_state: bool = False,
    scored: Collection[int] = (),
    on_epoch: Callable[[int, int], float | None] | None = None,
) -> TrainResult:
    """Train ``model`` in place and score it on the validation part.

    ``settings.epochs`` sets the schedule. Training may stop earlier and go on later: on a CPU, stopped and resumed
    training gives the same weights as training in one go. torch's global random streams are left as they were found.

    Args:
        model: Maps float32 ``[n, C, H, W]`` to logits ``[n, classes]``; it ends on ``device``, in ``numeric``'s memory format
            and in evaluation mode.
        bundle: The data, on the same device.
        settings: The recipe.
        numeric: Arithmetic and layout.
        device: Where to train.
        seed: Origin of the order of images, of augmentation and of what the model draws while it trains.
        until_epoch: Epochs after which to stop, counted from the schedule's start; ``None`` for all.
        resume: A state from an earlier call with the same model, data, recipe, format and seed.
        keep_state: Whether the result carries the state.
        scored: Further epochs, counted from 1, after which the model is scored; it changes nothing of the training.
        on_epoch: Called after each epoch with the number of epochs done and to be done; may return how many seconds it waited for
            others, which are no part of the training.

    Raises:
        TrainingDiverged: If the loss becomes NaN or infinite.
        StateError: If ``resume`` is damaged or belongs to another training; ``model`` may have a part of it then.
        torch.OutOfMemoryError: As it comes.
    """
    from nas.train.module import BriefModule, run_epochs

    started = time.perf_counter()
    device = indexed(device)
    if device != bundle.device:
        raise ValueError(f"the data is on {bundle.device} and the training on {device}")
    until = settings.epochs if until_epoch is None else until_epoch
    identity = _identity(bundle, settings, numeric, seed)
    with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []), ieee_fp32():
        place(model, numeric, device)
        model.train()
        curve: dict[int, EpochScore] = {}
        waited_s = 0.0

        def after_epoch(done: int) -> None:
            nonlocal waited_s
            if done in scored and done < until:
                found = score(model, bundle.validation_batches(settings.batch_size), numeric)
                curve[done] = EpochScore(done, found.top1, found.loss)
                model.train()
            if on_epoch is not None:
                waited_s += on_epoch(done, until) or 0.0

        module = BriefModule(model, bundle, settings, numeric, seed, after_epoch)
        seconds_before = _restore(module, curve, resume, identity, device) if resume is not None else 0.0
        if not max(1, module.epoch) <= until <= settings.epochs:
            raise ValueError(f"until_epoch={until} is not between the {module.epoch} epochs done and {settings.epochs}")
        if module.epoch < until:
            run_epochs(module, until - module.epoch, device)
        found = score(model, bundle.validation_batches(settings.batch_size), numeric)
    if not math.isfinite(found.loss):
        raise TrainingDiverged(module.epoch - 1)
    curve[module.epoch] = EpochScore(module.epoch, found.top1, found.loss)
    train_seconds = seconds_before + time.perf_counter() - started - waited_s
    return TrainResult(
        top1=found.top1,
        top5=found.top5,
        validation_loss=found.loss,
        epochs=module.epoch,
        train_loss=tuple(module.train_loss),
        curve=tuple(curve.values()),
        train_seconds=train_seconds,
        images_per_s=module.images / module.epoch_seconds if module.images else None,
        state=_state(module, curve, identity, train_seconds) if keep_state else None,
    )


def _identity(bundle: DataBundle, settings: TrainSettings, numeric: NumericFormat, seed: int) -> dict[str, Any]:
    """Return what must be the same for a resumed training to be the one that was stopped."""
    return {
        "data": f"{bundle.fingerprint}/{bundle.split_digest}",
        "augmentation": [bundle.settings.crop_padding, bundle.settings.flip],
        "seed": seed,
        **dataclasses.asdict(settings),
        **dataclasses.asdict(numeric),
    }


def _state(module: Any, curve: dict[int, EpochScore], identity: dict[str, Any], train_seconds: float) -> bytes:
    buffer = io.BytesIO()
    torch.save(
        {
            "format": _STATE_FORMAT,
            "identity": identity,
            "model": module.model.state_dict(),
            "optimizer": module.optimizer.state_dict(),
            "train_loss": module.train_loss,
            "curve": [dataclasses.astuple(point) for point in curve.values()],
            "train_seconds": train_seconds,
        },
        buffer,
    )
    return buffer.getvalue()


def _restore(module: Any, curve: dict[int, EpochScore], state: bytes, identity: dict[str, Any], device: torch.device) -> float:
    """Load a state into ``module`` and ``curve``, and return the seconds that it has cost."""
    try:
        found = torch.load(io.BytesIO(state), map_location=device, weights_only=True)
        if found["format"] != _STATE_FORMAT:
            raise StateError(f"the training state has format {found['format']}, not {_STATE_FORMAT}: train from the start.")
        if other := [key for key in identity if found["identity"].get(key) != identity[key]]:
            key = other[0]
            raise StateError(
                f"the training state was made with {key}={found['identity'].get(key)!r} and not {identity[key]!r}: "
                "set it back or train from the start."
            )
        module.model.load_state_dict(found["model"])
        module.optimizer.load_state_dict(found["optimizer"])
        module.train_loss = [float(loss) for loss in found["train_loss"]]
        curve |= {int(epoch): EpochScore(int(epoch), float(top1), float(loss)) for epoch, top1, loss in found["curve"]}
        return float(found["train_seconds"])
    except StateError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or _DEVICE_FAULT.search(str(error)):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StateError(f"the training state cannot be used ({reason}): train from the start.") from error
