"""What Optuna keeps of a study, as plain outcomes; a study that is there is read and never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.beside import references_in, with_seeds, with_timings
from nas.conditions import check_format
from nas.errors import InputError, suggestion
from nas.outcomes import TAKEN_AT, Outcome, State
from nas.storage import Storage

STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
"""The states of a trial that ended."""


@dataclass(frozen=True)
class Archive:
    """A study as it lies in its storage.

    Attributes:
        outcomes: The trials that ended, in whatever state, in the order of their numbers.
        as_told: The same without what further seeds came to.
        references: The reference networks that were evaluated.
        running: Trials that are under way, or whose process died.
        attributes: The study's own attributes: its conditions, its device, its configuration.
    """

    outcomes: tuple[Outcome, ...]
    as_told: tuple[Outcome, ...]
    references: tuple[Outcome, ...]
    running: int
    attributes: Mapping[str, Any]


def read_archive(storage: Storage, name: str) -> Archive:
    """Read a study.

    Raises:
        InputError: The storage holds no study of that name, or one that a newer version has written.
    """
    try:
        study = optuna.load_study(study_name=name, storage=storage.optuna)
    except KeyError:
        known = optuna.get_all_study_names(storage.optuna)
        raise InputError(f"study {name!r} is not in {storage.spec.shown}{suggestion(name, known, 'studies')}") from None
    check_format(name, study.user_attrs)
    trials = study.get_trials(deepcopy=False)
    as_told = tuple(with_timings([outcome_of(trial) for trial in trials if trial.state in STATES], study.user_attrs))
    return Archive(
        outcomes=tuple(with_seeds(as_told, study.user_attrs)),
        as_told=as_told,
        references=tuple(references_in(study.user_attrs)),
        running=sum(trial.state == TrialState.RUNNING for trial in trials),
        attributes=study.user_attrs,
    )


def outcome_of(trial: FrozenTrial) -> Outcome:
    """Return a trial that ended as an outcome."""
    return Outcome(
        name=str(trial.number),
        number=trial.number,
        state=_state(trial),
        attributes=trial.user_attrs,
        params=trial.params,
        started_at=trial.user_attrs.get(TAKEN_AT, _seconds(trial.datetime_start)),
        ended_at=_seconds(trial.datetime_complete),
    )


def _state(trial: FrozenTrial) -> State:
    known = trial.user_attrs.get("reused_from")
    if isinstance(known, int) and trial.state != TrialState.FAIL:
        return "repeated"
    return STATES[trial.state]


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
