"""Draws candidates from a design space without a study: at random, and as neighbours of networks that are known to be good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution

from nas.suggest.encoding import Coordinates, among, on_range
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
        coordinates: Of what was answered, by name.
    """

    def __init__(self, seed: int, told: Mapping[str, Any]) -> None:
        super().__init__(seed)
        self.coordinates: dict[str, tuple[float, ...]] = {}
        self._told = told

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        told = self._told.get(name)
        if isinstance(told, int) and not isinstance(told, bool) and low <= told <= high and (told - low) % step == 0:
            self.params.setdefault(name, told)
        value = super().suggest_int(name, low, high, step=step, log=log)
        self.coordinates[name] = on_range(value, low, high - (high - low) % step, log)  # as Optuna cuts the range
        return value

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        domain = FloatDistribution(low, high, log, step)
        told = self._told.get(name)
        if told is not None and contains(domain, told):
            self.params.setdefault(name, told)
        value = super().suggest_float(name, low, high, step=step, log=log)
        self.coordinates[name] = on_range(value, domain.low, domain.high, log)
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self._told and any(choice is self._told[name] or choice == self._told[name] for choice in choices):
            self.params.setdefault(name, self._told[name])
        value = super().suggest_categorical(name, choices)
        self.coordinates[name] = among(value, choices)
        return value


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
        changed = random.choice(sorted(parent), size=min(len(parent), int(random.integers(1, 3))), replace=False)
        told = {name: value for name, value in parent.items() if name not in changed}
    trial = _Drawing(seed, told)
    try:
        architecture = space.suggest(trial)
    except SpaceError:
        return None
    return Candidate(trial.params, trial.coordinates, architecture)
