"""Keeps a whole copy of a study's file beside it, for the day on which the file itself cannot be read."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from nas.errors import InputError

EVERY_SECONDS = 600.0
"""How old the copy becomes while trials are told."""

_LEFT_SECONDS = 3600.0
"""How old a file is that nobody writes any more."""


class Backup:
    """The copy of one file.

    Args:
        file: A SQLite database or a journal.
        is_journal: Which of them.
    """

    def __init__(self, file: Path, is_journal: bool) -> None:
        self._file, self._copy = file, file.with_name(f"{file.name}.backup")
        self._make: Callable[[Path], bool] = self._copy_journal if is_journal else self._copy_database
        self._left = () if is_journal else (f"{file}-wal", f"{file}-shm")
        drop_leftovers(self._copy)

    def make_if_due(self) -> None:
        """Make it, unless there is one that is younger than ``EVERY_SECONDS``."""
        try:
            age_s = time.time() - self._copy.stat().st_mtime
        except FileNotFoundError:
            age_s = EVERY_SECONDS
        if age_s >= EVERY_SECONDS:
            self.make()

    def make(self) -> None:
        """Make it now; whoever reads it finds the old or the new one whole. A damaged file and a full disk leave the old one."""
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._file.parent, prefix=f".{self._copy.name}.")
        except OSError:
            return
        os.close(descriptor)
        try:
            if self._make(Path(temporary)):
                Path(temporary).replace(self._copy)
        except (OSError, sqlite3.Error):
            return  # the file itself says so where it is written or read
        finally:
            Path(temporary).unlink(missing_ok=True)

    def check(self) -> None:
        """Refuse to begin anew where a study was lost: the next copy would take the place of the one that is left.

        Raises:
            InputError: The file is gone or empty, and a copy of it is there.
        """
        lost = not os.path.exists(self._file) or self._file.stat().st_size == 0
        if lost and os.path.exists(self._copy):
            raise InputError(
                f"{self._file} is gone, and {self._copy} is a copy of it: copy that to its place, or remove it too to begin anew."
            )

    def remedy(self) -> str:
        """Say what to do where the file cannot be read."""
        try:
            made = datetime.fromtimestamp(self._copy.stat().st_mtime)
        except OSError:
            return "restore a copy of it, or move it away to begin anew"
        also = f", remove {' and '.join(self._left)}" if any(os.path.exists(path) for path in self._left) else ""
        return f"move it away{also}, and copy {self._copy} (of {made:%Y-%m-%d %H:%M}) to its place"

    def _copy_database(self, to: Path) -> bool:
        if not self._file.stat().st_size:
            return False  # SQLite takes it for a database without tables
        with (
            # Not to be made where it is gone: an empty copy would take the place of a good one.
            contextlib.closing(sqlite3.connect(f"{self._file.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as source,
            contextlib.closing(sqlite3.connect(to)) as target,
        ):
            source.backup(target)
            whole: bool = target.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        with to.open("rb+") as file:
            os.fsync(file.fileno())
        return whole

    def _copy_journal(self, to: Path) -> bool:
        content = self._file.read_bytes()
        if not content:
            return False
        with to.open("wb") as file:
            # What another process was writing just now may be there in part.
            file.write(content[: content.rfind(b"\n") + 1])
            file.flush()
            os.fsync(file.fileno())
        return True


def drop_leftovers(path: Path) -> None:
    """Remove the parts of a file that lie beside it, hidden, since processes were killed while they wrote it anew."""
    with contextlib.suppress(OSError):
        for left in path.parent.iterdir():
            if left.name.startswith(f".{path.name}.") and time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                left.unlink()
