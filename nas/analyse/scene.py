"""What a figure is made from and what it is: the rows of one precision, and the finished figure or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from nas.analyse.columns import COLUMNS, scaled
from nas.analyse.families import Family
from nas.analyse.plots import Mark, families_of, hover
from nas.analyse.rows import Row, batch_size, having, known, number, why_missing


@dataclass(frozen=True)
class Sign:
    """What a symbol (a Plotly marker) or a ball of some diameter (in pixels) stands for in one figure."""

    label: str
    symbol: str = "circle"
    diameter: float | None = None


@dataclass(frozen=True)
class Figure:
    """One figure, or the reason why there is none.

    Attributes:
        plot: ``None`` if nothing was measured for it.
        reason: Why ``plot`` is ``None``.
        note: What to know when reading it: how it was taken, what error bars show, which models it lacks.
        families: Those that occur in it.
        signs: The further signs it uses.
        wide: Wants the page's whole width.
        symbols: Whether a family has its own symbol here, or its colour alone.
    """

    title: str
    plot: go.Figure | None
    reason: str | None = None
    note: str = ""
    families: tuple[Family, ...] = ()
    signs: tuple[Sign, ...] = ()
    wide: bool = True
    symbols: bool = True


@dataclass(frozen=True)
class Scene:
    """The rows of one precision, sorted out once for all figures.

    Attributes:
        rows: Measured rows, each with its ``name``.
        every: These and those that failed or are missing: where reasons are looked for.
        small: Least batch size measured: where single-image figures are taken, 1 in the study.
        large: Greatest batch size measured.
    """

    rows: list[Row]
    every: list[Row]
    small: int
    large: int

    def of(self, size: int) -> list[Row]:
        """Return the measured rows of one batch size."""
        return [row for row in self.rows if batch_size(row) == size]


def drawn(
    title: str,
    plot: go.Figure,
    marks: Sequence[Mark],
    note: str = "",
    signs: tuple[Sign, ...] = (),
    wide: bool = True,
    symbols: bool = True,
) -> Figure:
    """Return a figure whose families are those of its marks."""
    return Figure(title, plot, None, note.strip(), tuple(families_of(mark.row for mark in marks)), signs, wide, symbols)


def per_model(title: str, plot: go.Figure, note: str = "", signs: tuple[Sign, ...] = ()) -> Figure:
    """Return a figure whose axis names every model, so that it needs no key of families."""
    return Figure(title, plot, None, note.strip(), (), signs, wide=False)


def undrawn(title: str, scene: Scene, need: Sequence[str]) -> Figure:
    """Return, in place of a figure, why the first of the needed columns that nobody has is missing."""
    absent = next((column for column in need if not having(scene.rows, (column,))), None)
    if absent is None:
        return Figure(title, None, f"no model has {' and '.join(COLUMNS[column].label for column in need)} together")
    return Figure(title, None, f"{COLUMNS[absent].label}: {why_missing(scene.rows, absent)}")


def lacking(scene: Scene, rows: Iterable[Row]) -> str:
    """Name the models of the table that a figure of ``rows`` lacks, in one sentence; empty if it lacks none."""
    there = {row["name"] for row in rows}
    absent = list(dict.fromkeys(str(row["name"]) for row in scene.every if row["name"] not in there))
    if not absent:
        return ""
    told = ", ".join(absent[:6]) + (f" and {len(absent) - 6} more" if len(absent) > 6 else "")
    return f"Not shown for want of data: {told}."


def mark_of(row: Row, x: str, y: str, told: Sequence[str], *lines: str) -> Mark:
    """Return a point at two columns in their shown units; its hover text tells both, then ``told``, then ``lines``."""
    return Mark(
        row,
        known(row, x) * COLUMNS[x].scale,
        known(row, y) * COLUMNS[y].scale,
        hover(row, dict.fromkeys((y, x, *told)), *lines),
    )


def shown_value(row: Row, column: str) -> tuple[float, None] | None:
    """Return a column's value in its shown unit, without an error, for a line over batch sizes."""
    value = scaled(row, column)
    return None if value is None else (value, None)


def latency_spread(row: Row) -> float:
    """Return half the interquartile range of the latency, relative to its median; 0 where it is not known."""
    iqr_ms, latency_ms = number(row, "latency_iqr_ms"), number(row, "latency_ms")
    return iqr_ms / 2 / latency_ms if iqr_ms and latency_ms else 0.0
