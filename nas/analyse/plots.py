"""The three kinds of picture that the figures are made of: points, lines over batch sizes, and one line of dots per model.

A trace's ``legendgroup`` is its family; its ``meta`` tells the page which of its points want a name beside them (``labels``:
``around`` or ``end``, names in ``customdata``) and which come first when room is short (``priority``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from nas.analyse.columns import COLUMNS, shown
from nas.analyse.families import BOTTLENECK, FAMILIES, Family, family
from nas.analyse.front import non_dominated
from nas.analyse.rows import Row

_GRID = "#e4e4e4"
_INK = "#222222"


@dataclass(frozen=True)
class Axis:
    """An axis: its title with the unit; logarithmic if ``log``, or by the data's span if that is ``None``."""

    title: str
    log: bool | None = None
    values: tuple[int, ...] = ()
    from_zero: bool = False


@dataclass(frozen=True)
class Mark:
    """One point. ``error_x`` and ``error_y`` are half-widths in the axes' units; ``symbol`` is the family's by default."""

    row: Row
    x: float
    y: float
    hover: str
    error_x: float | None = None
    error_y: float | None = None
    diameter: float | None = None
    symbol: str | None = None

    @property
    def name(self) -> str:
        """The row's name."""
        return str(self.row["name"])

    @property
    def family(self) -> Family:
        """The row's family."""
        return family(self.row)


def axis_of(column: str, log: bool | None = None) -> Axis:
    """Return the axis on which a column is drawn, titled with its unit."""
    return Axis(COLUMNS[column].title, log)


def hover(row: Row, columns: Iterable[str], *lines: str) -> str:
    """Return the text of a point: the model in bold, then one line per column with its unit, then further lines."""
    told = [f"{COLUMNS[column].label}: {shown(row, column, 4)}" for column in columns]
    return "<br>".join([f"<b>{escape(str(row['name']))}</b>", *map(escape, told), *map(escape, lines)])


def families_of(rows: Iterable[Row]) -> list[Family]:
    """Return the families that occur, in the order of ``FAMILIES``."""
    seen = {family(row) for row in rows}
    return [candidate for candidate in FAMILIES if candidate in seen]


def points(marks: Sequence[Mark], x: Axis, y: Axis, frontier: bool = False) -> go.Figure:
    """Draw one point per mark; with ``frontier`` a stair joins those that no other beats in both (more is better)."""
    figure = go.Figure()
    if frontier:
        figure.add_trace(_stair(marks))
    for kind in _present(marks):
        group = [mark for mark in marks if mark.family == kind]
        # Large balls first, so that small ones stay on top of them.
        group.sort(key=lambda mark: -(mark.diameter or 0))
        figure.add_trace(
            go.Scatter(
                x=[mark.x for mark in group],
                y=[mark.y for mark in group],
                mode="markers+text",
                marker={
                    "color": kind.colour,
                    "symbol": [_symbol(mark) for mark in group],
                    "size": [mark.diameter or 10 for mark in group],
                    "opacity": 0.75 if any(mark.diameter for mark in group) else 1,
                    "line": {"width": 0.5, "color": "#ffffff"} if "open" not in kind.symbol else {"width": 2},
                },
                error_x=_error([mark.error_x for mark in group], kind.colour),
                error_y=_error([mark.error_y for mark in group], kind.colour),
                **_named(kind, [mark.name for mark in group], [mark.hover for mark in group], "around"),
            )
        )
    return _finish(figure, x, y, [mark.x for mark in marks], [mark.y for mark in marks])


def lines(series: Mapping[str, Sequence[Mark]], x: Axis, y: Axis) -> go.Figure:
    """Draw one line per model with its name at the end; the families that stand out lie on top."""
    figure = go.Figure()
    few = len(series) <= 12
    everything = [mark for marks in series.values() for mark in marks]
    for kind in reversed(_present(everything)):
        for name, marks in series.items():
            if not marks or marks[0].family != kind:
                continue
            strong = few or kind.stands_out
            # Only the line is faint: a trace's opacity would take its name with it.
            faint = kind.colour if strong else _rgba(kind.colour, 0.5)
            dash = "dot" if kind == BOTTLENECK else "solid"
            named = [*[""] * (len(marks) - 1), name]
            figure.add_trace(
                go.Scatter(
                    x=[mark.x for mark in marks],
                    y=[mark.y for mark in marks],
                    mode="lines+markers+text",
                    line={"color": faint, "width": 2.5 if kind.stands_out else 1.5, "dash": dash},
                    marker={"color": faint, "symbol": kind.symbol, "size": 7 if strong else 5},
                    cliponaxis=False,
                    error_y=_error([mark.error_y for mark in marks], kind.colour),
                    **_named(kind, named, [mark.hover for mark in marks], "end"),
                )
            )
    figure.update_layout(margin={"r": 136})
    return _finish(figure, x, y, [mark.x for mark in everything], [mark.y for mark in everything])


def dots(marks: Sequence[Mark], x: Axis, order: Sequence[str], joined: bool = True) -> go.Figure:
    """Draw one row of dots per model, from the top in ``order``; ``joined`` links a model's dots by a thin line.

    A mark's ``y`` is not used: its place is its model's.
    """
    places = {name: index for index, name in enumerate(order)}
    figure = go.Figure()
    for kind in _present(marks):
        group = [mark for mark in marks if mark.family == kind and mark.name in places]
        if joined:
            figure.add_trace(_links(group, places, kind))
        figure.add_trace(
            go.Scatter(
                x=[mark.x for mark in group],
                y=[places[mark.name] for mark in group],
                mode="markers",
                marker={
                    "color": kind.colour,
                    "symbol": [_symbol(mark) for mark in group],
                    "size": 9,
                    "line": {"width": 1.5, "color": kind.colour},
                },
                error_x=_error([mark.error_x for mark in group], kind.colour),
                **_named(kind, [mark.name for mark in group], [mark.hover for mark in group], None),
            )
        )
    return _per_model(figure, x, order, marks)


def bars(marks: Sequence[Mark], x: Axis, order: Sequence[str]) -> go.Figure:
    """Draw one bar per model, from the top in ``order``, its figure at its end."""
    places = {name: index for index, name in enumerate(order)}
    figure = go.Figure()
    for kind in _present(marks):
        group = [mark for mark in marks if mark.family == kind and mark.name in places]
        figure.add_trace(
            go.Bar(
                x=[mark.x for mark in group],
                y=[places[mark.name] for mark in group],
                orientation="h",
                width=0.7,
                marker={"color": kind.colour, "pattern": {"shape": "/" if kind == BOTTLENECK else ""}},
                text=[f"{mark.x:.1f}" for mark in group],
                textposition="outside",
                cliponaxis=False,
                **_named(kind, [mark.name for mark in group], [mark.hover for mark in group], None),
            )
        )
    return _per_model(figure, Axis(x.title, log=False, from_zero=True), order, marks)


def _present(marks: Iterable[Mark]) -> list[Family]:
    return families_of(mark.row for mark in marks)


def _symbol(mark: Mark) -> str:
    if mark.diameter is not None:  # areas are compared: all balls have one shape
        return "circle-open" if mark.family == BOTTLENECK else "circle"
    return mark.symbol or mark.family.symbol


def _named(kind: Family, names: Sequence[str], hovers: Sequence[str], labels: str | None) -> dict[str, Any]:
    return {
        "name": kind.name,
        "legendgroup": kind.name,
        "customdata": list(names),
        "hovertext": list(hovers),
        "hoverinfo": "text",
        "textfont": {"size": 11, "color": kind.colour},
        "meta": {"labels": labels, "priority": FAMILIES.index(kind)},
    }


def _error(widths: Sequence[float | None], colour: str) -> dict[str, Any] | None:
    if not any(widths):
        return None
    return {"type": "data", "array": [width or 0 for width in widths], "color": colour, "thickness": 1, "width": 0}


def _rgba(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _stair(marks: Sequence[Mark]) -> go.Scatter:
    values = np.array([[-mark.x, -mark.y] for mark in marks])
    best = sorted({(mark.x, mark.y) for mark, on in zip(marks, non_dominated(values), strict=True) if on})
    return go.Scatter(
        x=[x for x, _ in best],
        y=[y for _, y in best],
        mode="lines",
        line={"shape": "vh", "color": "#999999", "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
    )


def _links(marks: Sequence[Mark], places: Mapping[str, int], kind: Family) -> go.Scatter:
    xs: list[float | None] = []
    ys: list[float | None] = []
    for name in dict.fromkeys(mark.name for mark in marks):
        ends = [mark.x for mark in marks if mark.name == name]
        xs += [min(ends), max(ends), None]
        ys += [places[name], places[name], None]
    return go.Scatter(
        x=xs, y=ys, mode="lines", line={"color": kind.colour, "width": 1}, opacity=0.6, hoverinfo="skip", legendgroup=kind.name
    )


def _per_model(figure: go.Figure, x: Axis, order: Sequence[str], marks: Sequence[Mark]) -> go.Figure:
    strong = {mark.name for mark in marks if mark.family.stands_out}
    ticks = [f"<b>{escape(name)}</b>" if name in strong else escape(name) for name in order]
    figure = _finish(figure, x, Axis("", log=False), [mark.x for mark in marks], [])
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(order))),
        ticktext=ticks,
        range=[len(order) - 0.4, -0.6],
        gridcolor="#f0f0f0",
        showline=False,
        tickfont={"size": 11},
    )
    # Read from the top: with many models the foot of the figure is off the screen.
    figure.update_xaxes(side="top")
    figure.update_layout(height=100 + 19 * len(order), margin={"t": 74, "b": 8, "l": 8}, bargap=0.2)
    return figure


def _finish(figure: go.Figure, x: Axis, y: Axis, xs: Sequence[float], ys: Sequence[float]) -> go.Figure:
    figure.update_layout(
        template=go.layout.Template(),
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif", "size": 12, "color": _INK},
        showlegend=False,
        hovermode="closest",
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": _INK}, "align": "left"},
        height=figure.layout.height or 470,
        margin={"l": 60, "t": 28, "b": 52, "r": figure.layout.margin.r or 18, "pad": 2},
    )
    figure.update_xaxes(**_axis(x, xs))
    figure.update_yaxes(**_axis(y, ys))
    return figure


def _axis(axis: Axis, values: Sequence[float]) -> dict[str, Any]:
    positive = bool(values) and min(values) > 0
    log = axis.log if axis.log is not None else positive and max(values) / min(values) >= 8
    told: dict[str, Any] = {
        "title": {"text": axis.title, "standoff": 8},
        "gridcolor": _GRID,
        "zeroline": False,
        "showline": True,
        "linecolor": "#999999",
        "ticks": "outside",
        "tickcolor": "#999999",
        "automargin": True,
        "type": "log" if log and positive else "linear",
    }
    if axis.values:
        told |= {"tickmode": "array", "tickvals": list(axis.values), "ticktext": [str(value) for value in axis.values]}
    elif told["type"] == "log":
        # A format makes the ticks between decades full numbers instead of lone digits.
        wide = max(values) / min(values) > 300
        told |= {"tickformat": ",~r", "dtick": 1 if wide else "D2"}
    else:
        told |= {"tickformat": ",~r", "nticks": 8}
    if axis.from_zero:
        told["rangemode"] = "tozero"
    return told
