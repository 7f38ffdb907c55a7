"""The brief recipe as plain functions: schedule, optimiser, one step, scoring. Loops over epochs are ``nas.train.fit``'s.

Nesterov SGD, one-cycle learning rate, label smoothing, no decay on norms and biases; the same for every candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.train.settings import FullSettings, NumericFormat, TrainSettings

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class TrainingDiverged(Exception):  # noqa: N818 - it is what happened, not a mistake
    """The loss became NaN or infinite.

    Attributes:
        epoch: The epoch, counted from 0, at whose end it was seen.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__(epoch)
        self.epoch = epoch

    def __str__(self) -> str:
        return f"the loss was not finite at the end of epoch {self.epoch + 1}"


@dataclass(frozen=True)
class Score:
    """How well a model does on a part: ``top1`` and ``top5`` are fractions, ``loss`` is the mean cross-entropy, unsmoothed."""

    top1: float
    top5: float
    loss: float


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Return the rate of one step out of ``steps``: a straight line up to ``peak_lr``, then one down to 0.

    The two-phase one-cycle policy (Smith & Topin 2018, arXiv 1708.07120) with linear phases, taken in the middle of the
    step, so that it is positive at the first and the last one however few there are.
    """
    at = (step + 0.5) / steps
    up = settings.warmup_fraction
    return settings.peak_lr * (at / up if at < up else (1 - at) / (1 - up))


def make_optimizer(model: nn.Module, settings: TrainSettings | FullSettings) -> torch.optim.SGD:
    """Return the optimiser; its learning rate is set anew at every step.

    Weights have two dimensions or more; norms and biases have one, and do not decay (He et al. 2019, arXiv 1812.01187).
    """
    if settings.peak_lr is None:
        raise ValueError("peak_lr must be filled in")
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=settings.peak_lr,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        fused=all(p.device.type in ("cpu", "cuda") for p in parameters),
    )


def place(model: nn.Module, numeric: NumericFormat, device: torch.device) -> None:
    """Move a model to a device and its weights to the layout, in place."""
    model.to(device=device, memory_format=MEMORY_FORMATS[numeric.memory_format])  # type: ignore[call-overload]


def set_ieee_fp32() -> None:
    """Let fp32 be fp32 on a GPU for the rest of this process: torch's default runs convolutions in TF32."""
    for flag in _fp32_flags():
        flag.fp32_precision = "ieee"


@contextmanager
def ieee_fp32() -> Iterator[None]:
    """Let fp32 be fp32 on a GPU within the block. What was set comes back."""
    before = [flag.fp32_precision for flag in _fp32_flags()]
    try:
        set_ieee_fp32()
        yield
    finally:
        for flag, value in zip(_fp32_flags(), before, strict=True):
            flag.fp32_precision = value


def _fp32_flags() -> tuple[Any, Any]:
    return torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]


def train_step(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    x: Tensor,
    y: Tensor,
    lr: float | Tensor,
    settings: TrainSettings,
    numeric: NumericFormat,
) -> Tensor:
    """Take one step and return its loss as a tensor on the device; nothing here waits for the device.

    ``lr`` may be a scalar on the device, which a recorded step reads whenever it is replayed.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    logits = _forward(model, x, numeric)
    loss = nn.functional.cross_entropy(logits, y, label_smoothing=settings.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], numeric: NumericFormat) -> Score:
    """Score a model on every image of ``batches``; leaves it in evaluation mode.

    ``top5`` counts the first ``min(5, classes)`` guesses. Waits for the device once, at the end.
    """
    model.eval()
    images = 0
    sums: Tensor | None = None
    with torch.inference_mode():
        for x, y in batches:
            logits = _forward(model, x, numeric)
            hits = logits.topk(min(5, logits.shape[1])).indices == y[:, None]
            loss = nn.functional.cross_entropy(logits, y, reduction="sum").double()
            found = torch.stack([hits[:, 0].sum().double(), hits.sum().double(), loss])
            sums = found if sums is None else sums + found
            images += len(y)
    if sums is None:
        raise ValueError("a score needs at least one image")
    top1, top5, loss_sum = sums.tolist()
    return Score(top1 / images, top5 / images, loss_sum / images)


def _forward(model: nn.Module, x: Tensor, numeric: NumericFormat) -> Tensor:
    x = x.contiguous(memory_format=MEMORY_FORMATS[numeric.memory_format])
    with _arithmetic(x.device, numeric):
        logits: Tensor = model(x)
    return logits.float()


def _arithmetic(device: torch.device, numeric: NumericFormat) -> AbstractContextManager[object]:
    # Autocast keeps weights, gradients and batch norm's statistics in fp32 and runs convolutions in bf16.
    if numeric.precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
