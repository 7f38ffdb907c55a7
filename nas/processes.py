"""A fresh process for one piece of work: nothing that ran before is in its memory; its death is not ours, ours is its end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection

from nas.cli import quiet_libraries


@contextlib.contextmanager
def fresh_process() -> Iterator[ProcessPoolExecutor]:
    """Give an executor with one new process for the block; its death raises ``BrokenProcessPool`` where a result is asked for.

    The process ends at once, whatever it is doing, when the block is left by an exception such as Ctrl-C's, and when this
    process dies: an orphan would go on measuring, and hold the device's lock and memory.
    """
    context = multiprocessing.get_context("spawn")  # a forked process would share this one's CUDA state and threads
    theirs, ours = context.Pipe(duplex=False)
    with (
        theirs,
        ours,
        ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=_begin, initargs=(theirs,)) as pool,
    ):
        try:
            yield pool
        except BaseException:
            ours.close()
            raise


def _begin(lifeline: Connection) -> None:
    quiet_libraries()
    # A terminal sends Ctrl-C to every process of the command; the lifeline tells this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    """Wait until its other end is closed, by its owner or by the system when the owner died, and end this process."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
