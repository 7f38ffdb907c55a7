"""Who works on a running trial: a name recorded with it, and a way to ask whether that process still lives."""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from nas.errors import InputError


class TrialOwner(Protocol):
    """What a study asks of whoever owns its trials."""

    @property
    def name(self) -> str:
        """Recorded with each trial."""
        ...

    def lives(self, name: str) -> bool:
        """Whether the owner of that name is alive, as far as is known."""
        ...

    def is_unsure(self, name: str) -> bool:
        """Whether it may turn out to be dead without anything happening meanwhile: ask again."""
        ...

    def election(self) -> AbstractContextManager[Any]:
        """Return the lock under which trials are asked for and change hands."""
        ...

    def close(self) -> None:
        """Give up the name."""
        ...


class Owner:
    """This process as the owner of trials. The system frees its lock when it dies, however it dies.

    Args:
        folder: Where the owners of a study keep their locks; made if it is not there.

    Raises:
        InputError: If it cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._lock = FileLock(folder / f"{self.name}.lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror}): choose another run_dir or study.storage.") from None

    def lives(self, name: str) -> bool:
        """Whether the owner of that name is alive; one on another host that left no lock here cannot be asked and is spared."""
        if not name or name == self.name:
            return bool(name)
        path = self._folder / f"{name}.lock"
        if not path.exists():
            return not name.startswith(f"{socket.gethostname()}-")
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return True
        path.unlink(missing_ok=True)
        return False

    def is_unsure(self, name: str) -> bool:
        """See ``TrialOwner``; a lock is held or it is not."""
        return False

    def election(self) -> FileLock:
        """Return the lock under which trials of dead owners change hands, so that no two take the same one."""
        return FileLock(self._folder / "election.lock")

    def close(self) -> None:
        """Give up the name."""
        self._lock.release()
        (self._folder / f"{self.name}.lock").unlink(missing_ok=True)
