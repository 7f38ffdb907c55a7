"""A fresh process for one piece of work: nothing that ran before it lies in its memory, and its death is not ours."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from nas.cli import quiet_libraries


@contextlib.contextmanager
def fresh_process() -> Iterator[ProcessPoolExecutor]:
    """Give an executor with one new process for the block; its death raises ``BrokenProcessPool`` where a result is asked for."""
    context = multiprocessing.get_context("spawn")  # a forked process would share this one's CUDA state and threads
    with ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=quiet_libraries) as pool:
        yield pool
