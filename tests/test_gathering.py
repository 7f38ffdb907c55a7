"""What is gathered is written at once, or not at all; it is the same as what Optuna writes piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from nas import patient, retrying
from nas.storage import Storage, open_storage, storage_spec

Open = Callable[[], Storage]


@pytest.fixture(params=["sqlite", "journal"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Open the same storage again and again, as several processes do."""
    return lambda: open_storage(storage_spec("journal" if request.param == "journal" else None, tmp_path))


def study_in(storage: Storage, name: str = "s") -> optuna.Study:
    return optuna.create_study(
        study_name=name,
        storage=storage.optuna,
        directions=["minimize", "maximize"],
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=1, n_startup_trials=2),
    )


def one_trial(study: optuna.Study, seen: Callable[[optuna.Trial], None] = lambda trial: None) -> FrozenTrial:
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)
    trial.suggest_categorical("kind", ["a", "b"])
    trial.set_user_attr("nested", {"values": (1, 2.5, None), "text": "×"})
    trial.set_user_attr("nested", {"values": [x]})
    trial.set_constraint("size", x - 0.5)
    seen(trial)
    return study.tell(trial, [x, float("inf")])


def content(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [
        (trial.number, trial.state, trial.values, trial.params, trial.distributions, trial.user_attrs, trial.system_attrs)
        for trial in study.get_trials(deepcopy=False)
    ]


def test_it_is_what_optuna_writes_piece_by_piece(opened: Open) -> None:
    storage = opened()
    gathered, piecewise = study_in(storage, "gathered"), study_in(storage, "piecewise")
    for _ in range(6):
        with storage.together():
            mine = one_trial(gathered)
        theirs = one_trial(piecewise)
        assert mine.values == theirs.values and mine.user_attrs == theirs.user_attrs and mine.params == theirs.params
    again = opened()
    assert content(study_in(again, "gathered")) == content(study_in(again, "piecewise"))
    complete = study_in(again, "gathered").trials[-1]
    assert complete.datetime_start is not None and complete.datetime_complete is not None
    assert 0 <= (complete.datetime_complete - complete.datetime_start).total_seconds() < 60


def test_others_see_all_of_it_or_none(opened: Open) -> None:
    storage, other = opened(), opened()
    study = study_in(storage)
    elsewhere = study_in(other)

    def seen(trial: optuna.Trial) -> None:
        (there,) = elsewhere.get_trials(deepcopy=False)  # that it is there, is known at once: its number is taken
        assert there.state == TrialState.RUNNING and not there.params and not there.user_attrs and not there.system_attrs
        (here,) = study.get_trials(deepcopy=False)
        assert here.params and here.user_attrs and here.constraints, "whoever writes sees what it wrote"

    with storage.together():
        one_trial(study, seen)
        assert study.trials[0].state == TrialState.COMPLETE and elsewhere.trials[0].state == TrialState.RUNNING
    assert elsewhere.trials[0].state == TrialState.COMPLETE and content(elsewhere) == content(study)


def test_what_was_written_before_an_error_stands(opened: Open) -> None:
    storage = opened()
    study = study_in(storage)
    with pytest.raises(KeyboardInterrupt), storage.together():
        study.ask().set_user_attr("a", 1)
        raise KeyboardInterrupt
    assert study_in(opened()).trials[0].user_attrs == {"a": 1}


def test_a_trial_that_another_process_finished_is_left_as_it_is(opened: Open) -> None:
    storage, other = opened(), opened()
    study, elsewhere = study_in(storage), study_in(other)
    lost, mine = study.ask(), study.ask()
    with pytest.raises(UpdateFinishedTrialError), storage.together():
        for trial in (lost, mine):
            trial.set_user_attr("by", "me")
            trial.suggest_float("x", 0, 1)
            study.tell(trial, [1.0, 2.0])
        elsewhere.tell(lost.number, [3.0, 4.0])
    first, second = study_in(opened()).trials
    assert first.values == [3.0, 4.0] and not first.user_attrs and not first.params
    assert second.values == [1.0, 2.0] and second.user_attrs == {"by": "me"} and "x" in second.params


def test_a_finished_trial_cannot_be_changed(opened: Open) -> None:
    storage = opened()
    study = study_in(storage)
    one_trial(study)
    trial_id = study.trials[0]._trial_id
    with storage.together(), pytest.raises(UpdateFinishedTrialError):
        storage.optuna.set_trial_user_attr(trial_id, "a", 1)


def test_another_domain_of_the_same_kind_is_refused(opened: Open) -> None:
    storage = opened()
    study = study_in(storage)
    one_trial(study)
    with storage.together(), pytest.raises(ValueError, match="CategoricalDistribution"):
        study.ask().suggest_categorical("kind", ["a", "c"])
    assert isinstance(study.trials[0].distributions["kind"], CategoricalDistribution)
    assert isinstance(study.trials[0].distributions["x"], FloatDistribution)


def test_trials_that_wait_are_taken_once(opened: Open) -> None:
    storage, other = opened(), opened()
    study, elsewhere = study_in(storage), study_in(other)
    for x in (0.25, 0.75):
        study.enqueue_trial({"x": x, "kind": "a"})
    with storage.together():
        mine = study.ask()
        theirs = elsewhere.ask()
        assert (mine.suggest_float("x", 0, 1), theirs.suggest_float("x", 0, 1)) == (0.25, 0.75)
        new = study.ask()
        assert new.number == 2 and [trial.number for trial in study.trials] == [0, 1, 2]


def test_a_block_within_a_block_ends_with_the_outer_one(opened: Open) -> None:
    storage, other = opened(), opened()
    study, elsewhere = study_in(storage), study_in(other)
    with storage.together():
        with storage.together():
            study.ask().set_user_attr("a", 1)
        assert elsewhere.trials[0].user_attrs == {}
    assert elsewhere.trials[0].user_attrs == {"a": 1}


def test_it_is_written_again_until_the_storage_is_there(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_FIRST_SECONDS", 0.001)
    storage = opened()
    study = study_in(storage)
    away = [3]

    def fail(*arguments: Any) -> None:
        if away[0]:
            away[0] -= 1
            raise (
                OSError("No space left on device")
                if storage.spec.is_journal
                else sqlalchemy.exc.OperationalError("", {}, Exception("away"))
            )

    trial = study.ask()
    if storage.spec.is_journal:
        fsync = patient.os.fsync
        monkeypatch.setattr(patient.os, "fsync", lambda descriptor: (fail(), fsync(descriptor)))
    else:
        sqlalchemy.event.listen(sqlalchemy.orm.Session, "before_commit", fail)
    try:
        with storage.together():
            trial.suggest_float("x", 0, 1)
            study.tell(trial, [1.0, 2.0])
    finally:
        if not storage.spec.is_journal:
            sqlalchemy.event.remove(sqlalchemy.orm.Session, "before_commit", fail)
    assert away == [0]
    (told,) = study_in(opened()).trials
    assert told.values == [1.0, 2.0] and set(told.params) == {"x"}


def test_running_trials_are_what_whoever_writes_them_last_makes_of_them(opened: Open) -> None:
    """What this process wrote is not read again and again; what others write is seen, and when they end one of ours."""
    here, there = opened(), opened()
    mine, theirs = study_in(here), study_in(there)
    with here.together():
        own = mine.ask()
        own.set_user_attr("n", 1)
    with there.together():
        other = theirs.ask()
        other.set_user_attr("n", 1)
    for n in range(2, 5):
        assert [trial.user_attrs["n"] for trial in mine.get_trials(deepcopy=False)] == [n - 1, n - 1]
        with here.together():
            own.set_user_attr("n", n)
        other.set_user_attr("n", n)
    own.suggest_float("x", 0, 1)  # outside of a block
    own.set_user_attr("n", 5)
    assert mine.trials[0].params == own.params and mine.trials[0].user_attrs == {"n": 5}
    assert [trial.state for trial in mine.get_trials(deepcopy=False)] == 2 * [TrialState.RUNNING]
    theirs.tell(0, [1.0, 2.0])  # took this process for dead
    theirs.tell(1, [1.0, 2.0])
    mine.ask()
    states = [trial.state for trial in mine.get_trials(deepcopy=False)]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING] and mine.trials[0].values == [1.0, 2.0]
