"""Back-to-back forward passes as a load: a poll lets them go on and tells what has come out.

What is read meanwhile is the energy meter's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nas.measure.subject import Subject
from nas.measure.windows import Done

BLOCK_SECONDS = 0.01
"""Passes are queued on a GPU in blocks of about this length, and completion is seen per block."""
QUEUED_SECONDS = 0.04
"""So much work may wait, two blocks at least, so that the GPU is busy while the host reads sensors."""
_MOST_PASSES = 1024

Poll = Callable[[], Done | None]


@contextmanager
def busy(subject: Subject) -> Iterator[Poll]:
    """Keep the device busy with ``subject`` as long as the poll is called; at the end wait for what is still queued.

    Run it within ``device.numeric_context``.
    """
    if subject.device.type == "cpu":
        yield _cpu_poll(subject)
        return
    try:
        yield _gpu_poll(subject)
    finally:
        torch.cuda.synchronize()


def _cpu_poll(subject: Subject) -> Poll:
    """Each poll runs one pass."""

    def poll() -> Done:
        subject.run()
        return Done(len(subject.example), time.perf_counter())

    return poll


def _gpu_poll(subject: Subject) -> Poll:
    """Each poll queues one block if it is wanted and takes one that is done; instants of completion are the GPU's own."""
    passes, block_s = _block(subject)
    blocks = max(2, round(QUEUED_SECONDS / block_s))
    origin = _event()
    queued: deque[torch.cuda.Event] = deque()

    def poll() -> Done | None:
        if len(queued) < blocks:
            for _ in range(passes):
                subject.run()
            queued.append(_event())
        if not queued[0].query():  # type: ignore[no-untyped-call]
            time.sleep(0.0005)
            return None
        return Done(passes * len(subject.example), origin.elapsed_time(queued.popleft()) / 1e3)

    return poll


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _block(subject: Subject) -> tuple[int, float]:
    """Return the passes of a block and how long it takes."""
    _seconds(subject, 1)  # picks algorithms
    passes = 1
    while (seconds := _seconds(subject, passes)) < BLOCK_SECONDS and passes < _MOST_PASSES:
        passes *= 2
    in_block = max(1, round(passes * BLOCK_SECONDS / seconds))
    return in_block, in_block * seconds / passes


def _seconds(subject: Subject, passes: int) -> float:
    started_s = time.perf_counter()
    for _ in range(passes):
        subject.run()
    torch.cuda.synchronize()
    return time.perf_counter() - started_s
