"""One measurement at a time on one physical device, and no training beside it, across all processes and users of a machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch
from filelock import FileLock

from nas.measure.nvml import cuda_uuid
from nas.measure.record import SensorError

# A cluster's scheduler gives each job a TMPDIR of its own, so that two jobs on one board would not meet there.
_SHARED = Path("/tmp")

_LOOK_SECONDS = 0.01
_QUEUE_SECONDS = 60.0
"""How long a training lets others before it who want to measure; then it waits for its turn at the door alone."""


@contextmanager
def exclusive(device: torch.device, wait_seconds: float) -> Iterator[None]:
    """Hold the device's lock for the block; a process that dies lets go of it. Within one thread it may be nested.

    Whoever waits for it stands in a queue, and trainings (``Shared``) let all of the queue in when they pass by from time to
    time. The lock is a file, named after the board's UUID, in a folder that all users may write. Containers that do not share it
    do not see each other's: there only NVML's list of processes tells.

    Raises:
        SensorError: Others held it for ``wait_seconds``, or the file cannot be made.
    """
    path = lock_path(device)
    try:
        _make_shared(path.parent)
        with contextlib.ExitStack() as stack:
            until_s = time.monotonic() + wait_seconds
            stack.enter_context(_queueing(_queue(path), until_s))
            for lock_file in (_door(path), path):
                lock = FileLock(lock_file, mode=0o666, is_singleton=True)
                stack.enter_context(lock.acquire(timeout=max(0.0, until_s - time.monotonic())))
            held = stack.pop_all()
    except TimeoutError:
        raise SensorError(
            f"another process measured or trained on {device} for all of measure.lock_seconds={wait_seconds:g} s"
        ) from None
    except OSError as error:
        raise SensorError(f"the lock {path} cannot be taken ({error.strerror})") from error
    with held:
        yield


class Shared:
    """Holds a device together with other trainings, and with no measurement, for a block.

    Where no lock can be made it holds nothing: then nobody can measure there either.

    Args:
        device: Which.
        on_wait: Called whenever it has to wait, before it does.

    Attributes:
        waited_s: How long it has waited so far.
    """

    def __init__(self, device: torch.device, on_wait: Callable[[], None] = lambda: None) -> None:
        self.waited_s = 0.0
        self._path, self._on_wait = lock_path(device), on_wait
        self._descriptors: list[int] = []

    def __enter__(self) -> Shared:
        try:
            _make_shared(self._path.parent)
            for path in (_queue(self._path), _door(self._path), self._path):
                self._descriptors.append(_open(path))
            self._enter()
        except OSError:
            self._close()
        except BaseException:  # such as Ctrl-C's while it waits
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def give_way(self) -> None:
        """Let all those in who wait for the device alone, and come back after them."""
        if self._descriptors:
            fcntl.flock(self._descriptors[-1], fcntl.LOCK_UN)
            self._enter()

    def _enter(self) -> None:
        queue, door, inside = self._descriptors
        # It can be had only while nobody stands there. Whoever comes to stand there after that finds this one inside, or is
        # before it at the door.
        self._pass(queue)
        fcntl.flock(queue, fcntl.LOCK_UN)
        self._take(door, fcntl.LOCK_EX)
        self._take(inside, fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)

    def _take(self, descriptor: int, kind: int) -> None:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError:  # it is held, or it cannot be had: waiting for it tells
            began_s = time.monotonic()
            self._on_wait()
            fcntl.flock(descriptor, kind)
            self.waited_s += time.monotonic() - began_s

    def _pass(self, queue: int) -> None:
        """Wait until nobody stands in the queue, but not for ever: where several always measure, somebody always does."""
        began_s = None
        while True:
            try:
                fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if began_s is None:
                    began_s = time.monotonic()
                    self._on_wait()
                if time.monotonic() - began_s > _QUEUE_SECONDS:
                    break
                time.sleep(_LOOK_SECONDS)
        if began_s is not None:
            self.waited_s += time.monotonic() - began_s

    def _close(self) -> None:
        for descriptor in self._descriptors:
            _let_go(descriptor)
        self._descriptors = []


@contextmanager
def _queueing(path: Path, until_s: float) -> Iterator[None]:
    """Stand in the queue for the block, with all others who measure or want to."""
    queue = _open(path)
    try:
        while True:
            try:
                fcntl.flock(queue, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # a training looks just now whether anybody is there
                if time.monotonic() > until_s:
                    raise TimeoutError from None
                time.sleep(_LOOK_SECONDS)
        yield
    finally:
        _let_go(queue)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW
    before = os.umask(0)
    try:
        return os.open(path, flags | os.O_CREAT, 0o666)
    except PermissionError:
        # Of another user's file in a folder that all may write to, Linux refuses that it might be made (fs.protected_regular).
        return os.open(path, flags)
    finally:
        os.umask(before)


def _let_go(descriptor: int) -> None:
    # A process that was forked meanwhile has the descriptor too, and closing this one alone would leave the lock to it.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _queue(path: Path) -> Path:
    return path.with_suffix(".queue")


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
