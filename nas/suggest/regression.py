"""Gaussian process regression on a few hundred points, the kernel's scale and the noise chosen by the evidence; plain arrays.

Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, algorithm 2.1 and equation 5.8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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


class Kernels:
    """The kernels that are tried on some points, for all that is observed there; what they share is computed once.

    Args:
        squared: Squared distances between the points, shape (n, n), n ≥ 1.
    """

    def __init__(self, squared: Array) -> None:
        self._squared = squared
        self._few = np.unique(np.linspace(0, len(squared) - 1, JUDGED_BY).round().astype(int))
        self._tried = [(length, matern(squared[np.ix_(self._few, self._few)], length)) for length in LENGTHS]
        self._lowers: list[tuple[float, float, Array]] | None = None

    def best(self, standard: Array, further: Array | None) -> tuple[float, float]:
        """Return the length scale and the noise under which standardised observations are most probable.

        Args:
            standard: Shape (n,).
            further: See ``Regression.of``, in the same units.
        """
        if further is not None:
            lowers = self._all_lowers(further[self._few])
        else:
            lowers = self._lowers = self._lowers or self._all_lowers(np.zeros(len(self._few)))
        few = standard[self._few]
        _, length, noise = max((_evidence(lower, few), length, noise) for length, noise, lower in lowers)
        return length, noise

    def _all_lowers(self, further: Array) -> list[tuple[float, float, Array]]:
        return [
            (length, noise, _lower(covariances + np.diag(noise + further)))
            for length, covariances in self._tried
            for noise in NOISES
        ]

    def lower(self, length: float, variances: Array) -> Array:
        """Return the lower Cholesky factor of the covariances of all points with such variances of noise, shape (n,)."""
        return _lower(matern(self._squared, length) + np.diag(variances))


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
    _standard: Array
    _lower: Array
    _weights: Array

    @classmethod
    def of(cls, kernels: Kernels, observed: Array, further: Array | None = None) -> Regression:
        """Learn from observations; of the kernels and noises that are tried, by what makes them most probable.

        Args:
            kernels: On the n points.
            observed: Shape (n,), finite.
            further: Variances by which each observation is off beyond the common noise, shape (n,); 0 if not given.
        """
        mean = float(observed.mean())
        # Equal figures differ by rounding: that is no scale.
        scale = float(observed.std())
        scale = scale if scale > 1e-9 * abs(mean) else 1.0
        standard = (observed - mean) / scale
        added = None if further is None or not further.any() else further / scale**2
        length, noise = kernels.best(standard, added)
        lower = kernels.lower(length, np.full(len(observed), noise) if added is None else noise + added)
        return cls(length, noise, mean, scale, standard, lower, cho_solve((lower, True), standard, check_finite=False))

    def supposing(self, squared: Array, further: Array | None, across: Array, within: Array) -> Regression:
        """Return what it would know if some further points had come to what it foretells for them.

        No mean changes by that; it is less unsure near them.

        Args:
            squared: Squared distances between the n points that were seen.
            further: As it was given.
            across: Squared distances from the further points to those, shape (p, n).
            within: Between the further points, shape (p, p).
        """
        means, _ = self.at(across)
        noise = np.full(len(squared) + len(within), self.noise)
        if further is not None:
            noise[: len(squared)] += further / self._scale**2
        lower = _lower(matern(np.block([[squared, across.T], [across, within]]), self.length) + np.diag(noise))
        standard = np.append(self._standard, (means - self._mean) / self._scale)
        weights = cho_solve((lower, True), standard, check_finite=False)
        return replace(self, _lower=lower, _weights=weights, _standard=standard)

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


def _evidence(lower: Array, standard: Array) -> float:
    """Return the logarithm of the marginal likelihood of standardised observations, but for a constant."""
    solved = solve_triangular(lower, standard, lower=True, check_finite=False)
    return float(-0.5 * solved @ solved - np.log(np.diag(lower)).sum())
