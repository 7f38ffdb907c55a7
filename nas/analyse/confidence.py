"""How sure it is that a network belongs on the front, given the spread of what was measured; minimises like ``front``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.analyse.front import Array, non_dominated

_DRAWS = 2000
_BATCH = 250


def front_probabilities(
    values: Array, noise: Array, sources: Sequence[str] | None = None, draws: int = _DRAWS, seed: int = 0
) -> Array:
    """Return for each network the probability that it is on the front of the true values, shape (n,).

    By drawing: the share of ``draws`` in which no other network dominates it; its standard error is at most
    ``0.5 / sqrt(draws)``. True values are taken as normal around the measured ones, with the noise as standard deviation.

    Args:
        values: Shape (n, m).
        noise: Likewise, 0 or more.
        sources: What each objective is computed from, m names: objectives of one source are off together and in the same
            sense; all others, and networks, independently. Each is a source of its own, if not given.
        draws: How many.
        seed: Of the draws.
    """
    if not len(values):
        return np.zeros(0)
    if not noise.any():
        return non_dominated(values).astype(np.float64)
    names = [str(place) for place in range(values.shape[1])] if sources is None else list(sources)
    distinct = list(dict.fromkeys(names))
    source_of = [distinct.index(name) for name in names]
    generator = np.random.default_rng(seed)
    kept = _contenders(values, noise)
    best, spread = values[kept], noise[kept]
    hits = np.zeros(len(best))
    for done in range(0, draws, _BATCH):
        off = generator.standard_normal((min(_BATCH, draws - done), len(best), len(distinct)))
        for sample in best + spread * off[..., source_of]:
            hits += non_dominated(sample)
    found = np.zeros(len(values))
    found[kept] = hits / draws
    return found


def _contenders(values: Array, noise: Array) -> np.ndarray:
    """Return the rows that may be on the front: none is better by 2.5 spreads of either in every objective."""
    low, high = values - 2.5 * noise, values + 2.5 * noise
    beaten = [bool(((high <= low[index]).all(axis=1) & (high < low[index]).any(axis=1)).any()) for index in range(len(values))]
    return np.flatnonzero(~np.array(beaten))
