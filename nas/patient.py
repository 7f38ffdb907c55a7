"""Optuna's two storages, in a database and in a journal, whose methods wait until what holds them is there."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from nas import database
from nas.errors import InputError
from nas.gathering import Gathered, one_by_one
from nas.retrying import patiently, restore

_METHODS = (
    *("create_new_study", "create_new_trial", "set_study_user_attr", "set_study_system_attr", "set_trial_param"),
    *("set_trial_state_values", "set_trial_user_attr", "set_trial_system_attr", "set_trial_intermediate_value"),
    *("get_study_id_from_name", "get_study_name_from_id", "get_study_directions", "get_study_user_attrs"),
    *("get_study_system_attrs", "get_all_studies", "get_all_trials", "get_n_trials"),
    *("_set_trial_param", "_create_new_trial"),  # which Optuna's cache calls by themselves
    "get_trial_id_from_study_id_trial_number",
)


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

    def __init__(self, url: str, what: str, engine_kwargs: dict[str, Any], remedy: Callable[[], str] = restore) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(url, engine_kwargs=engine_kwargs)
        database.keep_alive(self.engine)

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


_LINE_BEGINS = b'{"op_code":'
"""How each line of a journal begins, as Optuna writes it."""


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
            size = self._without_half_a_line()
            try:
                with Path(self._file_path).open("ab") as file:
                    file.write(b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(self._file_path, size)  # a part of a line would make the whole file unreadable
                raise

    def _without_half_a_line(self) -> int:
        """Return the file's size, cut back to its last whole line: what is appended to the part of one is lost with it."""
        with Path(self._file_path).open("rb") as file:
            size = end = file.seek(0, os.SEEK_END)
            while end:
                begin = max(0, end - 65536)
                file.seek(begin)
                newline = file.read(end - begin).rfind(b"\n")
                if newline >= 0:
                    end = begin + newline + 1
                    break
                end = begin
        if end < size:
            if not end:
                self._check_begins_like_a_log()
            os.truncate(self._file_path, end)
        return end

    def _check_begins_like_a_log(self) -> None:
        """Refuse to empty a file without a whole line, unless that line was begun as Optuna begins all of its.

        Raises:
            InputError: It is another file, which a user named by mistake.
        """
        with Path(self._file_path).open("rb") as file:
            head = file.read(len(_LINE_BEGINS))
        if not _LINE_BEGINS.startswith(head):
            raise InputError(
                f"{self.what} cannot be used: {self._file_path} is there and is no journal of Optuna's; name another file."
            )

    @contextmanager
    def _lock_of_file(self) -> Iterator[None]:
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()
