"""How numbers and fronts look on a terminal and in a CSV file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from nas.metrics import METRICS, Metric

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

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
        return f"{value:.4g} {metric.unit}"
    scaled, prefix = value, ""
    for factor, name in _PREFIXES:
        if abs(value) >= factor:
            scaled, prefix = value / factor, f" {name}"
            break
    unit = {"FLOP/s": "FLOP/s", "images/s": "/s", "FLOPs": "FLOPs"}.get(metric.unit, "")
    return f"{scaled:.3g}{prefix or (' ' if unit else '')}{unit}".strip()


def front_columns(objectives: Sequence[str], constraints: Sequence[str]) -> list[str]:
    """Return the columns of ``front.csv``: the trial, the objectives, the constraints' metrics, the architecture's id."""
    return ["trial", *dict.fromkeys([*objectives, *constraints]), "architecture_id"]


def front_row(trial: FrozenTrial) -> dict[str, Any]:
    """Return one trial as a row of ``front.csv``."""
    return {"trial": trial.number, **trial.user_attrs}


def front_table(
    trials: Sequence[FrozenTrial], objectives: Sequence[str], constraints: Mapping[str, float], limit: int | None = None
) -> Table:
    """Return the networks as a table: objectives, constraints' metrics, then size and operations for orientation."""
    names = list(dict.fromkeys([*objectives, *constraints, "params", "mult_adds"]))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("trial", justify="right")
    for name in names:
        metric = METRICS[name]
        arrow = ("↑" if metric.direction == "maximize" else "↓") if name in objectives else ""
        table.add_column(f"{name} {arrow}".strip(), justify="right", no_wrap=True)
    table.add_column("architecture")
    for trial in trials[:limit]:
        cells = [show(METRICS[name], trial.user_attrs.get(name)) for name in names]
        table.add_row(str(trial.number), *cells, str(trial.user_attrs.get("architecture_id", "")))
    return table
