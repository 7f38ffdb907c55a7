"""What a worker is inside: a warm process with CPUs and a log of its own that evaluates one request after the other.

Keeping workers, and replacing those that die, is ``nas.local``'s.
"""

from __future__ import annotations

import faulthandler
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.cli import quiet_libraries
from nas.errors import RunError
from nas.evaluate import Evaluation, EvaluationRequest, Metrics, evaluate
from nas.measure.nvml import count_as_ours
from nas.processes import end_with
from nas.train import module as _module  # noqa: F401 - Lightning takes seconds to import: workers are forked with it loaded

_report: Callable[[int, str], None]


@dataclass(frozen=True)
class Post:
    """A worker's place.

    Attributes:
        name: Unique among the workers of a search.
        cpus: Those that it may use; ``None`` for all.
        log: Where all that it writes goes.
        folder: Its working directory.
        family: Process of the search: whatever descends from it on the same GPU is no stranger there.
        contexts: How many of these processes may be on one GPU.
        paths: Where modules are looked for.
    """

    name: str
    cpus: tuple[int, ...] | None
    log: Path
    folder: Path
    family: int
    contexts: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Worked:
    """What a worker hands back.

    Attributes:
        is_spent: Whether the process can evaluate nothing more: its GPU is lost to it.
    """

    evaluation: Evaluation
    is_spent: bool = False


def begin(post: Post, lifeline: multiprocessing.connection.Connection, reports: multiprocessing.connection.Connection) -> None:
    """Take up the post: the first thing that a worker does.

    Args:
        post: The place.
        lifeline: Its other end is held by the search's process alone: when that dies, so does the worker.
        reports: Takes the number of a piece of work and the stage that it enters; of number 0, the process's own number.
    """
    global _report
    _redirect(post.log)
    # A terminal sends Ctrl-C to every process of the command; the search tells its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once, also where a library holds the interpreter
    threading.Thread(target=end_with, args=(lifeline,), daemon=True).start()
    os.chdir(post.folder)
    sys.path[:] = post.paths
    quiet_libraries()
    count_as_ours(post.family, post.contexts)
    if post.cpus is not None:
        os.sched_setaffinity(0, post.cpus)
        torch.set_num_threads(min(torch.get_num_threads(), len(post.cpus)))

    def report(number: int, stage: str) -> None:
        # Short enough to be written whole or not at all (POSIX: up to PIPE_BUF), so that a death leaves no half message.
        reports.send_bytes(f"{number} {stage}".encode()[:512])

    _report = report
    report(0, str(os.getpid()))


def work(number: int, request: EvaluationRequest) -> Worked:
    """Evaluate a request.

    Raises:
        InputError: See ``nas.evaluate.evaluate``.
    """
    faulthandler.disable()  # libraries that were imported since may have taken the signals back
    faulthandler.enable(2, all_threads=False)
    try:
        return Worked(evaluate(request, lambda stage: _report(number, stage)))
    except RunError as error:
        lost = Evaluation(Metrics(request.architecture.id), failure="crash", failure_reason=str(error))
        return Worked(lost, is_spent=True)


def _redirect(log: Path) -> None:
    """Let everything that this process writes, in whatever language, go to its log."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
