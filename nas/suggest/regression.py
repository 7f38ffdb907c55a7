"""Gaussian process regression on a few hundred points, the kernel's scale and the noise chosen by the evidence; plain arrays.

Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, algorithm 2.1 and equation 5.8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

Array = NDArray[np.float64]

LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Length scales that are tried, where every feature spans 0 to 1."""

NOISES = (1e-3, 1e-2, 5e-2, 2e-1)
"""Variances of the noise that are tried, as shares of the variance of what was observed."""

JUDGED_BY = 100
"""Most observations by which the kernel and the noise are chosen, evenly spread over all: time grows with their cube."""


def matern(squared: Array, length: float) -> Array:
    """Return the Matérn kernel of smoothness 5/2, 1 at distance 0 (Rasmussen and Williams 2006, equation 4.17).

    Args:
        squared: Squared distances, any shape.
        length: Its length scale.
    """
    scaled = np.sqrt(5.0 * squared) / length
    covariances: Array = (1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled)
    return covariances


@dataclass(frozen=True)
class Regression:
    """What a Gaussian process knows after it has seen some points.

    Attributes:
        length: Of the kernel.
        noise: Variance of the noise as a share of that of what was observed.
    """

    length: float
    noise: float
    _mean: float
    _scale: float
    _lower: Array
    _weights: Array

    @classmethod
    def of(cls, squared: Array, observed: Array, further: Array | None = None) -> Regression:
        """Learn from observations; of the kernels and noises that are tried, by what makes them most probable.

        Args:
            squared: Squared distances between the points, shape (n, n), n ≥ 1.
            observed: Shape (n,), finite.
            further: Variances by which each observation is off beyond the common noise, shape (n,); 0 if not given.
        """
        mean = float(observed.mean())
        scale = float(observed.std()) or 1.0
        standard = (observed - mean) / scale
        further = np.zeros(len(observed)) if further is None else further / scale**2
        few = np.unique(np.linspace(0, len(observed) - 1, JUDGED_BY).round().astype(int))
        judged_by = squared[np.ix_(few, few)]
        _, length, noise = max(
            (_evidence(covariances + np.diag(noise + further[few]), standard[few]), length, noise)
            for length in LENGTHS
            for covariances in (matern(judged_by, length),)
            for noise in NOISES
        )
        lower = _lower(matern(squared, length) + np.diag(noise + further))
        return cls(length, noise, mean, scale, lower, cho_solve((lower, True), standard, check_finite=False))

    def at(self, squared: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of what lies beneath the noise, each of shape (q,).

        Args:
            squared: Squared distances from what is asked about to the points that were seen, shape (q, n).
        """
        covariances = matern(squared, self.length)
        means = self._mean + self._scale * (covariances @ self._weights)
        solved = solve_triangular(self._lower, covariances.T, lower=True, check_finite=False)
        variances = np.maximum(1.0 - (solved * solved).sum(axis=0), 1e-9)
        return means, self._scale * np.sqrt(variances)


def _lower(covariances: Array) -> Array:
    lower: Array = cholesky(covariances, lower=True, check_finite=False)
    return lower


def _evidence(covariances: Array, standard: Array) -> float:
    """Return the logarithm of the marginal likelihood of standardised observations, but for a constant."""
    lower = _lower(covariances)
    solved = solve_triangular(lower, standard, lower=True, check_finite=False)
    return float(-0.5 * solved @ solved - np.log(np.diag(lower)).sum())
