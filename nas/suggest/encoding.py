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


def on_range(value: float, low: float, high: float, log: bool) -> tuple[float, ...]:
    """Return where a number lies between two ends, or its logarithm between theirs."""
    if high <= low:
        return (0.0,)
    if log:
        return (math.log(value / low) / math.log(high / low),)
    return ((value - low) / (high - low),)


def among(value: Any, choices: Sequence[Any]) -> tuple[float, ...]:
    """Return where a choice stands among all: by their order if they are numbers, else each equally far from all others."""
    numbers = [choice for choice in choices if isinstance(choice, int | float)]
    if len(numbers) == len(choices):
        ordered = sorted(set(numbers))
        return (ordered.index(value) / max(1, len(ordered) - 1),)
    # Two different choices are as far from one another as the two ends of a range.
    return tuple(math.sqrt(0.5) * (choice is value or choice == value) for choice in choices)


def coordinates(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Coordinates:
    """Return the coordinates of a suggestion; a parameter of a kind that is not known is left out."""
    found: dict[str, tuple[float, ...]] = {}
    for name, value in params.items():
        distribution = distributions.get(name)
        if isinstance(distribution, CategoricalDistribution):
            found[name] = among(value, distribution.choices)
        elif isinstance(distribution, IntDistribution | FloatDistribution):
            found[name] = on_range(value, distribution.low, distribution.high, distribution.log)
    return found


def points(suggestions: Sequence[Coordinates]) -> Array:
    """Return suggestions as points, shape (n, d), between which straight distances are to be taken.

    A parameter that some of them do not have takes one dimension more, in which those are ``ABSENT`` from the others.
    """
    widths: dict[str, int] = {}
    for suggestion in suggestions:
        for name, place in suggestion.items():
            if len(place) > widths.get(name, 0):
                widths[name] = len(place)
    columns = []
    for name in sorted(widths):
        width = widths[name]
        middle = (0.5,) if width == 1 else (0.0,) * width
        places = [suggestion.get(name) for suggestion in suggestions]
        # Where a choice was added later, those before it could not be made.
        columns.append(np.array([middle if place is None else (*place, *middle[len(place) :]) for place in places]))
        if None in places:
            columns.append(ABSENT * np.array([[place is None] for place in places], dtype=np.float64))
    return np.hstack(columns) if columns else np.zeros((len(suggestions), 0))


def squared_distances(some: Array, others: Array) -> Array:
    """Return the squared distances between points, shape (n, d) and (k, d) → (n, k)."""
    squared = (some**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None, :] - 2.0 * some @ others.T
    clipped: Array = np.maximum(squared, 0.0)
    return clipped
