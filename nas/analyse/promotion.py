"""Which of the candidates at one rung are worth going on with: their standing by all objectives at once, minimised.

Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943) and its asynchronous form (Li et al. 2020, arXiv 1810.05934)
rank by one score; here non-domination ranks, and among equals of one rank the hypervolume that each adds (as in SMS-EMOA,
Beume et al. 2007, doi:10.1016/j.ejor.2006.08.008).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nas.analyse.front import Array
from nas.analyse.hypervolume import hypervolume

Ranks = NDArray[np.int64]

_BEYOND_WORST = 1.1
"""Where the reference point lies in normalised objectives: beyond the worst value, so that the ends of a front add volume."""

_SAME = 1e-12
"""Volumes that differ by less are equal but for rounding."""


def non_domination_ranks(values: Array) -> Ranks:
    """Return the rank of each point, shape (n,): 0 for the front, 1 for the front of what is left without it, and so on.

    Args:
        values: Shape (n, m), finite, to be minimised.
    """
    # Sorted by rows, a point can be dominated only by those before it: it stands one behind the worst of these.
    unique, inverse = np.unique(values, axis=0, return_inverse=True)
    ranks = np.zeros(len(unique), dtype=np.int64)
    for index in range(1, len(unique)):
        before = (unique[:index] <= unique[index]).all(axis=1)
        ranks[index] = ranks[:index][before].max(initial=-1) + 1
    return ranks[inverse.reshape(-1)]


def contributions(values: Array) -> Array:
    """Return the hypervolume that each point adds to the others, shape (n,), in objectives normalised to 0..1 over ``values``.

    An objective in which all points are equal tells none from another and adds nothing. Copies of a point add nothing.
    """
    least, span = values.min(axis=0), np.ptp(values, axis=0)
    differs = span > 0
    if len(values) < 2 or not differs.any():
        return np.zeros(len(values))
    scaled = (values[:, differs] - least[differs]) / span[differs]
    reference = np.full(scaled.shape[1], _BEYOND_WORST)
    # Only what a point dominates alone counts, so others are cut to its own box: one small hypervolume per point.
    return np.array([_alone(scaled, index, reference) for index in range(len(scaled))])


def _alone(scaled: Array, index: int, reference: Array) -> float:
    mine = scaled[index]
    others = np.maximum(np.delete(scaled, index, axis=0), mine)
    return float(np.prod(reference - mine)) - hypervolume(others, reference)


def standings(values: Array) -> Ranks:
    """Return how many points stand before each one, shape (n,): those of a lower rank, and of its rank those that add more.

    Points that are equal in both stand equal.
    """
    ranks = non_domination_ranks(values)
    before = np.zeros(len(values), dtype=np.int64)
    for rank in range(int(ranks.max(initial=-1)) + 1):
        members = np.flatnonzero(ranks == rank)
        added = contributions(values[members])
        more = (added[None, :] > added[:, None] + _SAME).sum(axis=1)
        before[members] = (ranks < rank).sum() + more
    return before


def places(count: int, eta: float) -> int:
    """Return how many of ``count`` candidates go on: the top 1/eta, and at least one."""
    return math.ceil(count / eta - 1e-9)


def among_best(values: Array, count: int) -> NDArray[np.bool_]:
    """Return which points are among the best ``count``, shape (n,): those whose standing leaves them a place.

    Points that stand equal at the last place all have it.
    """
    chosen = np.zeros(len(values), dtype=bool)
    ranks = non_domination_ranks(values)
    for rank in range(int(ranks.max(initial=-1)) + 1):
        members = np.flatnonzero(ranks == rank)
        left = count - int((ranks < rank).sum())
        if left <= 0:
            break
        if left < len(members):  # volumes, which take long to compute, decide within one rank alone
            added = contributions(values[members])
            members = members[(added[None, :] > added[:, None] + _SAME).sum(axis=1) < left]
        chosen[members] = True
    return chosen
