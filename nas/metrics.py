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
        variant: For a latency other than the eager one, the variant of ``measure.variants`` that yields it.
    """

    name: str
    unit: str
    direction: Direction
    stage: Stage
    meaning: str
    variant: str | None = None

    @property
    def title(self) -> str:
        """The name with its unit, where the name does not say it."""
        said = self.name in ("params", "mult_adds", "flops") or self.name.endswith(f"_{self.unit.lower()}")
        return self.name if said else f"{self.name} ({self.unit})"


_TABLE = (
    Metric("top1", "fraction", "maximize", "train", "validation images whose first guess is right"),
    Metric("top5", "fraction", "maximize", "train", "validation images whose class is among the first five guesses"),
    Metric("top1_mean", "fraction", "maximize", "train", "mean of top1 after the epochs of the last third of the training"),
    Metric("train_loss_area", "nats", "minimize", "train", "area under the training loss, per epoch: their mean"),
    Metric("latency_ms", "ms", "minimize", "latency", "median time of one forward pass of a whole batch"),
    Metric("latency_iqr_ms", "ms", "minimize", "latency", "interquartile range of that time: its spread"),
    Metric("latency_graph_ms", "ms", "minimize", "latency", "the same replayed from a CUDA graph: without launches", "graph"),
    Metric("latency_compiled_ms", "ms", "minimize", "latency", "the same after torch.compile", "compiled"),
    Metric("latency_enqueue_ms", "ms", "minimize", "latency", "the host's share: time to queue a forward pass", "enqueue"),
    Metric("latency_cold_ms", "ms", "minimize", "latency", "the same with the caches flushed before each pass", "cold"),
    Metric("images_per_s", "images/s", "maximize", "latency", "batch size over latency"),
    Metric("flops_per_s", "FLOP/s", "maximize", "latency", "FLOPs of a batch over latency: how well the device is used"),
    Metric("energy_j", "J/image", "minimize", "energy", "gross energy per image from the device's own counter"),
    Metric("energy_net_j", "J/image", "minimize", "energy", "the same without what the idle device spends"),
    Metric("power_w", "W", "minimize", "energy", "mean power while the energy was taken"),
    Metric("peak_memory_mb", "MB", "minimize", "memory", "highest memory in use during a forward pass"),
    Metric(
        "process_memory_mb", "MB", "minimize", "memory", "all of the board's memory that the process holds, CUDA context included"
    ),
    Metric("parameters_mb", "MB", "minimize", "complexity", "the parameters as fp32"),
    Metric("model_file_mb", "MB", "minimize", "complexity", "the weights as a file"),
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
    Metric("mem_access_bound", "elements", "minimize", "complexity", "the least mem_access at the same operations: c_in = c_out"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def show(metric: Metric, value: float | int | None) -> str:
    """Return a value with its unit, three to four significant digits, as short as a table wants it."""
    if value is None:
        return "–"
    if metric.unit == "fraction":
        return f"{100 * value:.2f} %"
    if metric.unit == "J/image":
        return f"{value:.3g} J" if value >= 1 else f"{1000 * value:.3g} mJ"
    if metric.unit in ("ms", "MB", "s"):
        return f"{value:.4g} {metric.unit}" if abs(value) < 9999.5 else f"{value:,.0f} {metric.unit}"
    scaled, prefix = value, ""
    for factor, name in _PREFIXES:
        if abs(value) >= factor:
            scaled, prefix = value / factor, f" {name}"
            break
    unit = {"FLOP/s": "FLOP/s", "images/s": "/s", "FLOPs": "FLOPs"}.get(metric.unit, "")
    digits = f"{scaled:.3g}" if abs(scaled) < 999.5 else f"{scaled:,.0f}"
    return f"{digits}{prefix or (' ' if unit else '')}{unit}".strip()
