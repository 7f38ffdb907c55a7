"""How sure it is that a network belongs on the front, given the spread of what was measured; minimises like ``front``."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from nas.analyse.front import Array, non_dominated

_DRAWS = 2000
_BATCH = 250


def dominance_probability(values: Array, noise: Array, better: int, worse: int) -> float:
    """Return the probability that one network is better than another in every objective.

    The true values are taken as normal around the measured ones with the noise as standard deviation, independent of one
    another. Where neither of two equal values has noise the first is no worse.

    Args:
        values: Shape (n, m).
        noise: Likewise, 0 or more.
        better: Row of the one.
        worse: Row of the other.
    """
    gain = values[worse] - values[better]
    spread = np.hypot(noise[worse], noise[better])
    with np.errstate(divide="ignore", invalid="ignore"):
        sure = np.where(spread > 0, norm.cdf(gain / spread), (gain >= 0).astype(float))
    return float(np.prod(sure))


def front_probabilities(values: Array, noise: Array, draws: int = _DRAWS, seed: int = 0) -> Array:
    """Return for each network the probability that it is on the front of the true values, shape (n,).

    By drawing: the share of ``draws`` in which no other network dominates it, with true values as in
    ``dominance_probability``; its standard error is at most ``0.5 / sqrt(draws)``.
    """
    if not len(values):
        return np.zeros(0)
    if not noise.any():
        return non_dominated(values).astype(np.float64)
    generator = np.random.default_rng(seed)
    kept = _contenders(values, noise)
    best, spread = values[kept], noise[kept]
    hits = np.zeros(len(best))
    for done in range(0, draws, _BATCH):
        drawn = best + spread * generator.standard_normal((min(_BATCH, draws - done), *best.shape))
        for sample in drawn:
            hits += non_dominated(sample)
    found = np.zeros(len(values))
    found[kept] = hits / draws
    return found


def _contenders(values: Array, noise: Array) -> np.ndarray:
    """Return the rows that may be on the front: none is better by 2.5 spreads of either in every objective."""
    low, high = values - 2.5 * noise, values + 2.5 * noise
    beaten = [bool(((high <= low[index]).all(axis=1) & (high < low[index]).any(axis=1)).any()) for index in range(len(values))]
    return np.flatnonzero(~np.array(beaten))
