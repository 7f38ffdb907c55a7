"""The design space as a distribution: the share of its networks below each error, whole and split by the settings of a choice.

The empirical distribution function as a measure of a space is RegNet's (Radosavovic et al. 2020, arXiv 2003.13678).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import plotly.graph_objects as go
from scipy.stats import ks_2samp

from nas.analyse.front import Array
from nas.analyse.scene import Figure
from nas.analyse.study.choices import Choice, choices, value_word
from nas.analyse.study.layout import PALETTE, finish, rounded
from nas.analyse.study.population import Population
from nas.outcomes import Outcome

_MOST_SETTINGS = 5
"""Settings of a choice that are told apart; numbers of more are split into halves."""

_LEAST_NETWORKS = 5
"""Networks that a setting, and all others together, must have to be compared."""


@dataclass(frozen=True)
class Comparison:
    """The networks with one setting of a choice against all others that had the choice to make.

    Attributes:
        setting: Such as ``on``, or ``8 to 24`` for the lower half of many numbers.
        networks: How many have it.
        others: How many have another one.
        median: Of the errors of those that have it.
        median_others: Of the errors of the others.
        distance: Kolmogorov and Smirnov's: the greatest difference between the two distribution functions, 0 to 1.
        p: The chance of so great a distance if the setting did nothing, two-sided, times the comparisons that were made
            (Holm 1979).
        worse: Whether its distribution function lies below the others' where they differ most: greater errors.
    """

    choice: str
    setting: str
    networks: int
    others: int
    median: float
    median_others: float
    distance: float
    p: float
    worse: bool


def errors(outcomes: Sequence[Outcome]) -> Array:
    """Return 1 - top1 of each, shape (n,)."""
    return np.array([1.0 - float(outcome.attributes["top1"]) for outcome in outcomes])


def distribution(values: Array) -> tuple[Array, Array]:
    """Return the empirical distribution function: the sorted values, and the share of values that are at most as large."""
    ordered = np.sort(values)
    return ordered, np.arange(1, len(ordered) + 1) / len(ordered)


def comparisons(population: Population) -> list[Comparison]:
    """Return, for each choice, the setting that differs most from the choice's others, those that differ surest first."""
    scored = _scored(population)
    found: list[Comparison] = []
    for choice in choices([outcome.params for outcome in scored]):
        having = [outcome for outcome in scored if choice.name in outcome.params]
        groups = _settings(choice, scored)
        for name, members in reversed(groups.items()):
            apart = {outcome.name for outcome in members}
            inside, outside = errors(members), errors([outcome for outcome in having if outcome.name not in apart])
            if len(outside) < _LEAST_NETWORKS:
                continue
            test = ks_2samp(inside, outside)
            medians = float(np.median(inside)), float(np.median(outside))
            sizes = len(inside), len(outside)
            worse = bool(test.statistic_sign < 0)
            found.append(Comparison(choice.name, name, *sizes, *medians, float(test.statistic), float(test.pvalue), worse))
            if len(groups) == 2 and len(inside) + len(outside) == sum(map(len, groups.values())):
                break  # of two settings, one says all of the other: the second, which is “on” of on and off
    first: dict[str, Comparison] = {}
    least, count = 0.0, len(found)
    for place, comparison in enumerate(sorted(found, key=lambda one: (one.p, -one.distance))):
        least = max(least, min(1.0, (count - place) * comparison.p))
        first.setdefault(comparison.choice, replace(comparison, p=least))
    return list(first.values())


def distribution_figure(population: Population, split: str | None = None) -> Figure:
    """Return the distribution of the brief training's error; with ``split``, one line per setting of that choice too."""
    heading = "How good the design space is: share of networks below each error"
    scored = _scored(population)
    if len(scored) < 2:
        return Figure(heading, None, "fewer than two trials have an accuracy")
    groups: list[tuple[str, Sequence[Outcome]]] = [("all", scored)]
    chosen = next((c for c in choices([outcome.params for outcome in scored]) if c.name == split), None)
    if chosen is not None:
        groups += [(f"{split} = {setting}", members) for setting, members in _settings(chosen, scored).items()]
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
    cut = sum(outcome.state == "pruned" for outcome in population.outcomes)
    left = f" {cut} trials that were gated or stopped early are not in it." if cut else ""
    note = (
        "A line further left is a better space. It speaks of the space only as far as networks were drawn at random and trained "
        f"to the end.{left}"
    )
    return Figure(heading, figure, note=note, wide=False)


def _scored(population: Population) -> list[Outcome]:
    return [outcome for outcome in population.complete if outcome.attributes.get("top1") is not None]


def _settings(choice: Choice, outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Return the networks by the setting of a choice, without those that had it not to make; empty if two are not to be had."""
    having = [(outcome, value) for outcome, value in zip(outcomes, choice.values, strict=True) if choice.name in outcome.params]
    had = {value for _, value in having}
    values = [value for value in choice.ordered if value in had]
    sets = [[value] for value in values]
    if len(values) > _MOST_SETTINGS:
        if not all(isinstance(value, int | float) for value in values):
            return {}
        # Halves by networks, not by values: of a logarithmic range most values are large.
        middle = sorted(value for _, value in having)[len(having) // 2]
        at = max(1, values.index(middle))
        sets = [values[:at], values[at:]]
    groups = {}
    for some in sets:
        one_of = set(some)
        members = [outcome for outcome, value in having if value in one_of]
        if len(members) >= _LEAST_NETWORKS:
            words = [value_word(some[0]), *([value_word(some[-1])] if len(some) > 1 else [])]
            groups[" to ".join(words)] = members
    return groups if len(groups) > 1 else {}
