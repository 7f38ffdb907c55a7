"""Ctrl-C and SIGTERM as a request to stop: at once while a candidate is being evaluated, after the write while one is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """The user or the system asked to stop. Not a KeyboardInterrupt, which Lightning would turn into SystemExit."""


class InterruptGate:
    """Holds back a request to stop until it can do no harm."""

    def __init__(self) -> None:
        self.requested = False
        self._open = False
        self._process = os.getpid()

    @contextmanager
    def installed(self) -> Iterator[InterruptGate]:
        """Take over SIGINT and SIGTERM for the duration of the block; a second signal gets the default treatment."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise ``Interrupted`` inside this block, at once if the request came before it."""
        if self.requested:
            raise Interrupted
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker has inherited the handler; torch ends it quietly by this
            raise KeyboardInterrupt
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = True
        if self._open:
            self._open = False
            raise Interrupted
