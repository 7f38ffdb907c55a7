"""The Pareto front in every pair of objectives, with error bars; ties within noise as ties, references as labelled marks."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import plotly.graph_objects as go

from nas.analyse.families import Family
from nas.analyse.scene import Figure
from nas.analyse.spread import MEANING, spread
from nas.analyse.study.layout import factor, finish, rounded, scale, title, told
from nas.analyse.study.population import BEATEN, FRONT, INFEASIBLE, KINDS, REFERENCE, TIED, Population
from nas.analyse.tradeoffs import pareto_front
from nas.metrics import METRICS, Metric
from nas.outcomes import Outcome

LINK = "trials"
"""What a page links by: points, rows and lines of the same trial."""

_SIZES = {FRONT: 9, TIED: 8, BEATEN: 5, INFEASIBLE: 5, REFERENCE: 11}
_LEAST_SPAN = 2.0
"""Points of accuracy that an axis shows at least below the front."""
_FAINT = {BEATEN: 0.55, INFEASIBLE: 0.45}


def front_figures(population: Population) -> list[Figure]:
    """Return one figure per pair of objectives; with a single objective, one against the network's size."""
    pairs = list(combinations(population.objectives, 2))
    if not pairs:
        pairs = [(population.objectives[0], METRICS["params"])]
    return [front_figure(population, first, second) for first, second in pairs]


def front_figure(population: Population, first: Metric, second: Metric) -> Figure:
    """Return the networks in two metrics: the second across, the first up.

    The line joins the feasible networks that are best in these two alone; one on the front of all objectives may lie off it.
    """
    heading = f"{first.name} against {second.name}"
    networks = [*population.complete, *population.measured_references]
    networks = [network for network in networks if _has(network, first) and _has(network, second)]
    if not networks:
        return Figure(heading, None, "no trial has both values yet")
    figure = go.Figure()
    _add_stair(figure, population, first, second)
    for kind in reversed(KINDS):
        members = [network for network in networks if population.kinds[network.name] == kind]
        if members:
            figure.add_trace(_points(population, members, kind, first, second))
    xs, ys = ([network.attributes[m.name] * factor(m) for network in networks] for m in (second, first))
    yaxis, below = _near_the_front(population, networks, first) if first.unit == "fraction" else (scale(ys), 0)
    finish(figure, title(second), title(first), xaxis=scale(xs), yaxis=yaxis)
    present = [kind for kind in KINDS if any(population.kinds[network.name] == kind for network in networks)]
    left_out = f" {below} below {yaxis['range'][0]:.3g} % lie outside: drag the axis down." if below else ""
    return Figure(heading, figure, note=_note(population, first, second) + left_out, families=tuple(present), wide=False)


def _near_the_front(population: Population, networks: list[Outcome], metric: Metric) -> tuple[dict[str, Any], int]:
    """Return an axis for fractions on which the front can be read, and how many networks lie below it.

    A few that learnt nothing would press all others against the top.
    """
    values = {network.name: float(network.attributes[metric.name]) * factor(metric) for network in networks}
    kept = [values[n.name] for n in networks if population.kinds[n.name] in (FRONT, TIED, REFERENCE)]
    if not kept:
        return scale(list(values.values()), False), 0
    span = max(max(kept) - min(kept), _LEAST_SPAN)
    bottom = min(kept) - span
    below = sum(value < bottom for value in values.values())
    if not below:
        return scale(list(values.values()), False), 0
    bars = [spread(n.attributes, metric.name, population.validation_images) or 0.0 for n in networks]
    top = max(value + bar * factor(metric) for value, bar in zip(values.values(), bars, strict=True))
    return {"type": "linear", "range": [bottom, top + 0.05 * span]}, below


def _has(network: Outcome, metric: Metric) -> bool:
    return network.attributes.get(metric.name) is not None


def _add_stair(figure: go.Figure, population: Population, first: Metric, second: Metric) -> None:
    best = pareto_front([network for network in population.feasible if _has(network, second)], (first, second))
    if not best:
        return
    best.sort(key=lambda network: float(network.attributes[second.name]))
    # Between two steps the worse of both values holds: right then up for a value that is better when less.
    shape = "hv" if second.direction == "minimize" else "vh"
    figure.add_trace(
        go.Scatter(
            x=rounded([network.attributes[second.name] * factor(second) for network in best]),
            y=rounded([network.attributes[first.name] * factor(first) for network in best]),
            mode="lines",
            line={"shape": shape, "color": "#999999", "width": 1.5, "dash": "dash"},
            hoverinfo="skip",
            showlegend=False,
        )
    )


def _points(population: Population, members: list[Outcome], kind: Family, first: Metric, second: Metric) -> go.Scatter:
    names = list(dict.fromkeys([*(m.name for m in population.objectives), first.name, second.name, "params"]))
    labelled = kind in (FRONT, REFERENCE)
    bars = {}
    if kind in (FRONT, TIED, REFERENCE):
        for axis, metric in (("error_x", second), ("error_y", first)):
            widths = [spread(network.attributes, metric.name, population.validation_images) for network in members]
            if any(widths):
                array = rounded([(width or 0.0) * factor(metric) for width in widths], 3)
                bars[axis] = {"type": "data", "array": array, "color": kind.colour, "thickness": 1, "width": 0}
    return go.Scatter(
        x=rounded([network.attributes[second.name] * factor(second) for network in members]),
        y=rounded([network.attributes[first.name] * factor(first) for network in members]),
        mode="markers+text" if labelled else "markers",
        marker={
            "color": kind.colour,
            "symbol": kind.symbol,
            "size": [_SIZES[kind]] * len(members) if labelled else _SIZES[kind],
            "opacity": _FAINT.get(kind, 1.0),
            "line": {"width": 1.5 if "open" in kind.symbol else 0},
        },
        name=kind.name,
        legendgroup=kind.name,
        customdata=[network.name for network in members],
        **_hover(members, names, kind, first, second),
        textfont={"size": 11, "color": kind.colour},
        unselected={"marker": {"opacity": 0.06}},
        meta={"labels": "around" if labelled else None, "priority": -1 if kind == REFERENCE else KINDS.index(kind), "link": LINK},
        **bars,
    )


def _hover(members: list[Outcome], names: list[str], kind: Family, first: Metric, second: Metric) -> dict[str, Any]:
    if kind in (BEATEN, INFEASIBLE):  # many: their names and the two figures are enough, and cost a page nothing
        figures = f"{title(first)}: %{{y:.4~g}}<br>{title(second)}: %{{x:.4~g}}"
        return {"hovertemplate": f"<b>trial %{{customdata}}</b><br>{figures}<br>{kind.name}<extra></extra>"}
    return {"hovertext": [told(network, names, kind.name) for network in members], "hoverinfo": "text"}


def _note(population: Population, first: Metric, second: Metric) -> str:
    told_of = [f"{metric.name}: {MEANING[metric.name]}" for metric in (first, second) if metric.name in MEANING]
    bars = f"Bars: {'; '.join(told_of)}. " if told_of else ""
    rest = (
        " Networks on the front of all objectives may lie off it: they are best in another one."
        if len(population.objectives) > 2
        else ""
    )
    return f"{bars}The dashed line joins the best in these two.{rest}"
