"""Where good values of each choice lie: a bootstrap of the choices that the best networks made.

The protocol is RegNet's (Radosavovic et al. 2020, arXiv 2003.13678), carried over to fronts of several objectives. What
becomes of a space that is cut to these values is ``narrowing``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nas.analyse.front import Array
from nas.analyse.study.choices import LEAST_TRIALS, choices
from nas.analyse.study.population import Population
from nas.analyse.tradeoffs import minimised

DRAWN, REPEATS = 0.25, 10_000
"""Share of the networks that one repeat draws, and how many repeats there are."""

Good = Literal["error", "front"]
"""What makes a network of a draw good: the least error of all, or that no other one of the draw dominates it."""

_FRONTS = 2_000
"""Repeats where each yields a whole front: that costs more, and says more about each value."""


@dataclass(frozen=True)
class GoodValues:
    """Where the values of one choice lie that good networks have, among the networks that had it to make.

    Attributes:
        networks: How many had it; a module of a stage that is not built is no choice.
        values: The different values, in their order.
        shares: Of each of them: how often it was that of the best network of a draw; they sum to 1.
        low: Of numbers: the 2.5 % quantile over the repeats, and so on; ``None`` of others.
    """

    choice: str
    networks: int
    values: tuple[Any, ...]
    shares: tuple[float, ...]
    low: float | None = None
    median: float | None = None
    high: float | None = None


def winning(losses: Array, seed: int = 0, repeats: int | None = None) -> Array:
    """Return how often each network is the best of a quarter of all, drawn with replacement, shape (n,); it sums to 1.

    With one loss the best is the least (of equals the first drawn), as RegNet has it. With several it is whoever no other one
    of the draw dominates; they share their draw equally.

    Args:
        losses: Shape (n, m), to be minimised.
        seed: Of the draws.
        repeats: How many; 10,000 with one loss, 2,000 with several.
    """
    count = len(losses)
    single = losses.shape[1] == 1
    total = repeats or (REPEATS if single else _FRONTS)
    drawn = np.random.default_rng(seed).integers(0, count, size=(total, max(1, round(DRAWN * count))))
    if single:
        best = drawn[np.arange(total), losses[drawn, 0].argmin(axis=1)]
        return np.bincount(best, minlength=count) / total
    no_worse = (losses[:, None] >= losses[None]).all(axis=2)
    beaten_by = (no_worse & (losses[:, None] > losses[None]).any(axis=2)).astype(np.float32)
    shares: Array = np.zeros(count)
    for rows in np.array_split(drawn, max(1, total * count // 4_000_000)):  # bounds the memory that a large study takes
        there = np.zeros((len(rows), count), dtype=np.float32)
        np.put_along_axis(there, rows, 1.0, axis=1)
        front = (there > 0) & (there @ beaten_by.T == 0)
        shares += (front / front.sum(axis=1, keepdims=True)).sum(axis=0)
    return shares / total


def good_values(
    params: Sequence[Mapping[str, Any]], losses: Array, seed: int = 0, repeats: int | None = None, least: int = 1
) -> list[GoodValues]:
    """Return, for each choice that differs between networks, the values that good ones have.

    Args:
        params: What each network has.
        losses: Of each network, shape (n, m), to be minimised.
        seed: See ``winning``.
        repeats: Likewise.
        least: Networks that must have had a choice to make, for anything to be said about it.
    """
    known: dict[tuple[int, ...], Array] = {}
    found = []
    for name in dict.fromkeys(name for given in params for name in given):
        having = tuple(index for index, given in enumerate(params) if name in given)
        differing = choices([{name: params[index][name]} for index in having])
        if not differing or len(having) < least:
            continue
        if having not in known:  # most choices are there in all networks
            known[having] = winning(losses[list(having)], seed, repeats)
        (choice,), weights = differing, known[having]
        shares = np.bincount(choice.codes.astype(int), weights=weights, minlength=len(choice.ordered))
        ends: list[float | None] = [None, None, None]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in choice.ordered):
            # The least value at or below which that share of the best networks lies; the small term is for sums of fractions.
            places = np.searchsorted(np.cumsum(shares) + 1e-9, (0.025, 0.5, 0.975))
            ends = [float(choice.ordered[place]) for place in places]
        found.append(GoodValues(name, len(having), choice.ordered, tuple(float(share) for share in shares), *ends))
    return found


def good_in(population: Population, good: Good = "error", seed: int = 0) -> list[GoodValues] | str:
    """Return the good values over the trials of a study that keep its bounds, or why nothing can be said.

    Choices that fewer than ``LEAST_TRIALS`` of them had to make are left out.
    """
    scored = [outcome for outcome in population.feasible if outcome.attributes.get("top1") is not None and outcome.params]
    if len(scored) < LEAST_TRIALS:
        bounds = " that keeps every bound" if population.constraints else ""
        return f"{len(scored)} trials with an accuracy{bounds} are too few, {LEAST_TRIALS} are needed"
    if good == "front":
        losses = minimised(scored, population.objectives)
    else:
        losses = np.array([[1.0 - float(outcome.attributes["top1"])] for outcome in scored])
    return good_values([outcome.params for outcome in scored], losses, seed, least=LEAST_TRIALS)
