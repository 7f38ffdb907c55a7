"""Storages that go away and come back: what could not be read or written is tried again, at growing intervals, for a while."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.distributions import distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite

from nas.errors import RunError
from nas.gathering import Gathered
from nas.secrets import mask_passwords

T = TypeVar("T")

_UPSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Databases in which many rows can be written at once whether they are there or not, and how."""

_BEYOND = 2**31 - 1
"""The greatest id that a trial can have: the column takes no more."""

PATIENCE_SECONDS = 600.0
"""How long a storage may be away."""

_FIRST_SECONDS, _LONGEST_SECONDS = 0.05, 5.0
_TELL_AFTER_SECONDS = 2.0

_METHODS = (
    *("create_new_study", "create_new_trial", "set_study_user_attr", "set_study_system_attr", "set_trial_param"),
    *("set_trial_state_values", "set_trial_user_attr", "set_trial_system_attr", "set_trial_intermediate_value"),
    *("get_study_id_from_name", "get_study_name_from_id", "get_study_directions", "get_study_user_attrs"),
    *("get_study_system_attrs", "get_all_studies", "get_trial", "get_all_trials", "get_n_trials", "_get_trials"),
    *("_set_trial_param", "_create_new_trial"),  # which Optuna's cache calls by themselves
    "get_trial_id_from_study_id_trial_number",
)

told: Callable[[str], None] = lambda text: None  # noqa: E731 - the display puts its own function here
"""Is told when a storage is away and when it is back."""

_until = threading.local()


def patiently(call: Callable[[], T], what: str, patience_s: float | None = None) -> T:
    """Return what ``call`` returns, trying again as long as a storage is away.

    Raises:
        RunError: It was away for too long.
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


class _Remembering(RDBStorage):
    """Optuna's storage in a database, which does not read again and again the running trials that only this process writes.

    Optuna reads every trial that has not ended whenever it looks at a study. With many workers that is most of what a
    suggestion costs. A running trial that was written here, and not since it was read, is what it was, unless another
    process took this one for dead and ended it: of these only the state is read.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        self._remembering = threading.Lock()
        self._mine: set[int] = set()
        self._read: dict[int, FrozenTrial] = {}
        self._writes = 0
        super().__init__(url, engine_kwargs=engine_kwargs)

    def written(self, trial_ids: Collection[int]) -> None:
        """Note that trials were, or may have been, written: what was read of them before, or meanwhile, is not what they are."""
        with self._remembering:
            self._writes += 1
            self._mine.update(trial_ids)
            for trial_id in trial_ids:
                self._read.pop(trial_id, None)

    def _get_trials(
        self, study_id: int, states: Container[TrialState] | None, included_trial_ids: set[int], trial_id_greater_than: int
    ) -> list[FrozenTrial]:
        with self._remembering:
            read, writes = dict(self._read), self._writes
        if states is not None or not read:
            found = super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        else:
            there = models.TrialModel.trial_id, models.TrialModel.state
            wanted = sqlalchemy.or_(there[0].in_(included_trial_ids), there[0] > trial_id_greater_than)
            with self.scoped_session() as session:
                of_study = models.TrialModel.study_id == study_id
                now = {int(row[0]): row[1] for row in session.execute(sqlalchemy.select(*there).where(of_study, wanted))}
            known = {trial_id for trial_id, state in now.items() if state == TrialState.RUNNING and trial_id in read}
            found = [read[trial_id] for trial_id in known]
            if others := set(now) - known:
                found += super()._get_trials(study_id, None, others, _BEYOND)
            found.sort(key=lambda trial: trial._trial_id)
        with self._remembering:
            if writes == self._writes:
                mine = (trial for trial in found if trial.state == TrialState.RUNNING and trial._trial_id in self._mine)
                self._read = {trial._trial_id: trial for trial in mine}
        return found


def _again(name: str) -> Callable[..., Any]:
    whole = getattr(_Remembering, name)
    writes = name.lstrip("_").startswith("set_trial")

    def method(self: Any, *arguments: Any, **more: Any) -> Any:
        try:
            return patiently(lambda: whole(self, *arguments, **more), self.what)
        finally:
            if writes:
                self.written([more["trial_id"] if "trial_id" in more else arguments[0]])

    method.__name__, method.__doc__ = name, whole.__doc__
    return method


class PatientRDBStorage(_Remembering):
    """Optuna's storage in a database, whose methods wait until the database is there.

    Args:
        url: The database's.
        what: How messages call it.
        engine_kwargs: SQLAlchemy's.
    """

    def __init__(self, url: str, what: str, engine_kwargs: dict[str, Any]) -> None:
        self.what = what
        super().__init__(url, engine_kwargs=engine_kwargs)

    def write(self, gathered: Gathered) -> None:
        """Write what was gathered, in one transaction.

        Raises:
            UpdateFinishedTrialError: Another process finished one of the trials; all that concerns others is written.
        """
        insert = _UPSERTS.get(self.engine.name)
        if insert is None:
            one_by_one(self, gathered)
            return
        try:
            finished = patiently(lambda: self._write_at_once(gathered, insert), self.what)
        finally:
            self.written(gathered.trials)
        if finished:
            raise UpdateFinishedTrialError(f"others finished the trials with the ids {sorted(finished)}")

    def _write_at_once(self, gathered: Gathered, insert: Any) -> set[int]:
        """Write what was gathered of the trials that are not finished; return the ids of those that are."""
        with self.scoped_session() as session, session.begin():
            query = sqlalchemy.select(models.TrialModel).where(models.TrialModel.trial_id.in_(gathered.trials))
            trials = {int(trial.trial_id): trial for trial in session.scalars(query.with_for_update())}
            finished = {trial_id for trial_id, trial in trials.items() if trial.state.is_finished()}

            def put(model: Any, rows: list[dict[str, Any]], keys: Sequence[str]) -> None:
                rows = [row for row in rows if row.get("trial_id") not in finished]
                if rows:
                    statement = insert(model)
                    changed = {key: statement.excluded[key] for key in rows[0] if key not in keys}
                    session.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)

            for model, attrs in (
                (models.TrialUserAttributeModel, gathered.user_attrs),
                (models.TrialSystemAttributeModel, gathered.system_attrs),
            ):
                rows = [{"trial_id": trial_id, "key": key, "value_json": text} for (trial_id, key), text in attrs.items()]
                put(model, rows, ("trial_id", "key"))
            rows = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": value,
                    "distribution_json": distribution_to_json(distribution),
                }
                for (trial_id, name), (value, distribution) in gathered.params.items()
            ]
            put(models.TrialParamModel, rows, ("trial_id", "param_name"))
            rows = [{"study_id": study, "key": key, "value_json": text} for (study, key), text in gathered.study_attrs.items()]
            put(models.StudySystemAttributeModel, rows, ("study_id", "key"))
            rows = []
            for trial_id, (_, values) in gathered.states.items():
                for objective, value in enumerate(values or ()):
                    stored, kind = models.TrialValueModel.value_to_stored_repr(value)
                    rows.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
            put(models.TrialValueModel, rows, ("trial_id", "objective"))
            for trial_id, (state, _) in gathered.states.items():
                if trial_id not in finished:
                    trials[trial_id].state, trials[trial_id].datetime_complete = state, datetime.now()
        return finished


for _name in _METHODS:
    if _name in vars(RDBStorage):
        setattr(PatientRDBStorage, _name, _again(_name))


def one_by_one(storage: BaseStorage, gathered: Gathered, held: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
    """Write what was gathered as Optuna does: one thing after the other, the states last.

    Args:
        storage: Where to.
        gathered: What.
        held: Entered while parameters and attributes are written.

    Raises:
        UpdateFinishedTrialError: As ``PatientRDBStorage.write``.
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
    for trial_id, (state, values) in gathered.states.items():
        if trial_id not in finished:
            storage.set_trial_state_values(trial_id, state, values)
    if finished:
        raise UpdateFinishedTrialError(f"others finished the trials with the ids {sorted(finished)}")


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
