"""Foretells figures of networks from those of others: a regression for each figure, all on the same points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.suggest.encoding import squared_distances
from nas.suggest.regression import Kernels, Regression

Array = NDArray[np.float64]


class Model:
    """Foretells what is asked about from what is known, one figure after the other.

    Args:
        known: Points, shape (n, d).
        under_way: Points of which something will be known soon, shape (p, d).
        asked: Shape (q, d).
    """

    def __init__(self, known: Array, under_way: Array, asked: Array) -> None:
        self._known = squared_distances(known, known)
        self._across, self._within = squared_distances(under_way, known), squared_distances(under_way, under_way)
        self._asked, self._to_those = squared_distances(asked, known), squared_distances(asked, under_way)
        self._kernels: dict[bytes, Kernels] = {}

    def foretold(self, observed: Array, further: Array | None = None) -> tuple[Array, Array, Array]:
        """Return means and standard deviations of what is asked about, each of shape (q,), and means of what is under way, (p,).

        What is under way is supposed to come to what is foretold for it, so that its neighbours teach less.

        Args:
            observed: Figures of what is known, shape (n,); NaN where it is not.
            further: See ``Regression.of``.
        """
        seen = np.isfinite(observed)
        if (key := seen.tobytes()) not in self._kernels:
            self._kernels[key] = Kernels(self._known[np.ix_(seen, seen)])
        further = None if further is None else further[seen]
        regression = Regression.of(self._kernels[key], observed[seen], further)
        if not len(self._within):
            return *regression.at(self._asked[:, seen]), np.empty(0)
        across = self._across[:, seen]
        supposed = regression.supposing(self._known[np.ix_(seen, seen)], further, across, self._within)
        return *supposed.at(np.hstack([self._asked[:, seen], self._to_those])), regression.at(across)[0]
