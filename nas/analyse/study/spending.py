"""What a search's time was spent on: training, measuring, everything else; on failures, on infeasible networks, on repeats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import plotly.graph_objects as go

from nas.analyse.families import Family
from nas.analyse.scene import Figure
from nas.analyse.study.layout import PALETTE, finish, rounded
from nas.analyse.study.population import Population

_PARTS = ("training", "counting and measuring", "building, waiting, recording")
_KEY = tuple(Family(part, colour, "patch") for part, colour in zip(_PARTS, PALETTE, strict=False))


@dataclass(frozen=True)
class Spending:
    """Seconds of trials by what became of them, and by what they went into.

    Attributes:
        seconds: By group, then by part.
        counts: Trials in each group.
        untimed: Trials without a beginning or an end on record.
    """

    seconds: dict[str, dict[str, float]]
    counts: dict[str, int]
    untimed: int


def spending(population: Population) -> Spending:
    """Sort every trial's seconds; a trial counts in the first group that it fits."""
    groups = (
        *("failed", "repeats of a network", "gated before training", "stopped early"),
        *("miss a constraint", "dominated or tied", "on the front"),
    )
    seconds = {group: dict.fromkeys(_PARTS, 0.0) for group in groups}
    counts = dict.fromkeys(groups, 0)
    front = {outcome.name for outcome in population.front}
    allowed = {outcome.name for outcome in population.feasible}
    measured = {outcome.name: float(outcome.attributes.get("measure_seconds") or 0.0) for outcome in population.outcomes}
    seen: set[object] = set()
    untimed = 0
    for outcome in population.outcomes:
        network = outcome.attributes.get("architecture_id")
        if outcome.state == "failed":
            group = "failed"
        elif outcome.state == "repeated" or (network in seen and outcome.state == "complete"):
            group = "repeats of a network"
        elif outcome.state == "pruned":
            group = "gated before training" if outcome.attributes.get("gated_by") else "stopped early"
        elif outcome.name in front:
            group = "on the front"
        else:
            group = "dominated or tied" if outcome.name in allowed else "miss a constraint"
        if outcome.state == "complete":
            seen.add(network)
        counts[group] += 1
        if outcome.started_at is None or outcome.ended_at is None:
            untimed += 1
            continue
        whole = outcome.ended_at - outcome.started_at
        # What went on from where another trial had stopped records the seconds of both; what another study knew took none here.
        before = measured.get(str(outcome.attributes.get("resumed_from")), 0.0)
        if isinstance(outcome.attributes.get("reused_from"), str):
            before = math.inf
        measure = min(whole, max(0.0, measured[outcome.name] - before))
        train = min(max(0.0, whole - measure), float(outcome.attributes.get("train_seconds") or 0.0))
        for part, spent in zip(_PARTS, (train, measure, max(0.0, whole - train - measure)), strict=True):
            seconds[group][part] += spent
    return Spending(seconds, counts, untimed)


def spending_figure(population: Population) -> Figure:
    """Return one bar per group of trials, split into parts."""
    heading = "What the time was spent on"
    found = spending(population)
    groups = [group for group, count in found.counts.items() if count]
    total = sum(sum(found.seconds[group].values()) for group in groups)
    if not total:
        return Figure(heading, None, "no trial has times")
    per, unit = (3600.0, "hours") if total > 2 * 3600 else (60.0, "minutes") if total > 180 else (1.0, "seconds")
    figure = go.Figure()
    for part, colour in zip(_PARTS, PALETTE, strict=False):
        values = [found.seconds[group][part] / per for group in groups]
        share = sum(values) * per / total
        figure.add_trace(
            go.Bar(
                x=rounded(values),
                y=list(range(len(groups))),
                orientation="h",
                marker={"color": colour},
                name=part,
                legendgroup=part,
                hovertemplate=f"{part}: %{{x:.3g}} {unit}<br>{share:.0%} of all time<extra></extra>",
            )
        )
    figure.update_layout(barmode="stack", bargap=0.35)
    ticks = [f"{group} ({found.counts[group]})" for group in groups]
    finish(figure, f"time of the trials ({unit})", "", 90 + 44 * len(groups), yaxis=named_rows(ticks))
    shares = ", ".join(f"{part} {sum(found.seconds[g][part] for g in groups) / total:.0%}" for part in _PARTS)
    untimed = f" {found.untimed} trials have no times." if found.untimed else ""
    return Figure(heading, figure, note=f"Of all time: {shares}.{untimed}", families=_KEY, wide=True)


def named_rows(names: list[str]) -> dict[str, object]:
    """Return the settings of a y axis with a name per row, from the top."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "range": [len(names) - 0.45, -0.55],
        "showline": False,
        "gridcolor": "#f0f0f0",
        "tickfont": {"size": 11},
    }
