"""Stands between a study and whichever of Optuna's samplers makes its suggestions: every trial has randomness of its own, every
network is learned from once, and after a repeat something else is suggested.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Container, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    BruteForceSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from nas.history import History
from nas.suggest.drawing import contains
from nas.suggest.sampler import Resuming
from nas.suggest.seeds import trial_seed
from nas.suggest.window import Best, window

MakeSampler = Callable[..., BaseSampler]

_SUMMING = (TPESampler, NSGAIISampler, NSGAIIISampler, RandomSampler, QMCSampler, GridSampler)
"""Samplers that use constraints by the sum of what is missed, or not at all."""


PATIENCE = 1
"""Repeats in a row after which suggestions are drawn at random until one is new: what is known leads to what is known."""


LOOKS_AT = 100
"""Most ended trials that the TPE sampler learns from; see ``nas.suggest.window``."""


def _teaches(trial: FrozenTrial) -> bool:
    return trial.state != TrialState.FAIL  # of which it learns nothing


class _View:
    """A study as its sampler shall see it.

    A network that was suggested again stands in the storage as often as it was suggested. A sampler that learned from each
    of them would suggest it ever more often: to an estimator of densities a copy is further proof that this is where to look.
    The older list of constraints is there for the dashboard alone; it would be one more to a sampler that models each.

    Args:
        study: The study.
        hidden: Numbers of the trials that are left out.
        shown: Numbers, in order, of all that are left, if they are few: looking for them among all would take longer.
        bare: Whether the constraints' older list is left out.
    """

    def __init__(self, study: optuna.Study, hidden: Collection[int], shown: Sequence[int] | None, bare: bool) -> None:
        self._study, self._hidden, self._shown, self._bare = study, hidden, shown, bare

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return self._seen(self._study._get_trials(deepcopy=False, use_cache=use_cache), deepcopy, states)

    def stop(self) -> None:
        """A sampler that has suggested all that it can ends no search: the study does, when it has its trials."""

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return self._seen(self._study.get_trials(deepcopy=False), deepcopy, states)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.get_trials()

    def _seen(self, trials: list[FrozenTrial], deepcopy: bool, states: Container[TrialState] | None) -> list[FrozenTrial]:
        if self._shown is not None:
            trials = [trials[number] for number in self._shown]
        elif self._hidden:
            trials = [trial for trial in trials if trial.number not in self._hidden]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        if self._bare:
            trials = [_without_legacy(trial) for trial in trials]
        return copy.deepcopy(trials) if deepcopy else trials


def _without_legacy(trial: FrozenTrial) -> FrozenTrial:
    if "constraints" not in trial.system_attrs:
        return trial
    changed = copy.copy(trial)
    changed.system_attrs = {key: value for key, value in trial.system_attrs.items() if key != "constraints"}
    return changed


class _Neighbour(RandomSampler):
    """Suggests a network of the front with one of its parameters drawn anew, and whatever that brings with it."""

    def __init__(self, front: Sequence[FrozenTrial], seed: int) -> None:
        super().__init__(seed=seed)
        random = np.random.default_rng(seed)
        self._parent = front[int(random.integers(len(front)))].params
        self._changed = list(self._parent)[int(random.integers(len(self._parent)))] if self._parent else None

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name != self._changed and param_name in self._parent:
            value = self._parent[param_name]
            if contains(param_distribution, value):  # a category may be one that this study's space no longer has
                return value
        return super().sample_independent(study, trial, param_name, param_distribution)


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
        is_grid: Whether it goes through a grid, of which a seed tells the order.
    """

    def __init__(self, target: Any, make: MakeSampler, seed: int) -> None:
        self._make, self._seed = make, seed
        kind = target if isinstance(target, type) else object
        # The position in a QMC sequence or a grid is kept in the storage and means something under one seed only.
        self._is_qmc, self.is_grid = issubclass(kind, QMCSampler), issubclass(kind, GridSampler)
        self._is_tpe = issubclass(kind, TPESampler)
        # A sampler of a user's own may keep what it knows in memory: it is made once.
        self._is_own = not str(getattr(target, "__module__", "")).startswith("optuna.")
        self._goes_its_way = self._is_own or issubclass(kind, RandomSampler | QMCSampler | GridSampler | BruteForceSampler)
        self._models_constraints = not issubclass(kind, _SUMMING)
        self.is_seeded = "seed" in inspect.signature(target).parameters
        self._current: BaseSampler | None = None
        self._draws = False
        self._about: str | None = None
        self._history, self._best = History(), Best()
        self._hidden: Collection[int] = ()
        self._shown: Sequence[int] | None = None
        self._drawing: tuple[int, BaseSampler] | None = None

    def _for(self, number: int) -> BaseSampler:
        seed = trial_seed(self._seed, number)
        if not self.is_seeded:
            return self._make()
        if self._is_qmc:
            return self._make(seed=self._seed, independent_sampler=RandomSampler(seed=seed))
        return self._make(seed=self._seed if self.is_grid else seed)

    @property
    def current(self) -> BaseSampler:
        """The sampler of the trial that was asked for last."""
        if self._current is None:
            self._current = self._for(0)
        return self._current

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the trial's own sampler."""
        if study.study_name != self._about:
            self._about, self._history, self._best = study.study_name, History(), Best()
        history = self._history.update(study.get_trials(deepcopy=False))
        self._draws = not self._goes_its_way and history.repeats_before(trial.number) >= PATIENCE
        self._hidden = () if self._goes_its_way else history.hidden
        front = self._best.update(study, history)
        shown = window(history, front, LOOKS_AT, _teaches) if self._is_tpe and not self._draws else None
        self._shown = None if shown is None else sorted(shown | history.open)
        if self._current is None or not self._is_own:
            self._current = self._for(trial.number)
        self.current.before_trial(study, trial)
        if "fixed_params" in trial.system_attrs and isinstance(self.current, BaseGASampler):
            # Nobody will ask what to suggest for it, yet a generation is what is learned from.
            self.current.get_trial_generation(self._view(study), trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See ``BaseSampler``; none where the trial is drawn at random."""
        if not self._draws:
            return self.current.infer_relative_search_space(self._view(study), trial)
        if isinstance(self.current, BaseGASampler):
            self.current.get_trial_generation(self._view(study), trial)  # of which it is a member nonetheless
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See ``BaseSampler``."""
        return {} if self._draws else self.current.sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See ``BaseSampler``."""
        sampler = self._random(study, trial) if self._draws else self.current
        return sampler.sample_independent(self._view(study), trial, param_name, param_distribution)

    def goes_on_with(self, number: int) -> int | None:
        """See ``nas.suggest.sampler.Resuming``."""
        return self._current.goes_on_with(number) if isinstance(self._current, Resuming) else None

    def _random(self, study: optuna.Study, trial: FrozenTrial) -> BaseSampler:
        # One trial asks for one parameter after the other; each has to get a draw of its own.
        if self._drawing is None or self._drawing[0] != trial.number:
            seed = trial_seed(self._seed, trial.number)
            front = self._best.update(study, self._history) if self._history.repeats_before(trial.number) % 2 else []
            self._drawing = trial.number, _Neighbour(front, seed) if front else RandomSampler(seed=seed)
        return self._drawing[1]

    def _view(self, study: optuna.Study) -> optuna.Study:
        return cast(optuna.Study, _View(study, self._hidden, self._shown, self._models_constraints))

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See ``BaseSampler``."""
        if self.is_grid:
            return  # all that a grid does then is to stop the study, by the grid's place of a trial that may have none
        self.current.after_trial(cast(optuna.Study, _View(study, (), None, False)), trial, state, values)

    def reseed_rng(self) -> None:
        """See ``BaseSampler``; here every trial is reseeded anyway."""
