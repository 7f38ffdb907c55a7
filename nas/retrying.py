"""Storages that go away and come back: what could not be read or written is tried again, at growing intervals, for a while."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from nas import database
from nas.errors import InputError, RunError
from nas.gathering import Gathered, one_by_one
from nas.secrets import mask_passwords

T = TypeVar("T")

PATIENCE_SECONDS = 600.0
"""How long a storage may be away."""

_FIRST_SECONDS, _LONGEST_SECONDS = 0.05, 5.0
_TELL_AFTER_SECONDS = 2.0

_METHODS = (
    *("create_new_study", "create_new_trial", "set_study_user_attr", "set_study_system_attr", "set_trial_param"),
    *("set_trial_state_values", "set_trial_user_attr", "set_trial_system_attr", "set_trial_intermediate_value"),
    *("get_study_id_from_name", "get_study_name_from_id", "get_study_directions", "get_study_user_attrs"),
    *("get_study_system_attrs", "get_all_studies", "get_all_trials", "get_n_trials"),
    *("_set_trial_param", "_create_new_trial"),  # which Optuna's cache calls by themselves
    "get_trial_id_from_study_id_trial_number",
)

told: Callable[[str], None] = lambda text: None  # noqa: E731 - the display puts its own function here
"""Is told when a storage is away and when it is back."""

_until = threading.local()


def _restore() -> str:
    return "restore a copy of it"


def patiently(call: Callable[[], T], what: str, patience_s: float | None = None, remedy: Callable[[], str] = _restore) -> T:
    """Return what ``call`` returns, trying again as long as a storage is away.

    Args:
        call: What to do.
        what: How messages call the storage.
        patience_s: How long to try.
        remedy: Says what to do with a storage that is damaged.

    Raises:
        RunError: It was away for too long.
        InputError: It is damaged.
    """
    if getattr(_until, "moment_s", None) is not None:  # a storage's method within another one: that one waits
        return call()
    began_s = time.monotonic()
    patience_s = PATIENCE_SECONDS if patience_s is None else patience_s
    _until.moment_s = began_s + patience_s
    said = False
    try:
        for pause_s in _pauses():
            try:
                found = call()
            except Exception as error:
                if is_damaged(error):
                    raise InputError(f"{what} cannot be read ({_reason(error)}): {remedy()}.") from error
                if not is_away(error):
                    raise
                reason = _reason(error)
                if time.monotonic() + pause_s > _until.moment_s:
                    raise RunError(
                        f"{what} was away for {patience_s:g} s ({reason}): see to it that it is there; the same command goes on, "
                        "and takes what was not recorded from the run folder."
                    ) from error
                if not said and time.monotonic() - began_s > _TELL_AFTER_SECONDS:
                    told(f"{what} is away ({reason}): trying again for {patience_s:g} s")
                    said = True
                time.sleep(pause_s)
            else:
                if said:
                    told(f"{what} is back after {time.monotonic() - began_s:.0f} s")
                return found
        raise AssertionError("there is always another pause")
    finally:
        _until.moment_s = None


def is_damaged(error: BaseException) -> bool:
    """Whether an error says that a database's file is no longer one."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    original = getattr(cause, "orig", None)
    return type(original) is sqlite3.DatabaseError and any(
        text in str(original) for text in ("malformed", "not a database", "corrupt")
    )


def is_away(error: BaseException) -> bool:
    """Whether an error says that a storage cannot be reached or written now, and not that something is wrong with the request."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    if isinstance(cause, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError):
        return True
    if isinstance(cause, sqlalchemy.exc.PendingRollbackError):
        # A connection that broke in the midst of a transaction, and Optuna tried a second statement in it. Other transactions
        # that have to be rolled back first are a mistake of whoever wrote them.
        return cause.code == "8s2b"
    if isinstance(cause, sqlalchemy.exc.DBAPIError):
        return bool(cause.connection_invalidated)
    # A full disk, a folder that may not be written now, a share that went away.
    return isinstance(cause, OSError)


def _pauses() -> Iterator[float]:
    pause_s = _FIRST_SECONDS
    while True:
        yield pause_s * random.uniform(0.5, 1.0)  # processes that lost one server do not all come back at once
        pause_s = min(2 * pause_s, _LONGEST_SECONDS)


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    text = str(getattr(cause, "orig", None) or cause).strip()
    return str(mask_passwords(text.splitlines()[0].rstrip(".") if text else type(cause).__name__))


def _again(name: str) -> Callable[..., Any]:
    whole = getattr(RDBStorage, name)

    def method(self: Any, *arguments: Any, **more: Any) -> Any:
        return patiently(lambda: whole(self, *arguments, **more), self.what, remedy=self.remedy)

    method.__name__, method.__doc__ = name, whole.__doc__
    return method


class PatientRDBStorage(RDBStorage):
    """Optuna's storage in a database, whose methods wait until the database is there.

    Args:
        url: The database's.
        what: How messages call it.
        engine_kwargs: SQLAlchemy's.
        remedy: Says what to do if it is damaged.
    """

    def __init__(self, url: str, what: str, engine_kwargs: dict[str, Any], remedy: Callable[[], str] = _restore) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(url, engine_kwargs=engine_kwargs)

    def write(self, gathered: Gathered) -> None:
        """Write what was gathered, in one transaction.

        Raises:
            UpdateFinishedTrialError: Another process finished one of the trials; all that concerns others is written.
        """
        if not database.writes_at_once(self.engine.name):
            one_by_one(self, gathered)
            return

        def write() -> set[int]:
            with self.scoped_session() as session, session.begin():
                return database.write_gathered(session, gathered, self.engine.name)

        if finished := patiently(write, self.what, remedy=self.remedy):
            raise UpdateFinishedTrialError(f"others finished the trials with the ids {sorted(finished)}")

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See ``BaseStorage``."""
        return patiently(lambda: self._read_trial(trial_id), self.what, remedy=self.remedy)

    def _read_trial(self, trial_id: int) -> FrozenTrial:
        with self.scoped_session() as session:
            found = database.read_trials(session, database.named(trial_id))
        if not found:
            raise KeyError(f"no trial has the id {trial_id}")
        return found[0]

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        condition = database.new_or_among(study_id, trial_id_greater_than, included_trial_ids)

        def read() -> list[FrozenTrial]:
            with self.scoped_session() as session:
                return database.read_trials(session, condition)

        found = patiently(read, self.what, remedy=self.remedy)
        return found if states is None else [trial for trial in found if trial.state in states]


for _name in _METHODS:
    if _name in vars(RDBStorage):
        setattr(PatientRDBStorage, _name, _again(_name))


class _Flock:
    """A lock that the system frees when its holder dies; Optuna's own would hold up everybody for half a minute then."""

    def __init__(self, path: str) -> None:
        self._lock = FileLock(f"{path}.flock")

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


class PatientJournal(JournalFileBackend):
    """Optuna's journal in a file, which is written and read again until that succeeds.

    Args:
        path: The file's.
        what: How messages call it.
    """

    def __init__(self, path: str, what: str) -> None:
        self.what = what
        self._held = threading.local()
        super().__init__(path, lock_obj=cast(Any, _Flock(path)))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep back what this thread appends within the block, and append it at its end: one write and one fsync."""
        kept: list[dict[str, Any]] = []
        self._held.logs = kept
        try:
            yield
        finally:
            self._held.logs = None
            if kept:
                self.append_logs(kept)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See ``JournalFileBackend``; a line is there whole or not at all."""
        kept: list[dict[str, Any]] | None = getattr(self._held, "logs", None)
        if kept is not None:
            kept += logs
        else:
            patiently(lambda: self._append(logs), self.what)

    def read_logs(self, log_number_from: int) -> Any:
        """See ``JournalFileBackend``."""
        return patiently(lambda: iter(list(super(PatientJournal, self).read_logs(log_number_from))), self.what)

    def _append(self, logs: list[dict[str, Any]]) -> None:
        with self._lock_of_file():
            size = Path(self._file_path).stat().st_size
            try:
                with Path(self._file_path).open("ab") as file:
                    file.write(b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(self._file_path, size)  # a part of a line would make the whole file unreadable
                raise

    @contextmanager
    def _lock_of_file(self) -> Iterator[None]:
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()
