"""How networks are trained and how data is prepared, as a user sets it; free of torch, so cheap to import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Lt

Fraction = Annotated[float, Gt(0), Lt(1)]
_FINITE = Lt(math.inf)


@dataclass(frozen=True)
class TrainSettings:
    """The ``train.*`` keys of a study: one recipe, the same for every candidate.

    Attributes:
        epochs: Passes over the training part.
        batch_size: Images per step.
        peak_lr: Highest learning rate of the one-cycle schedule (Smith & Topin 2018, arXiv 1708.07120).
        momentum: Nesterov momentum.
        weight_decay: L2 penalty on convolution and linear weights; norms and biases have none.
        label_smoothing: Share of the target spread evenly over all classes (Szegedy et al. 2016).
        warmup_fraction: Share of all steps in which the learning rate rises.
        precision: Arithmetic; ``auto`` is bf16 on a GPU and the winner of a short probe on a CPU.
        memory_format: Layout of activations; ``auto`` is channels_last on a GPU and the winner of the probe on a CPU.
    """

    epochs: Annotated[int, Ge(1)] = 8
    batch_size: Annotated[int, Ge(2)] = 512
    peak_lr: Annotated[float, Gt(0), _FINITE] = 0.4
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Ge(0), _FINITE] = 5e-4
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    warmup_fraction: Fraction = 0.25
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"


@dataclass(frozen=True)
class FullSettings:
    """The ``train.*`` keys of ``nas.retrain``: the full recipe, for the network that was chosen.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images per step over all devices; ``None`` takes the search's.
        peak_lr: Highest learning rate; ``None`` takes the search's.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty on convolution and linear weights; norms and biases have none.
        label_smoothing: Share of the target spread evenly over all classes (Szegedy et al. 2016).
        warmup_fraction: Share of all steps in which the learning rate rises, in a line.
        schedule: How it falls afterwards, to 0: ``cosine`` (Loshchilov & Hutter 2017, arXiv 1608.03983) or ``linear``.
        ema_decay: Of the exponential moving average of the weights, which is what is kept; 0 keeps the weights themselves.
        randaugment_ops: Transformations per image (RandAugment: Cubuk et al. 2020, arXiv 1909.13719); 0 for none.
        randaugment_magnitude: Strength of each, from 0 (none) to 1 (30 degrees, 30 % of the side, 90 % of the contrast).
        mixup_alpha: Of the Beta distribution of MixUp (Zhang et al. 2018, arXiv 1710.09412); 0 for none.
        cutmix_alpha: Likewise of CutMix (Yun et al. 2019, arXiv 1905.04899).
        mix_probability: Share of the steps that mix; where both are on, half of them by each.
        erase_probability: Share of the images of which a rectangle is erased (Zhong et al. 2020, arXiv 1708.04896).
        clip_norm: Largest norm of the gradient; ``None`` for any.
        precision: Arithmetic; ``auto`` is what the search trained in.
        memory_format: Layout of activations; likewise.
        devices: GPUs of this machine, or processes on a CPU; each takes its share of every batch.
    """

    epochs: Annotated[int, Ge(1)] = 100
    batch_size: Annotated[int, Ge(2)] | None = None
    peak_lr: Annotated[float, Gt(0), _FINITE] | None = None
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Ge(0), _FINITE] = 5e-4
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    warmup_fraction: Fraction = 0.1
    schedule: Literal["cosine", "linear"] = "cosine"
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.998
    randaugment_ops: Annotated[int, Ge(0)] = 1
    randaugment_magnitude: Annotated[float, Interval(ge=0, le=1)] = 0.3
    mixup_alpha: Annotated[float, Ge(0), _FINITE] = 0.0
    cutmix_alpha: Annotated[float, Ge(0), _FINITE] = 1.0
    mix_probability: Annotated[float, Interval(ge=0, le=1)] = 0.3
    erase_probability: Annotated[float, Interval(ge=0, le=1)] = 0.0
    clip_norm: Annotated[float, Gt(0), _FINITE] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    devices: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True)
class NumericFormat:
    """The arithmetic and layout that a study trains in, chosen once and the same for all its candidates."""

    precision: Literal["fp32", "bf16"]
    memory_format: Literal["contiguous", "channels_last"]


@dataclass(frozen=True)
class DataSettings:
    """The ``data.*`` keys that hold for every data set; the remaining ones belong to the data set that ``_target_`` names.

    Attributes:
        validation_fraction: Share of the images outside the test part that scores candidates and never trains them.
        crop_padding: Pixels by which a training image is reflected-padded before a random crop of its own size; 0 for none.
        flip: Mirror each training image left-right in every other epoch.
        resident_budget_mb: The whole set lives on the training device as uint8 if it is no larger than this (MB = 10^6 bytes).
        workers: Loader processes for a set that is larger than the budget.
    """

    validation_fraction: Fraction = 0.2
    crop_padding: Annotated[int, Ge(0)] = 0
    flip: bool = False
    resident_budget_mb: Annotated[float, Ge(0), _FINITE] = 2048.0
    workers: Annotated[int, Ge(0)] = 2
