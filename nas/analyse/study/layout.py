"""The look that a study's figures share: fonts, grid, axes with units, and the text that a point shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from nas.metrics import METRICS, Metric, show
from nas.outcomes import Outcome

INK, DIM, GRID = "#222222", "#5c5c5c", "#e4e4e4"
PALETTE = ("#0072b2", "#d55e00", "#00805c", "#7b3fa0", "#a87900", "#c2528b", "#7a7a7a")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
_FACTORS = {"fraction": (100.0, "%"), "J/image": (1000.0, "mJ per image"), "FLOP/s": (1e-9, "GFLOP/s")}
_COUNTS = {
    "parameters": (1e-6, "million"),
    "multiply-adds": (1e-6, "million"),
    "FLOPs": (1e-6, "million"),
    "elements": (1e-6, "million"),
}


def factor(metric: Metric) -> float:
    """Return what a value is multiplied by to be drawn in the unit of ``title``."""
    return {**_FACTORS, **_COUNTS}.get(metric.unit, (1.0, ""))[0]


def title(metric: Metric) -> str:
    """Return an axis' title: the metric and the unit in which it is drawn."""
    unit = {**_FACTORS, **_COUNTS}.get(metric.unit, (1.0, metric.unit))[1]
    return f"{metric.name} ({unit})"


def told(outcome: Outcome, names: Iterable[str], *lines: str) -> str:
    """Return the text of a point: the network in bold, its figures, further lines."""
    who = outcome.name if outcome.number is None else f"trial {outcome.name}"
    figures = [f"{name}: {show(METRICS[name], outcome.attributes.get(name))}" for name in names]
    return "<br>".join([f"<b>{escape(who)}</b>", *map(escape, figures), *map(escape, lines)])


def rounded(values: Sequence[float], digits: int = 5) -> list[float]:
    """Return the values with as many significant digits as a drawing needs: a page holds thousands of them."""
    return [float(f"{value:.{digits}g}") for value in values]


def finish(figure: go.Figure, x: str, y: str, height: int = 420, **axes: Any) -> go.Figure:
    """Give a figure the shared look.

    Args:
        figure: To be changed.
        x: Title of the x axis.
        y: Likewise.
        height: In pixels.
        axes: Further settings: ``xaxis`` and ``yaxis``, as Plotly takes them.
    """
    common = {
        "gridcolor": GRID,
        "zeroline": False,
        "showline": True,
        "linecolor": "#999999",
        "automargin": True,
        "ticks": "outside",
        "tickcolor": "#999999",
    }
    figure.update_layout(
        template=go.layout.Template(),
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
        font={"family": _FONT, "size": 12, "color": INK},
        showlegend=False,
        hovermode="closest",
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": INK}, "align": "left"},
        height=height,
        margin={"l": 60, "t": 16, "b": 52, "r": 18, "pad": 2},
    )
    figure.update_xaxes(title={"text": x, "standoff": 8}, **{"tickformat": ",~r", "nticks": 8, **common, **axes.get("xaxis", {})})
    figure.update_yaxes(title={"text": y, "standoff": 8}, **{"tickformat": ",~r", "nticks": 8, **common, **axes.get("yaxis", {})})
    return figure


def scale(values: Sequence[float], allowed: bool = True) -> dict[str, Any]:
    """Return an axis' settings: logarithmic where positive values span a factor of eight or more."""
    wide = allowed and bool(values) and min(values) > 0 and max(values) / min(values) >= 8
    if not wide:
        return {"type": "linear"}
    return {"type": "log", "dtick": 1 if max(values) / min(values) > 300 else "D2"}
