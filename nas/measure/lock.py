"""One measurement at a time on one physical device, across all processes and users of this machine."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from nas.measure.nvml import cuda_uuid
from nas.measure.record import SensorError

# A cluster's scheduler gives each job a TMPDIR of its own, so that two jobs on one board would not meet there.
_SHARED = Path("/tmp")


@contextmanager
def exclusive(device: torch.device, wait_seconds: float) -> Iterator[None]:
    """Hold the device's lock for the block; a process that dies lets go of it. Within one thread it may be nested.

    The lock is a file, named after the board's UUID, in a folder that all users may write. Containers that do not share it
    do not see each other's: there only NVML's list of processes tells.

    Raises:
        SensorError: Another process held it for ``wait_seconds``, or the file cannot be made.
    """
    path = lock_path(device)
    try:
        _make_shared(path.parent)
        lock = FileLock(path, mode=0o666, is_singleton=True)
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise SensorError(f"another process measured on {device} for all of {wait_seconds:g} s") from None
    except OSError as error:
        raise SensorError(f"the lock {path} cannot be taken ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()


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
