"""How a search went: the hypervolume of its front over its trials and over wall time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from nas.analyse.front import Array
from nas.analyse.hypervolume import hypervolume
from nas.analyse.scene import Figure
from nas.analyse.study.layout import PALETTE, finish, rounded
from nas.analyse.study.population import Population
from nas.analyse.tradeoffs import minimised


@dataclass(frozen=True)
class Course:
    """The hypervolume after each trial that changed it.

    Attributes:
        trials: How many had ended, shape (n,).
        seconds: Wall time since the first began, without the pauses between two runs of the command, shape (n,); NaN if unknown.
        shares: The hypervolume as a share of the box between the best and the worst feasible value of each objective seen
            in the whole study, shape (n,); it never falls.
        pauses: How many pauses were left out.
    """

    trials: Array
    seconds: Array
    shares: Array
    pauses: int


def course(population: Population) -> Course | None:
    """Return the course, ``None`` if the feasible trials do not differ in every objective."""
    ended = sorted(population.outcomes, key=lambda outcome: (outcome.ended_at is None, outcome.ended_at, outcome.number))
    allowed = {outcome.name for outcome in population.feasible}
    places = [place for place, outcome in enumerate(ended, start=1) if outcome.name in allowed]
    if len(places) < 2:
        return None
    values = minimised([ended[place - 1] for place in places], population.objectives)
    best, worst = values.min(axis=0), values.max(axis=0)
    if (worst <= best).any():
        return None
    scaled = (values - best) / (worst - best)
    reference = np.ones(values.shape[1])
    seconds, pauses = _working_seconds([(o.started_at, o.ended_at) for o in ended])
    at, times, shares = [], [], []
    front, share = scaled[:0], 0.0
    for place, new in zip(places, scaled, strict=True):
        if (front <= new).all(axis=1).any():
            continue
        # What the point adds: its own box without what the front covers of it (While et al. 2012, doi:10.1109/TEVC.2010.2077298).
        share += float(np.prod(reference - new)) - hypervolume(np.maximum(front, new), reference)
        front = np.concatenate([front[~(new <= front).all(axis=1)], new[None]])
        at.append(place)
        times.append(seconds[place - 1])
        shares.append(share)
    if at[-1] != len(ended):
        at.append(len(ended))
        times.append(seconds[-1])
        shares.append(shares[-1])
    return Course(np.array(at, dtype=float), np.array(times, dtype=float), np.array(shares), pauses)


def _working_seconds(spans: list[tuple[float | None, float | None]]) -> tuple[list[float], int]:
    """Return the wall time at each trial's end since the first began, without gaps in which no trial was under way."""
    known = [(begin, end) for begin, end in spans if begin is not None and end is not None]
    if len(known) != len(spans):
        return [float("nan")] * len(spans), 0
    merged: list[list[float]] = []
    for begin, end in sorted(known):
        # Between two trials a search writes and asks: a gap is a pause only if it is longer than any of that.
        if merged and begin - merged[-1][1] <= 60.0:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])

    def at(moment: float) -> float:
        return sum(max(0.0, min(moment, end) - begin) for begin, end in merged)

    return [at(end) for _, end in known], len(merged) - 1


def course_figures(population: Population) -> list[Figure]:
    """Return the hypervolume over trials and over wall time."""
    headings = ("Hypervolume over trials", "Hypervolume over wall time")
    found = course(population)
    if found is None:
        reason = "fewer than two feasible trials differ in every objective"
        return [Figure(heading, None, reason) for heading in headings]
    note = "Share of the box between the best and the worst feasible value of each objective that the front dominates."
    if found.pauses:
        note += f" {found.pauses} pause{'s' * (found.pauses > 1)} between runs of the command left out of the time."
    longest = float(found.seconds[-1])
    unit, per = ("hours", 3600.0) if longest > 2 * 3600 else ("minutes", 60.0) if longest > 180 else ("seconds", 1.0)
    figures = []
    for heading, x, across in (
        (headings[0], found.trials, "trials ended"),
        (headings[1], found.seconds / per, f"wall time ({unit})"),
    ):
        if np.isnan(x).any():
            figures.append(Figure(heading, None, "some trials have no times"))
            continue
        figure = go.Figure(
            go.Scatter(
                x=rounded([0.0, *x]),
                y=rounded([0.0, *found.shares]),
                mode="lines",
                line={"shape": "hv", "color": PALETTE[0], "width": 2},
                hovertemplate=f"%{{x}} {across}<br>%{{y:.3f}}<extra></extra>",
            )
        )
        figures.append(
            Figure(heading, finish(figure, across, "hypervolume", 320, yaxis={"rangemode": "tozero"}), note=note, wide=False)
        )
    return figures
