"""Storages that go away and come back: what could not be read or written is tried again, at growing intervals, for a while.

Which calls these are is ``nas.patient``'s and ``nas.server_owner``'s.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import optuna
import sqlalchemy

from nas.errors import InputError, StorageAwayError
from nas.secrets import mask_passwords

T = TypeVar("T")

PATIENCE_SECONDS = 600.0
"""How long a storage may be away."""

_FIRST_SECONDS, _LONGEST_SECONDS = 0.05, 5.0
_TELL_AFTER_SECONDS = 2.0

told: Callable[[str], None] = lambda text: None  # noqa: E731 - the display puts its own function here
"""Is told when a storage is away and when it is back."""

_until = threading.local()


def restore() -> str:
    """Return what to do with a damaged storage of which nothing more is known."""
    return "restore a copy of it"


def patiently(call: Callable[[], T], what: str, patience_s: float | None = None, remedy: Callable[[], str] = restore) -> T:
    """Return what ``call`` returns, trying again as long as a storage is away.

    Args:
        call: What to do.
        what: How messages call the storage.
        patience_s: How long to try.
        remedy: Says what to do with a storage that is damaged.

    Raises:
        StorageAwayError: It was away for too long.
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
                    raise StorageAwayError(
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
