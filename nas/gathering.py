"""A storage that gathers what is written to it and writes it at once: a unit of work, in which reading costs nothing either.

Optuna writes every parameter and every attribute in a transaction of its own, and looks into the database for each read: some
sixty transactions per trial. Between two of them another process may see, or a crash leave, half of what belongs together.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


@dataclass
class Gathered:
    """What is to be written.

    Attributes:
        user_attrs: Values as JSON, by trial id and key.
        system_attrs: Likewise.
        params: Internal value and distribution, by trial id and name.
        states: Trial ids with the states that they end in, their values, and when that was.
        study_attrs: What a sampler keeps with the study, as JSON, by study id and key.
    """

    user_attrs: dict[tuple[int, str], str] = field(default_factory=dict)
    system_attrs: dict[tuple[int, str], str] = field(default_factory=dict)
    params: dict[tuple[int, str], tuple[float, BaseDistribution]] = field(default_factory=dict)
    states: dict[int, tuple[TrialState, Sequence[float] | None, datetime]] = field(default_factory=dict)
    study_attrs: dict[tuple[int, str], str] = field(default_factory=dict)

    @property
    def trials(self) -> set[int]:
        """Ids of all trials that something is written to."""
        return {trial for trial, _ in (*self.user_attrs, *self.system_attrs, *self.params)} | set(self.states)


Write = Callable[[Gathered], None]


def one_by_one(storage: BaseStorage, gathered: Gathered, held: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
    """Write what was gathered as Optuna does: one thing after the other, the states last.

    Args:
        storage: Where to.
        gathered: What.
        held: Entered while parameters and attributes are written.

    Raises:
        UpdateFinishedTrialError: Another process finished one of the trials; all that concerns others is written.
    """
    finished = {trial_id for trial_id in gathered.trials if storage.get_trial(trial_id).state.is_finished()}
    with held():
        for (study_id, key), text in gathered.study_attrs.items():
            storage.set_study_system_attr(study_id, key, json.loads(text))
        for (trial_id, name), (value, distribution) in gathered.params.items():
            if trial_id not in finished and name not in storage.get_trial(trial_id).params:
                storage.set_trial_param(trial_id, name, value, distribution)
        for write, attrs in (
            (storage.set_trial_user_attr, gathered.user_attrs),
            (storage.set_trial_system_attr, gathered.system_attrs),
        ):
            for (trial_id, key), text in attrs.items():
                if trial_id not in finished:
                    write(trial_id, key, json.loads(text))
    for trial_id, (state, values, _) in gathered.states.items():
        if trial_id not in finished:
            storage.set_trial_state_values(trial_id, state, values)
    if finished:
        raise UpdateFinishedTrialError(f"others finished the trials with the ids {sorted(finished)}")


class GatheringStorage(BaseStorage):
    """Another storage, to which a thread's writes within ``together`` go at its end.

    What concerns trials that are there waits, and so does what a sampler keeps with the study: a place in a sequence that was
    taken for a suggestion which a death then cut off would be left out for good. Making a study or a trial, and taking one that
    waits, happen at once.

    Args:
        inner: The storage.
        write: Writes what was gathered. May raise ``UpdateFinishedTrialError``, but writes the rest before.
    """

    def __init__(self, inner: BaseStorage, write: Write) -> None:
        self._inner, self._write = inner, write
        self._local = threading.local()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Gather what this thread writes in the block; other processes' trials stay as they were when it first looked.

        Raises:
            UpdateFinishedTrialError: At the end, if another process finished one of the trials meanwhile.
        """
        if self._unit is not None:
            yield
            return
        unit = self._local.unit = _Unit(self._inner, self._write)
        try:
            yield
        finally:
            self._local.unit = None
            unit.flush()

    @property
    def _unit(self) -> _Unit | None:
        unit: _Unit | None = getattr(self._local, "unit", None)
        return unit

    @property
    def _trials(self) -> BaseStorage | _Unit:
        return self._unit or self._inner

    # What is gathered, within a block.

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """See ``BaseStorage``."""
        self._trials.set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See ``BaseStorage``."""
        self._trials.set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See ``BaseStorage``."""
        self._trials.set_trial_system_attr(trial_id, key, value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See ``BaseStorage``."""
        return self._trials.set_trial_state_values(trial_id, state, values)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See ``BaseStorage``."""
        return self._trials.create_new_trial(study_id, template_trial)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See ``BaseStorage``."""
        trial = self._trials.get_trial(trial_id)
        return trial if trial.state.is_finished() else _detached(trial)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See ``BaseStorage``."""
        return self._trials.get_all_trials(study_id, deepcopy, states)

    # What is not.

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See ``BaseStorage``; not within a block."""
        if self._unit is not None:
            raise RuntimeError("intermediate values are not gathered")
        self._inner.set_trial_intermediate_value(trial_id, step, intermediate_value)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """See ``BaseStorage``."""
        return self._inner.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See ``BaseStorage``."""
        return self._inner.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """See ``BaseStorage``."""
        self._inner.delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See ``BaseStorage``."""
        self._inner.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See ``BaseStorage``."""
        if self._unit is not None:
            self._unit.set_study_system_attr(study_id, key, value)
        else:
            self._inner.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """See ``BaseStorage``."""
        return self._inner.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """See ``BaseStorage``."""
        return self._inner.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See ``BaseStorage``."""
        return self._inner.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See ``BaseStorage``."""
        return self._inner.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See ``BaseStorage``."""
        found = self._inner.get_study_system_attrs(study_id)
        return found if self._unit is None else {**found, **self._unit.study_attrs(study_id)}

    def get_all_studies(self) -> list[Any]:
        """See ``BaseStorage``."""
        return self._inner.get_all_studies()

    def remove_session(self) -> None:
        """See ``BaseStorage``."""
        self._inner.remove_session()


class _Unit:
    """One block: the trials as they were when it looked, with what it has changed, and what is to be written."""

    def __init__(self, inner: BaseStorage, write: Write) -> None:
        self._inner, self._write = inner, write
        self._gathered = Gathered()
        self._lists: dict[int, list[FrozenTrial]] = {}
        self._own: dict[int, FrozenTrial] = {}
        """Trials that were looked at one by one or changed; the changed ones are copies."""
        self._made: dict[int, int] = {}
        """Studies of the trials that were made in the block, by the trials' ids."""
        self._copied: set[int] = set()

    def flush(self) -> None:
        gathered, self._gathered = self._gathered, Gathered()
        if gathered.trials or gathered.study_attrs:
            self._write(gathered)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._gathered.study_attrs[study_id, key] = json.dumps(value)

    def study_attrs(self, study_id: int) -> dict[str, Any]:
        return {key: json.loads(text) for (study, key), text in self._gathered.study_attrs.items() if study == study_id}

    def set_trial_param(self, trial_id: int, name: str, value: float, distribution: BaseDistribution) -> None:
        trial = self._changeable(trial_id)
        before = self._distribution(trial, name)
        if before is not None:
            check_distribution_compatibility(before, distribution)
        trial.distributions = {**trial.distributions, name: distribution}
        trial.params = {**trial.params, name: distribution.to_external_repr(value)}
        self._gathered.params[trial_id, name] = value, distribution

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial, text = self._changeable(trial_id), json.dumps(value)
        trial.user_attrs = {**trial.user_attrs, key: json.loads(text)}
        self._gathered.user_attrs[trial_id, key] = text

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial, text = self._changeable(trial_id), json.dumps(value)
        trial.system_attrs = {**trial.system_attrs, key: json.loads(text)}
        self._gathered.system_attrs[trial_id, key] = text

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> bool:
        if not state.is_finished():  # of several processes only one gets a trial that waits
            self.flush()
            done = self._inner.set_trial_state_values(trial_id, state, values)
            self._put(self._inner.get_trial(trial_id))
            return done
        trial = self._changeable(trial_id)
        if values is not None:
            trial.values = list(values)
        trial.state, trial.datetime_complete = state, datetime.now()
        self._gathered.states[trial_id] = state, values, trial.datetime_complete
        return True

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None) -> int:
        trial_id = self._inner.create_new_trial(study_id, template_trial)
        self._made[trial_id] = study_id
        self._put(self._inner.get_trial(trial_id))
        return trial_id

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if trial_id not in self._own:
            self._own[trial_id] = self._inner.get_trial(trial_id)
        return self._own[trial_id]

    def get_all_trials(self, study_id: int, deepcopy: bool, states: Container[TrialState] | None) -> list[FrozenTrial]:
        trials = self._list(study_id)
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else list(trials)

    def _list(self, study_id: int) -> list[FrozenTrial]:
        if study_id not in self._lists:
            trials = self._lists[study_id] = list(self._inner.get_all_trials(study_id, deepcopy=False))
            for trial in list(self._own.values()):
                if self._study_of(trial) == study_id:
                    trials[trial.number] = trial
        return self._lists[study_id]

    def _study_of(self, trial: FrozenTrial) -> int | None:
        """Return the study of a trial, if it was made in the block or is in a list that was asked for."""
        for study_id, trials in self._lists.items():
            if trial.number < len(trials) and trials[trial.number]._trial_id == trial._trial_id:
                return study_id
        return self._made.get(trial._trial_id)

    def _changeable(self, trial_id: int) -> FrozenTrial:
        """Return a trial that may be changed, a copy of what the storage gave."""
        trial = self.get_trial(trial_id)
        if trial.state.is_finished():
            raise UpdateFinishedTrialError(f"Trial#{trial.number} has already finished and can not be updated.")
        if trial_id not in self._copied:
            self._copied.add(trial_id)
            trial = copy.copy(trial)
            self._put(trial)
        return trial

    def _put(self, trial: FrozenTrial) -> None:
        self._own[trial._trial_id] = trial
        study_id = self._study_of(trial)
        if study_id is None or study_id not in self._lists:
            return
        trials = self._lists[study_id]
        if trial.number > len(trials):  # other processes made some in between
            trials += self._inner.get_all_trials(study_id, deepcopy=False)[len(trials) : trial.number]
        trials[trial.number : trial.number + 1] = [trial]

    def _distribution(self, trial: FrozenTrial, name: str) -> BaseDistribution | None:
        study_id = self._study_of(trial)
        trials = self._list(study_id) if study_id is not None else ()
        return next((other.distributions[name] for other in reversed(trials) if name in other.distributions), None)


def _detached(trial: FrozenTrial) -> FrozenTrial:
    """Return a copy for ``optuna.Trial``, which notes in it what it writes."""
    found = copy.copy(trial)
    for name in ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values"):
        setattr(found, name, dict(getattr(trial, name)))
    return found
