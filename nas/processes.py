"""Processes apart from this one: nothing that ran before is in their memory; their death is not ours, ours is their end."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext, ForkServerContext

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


def spawner(on_gpu: bool) -> BaseContext:
    """Return the context in which workers begin.

    On a GPU each is a new process: a library that only asked for GPUs while it was imported would leave a forked one none.
    """
    return multiprocessing.get_context("spawn") if on_gpu else forkserver()


def forkserver() -> ForkServerContext:
    """Return the context of processes that begin with the worker's libraries loaded; the first call begins to load them.

    They are forked from a server that is a process of its own and does nothing else, so none has a copy of this process's
    threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nas.worker"])
    multiprocessing.forkserver.ensure_running()
    return context


def _begin(lifeline: Connection) -> None:
    quiet_libraries()
    # A terminal sends Ctrl-C to every process of the command; the lifeline tells this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(lifeline,), daemon=True).start()


def end_with(lifeline: Connection) -> None:
    """Wait until its other end is closed, by its owner or by the system when the owner died, and end this process."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
