"""Who works on a running trial where a study lies on a database server: processes on any host, none of whose locks others see.

Each keeps a pulse in a table of its own; whose pulse stands still is dead. Trials change hands under a lock of the server's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy

from nas.database import connect_args, keep_alive
from nas.retrying import PATIENCE_SECONDS, is_away, patiently

_BEAT_SECONDS = 5.0

_LOCK_MS = 600_000
"""How long the server lets wait for a lock before it answers. Many processes that choose their candidates one after the other,
each for seconds, may keep it for longer: it is asked for again."""

_LOCK_NOT_AVAILABLE = "55P03"
"""What the server calls that (PostgreSQL, appendix A)."""

DEAD_AFTER_SECONDS = 60.0
"""How long a pulse may stand still, by the pulse of whoever watches it: clocks of several hosts differ, and while the server is
away nobody's pulse goes on."""

_LATE_BEATS = 2
"""Beats of the watcher's own without one of the watched after which something may be wrong."""


@dataclass
class _Pulse:
    """What was seen of another owner's pulse.

    Attributes:
        beats: When it was seen last.
        since: This process's own beats when it was first seen at that.
        moved: Whether it was seen to move at all.
    """

    beats: int
    since: int
    moved: bool


_table = sqlalchemy.Table(
    "osa_nas_owners",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("name", sqlalchemy.String(200), primary_key=True),
    sqlalchemy.Column("beats", sqlalchemy.BigInteger, nullable=False),
)


@contextlib.contextmanager
def one_at_a_time(url: str) -> Iterator[None]:
    """Hold a lock of the database's for the block; of a server other than PostgreSQL nothing is held.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: It cannot be reached.
        TimeoutError: Others hold it for too long.
    """
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=connect_args(url))
    keep_alive(engine)
    if engine.dialect.name != "postgresql":
        yield
        return
    until_s = time.monotonic() + PATIENCE_SECONDS
    while (connection := _locked(engine, b"osa-nas tables")) is None:
        if time.monotonic() > until_s:
            raise TimeoutError(f"other processes have been making its tables for {PATIENCE_SECONDS:g} s")
    with connection:
        yield


def _locked(engine: sqlalchemy.Engine, what: bytes) -> sqlalchemy.Connection | None:
    """Return a connection whose transaction holds a lock of a PostgreSQL server's; ``None`` if others had it for ``_LOCK_MS``."""
    connection = engine.connect()
    try:
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = {_LOCK_MS}"))
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": zlib.crc32(what)})
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlalchemy.exc.OperationalError) and _sqlstate(error) == _LOCK_NOT_AVAILABLE:
            return None
        raise
    return connection


def _sqlstate(error: sqlalchemy.exc.DBAPIError) -> str | None:
    # As psycopg and as psycopg2 name it.
    state: str | None = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return state


def _host() -> str:
    """Return the host's name, and what tells apart containers that share it: one's process ids say nothing of another's."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()}@{Path('/proc/self/ns/pid').stat().st_ino}"
    return socket.gethostname()


class ServerOwner:
    """This process as the owner of trials; see ``nas.owner.Owner``.

    Args:
        url: The database's.
        what: How messages call it.
        study: Whose trials these are.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: It cannot be reached.
    """

    def __init__(self, url: str, what: str, study: str) -> None:
        self.name = f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._what, self._study = what, study
        self._engine = sqlalchemy.create_engine(url, pool_pre_ping=True, connect_args=connect_args(url))
        keep_alive(self._engine)
        self._beats = 0
        self._seen: dict[str, _Pulse] = {}
        self._closed = threading.Event()
        self._is_postgresql = self._engine.dialect.name == "postgresql"
        self._begin()
        threading.Thread(target=self._beat, daemon=True).start()

    def _begin(self) -> None:
        with one_at_a_time(str(self._engine.url.render_as_string(hide_password=False))):
            _table.metadata.create_all(self._engine)
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.delete(_table).where(_table.c.name == self.name))
            connection.execute(sqlalchemy.insert(_table).values(name=self.name, beats=0))

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT_SECONDS):
            with contextlib.suppress(Exception):  # without a pulse this process would be taken for dead
                with self._engine.begin() as connection:
                    mine = sqlalchemy.update(_table).where(_table.c.name == self.name)
                    connection.execute(mine.values(beats=_table.c.beats + 1))
                self._beats += 1

    def lives(self, name: str) -> bool:
        """Whether the owner of that name is alive, as far as this process has watched it."""
        if not name or name == self.name:
            return bool(name)
        host, _, rest = name.rpartition("-")[0].rpartition("-")
        if host == _host() and rest.isdigit() and not os.path.exists(f"/proc/{rest}"):
            return False

        def beats() -> int | None:
            with self._engine.connect() as connection:
                found = connection.execute(sqlalchemy.select(_table.c.beats).where(_table.c.name == name)).scalar()
                return None if found is None else int(found)

        now = patiently(beats, self._what)
        if now is None:
            return False
        before = self._seen.get(name)
        if before is None or now != before.beats:
            self._seen[name] = _Pulse(now, self._beats, moved=before is not None)
            return True
        return (self._beats - before.since) * _BEAT_SECONDS < DEAD_AFTER_SECONDS

    def is_unsure(self, name: str) -> bool:
        """Whether another owner's pulse, as ``lives`` saw it last, has not moved yet, or for longer than a beat takes."""
        seen = self._seen.get(name)
        return seen is not None and (not seen.moved or self._beats - seen.since > _LATE_BEATS)

    def election(self) -> AbstractContextManager[None]:
        """Return the lock under which trials are asked for and change hands, so that no two take the same one."""
        return self._election()

    @contextlib.contextmanager
    def _election(self) -> Iterator[None]:
        if not self._is_postgresql:
            yield
            return
        # Patience is for a server that is away, each time anew: as long as others choose, there is nothing to say.
        what = f"osa-nas {self._study}".encode()
        while (connection := patiently(lambda: _locked(self._engine, what), self._what)) is None:
            pass
        try:
            yield
        finally:
            try:
                connection.rollback()
            except sqlalchemy.exc.SQLAlchemyError as error:
                if not is_away(error):
                    raise
                connection.invalidate()  # the server went away, and the lock with it
            connection.close()

    def close(self) -> None:
        """Give up the name."""
        self._closed.set()
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(sqlalchemy.delete(_table).where(_table.c.name == self.name))
        self._engine.dispose()
