"""Gives every trial of a study randomness of its own, whichever of Optuna's samplers makes the suggestions."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

MakeSampler = Callable[..., BaseSampler]

_SUMMING = (TPESampler, NSGAIISampler, NSGAIIISampler, RandomSampler, QMCSampler, GridSampler)
"""Samplers that use constraints by the sum of what is missed, or not at all."""


class _WithoutLegacy:
    """A study whose trials lack the constraints' older list, which is there for the dashboard alone.

    It would be one more constraint to a sampler that models each.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [_without_legacy(trial) for trial in self._study._get_trials(*args, **kwargs)]

    def get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [_without_legacy(trial) for trial in self._study.get_trials(*args, **kwargs)]

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.get_trials()


def _without_legacy(trial: FrozenTrial) -> FrozenTrial:
    if "constraints" not in trial.system_attrs:
        return trial
    changed = copy.copy(trial)
    changed.system_attrs = {key: value for key, value in trial.system_attrs.items() if key != "constraints"}
    return changed


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of one trial's suggestions, a function of the study's seed and the trial's number alone."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class TrialSeededSampler(BaseSampler):
    """Lets every trial be sampled by a sampler of its own, seeded by the trial's number.

    A sampler that is seeded once per process replays its first suggestions after a restart. Optuna's samplers keep what
    they know in the storage, so a new one per trial loses nothing.

    Args:
        target: The sampler's class, or another callable that makes one.
        make: Makes a sampler; takes keyword arguments that go to the target beside those of the configuration.
        seed: The study's seed.

    Attributes:
        is_seeded: Whether the target takes a seed at all.
    """

    def __init__(self, target: Any, make: MakeSampler, seed: int) -> None:
        self._make, self._seed = make, seed
        kind = target if isinstance(target, type) else object
        # The position in a QMC sequence or a grid is kept in the storage and means something under one seed only.
        self._is_qmc, self._is_grid = issubclass(kind, QMCSampler), issubclass(kind, GridSampler)
        # A sampler of a user's own may keep what it knows in memory: it is made once.
        self._is_own = not str(getattr(target, "__module__", "")).startswith("optuna.")
        self._models_constraints = not issubclass(kind, _SUMMING)
        self.is_seeded = "seed" in inspect.signature(target).parameters
        self._current: BaseSampler | None = None

    def _for(self, number: int) -> BaseSampler:
        seed = trial_seed(self._seed, number)
        if not self.is_seeded:
            return self._make()
        if self._is_qmc:
            return self._make(seed=self._seed, independent_sampler=RandomSampler(seed=seed))
        return self._make(seed=self._seed if self._is_grid else seed)

    @property
    def current(self) -> BaseSampler:
        """The sampler of the trial that was asked for last."""
        if self._current is None:
            self._current = self._for(0)
        return self._current

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the trial's own sampler."""
        if self._current is None or not self._is_own:
            self._current = self._for(trial.number)
        self.current.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See ``BaseSampler``."""
        return self.current.infer_relative_search_space(self._view(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See ``BaseSampler``."""
        return self.current.sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See ``BaseSampler``."""
        return self.current.sample_independent(self._view(study), trial, param_name, param_distribution)

    def _view(self, study: optuna.Study) -> optuna.Study:
        return cast(optuna.Study, _WithoutLegacy(study)) if self._models_constraints else study

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See ``BaseSampler``."""
        self.current.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """See ``BaseSampler``; here every trial is reseeded anyway."""
