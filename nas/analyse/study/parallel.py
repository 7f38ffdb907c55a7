"""All objectives, sizes and choices of every network side by side, one line per network."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from nas.analyse.scene import Figure
from nas.analyse.study.choices import choices
from nas.analyse.study.fronts import LINK
from nas.analyse.study.layout import factor, rounded, title
from nas.analyse.study.population import FRONT, INFEASIBLE, TIED, Population
from nas.metrics import METRICS

_MOST_AXES = 11


def parallel_figure(population: Population, important: list[str]) -> Figure:
    """Return one line per complete trial over the objectives, the parameters and the choices, the ``important`` ones first."""
    heading = "Every network at a glance"
    trials = population.complete
    if len(trials) < 2:
        return Figure(heading, None, "fewer than two trials are complete")
    metrics = list(
        dict.fromkeys([*population.objectives, *(METRICS[name] for name in population.constraints), METRICS["params"]])
    )
    axes: list[dict[str, Any]] = []
    for metric in metrics:
        values = [outcome.attributes.get(metric.name) for outcome in trials]
        known = [float(value) * factor(metric) for value in values if value is not None]
        if not known:
            continue
        drawn = [math.nan if value is None else float(value) * factor(metric) for value in values]
        axes.append(_axis(title(metric), drawn, metric.unit != "fraction"))
    found = {choice.name: choice for choice in choices([outcome.params for outcome in trials])}
    for name in [*(name for name in important if name in found), *(name for name in found if name not in important)]:
        if len(axes) == _MOST_AXES:
            break
        choice = found[name]
        words = [("on" if v else "off") if isinstance(v, bool) else str(v) for v in choice.ordered]
        axes.append({"label": name, "values": choice.codes.tolist(), "tickvals": list(range(len(words))), "ticktext": words})
    rank = {FRONT: 2.0, TIED: 1.5, INFEASIBLE: 0.0}
    colours = [rank.get(population.kinds[outcome.name], 1.0) for outcome in trials]
    # Later lines lie above: the front's come last.
    order = sorted(range(len(trials)), key=lambda index: colours[index])
    for axis in axes:
        axis["values"] = [axis["values"][index] for index in order]
    scale = [[0, "#c9c9c9"], [0.25, "#c9c9c9"], [0.5, "#8fb3d1"], [0.75, "#f0a35e"], [1, "#d55e00"]]
    figure = go.Figure(
        go.Parcoords(
            dimensions=axes,
            line={"color": [colours[index] for index in order], "colorscale": scale, "cmin": 0, "cmax": 2},
            customdata=[trials[index].name for index in order],
            labelangle=-18,
            labelside="top",
            unselected={"line": {"opacity": 0.03}},
            meta={"link": LINK},
        )
    )
    figure.update_layout(
        template=go.layout.Template(),
        paper_bgcolor="#ffffff",
        font={"size": 11},
        height=430,
        margin={"l": 70, "r": 60, "t": 90, "b": 24},
    )
    note = (
        "Drag along an axis to keep a range, click beside it to let go: the fronts above and the table below show only the "
        "networks that are left. Orange: on the front; light orange: tied with it; grey: misses a constraint."
    )
    return Figure(heading, figure, note=note, wide=True)


def _axis(label: str, values: list[float], may_log: bool) -> dict[str, Any]:
    known = [value for value in values if math.isfinite(value)]
    if may_log and known and min(known) > 0 and max(known) / min(known) >= 8:
        powers = range(math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        ticks = [tick for tick in ticks if min(known) <= tick <= max(known)]
        logs = [math.log10(value) if math.isfinite(value) else math.nan for value in values]
        return {
            "label": label,
            "values": _rounded(logs),
            "tickvals": [math.log10(tick) for tick in ticks],
            "ticktext": [f"{tick:g}" for tick in ticks],
        }
    return {"label": label, "values": _rounded(values)}


def _rounded(values: list[float]) -> list[float | None]:
    return [rounded([value])[0] if math.isfinite(value) else None for value in values]
