"""Draws candidates from a design space without a study: at random, and as neighbours of networks that are known to be good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nas.suggest.encoding import Coordinates, coordinates
from search_spaces.base import Architecture, RandomTrial, SearchSpace, SpaceError


@dataclass(frozen=True)
class Candidate:
    """A network that might be suggested.

    Attributes:
        params: What the space asks for, by name.
        coordinates: Where that lies.
        architecture: What it describes; ``None`` where ``stopped`` says what it is.
        stopped: The trial that it was stopped in and would be gone on with; ``None`` for one that was drawn.
    """

    params: Mapping[str, Any]
    coordinates: Coordinates = field(repr=False)
    architecture: Architecture | None = field(default=None, repr=False)
    stopped: int | None = None


class _Drawing(RandomTrial):
    """Answers as it is told to as far as the space allows it, and else at random.

    Attributes:
        distributions: What was asked for, by name.
    """

    def __init__(self, seed: int, told: Mapping[str, Any]) -> None:
        super().__init__(seed)
        self.distributions: dict[str, BaseDistribution] = {}
        self._told = told

    def _take(self, name: str, distribution: BaseDistribution) -> None:
        if name in self.params:
            return
        self.distributions[name] = distribution
        if name in self._told and contains(distribution, self._told[name]):
            self.params[name] = self._told[name]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self._take(name, IntDistribution(low, high, log, step))
        return super().suggest_int(name, low, high, step=step, log=log)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        self._take(name, FloatDistribution(low, high, log, step))
        return super().suggest_float(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self._take(name, CategoricalDistribution(choices))
        return super().suggest_categorical(name, choices)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a distribution could have given a value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):  # no such category, no number
        return False


def draw(space: SearchSpace, seed: int, parent: Mapping[str, Any] | None = None) -> Candidate | None:
    """Return a random candidate, or one that differs from a parent in a parameter or two and in what they bring with them.

    Args:
        space: The design space.
        seed: Of all that is random.
        parent: The parent's parameters.

    Returns:
        ``None`` if the space has no network for what was drawn.
    """
    told: dict[str, Any] = {}
    if parent:
        random = np.random.default_rng(seed)
        changed = random.choice(list(parent), size=min(len(parent), int(random.integers(1, 3))), replace=False)
        told = {name: value for name, value in parent.items() if name not in changed}
    trial = _Drawing(seed, told)
    try:
        architecture = space.suggest(trial)
    except SpaceError:
        return None
    return Candidate(dict(trial.params), coordinates(trial.params, trial.distributions), architecture)
