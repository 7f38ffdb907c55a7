"""The design space as a distribution: the share of its networks below each error, and where good values of each choice lie.

The protocol is RegNet's (Radosavovic et al. 2020, arXiv 2003.13678): the empirical distribution function of the error, and
a bootstrap of the best network's choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from nas.analyse.front import Array
from nas.analyse.scene import Figure
from nas.analyse.study.choices import LEAST_TRIALS, choices
from nas.analyse.study.layout import PALETTE, finish, rounded
from nas.analyse.study.population import Population
from nas.outcomes import Outcome

_DRAWN, _REPEATS = 0.25, 10_000
_MOST_LINES = 5


@dataclass(frozen=True)
class GoodValues:
    """Where the values of one choice lie that good networks have.

    Attributes:
        low: Of a numeric choice: the 2.5 % quantile over the repeats, and so on.
        shares: Of any other: how often each value was the best network's.
    """

    choice: str
    low: float | None = None
    median: float | None = None
    high: float | None = None
    least: float | None = None
    greatest: float | None = None
    shares: Mapping[str, float] | None = None


def errors(outcomes: Sequence[Outcome]) -> Array:
    """Return 1 - top1 of each, shape (n,)."""
    return np.array([1.0 - float(outcome.attributes["top1"]) for outcome in outcomes])


def distribution(values: Array) -> tuple[Array, Array]:
    """Return the empirical distribution function: the sorted values, and the share of values that are at most as large."""
    ordered = np.sort(values)
    return ordered, np.arange(1, len(ordered) + 1) / len(ordered)


def good_values(params: Sequence[Mapping[str, Any]], error: Array, seed: int = 0, repeats: int = _REPEATS) -> list[GoodValues]:
    """Return, for each choice, the range that holds 95 % of the best networks' values.

    Each repeat draws a quarter of the networks with replacement and takes the best of them (of equals the first drawn).

    Args:
        params: What each network has.
        error: Of each network, shape (n,).
        seed: Of the draws.
        repeats: How many.
    """
    count = len(error)
    drawn = np.random.default_rng(seed).integers(0, count, size=(repeats, max(1, round(_DRAWN * count))))
    best = drawn[np.arange(repeats), error[drawn].argmin(axis=1)]
    found = []
    for choice in choices(params):
        values = [choice.values[index] for index in best]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in choice.ordered):
            low, median, high = (float(np.quantile(values, at, method="inverted_cdf")) for at in (0.025, 0.5, 0.975))
            ends = float(choice.ordered[0]), float(choice.ordered[-1])
            found.append(GoodValues(choice.name, low, median, high, *ends))
        else:
            names = [_word(value) for value in choice.ordered]
            counts = np.bincount([choice.ordered.index(value) for value in values], minlength=len(names))
            shares = {name: float(share) for name, share in zip(names, counts / repeats, strict=True)}
            found.append(GoodValues(choice.name, shares=shares))
    return found


def distribution_figure(population: Population, split: str | None = None) -> Figure:
    """Return the distribution of the brief training's error; with ``split``, one line per value of that choice too."""
    heading = "How good the design space is: share of networks below each error"
    scored = [outcome for outcome in population.complete if outcome.attributes.get("top1") is not None]
    if len(scored) < 2:
        return Figure(heading, None, "fewer than two trials have an accuracy")
    groups: list[tuple[str, list[Outcome]]] = [("all", scored)]
    chosen = next((c for c in choices([outcome.params for outcome in scored]) if c.name == split), None)
    if chosen is not None and len(chosen.ordered) <= _MOST_LINES:
        for value in chosen.ordered:
            members = [outcome for outcome, mine in zip(scored, chosen.values, strict=True) if mine == value]
            if len(members) > 1:
                groups.append((f"{split} = {_word(value)}", members))
    figure = go.Figure()
    for (name, members), colour in zip(groups, ("#222222", *PALETTE), strict=False):
        x, y = distribution(errors(members))
        figure.add_trace(
            go.Scatter(
                x=rounded([float(100 * value) for value in [x[0], *x]]),
                y=rounded([0.0, *(float(share) for share in y)]),
                mode="lines",
                line={"shape": "hv", "color": colour, "width": 2.5 if name == "all" else 1.5},
                name=f"{name} ({len(members)})",
                hovertemplate=f"{name}<br>%{{y:.0%}} of the networks below %{{x:.2f}} %<extra></extra>",
            )
        )
    finish(
        figure, "error after the brief training (%)", "share of networks", 380, yaxis={"rangemode": "tozero", "tickformat": ".0%"}
    )
    figure.update_layout(showlegend=True, legend={"x": 1, "xanchor": "right", "y": 0.02, "yanchor": "bottom"})
    note = "A line further left is a better space. It speaks of the space only as far as the sampler drew at random."
    return Figure(heading, figure, note=note, wide=False)


def good_values_table(population: Population, seed: int = 0) -> list[GoodValues] | str:
    """Return the good values over the complete trials, or why nothing can be said."""
    scored = [outcome for outcome in population.complete if outcome.attributes.get("top1") is not None and outcome.params]
    if len(scored) < LEAST_TRIALS:
        return f"{len(scored)} trials with an accuracy are too few, {LEAST_TRIALS} are needed"
    return good_values([outcome.params for outcome in scored], errors(scored), seed)


def _word(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
