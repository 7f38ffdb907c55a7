"""The metrics that a trial records: name, unit, the better direction, and which stage of an evaluation yields each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["maximize", "minimize"]
Stage = Literal["complexity", "latency", "energy", "memory", "train"]


@dataclass(frozen=True)
class Metric:
    """One recorded quantity.

    Attributes:
        name: The trial attribute's name, unit included.
        unit: The unit as a person reads it.
        direction: Which way is better.
        stage: The stage of an evaluation that yields it; only ``latency``, ``energy``, ``memory`` and ``train`` need the device.
        meaning: One line for tables and ``--help``.
    """

    name: str
    unit: str
    direction: Direction
    stage: Stage
    meaning: str


_TABLE = (
    Metric("top1", "fraction", "maximize", "train", "validation images whose first guess is right"),
    Metric("top5", "fraction", "maximize", "train", "validation images whose class is among the first five guesses"),
    Metric("latency_ms", "ms", "minimize", "latency", "median time of one forward pass of a whole batch"),
    Metric("latency_iqr_ms", "ms", "minimize", "latency", "interquartile range of that time: its spread"),
    Metric("images_per_s", "images/s", "maximize", "latency", "batch size over latency"),
    Metric("flops_per_s", "FLOP/s", "maximize", "latency", "FLOPs of a batch over latency: how well the device is used"),
    Metric("energy_j", "J/image", "minimize", "energy", "gross energy per image from the device's own counter"),
    Metric("peak_memory_mb", "MB", "minimize", "memory", "highest memory in use during a forward pass"),
    Metric("train_seconds", "s", "minimize", "train", "wall time of the brief training"),
    Metric("measure_seconds", "s", "minimize", "complexity", "wall time of counting and measuring"),
    Metric("params", "parameters", "minimize", "complexity", "learnable parameters"),
    Metric(
        "mult_adds",
        "multiply-adds",
        "minimize",
        "complexity",
        "multiply-accumulates of convolutions and linear layers per image",
    ),
    Metric("flops", "FLOPs", "minimize", "complexity", "2 x mult_adds per image"),
    Metric("mem_access", "elements", "minimize", "complexity", "memory access cost of all convolutions per image"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
