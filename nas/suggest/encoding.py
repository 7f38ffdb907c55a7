"""Suggestions as points in Euclidean space, whatever parameters each of them has: what a kernel compares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Array = NDArray[np.float64]
Coordinates = Mapping[str, tuple[float, ...]]
"""Of one suggestion, by parameter: one number from 0 to 1, or one for each choice where those have no order."""

ABSENT = math.sqrt(0.5)
"""How far a suggestion that does not have a parameter is from the middle of those that do."""


def coordinates(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Coordinates:
    """Return the coordinates of a suggestion; a parameter of a kind that is not known is left out."""
    placed = {name: _coordinate(distributions[name], value) for name, value in params.items() if name in distributions}
    return {name: place for name, place in placed.items() if place is not None}


def _coordinate(distribution: BaseDistribution, value: Any) -> tuple[float, ...] | None:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        numbers = [choice for choice in choices if isinstance(choice, int | float)]
        if len(numbers) == len(choices):
            ordered = sorted(set(numbers))
            return (ordered.index(value) / max(1, len(ordered) - 1),)
        # Two different choices are as far from one another as the two ends of a range.
        return tuple(math.sqrt(0.5) * (choice is value or choice == value) for choice in choices)
    if not isinstance(distribution, IntDistribution | FloatDistribution):
        return None
    low, high, place = float(distribution.low), float(distribution.high), float(value)
    if distribution.log:
        low, high, place = math.log(low), math.log(high), math.log(place)
    return ((place - low) / (high - low) if high > low else 0.0,)


def points(suggestions: Sequence[Coordinates]) -> Array:
    """Return suggestions as points, shape (n, d), between which straight distances are to be taken.

    A parameter that some of them do not have takes one dimension more, in which those are ``ABSENT`` from the others.
    """
    widths: dict[str, int] = {}
    for suggestion in suggestions:
        for name, place in suggestion.items():
            widths[name] = max(widths.get(name, 0), len(place))
    columns = []
    for name in sorted(widths):
        missing = np.array([name not in suggestion for suggestion in suggestions])
        middle = (0.5,) if widths[name] == 1 else ()
        block = np.zeros((len(suggestions), widths[name]))
        for row, suggestion in enumerate(suggestions):
            place = suggestion.get(name, middle)
            block[row, : len(place)] = place
        columns.append(block)
        if missing.any():
            columns.append(ABSENT * missing[:, None])
    return np.hstack(columns) if columns else np.zeros((len(suggestions), 0))


def squared_distances(some: Array, others: Array) -> Array:
    """Return the squared distances between points, shape (n, d) and (k, d) → (n, k)."""
    squared = (some**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None, :] - 2.0 * some @ others.T
    clipped: Array = np.maximum(squared, 0.0)
    return clipped
