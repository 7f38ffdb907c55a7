"""Opens the place where Optuna keeps a study: SQLite in the run folder, a journal file, or any database by URL."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, get_storage

from nas.backup import Backup
from nas.database import connect_args
from nas.errors import InputError
from nas.gathering import GatheringStorage, Write, one_by_one
from nas.owner import Owner, TrialOwner
from nas.patient import PatientJournal, PatientRDBStorage
from nas.secrets import mask_password
from nas.server_owner import ServerOwner, one_at_a_time

# A damaged journal shows as a ValueError or a KeyError.
_UNREADABLE = (
    sqlalchemy.exc.SQLAlchemyError,
    optuna.exceptions.OptunaError,
    *(OSError, ImportError, RuntimeError, ValueError, KeyError),
)

_MADE_BY_ANOTHER = ("UNIQUE constraint failed", "already exists")
"""What SQLite says to whoever makes tables while another process is making them, or has begun to look at them half made."""

_PAUSES_SECONDS = (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class StorageSpec:
    """Where a study is kept.

    Attributes:
        url: What a user hands to ``optuna-dashboard``, password included; ``shown`` is for the screen and for files.
        file: The file that holds it, ``None`` for a database server.
    """

    url: str
    file: Path | None

    @property
    def shown(self) -> str:
        """The URL with its password masked."""
        return mask_password(self.url)

    def owners(self, run_dir: Path) -> Path:
        """Where the processes that share the study keep their locks: beside its file, or in the run folder for a server."""
        return (self.file.parent if self.file is not None else run_dir) / "owners"

    @property
    def is_journal(self) -> bool:
        """Whether it is a journal file and not a database."""
        return self.file is not None and not self.url.startswith("sqlite")


@dataclass(frozen=True)
class Storage:
    """An open storage.

    Attributes:
        backup: The copy of its file; ``None`` for a database server, which has its own ways.
        make_durable: Call after a trial is told: returns once all that was written would survive a power cut.
        together: What this thread writes of trials within such a block is written at its end, all at once (``GatheringStorage``).
    """

    optuna: BaseStorage
    spec: StorageSpec
    make_durable: Callable[[], None] = lambda: None
    backup: Backup | None = None
    together: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext


def storage_spec(storage: str | None, run_dir: Path) -> StorageSpec:
    """Read ``study.storage``; touches nothing.

    Raises:
        InputError: If it is neither ``journal``, ``journal:<path>`` nor a URL, or names a file in a folder that is not there.
    """
    spec = _read_spec(storage, run_dir)
    if spec.file is not None and spec.file.parent != run_dir and not os.path.isdir(spec.file.parent):
        raise InputError(f"study.storage={spec.shown} cannot be opened: make the folder {spec.file.parent} first.")
    return spec


def _read_spec(storage: str | None, run_dir: Path) -> StorageSpec:
    if storage is None:
        path = run_dir / "study.db"
        return StorageSpec(f"sqlite:///{path}", path)
    if storage == "journal" or storage.startswith("journal:"):
        path = Path(storage.removeprefix("journal").removeprefix(":") or run_dir / "journal.log")
        return StorageSpec(str(path), path)
    if not re.match(r"[A-Za-z0-9_+]+://", storage):
        raise InputError(
            f"study.storage={mask_password(storage)} cannot be used: give journal, journal:<path> or a database URL such as "
            "sqlite:///path.db or postgresql+psycopg://user@host/name."
        )
    try:
        url = sqlalchemy.make_url(storage)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise InputError(f"study.storage={mask_password(storage)} cannot be used: it is not a database URL.") from None
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise InputError(f"study.storage={storage} cannot be used: a study in memory is lost at the end; name a file.")
    is_file = url.get_backend_name() == "sqlite"
    return StorageSpec(storage, Path(str(url.database)) if is_file else None)


def open_owner(spec: StorageSpec, run_dir: Path, study: str) -> TrialOwner:
    """Return this process as an owner of trials of the study.

    Raises:
        InputError: Where owners are kept cannot be reached or written.
    """
    if spec.file is not None:
        return Owner(spec.owners(run_dir))
    try:
        return ServerOwner(spec.url, f"study.storage={spec.shown}", study)
    except _UNREADABLE as error:
        raise InputError(_reason(spec, error)) from None


def open_storage(spec: StorageSpec) -> Storage:
    """Open the storage, and make its tables if it is new. The folder of a file must be there.

    Raises:
        InputError: If it cannot be reached, read or written.
    """
    try:
        if spec.is_journal:
            assert spec.file is not None
            backup = Backup(spec.file, is_journal=True)
            backup.check()
            journal = PatientJournal(str(spec.file), f"study.storage={spec.shown}")
            whole = JournalStorage(journal)
            return _gathering(whole, partial(one_by_one, whole, held=journal.held), spec, backup.make_if_due, backup)
        if spec.file is not None:
            return _open_sqlite(spec, spec.file)
        # A connection that a restart of the server has broken is noticed before it is used.
        with one_at_a_time(spec.url):  # two that make the tables at once would both fail
            options = {"pool_pre_ping": True, "connect_args": connect_args(spec.url)}
            database = PatientRDBStorage(spec.url, f"study.storage={spec.shown}", options)
            return _gathering(get_storage(database), database.write, spec)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(_reason(spec, error)) from None


def _open_sqlite(spec: StorageSpec, path: Path) -> Storage:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
        # With a write-ahead log no commit waits for the disk, a reader such as the dashboard never blocks a writer, and one
        # fsync when a trial is told makes all of them durable.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def sync_log() -> None:
        with contextlib.suppress(FileNotFoundError):  # no log: the file system has none, and every commit was synced
            descriptor = os.open(f"{path}-wal", os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        backup.make_if_due()

    backup = Backup(path, is_journal=False)
    backup.check()

    def opened() -> PatientRDBStorage:
        return PatientRDBStorage(spec.url, f"study.storage={spec.shown}", {"creator": connect}, backup.remedy)

    for pause_s in _PAUSES_SECONDS:
        try:
            database = opened()
            break
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            if not any(text in str(error.__cause__ or error) for text in _MADE_BY_ANOTHER):
                raise
            time.sleep(pause_s)
    else:
        database = opened()
    return _gathering(get_storage(database), database.write, spec, sync_log, backup)


def _gathering(
    inner: BaseStorage,
    write: Write,
    spec: StorageSpec,
    make_durable: Callable[[], None] = lambda: None,
    backup: Backup | None = None,
) -> Storage:
    storage = GatheringStorage(inner, write)
    return Storage(storage, spec, make_durable, backup, storage.together)


def _reason(spec: StorageSpec, error: Exception) -> str:
    cause = error.__cause__ or error
    original = getattr(cause, "orig", None) or cause
    text = mask_password(str(original).strip().splitlines()[0] if str(original).strip() else type(original).__name__)
    if isinstance(error, RuntimeError) and "schema" in text:
        remedy = "it was written by another version of Optuna; install that one, or a newer one"
    elif spec.file is not None and os.path.exists(spec.file):
        remedy = Backup(spec.file, spec.is_journal).remedy()
    elif spec.file is not None:
        remedy = "choose another study.storage or run_dir"
    elif isinstance(error, ImportError):
        remedy = "install the driver that the URL names"
    else:
        remedy = "check that the server runs, and its name, user and password"
    return f"study.storage={spec.shown} cannot be opened ({text.rstrip('.')}): {remedy}."


def memory_storage() -> Storage:
    """Return a storage that ends with the process, for studies that are played and not kept."""
    return Storage(optuna.storages.InMemoryStorage(), StorageSpec("memory", None))
