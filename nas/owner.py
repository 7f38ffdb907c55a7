"""Who works on a running trial: a name recorded with it, and a way to ask whether that process still lives."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

from filelock import FileLock, Timeout


class Owner:
    """This process as the owner of trials. The system frees its lock when it dies, however it dies.

    Args:
        folder: Where the owners of a study keep their locks; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._lock = FileLock(folder / f"{self.name}.lock")
        self._lock.acquire()

    def lives(self, name: str) -> bool:
        """Whether the owner of that name is alive; an owner that never locked anything here is taken for dead."""
        if name == self.name:
            return True
        path = self._folder / f"{name}.lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return True
        path.unlink(missing_ok=True)
        return False

    def election(self) -> FileLock:
        """Return the lock under which trials of dead owners change hands, so that no two take the same one."""
        return FileLock(self._folder / "election.lock")

    def close(self) -> None:
        """Give up the name."""
        self._lock.release()
        (self._folder / f"{self.name}.lock").unlink(missing_ok=True)
