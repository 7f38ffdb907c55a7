"""A storage that goes away for a moment costs nothing; one that stays away ends the search with a sentence, and loses nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from nas import retrying
from nas.errors import InputError, RunError
from nas.patient import PatientJournal
from nas.retrying import is_away, patiently
from nas.spool import Spool
from nas.storage import Storage, open_storage, storage_spec

AWAY = sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_FIRST_SECONDS", 0.001)
    monkeypatch.setattr(retrying, "_LONGEST_SECONDS", 0.01)
    monkeypatch.setattr(retrying, "_TELL_AFTER_SECONDS", 0.0)


def failing(times: int, error: Exception = AWAY) -> Callable[[], str]:
    left = [times]

    def call() -> str:
        if left[0]:
            left[0] -= 1
            raise error
        return "there"

    return call


def test_what_comes_back_is_waited_for_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(retrying, "told", told.append)
    assert patiently(failing(5), "the storage") == "there"
    assert len(told) == 2 and "is away (server closed the connection)" in told[0] and "is back after" in told[1]
    assert patiently(failing(0), "the storage") == "there" and len(told) == 2


def test_what_stays_away_ends_with_a_sentence_without_passwords() -> None:
    error = sqlalchemy.exc.OperationalError("", {}, Exception("cannot reach postgresql://me:secret@host/db"))
    with pytest.raises(RunError, match=r"the storage was away for 0\.05 s \(cannot reach .*host/db\)") as ended:
        patiently(failing(10**9, error), "the storage", 0.05)
    assert "secret" not in str(ended.value)


def test_a_connection_that_breaks_in_the_midst_of_a_transaction_is_away_too() -> None:
    """Optuna answers an error in the midst of reading by another statement in the transaction that the error has ended."""
    broken = sqlalchemy.exc.PendingRollbackError("Can't reconnect until invalid transaction is rolled back.", code="8s2b")
    error = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = broken
    assert is_away(broken) and is_away(error) and patiently(failing(2, error), "the storage") == "there"
    assert not is_away(sqlalchemy.exc.PendingRollbackError("This Session's transaction has been rolled back.", code="7s2a"))


def test_what_is_wrong_with_a_request_is_raised_at_once() -> None:
    for error in (KeyError("x"), sqlalchemy.exc.IntegrityError("", {}, Exception("twice")), ValueError("no")):
        assert not is_away(error)
        with pytest.raises(type(error)):
            patiently(failing(1, error), "the storage")
    wrapped = optuna.exceptions.StorageInternalError("commit")
    wrapped.__cause__ = AWAY
    assert is_away(wrapped) and is_away(OSError(errno.ENOSPC, "No space left on device"))


@pytest.fixture(params=["sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(storage_spec({"sqlite": None, "journal": "journal"}[request.param], tmp_path))


def test_a_study_survives_a_storage_that_fails_every_third_time(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = [0]

    def flaky(whole: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def method(*arguments: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] % 3 == 0:
                raise error
            return whole(*arguments, **more)

        return method

    study = optuna.create_study(study_name="s", storage=storage.optuna, directions=["minimize", "minimize"])
    if storage.spec.is_journal:
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(os, "fsync", flaky(os.fsync, full))
    else:
        whole = sqlalchemy.orm.Session.commit
        monkeypatch.setattr(sqlalchemy.orm.Session, "commit", flaky(whole, AWAY))
    for _ in range(5):
        trial = study.ask()
        trial.suggest_int("x", 0, 9)
        trial.set_user_attr("a", 1)
        study.tell(trial, [1.0, 2.0])
    monkeypatch.undo()
    again = optuna.load_study(
        study_name="s", storage=open_storage(storage_spec("journal" if storage.spec.is_journal else None, tmp_path)).optuna
    )
    done = [trial for trial in again.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len(done) == 5 and all(trial.user_attrs == {"a": 1} and trial.values == [1.0, 2.0] for trial in done)
    assert calls[0] > 15


def test_a_journal_keeps_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = PatientJournal(str(tmp_path / "log"), "the journal")
    journal.append_logs([{"op": 1}])
    before = (tmp_path / "log").read_bytes()
    whole = os.fsync

    def full(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", whole)
        assert (tmp_path / "log").stat().st_size > len(before)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    journal.append_logs([{"op": 2}])
    assert (tmp_path / "log").read_bytes() == before + b'{"op":2}\n'
    assert list(journal.read_logs(0)) == [{"op": 1}, {"op": 2}]


@pytest.mark.parametrize(
    "left", [b"", b'{"op":1}\n', b'{"op":1}\n{"op":7,"te', b'{"op_code":7', b'{"op', b'{"op":1}\n' + b"x" * 200_000]
)
def test_a_line_that_a_death_cut_off_takes_no_other_with_it(tmp_path: Path, left: bytes) -> None:
    journal = PatientJournal(str(tmp_path / "log"), "the journal")
    (tmp_path / "log").write_bytes(left)
    journal.append_logs([{"op": 2}])
    whole = [{"op": 1}] if left.startswith(b'{"op":1}\n') else []
    assert list(PatientJournal(str(tmp_path / "log"), "the journal").read_logs(0)) == [*whole, {"op": 2}]


@pytest.mark.parametrize("content", [b'{"learning_rate": 0.1}', b"x" * 200_000, b'{"op": 1'])
def test_another_file_that_is_named_by_mistake_is_not_emptied(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    storage = open_storage(storage_spec(f"journal:{path}", tmp_path))
    with pytest.raises(InputError, match=r"^study\.storage=\S*config\.json cannot be used: \S*config\.json is there and is no j"):
        optuna.create_study(study_name="s", storage=storage.optuna)
    assert path.read_bytes() == content


def test_a_spool_keeps_what_is_not_recorded_and_knows_its_study(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "mine")
    assert spool.take(3) is None
    spool.keep(3, {"top1": 0.5})
    assert spool.take(3) == {"top1": 0.5} and Spool(tmp_path / "spool", "other").take(3) is None
    (tmp_path / "spool" / "4.json").write_text("{")
    assert spool.take(4) is None
    spool.drop(3)
    spool.drop(3)
    assert spool.take(3) is None
