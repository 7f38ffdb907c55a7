"""One measurement at a time on one physical device, and no training beside it, across all processes and users of a machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch
from filelock import FileLock, Timeout

from nas.measure.nvml import cuda_uuid
from nas.measure.record import SensorError

# A cluster's scheduler gives each job a TMPDIR of its own, so that two jobs on one board would not meet there.
_SHARED = Path("/tmp")


@contextmanager
def exclusive(device: torch.device, wait_seconds: float) -> Iterator[None]:
    """Hold the device's lock for the block; a process that dies lets go of it. Within one thread it may be nested.

    Whoever waits for it stands at the door, where trainings (``Shared``) pass by from time to time: they let it in. The lock is
    a file, named after the board's UUID, in a folder that all users may write. Containers that do not share it
    do not see each other's: there only NVML's list of processes tells.

    Raises:
        SensorError: Another process held it for ``wait_seconds``, or the file cannot be made.
    """
    path = lock_path(device)
    try:
        _make_shared(path.parent)
        with contextlib.ExitStack() as stack:
            until_s = time.monotonic() + wait_seconds
            for lock_file in (_door(path), path):
                lock = FileLock(lock_file, mode=0o666, is_singleton=True)
                stack.enter_context(lock.acquire(timeout=max(0.0, until_s - time.monotonic())))
            held = stack.pop_all()
    except Timeout:
        raise SensorError(f"another process measured or trained on {device} for all of {wait_seconds:g} s") from None
    except OSError as error:
        raise SensorError(f"the lock {path} cannot be taken ({error.strerror})") from error
    with held:
        yield


class Shared:
    """Holds a device together with other trainings, and with no measurement, for a block.

    Where no lock can be made it holds nothing: then nobody can measure there either.
    """

    def __init__(self, device: torch.device) -> None:
        self._path = lock_path(device)
        self._descriptors: list[int] = []

    def __enter__(self) -> Shared:
        with contextlib.suppress(OSError):
            _make_shared(self._path.parent)
            for path in (_door(self._path), self._path):
                before = os.umask(0)
                try:
                    self._descriptors.append(_open(path))
                finally:
                    os.umask(before)
            self._enter()
            return self
        self._close()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()  # and with it goes the lock

    def give_way(self) -> None:
        """Let those in who wait for the device alone, and come back after them."""
        if self._descriptors:
            fcntl.flock(self._descriptors[1], fcntl.LOCK_UN)
            self._enter()

    def _enter(self) -> None:
        door, inside = self._descriptors
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(inside, fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)

    def _close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_CREAT, 0o666)
    except PermissionError:
        # Of another user's file in a folder that all may write to, Linux refuses that it might be made (fs.protected_regular).
        return os.open(path, flags)


def _door(path: Path) -> Path:
    return path.with_suffix(".door")


def lock_path(device: torch.device) -> Path:
    """Return the file that stands for a device."""
    folder = _SHARED if _SHARED.is_dir() else Path(tempfile.gettempdir())
    name = "cpu" if device.type == "cpu" else re.sub(r"[^A-Za-z0-9-]", "", cuda_uuid(device))
    return folder / "osa-nas-locks" / f"{name}.lock"


def _make_shared(folder: Path) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        return
    folder.chmod(0o1777)  # as the folder above: everybody may add files, nobody remove another's
