"""How far a recorded figure may be off by chance: one standard error or half a quartile range, from what the trial recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ACCURACIES = ("top1", "top1_mean", "top5")
SEED_NOISE = "_seed_sd"
"""Ends the name of the attribute that holds the standard deviation of an accuracy over training seeds, pooled over a study."""

MEANING = {
    "top1": "the binomial standard error from the number of validation images, and the noise of a seed if confirm= measured it",
    "top1_mean": "the binomial standard error from the number of validation images, and a seed's noise if confirm= measured it",
    "top5": "the binomial standard error from the number of validation images, and the noise of a seed if confirm= measured it",
    "latency_ms": "half the interquartile range of the timed passes",
    "images_per_s": "that of the latency",
    "flops_per_s": "that of the latency",
    "energy_j": "what the sensor's ticks and the spread of the windows leave open, without the sensor's bias",
}
"""What the spread of each metric is; others have none."""


def source(metric: str) -> str:
    """Return what a metric's error is that of: metrics of one source are off together, better or worse."""
    if metric in ACCURACIES:
        return "the validation images"
    return "latency_ms" if metric in ("images_per_s", "flops_per_s") else metric


def share_error(share: float, images: int) -> float:
    """Return the standard error of a share of images, never 0: all of a few images right leaves the true share open.

    As if two more had been right and two more wrong (Agresti and Coull 1998, doi:10.1080/00031305.1998.10480550).
    """
    likely = (share * images + 2) / (images + 4)
    return math.sqrt(likely * (1 - likely) / (images + 4))


def spread(attributes: Mapping[str, Any], metric: str, validation_images: int | None) -> float | None:
    """Return the spread of one metric of one network, in the metric's unit; ``None`` where none is known.

    Args:
        attributes: What the trial recorded.
        metric: The metric's name.
        validation_images: How many images the accuracies are shares of.
    """
    value = attributes.get(metric)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if metric in ACCURACIES:
        seed_noise = _number(attributes.get(f"{metric}{SEED_NOISE}")) or 0.0
        seeds = len(attributes.get("seeds") or (0,))
        return math.hypot(share_error(value, validation_images), seed_noise / math.sqrt(seeds)) if validation_images else None
    if metric == "energy_j":
        return _number(attributes.get("energy_uncertainty_j"))
    if metric in ("latency_ms", "images_per_s", "flops_per_s"):
        latency, iqr = _number(attributes.get("latency_ms")), _number(attributes.get("latency_iqr_ms"))
        return abs(value) * iqr / 2 / latency if latency and iqr is not None else None
    return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def validation_images(data: Mapping[str, Any]) -> int | None:
    """Return how many images a study's accuracies are shares of, from what it recorded of its data."""
    found = data.get("sizes", {}).get("validation")
    return int(found) if found else None
