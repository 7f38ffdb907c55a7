"""Workers that do not begin: they hang where they should take up their post, as in an import from a share that is gone."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

from nas import worker
from nas.worker import Post

_LONG_SECONDS = 120.0


def tries(log: Path) -> Path:
    """Return the file with a letter for each worker that was to begin."""
    return log.with_suffix(".tries")


def begin_at_the_second_try(post: Post, lifeline: Connection, reports: Connection) -> None:
    if _noted(post) < 2:
        time.sleep(_LONG_SECONDS)
    worker.begin(post, lifeline, reports)


def begin_never(post: Post, lifeline: Connection, reports: Connection) -> None:
    _noted(post)
    time.sleep(_LONG_SECONDS)


def _noted(post: Post) -> int:
    with tries(post.log).open("a") as file:
        file.write("x")
    return tries(post.log).stat().st_size
