"""The hypervolume that a candidate is expected to add to a front (Emmerich et al. 2006, doi:10.1109/TEVC.2005.859463); minimises.

What is dominated by a candidate is an integral over the part of the space that the front leaves free; by exchanging it with the
expectation, each point there counts with the probability that the candidate is at least as good in every objective.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import qmc

Array = NDArray[np.float64]

POINTS = 1024
"""Points by which the integral is approximated."""


def free_points(front: Array, reference: Array, seed: int, count: int = POINTS) -> Array:
    """Return points that no member of the front dominates, shape (k, m), evenly spread (Sobol, Owen's scrambling).

    They lie between the best value of each objective that the front has, one tenth of the box lower, and the reference.

    Args:
        front: Shape (n, m).
        reference: Shape (m,), beyond the front in every objective.
        seed: Of the scrambling.
        count: Points in the box, a power of two; those that the front dominates are left out.
    """
    least = front.min(axis=0)
    low = least - 0.1 * (reference - least)
    points: Array = low + (reference - low) * qmc.Sobol(front.shape[1], seed=seed).random(count)
    dominated = np.zeros(count, dtype=bool)
    for member in front:
        dominated |= (member <= points).all(axis=1)
    return points[~dominated]


def expected_improvement(means: Array, deviations: Array, free: Array) -> Array:
    """Return the share of the points that each candidate is expected to dominate, shape (q,), its objectives independent.

    Args:
        means: Shape (q, m).
        deviations: Shape (q, m), above 0.
        free: Shape (k, m).
    """
    shares = np.ones((len(means), len(free)))
    for objective in range(free.shape[1]):
        shares *= ndtr((free[None, :, objective] - means[:, None, objective]) / deviations[:, None, objective])
    expected: Array = shares.mean(axis=1)
    return expected
