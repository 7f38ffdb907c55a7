"""How far two groups differ where something else is equal: each member against those of the other group that are near it.

Arithmetic on arrays; what the groups and the quantities are is its caller's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nas.analyse.front import Array

DRAWS = 10_000
LEAST = 5
"""Members of each group without which nothing is said: fewer tell too little of how much a group scatters."""

_LEAST_FREEDOM = 2.0
_TAIL = 0.975
_BATCH = 1000


@dataclass(frozen=True)
class Estimate:
    """A difference, the first group's minus the second's.

    Attributes:
        value: The mean difference at equal levels.
        low: Lower end of the interval that holds the difference of the groups with 95 %.
        high: Its upper end.
        positive: The probability that the difference is above 0.
        members: How many of each group have somebody of the other one near them; the others take no part.
    """

    value: float
    low: float
    high: float
    positive: float
    members: tuple[int, int]


def near(first: Array, second: Array, within: float) -> NDArray[np.bool_]:
    """Mark the pairs of positive levels of which the larger exceeds the smaller by no more than the share ``within``.

    Args:
        first: Shape (n,).
        second: Shape (m,).
        within: Such as 0.1 for 10 %.

    Returns:
        Shape (n, m).
    """
    # The least part of a step beyond it, so that a pair at exactly that distance is near from either side.
    marks: NDArray[np.bool_] = np.abs(np.log(first)[:, None] - np.log(second)[None, :]) <= math.log1p(within) + 1e-12
    return marks


def imbalance(levels: tuple[Array, Array], within: float) -> float | None:
    """Return the mean ratio, less 1, of the levels of the members that `difference` compares; ``None`` if there are none."""
    pairs = near(*levels, within)
    first, second = pairs.any(axis=1), pairs.any(axis=0)
    if not first.any():
        return None
    logs = np.log(levels[0][first]), np.log(levels[1][second])
    one = np.ones((1, len(logs[0]))), np.ones((1, len(logs[1])))
    return math.expm1(float(_compare(*logs, pairs[np.ix_(first, second)], *one)[0]))


def difference(
    values: tuple[Array, Array], levels: tuple[Array, Array], within: float, draws: int = DRAWS, seed: int = 0
) -> Estimate | None:
    """Estimate how far two groups differ at equal levels.

    Each member is compared with the mean of those of the other group whose level is near its own, and all these differences
    count alike. Where the levels are a few fixed ones, that is the difference of the means at each, weighted by how many
    members there are.

    The interval is a bootstrap's: the members of both groups are drawn anew, replacing, and compared anew. Such draws scatter
    too little where a group is small (Hesterberg 2015, doi:10.1080/00031305.2015.1089789, section 3.2): as if the variance of n
    members were divided by n and not by n - 1, and without the tails of Student's t. Both are made good: each group's share of
    the variance by the degrees of freedom that its members leave, and the tails by moving each draw from its place in a normal
    distribution to that in Student's with the degrees of freedom of both groups (Welch 1947, doi:10.1093/biomet/34.1-2.28).
    Without levels to match, the interval is about Welch's; where members have few near them it is rather too wide than too
    narrow.

    Args:
        values: What is compared, shapes (n,) and (m,).
        levels: What must be equal, positive, likewise.
        within: The largest relative distance of two levels that are taken as equal.
        draws: How many.
        seed: Of the draws.

    Returns:
        ``None`` if fewer than `LEAST` members of a group have one of the other near them, or hardly any has one of its own.
    """
    pairs = near(*levels, within)
    first, second = pairs.any(axis=1), pairs.any(axis=0)
    members = int(first.sum()), int(second.sum())
    pairs, (a, b) = pairs[np.ix_(first, second)], (values[0][first], values[1][second])
    freedom = [_freedom(level, within) for level in (levels[0][first], levels[1][second])]
    if min(members) < LEAST or min(freedom) < _LEAST_FREEDOM:
        return None
    generator = np.random.default_rng(seed)
    one = np.ones((1, len(a))), np.ones((1, len(b)))
    value = float(_compare(a, b, pairs, *one)[0])
    shares = []
    for group in (0, 1):  # how much the estimate scatters if one group alone is drawn anew
        weights = [_weights(generator, _BATCH, count) if group == index else one[index] for index, count in enumerate(members)]
        shares.append(float(np.nanvar(_compare(a, b, pairs, weights[0], weights[1]))))
    drawn = np.concatenate(
        [
            _compare(a, b, pairs, _weights(generator, size, len(a)), _weights(generator, size, len(b)))
            for size in (min(_BATCH, draws - done) for done in range(0, draws, _BATCH))
        ]
    )
    drawn = value + _widened(drawn[np.isfinite(drawn)] - value, shares, members, freedom)
    low, high = np.quantile(drawn, [1 - _TAIL, _TAIL])
    positive = float((drawn > 0).mean() + (drawn == 0).mean() / 2)
    return Estimate(value, float(low), float(high), positive, members)


def _freedom(levels: Array, within: float) -> float:
    """Return a group's degrees of freedom: where its levels are a few fixed ones, its members less one for each level."""
    return float((1 - 1 / near(levels, levels, within).sum(axis=1)).sum())


def _widened(off: Array, shares: Sequence[float], members: Sequence[int], freedom: Sequence[float]) -> Array:
    """Return draws, less the estimate, as far off as they would be if they came of more than the few members that there are.

    Args:
        off: The draws, shape (draws,).
        shares: The variance that each group brings into them.
        members: Of each group.
        freedom: Its degrees of freedom.
    """
    spread = float(off.std())
    if not spread or not sum(shares):
        return off
    whole = [share * count / free for share, count, free in zip(shares, members, freedom, strict=True)]
    both = sum(whole) ** 2 / sum(part**2 / free for part, free in zip(whole, freedom, strict=True))
    wide: Array = spread * math.sqrt(sum(whole) / sum(shares)) * stats.t.ppf(stats.norm.cdf(off / spread), both)
    return wide


def _weights(generator: np.random.Generator, draws: int, members: int) -> Array:
    """Return how often each member is drawn, shape (draws, members)."""
    return generator.multinomial(members, np.full(members, 1 / members), size=draws).astype(np.float64)


def _compare(a: Array, b: Array, pairs: NDArray[np.bool_], in_a: Array, in_b: Array) -> Array:
    """Return the mean difference for each row of weights, shape (draws,); NaN where nobody has anybody near."""
    close = pairs.astype(np.float64)
    around_a, around_b = in_b @ close.T, in_a @ close
    with np.errstate(divide="ignore", invalid="ignore"):
        of_a = np.where(around_a > 0, a - (in_b * b) @ close.T / around_a, 0.0)
        of_b = np.where(around_b > 0, (in_a * a) @ close / around_b - b, 0.0)
        count = (in_a * (around_a > 0)).sum(axis=1) + (in_b * (around_b > 0)).sum(axis=1)
        mean: Array = ((in_a * of_a).sum(axis=1) + (in_b * of_b).sum(axis=1)) / count
    return mean
