"""Pareto dominance on plain arrays; every function minimises, so a caller flips the sign of what it maximises."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def non_dominated(values: Array) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates.

    A point dominates another if it is no worse in every objective and better in at least one; equal points do not
    dominate each other, so all copies of a best point are marked.

    Args:
        values: Shape (n, m), finite, to be minimised.

    Returns:
        Shape (n,).

    Raises:
        ValueError: If the array is not two-dimensional or holds NaN.
    """
    if values.ndim != 2 or np.isnan(values).any():
        raise ValueError(f"values must have shape (n, m) and no NaN, not shape {values.shape}")
    # Sorted by rows, a point can be dominated only by one before it, so each round's first survivor is on the front.
    unique, inverse = np.unique(values, axis=0, return_inverse=True)
    best = np.zeros(len(unique), dtype=bool)
    left = np.arange(len(unique))
    while len(left):
        first = left[0]
        best[first] = True
        left = left[1:]
        left = left[(unique[left] < unique[first]).any(axis=1)]
    return best[inverse.reshape(-1)]
