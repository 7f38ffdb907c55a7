"""How a benchmark's columns read: a label, the unit it is shown in, and a value as short text."""

from __future__ import annotations

from dataclasses import dataclass

from nas.analyse.rows import Row, number


@dataclass(frozen=True)
class Column:
    """One numeric column; ``scale`` takes the stored value to ``unit``."""

    label: str
    unit: str = ""
    scale: float = 1.0

    @property
    def title(self) -> str:
        """The label with its unit, as an axis or a table's head shows it."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


COLUMNS = {
    "batch_size": Column("batch size"),
    "input_size": Column("input", "px"),
    "params": Column("parameters", "M", 1e-6),
    "mult_adds": Column("mult-adds", "G", 1e-9),
    "flops": Column("FLOPs per image", "GFLOPs", 1e-9),
    "mem_access": Column("memory access cost per image", "M elements", 1e-6),
    "mem_access_bound": Column("its lower bound", "M elements", 1e-6),
    "parameters_mb": Column("size of the parameters", "MB"),
    "model_file_mb": Column("model file", "MB"),
    "latency_ms": Column("latency of the batch", "ms"),
    "latency_iqr_ms": Column("interquartile range", "ms"),
    "latency_graph_ms": Column("CUDA graph", "ms"),
    "latency_compiled_ms": Column("compiled", "ms"),
    "latency_enqueue_ms": Column("enqueue (host)", "ms"),
    "latency_cold_ms": Column("cold cache", "ms"),
    "images_per_s": Column("throughput", "images/s"),
    "flops_per_s": Column("computation rate", "GFLOP/s", 1e-9),
    "energy_j": Column("energy per image", "mJ", 1e3),
    "energy_uncertainty_j": Column("energy, uncertainty", "mJ", 1e3),
    "energy_net_j": Column("energy net of idle", "mJ", 1e3),
    "power_w": Column("power", "W"),
    "idle_power_w": Column("idle power", "W"),
    "peak_memory_mb": Column("peak memory", "MB"),
    "reserved_memory_mb": Column("reserved memory", "MB"),
    "process_memory_mb": Column("process memory", "MB"),
    "top1_published": Column("published top-1 accuracy", "%", 100),
    "top5_published": Column("published top-5 accuracy", "%", 100),
    "top1_validation": Column("top-1 in its own study", "%", 100),
}


def scaled(row: Row | None, column: str) -> float | None:
    """Return the row's value in the column's shown unit."""
    value = number(row, column)
    return None if value is None else value * COLUMNS[column].scale


def digits(value: float, significant: int = 3) -> str:
    """Return a number with that many significant digits or all its whole ones, thousands set apart.

    >>> digits(12345.6), digits(0.01234), digits(5.001), digits(72)
    ('12,346', '0.0123', '5.00', '72')
    """
    whole = abs(value) >= 10 ** (significant - 1) or float(value).is_integer()
    return f"{value:,.0f}" if whole else f"{value:#.{significant}g}"


def shown(row: Row | None, column: str, significant: int = 3) -> str:
    """Return the row's value with its unit; an en dash where there is none."""
    value = scaled(row, column)
    if value is None:
        return "–"
    unit = COLUMNS[column].unit
    return f"{digits(value, significant)} {unit}".strip()
