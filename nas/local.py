"""Evaluates on this machine, in warm worker processes apart from the one that holds the study: one per device, or several.

Whatever a candidate does to its worker, exhaust memory, crash, exit or hang, ends that candidate alone: its evaluation says
what happened, with the end of the worker's log, and a new worker takes the place. Processes are pebble's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import TracebackType
from typing import Any

from pebble import ProcessExpired, ProcessPool

from nas import worker
from nas.config.search import TimeoutSettings
from nas.engine import OnStage
from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest, Failure
from nas.failures import first_line
from nas.processes import spawner
from nas.slots import Job, Slots
from nas.worker import Post

_TAIL_BYTES = 8000  # of which a crash's stack takes half for the names of loaded libraries
_WATCH_SECONDS = 0.05
_GRACE_SECONDS = 2.0
_START_SECONDS = 600.0
"""How long a worker may take to begin: a new one loads its libraries first, which takes a while from a slow disk."""

_FORKSERVER_GONE = 255
"""The exit code that multiprocessing gives a forked process of which it cannot learn any more how it ended."""

_KILLED = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals that others send; a candidate's own faults end in other ones."""


@dataclass(frozen=True)
class Place:
    """Where a worker works.

    Attributes:
        device: As torch calls it.
        cpus: Those that it may use; ``None`` for all.
    """

    device: str
    cpus: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Family:
    """The processes of one program.

    Attributes:
        head: The process that all others descend from.
        contexts: How many of them may be on one GPU.
    """

    head: int
    contexts: int


@dataclass(frozen=True)
class _Stay:
    """Where a job is on its way, and how long it has been in the parts of it.

    Attributes:
        part: One of those of ``engine.timeout``, or ``None`` while none of them counts.
        since_s: When it came there, in seconds of ``time.monotonic``.
        before_s: What it had spent in each part before it came there.
    """

    part: str | None
    since_s: float
    before_s: Mapping[str, float] = field(default_factory=dict)

    def spent_s(self, now_s: float) -> float:
        """Return how long it has been in its part by now, with the times before it left it for another one."""
        return self.before_s.get(self.part or "", 0.0) + now_s - self.since_s

    def then(self, part: str | None, now_s: float) -> _Stay:
        """Return where it is once it has come to a part."""
        if part == self.part:
            return self
        before_s = self.before_s if self.part is None else {**self.before_s, self.part: self.spent_s(now_s)}
        return _Stay(part, now_s, before_s)


class LocalEngine:
    """See ``nas.engine.Engine``. Use it as a context manager: leaving it ends all workers at once.

    Args:
        places: One for each worker.
        folder: Where workers keep their logs; made if it is not there.
        deadlines: How long an evaluation may take; those of the configuration's defaults, if not given.
        family: Whose processes on a GPU are no strangers there; this process's, if not given.
    """

    def __init__(
        self,
        places: Sequence[Place],
        folder: Path,
        deadlines: TimeoutSettings | None = None,
        family: Family | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._deadlines = deadlines or TimeoutSettings()
        self._closed = threading.Event()
        self._is_first = True
        shared = {place.device: sum(other.device == place.device for other in places) for place in places}
        # The search itself, which probed the device, is the first that may hold a CUDA context.
        kin = [family or Family(os.getpid(), 1 + shared[place.device]) for place in places]
        self._slots = [_Slot(f"worker-{index}", place, kin[index], folder, self._ended) for index, place in enumerate(places)]
        self._queue = Slots(self._slots)
        self._watch = threading.Thread(target=self._watch_deadlines, daemon=True)

    @property
    def capacity(self) -> int:
        """How many evaluations may be under way at once."""
        return len(self._slots)

    def __enter__(self) -> LocalEngine:
        for slot in self._slots:
            slot.open()
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        self._queue.close()
        for slot in self._slots:
            slot.stop()
        for slot in self._slots:
            slot.close()

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        """See ``Engine``; ``on_stage`` is called in another thread.

        Raises:
            InputError: A request of this kind cannot be sent to a worker.
        """
        if self._is_first:  # some of what a user's class may raise would end pebble's own threads
            if (refusal := _unsendable(request)) is not None:
                raise refusal
            self._is_first = False
        return self._queue.submit(number, request, on_stage)

    def _ended(self, slot: _Slot, job: Job, result: Evaluation | BaseException, killed: bool) -> None:
        self._queue.ended(slot, job, result, killed)

    def _watch_deadlines(self) -> None:
        while not self._closed.wait(_WATCH_SECONDS):
            with self._queue.lock:
                for slot in self._slots:
                    slot.notice_death()
                    slot.notice_overtime(self._deadlines)


class _Slot:
    """One worker, whichever process that is at the moment."""

    def __init__(
        self,
        name: str,
        place: Place,
        family: Family,
        folder: Path,
        ended: Callable[[_Slot, Job, Evaluation | BaseException, bool], None],
    ) -> None:
        self.place = place
        self.job: Job | None = None
        self.told = f"{os.uname().nodename}/{place.device}/{name}"
        self._log = folder / f"{name}-{os.getpid()}.log"  # several commands may share a folder
        _drop_logs_of_the_dead(folder, name)
        self._family, self._ended = family, ended
        self._pool: ProcessPool | None = None
        self._changing = threading.Lock()
        self._stopped = False
        self._number = 0
        self._log_begins = 0
        self._kills_before = 0
        self._expired: str | None = None
        self._failure: Failure = "timeout"
        self._killed = False
        self._stay = _Stay(None, 0.0)
        self._lost_s: float | None = None
        self._at_work: int | None = None

    @property
    def device(self) -> str:
        """See ``Slot``."""
        return self.place.device

    @property
    def is_open(self) -> bool:
        """See ``Slot``; a worker that died is replaced when it is needed."""
        return True

    def open(self) -> None:
        context = spawner(on_gpu=self.place.device != "cpu")
        lifeline, self._lifeline = context.Pipe(duplex=False)
        self._reports, reports = context.Pipe(duplex=False)
        self._given = lifeline, reports
        self._pid: int | None = None
        post = Post(
            name=self._log.stem,
            cpus=self.place.cpus,
            log=self._log.resolve(),
            folder=Path.cwd(),
            family=self._family.head,
            contexts=self._family.contexts,
            paths=tuple(sys.path),
        )
        self._pool = ProcessPool(max_workers=1, initializer=worker.begin, initargs=(post, lifeline, reports), context=context)
        threading.Thread(target=self._listen, args=(self._reports,), daemon=True).start()

    def begin(self, job: Job) -> None:
        """Let the worker evaluate; never waits for it."""
        self._number += 1
        self._stay, self._expired = _Stay(None, time.monotonic()), None
        self._failure, self._killed, self._lost_s, self._at_work = "timeout", False, None, None
        self._log_begins = self._log.stat().st_size if self._log.exists() else 0
        self._kills_before = _kills_for_memory()
        request = job.request
        if request.device != self.place.device:
            measure = replace(request.measure, device=self.place.device)
            request = replace(request, device=self.place.device, measure=measure)
        number = self._number
        try:
            assert self._pool is not None
            future = self._pool.schedule(worker.work, args=(number, request))
        except RuntimeError:  # the worker died while it had nothing to do
            self._renew()
            assert self._pool is not None
            future = self._pool.schedule(worker.work, args=(number, request))
        if job.stage == "begin":  # the start of the pool, which may take a while, is no time of the worker's
            self._stay = _Stay(None, time.monotonic())
        self._future = future
        future.add_done_callback(lambda done: threading.Thread(target=self._take, args=(job, done), daemon=True).start())

    def expire(self, reason: str, failure: Failure = "timeout", killed: bool = False) -> None:
        """End the worker's process for a candidate that takes too long, or whose process is gone.

        Args:
            reason: What is recorded.
            failure: Likewise.
            killed: Whether the candidate is not the cause, and is to be begun again.
        """
        if self._expired is None:
            self._expired, self._failure, self._killed = reason, failure, killed
            self._future.cancel()  # type: ignore[no-untyped-call]

    def notice_death(self) -> None:
        """Give up a job whose worker is gone: one that ended with exit code 0 pebble replaces and tells nobody."""
        if self.job is None or self._at_work is None or self._expired is not None or not _is_gone(self._at_work):
            self._lost_s = None
        elif self._lost_s is None:
            self._lost_s = time.monotonic()  # what it sent before its end, or how it ended, may be on its way
        elif time.monotonic() - self._lost_s > _GRACE_SECONDS:
            self.expire(f"{self.job.stage}: its worker ended by itself", "crash")

    def notice_overtime(self, deadlines: TimeoutSettings) -> None:
        """Give up a job that takes too long, and begin one again that no worker has begun for too long."""
        job, stay, now_s = self.job, self._stay, time.monotonic()
        if job is None:
            return
        if job.stage == "begin" and stay.part is None and now_s - stay.since_s > _START_SECONDS:
            more = f", {job.begun} times" if job.begun > 1 else ""
            self.expire(f"begin: its worker did not begin within {_START_SECONDS:g} s{more}", "crash", killed=True)
            return
        limit_s = getattr(deadlines, stay.part) if stay.part is not None else None
        if limit_s is not None and stay.spent_s(now_s) > limit_s:
            self.expire(f"{job.stage}: no end within engine.timeout.{stay.part}={limit_s:g} s")

    def stop(self) -> None:
        """End the worker for good, whatever it is doing."""
        with self._changing:
            self._stopped = True
            self._end()

    def close(self) -> None:
        """Wait for the end of what ``stop`` has ended."""
        with self._changing:
            self._clear()

    def _renew(self) -> None:
        with self._changing:
            if not self._stopped:
                self._end()
                self._clear()
                self.open()

    def _end(self) -> None:
        if self._pool is not None:
            self._lifeline.close()
            self._pool.stop()  # type: ignore[no-untyped-call]

    def _clear(self) -> None:
        if self._pool is not None:
            self._pool.join()
            for end in (*self._given, self._reports):
                end.close()
            self._pool = None

    def _listen(self, reports: Connection) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, _, stage = reports.recv_bytes().decode().partition(" ")
                if number == "0":
                    self._pid = int(stage)
                    continue
                job = self.job
                if job is not None and int(number) == self._number:
                    self._at_work = self._pid  # which a process says before all else
                    job.stage = stage
                    self._stay = self._stay.then(_part_of(stage), time.monotonic())
                    with contextlib.suppress(Exception):  # a display that fails must not hide what the worker does
                        job.on_stage(job.number, stage)

    def _take(self, job: Job, future: Future[Any]) -> None:
        """Say what came of a job; in a thread of its own, as a pool must not be renewed by its own threads."""
        try:
            done = future.result()
        except CancelledError:
            if self._failure == "crash":
                self._renew()
            result = job.failed(self._failure, self._expired or "it was stopped", self._tail())
            self._ended(self, job, result, self._killed)
        except ProcessExpired as death:
            code = int(death.exitcode or 0)
            if code == _FORKSERVER_GONE:
                self._renew()
            self._ended(self, job, *self._died(job, code))
        except BrokenProcessPool:
            self._renew()
            result = job.failed("crash", f"{job.stage}: its worker died", self._tail())
            self._ended(self, job, result, True)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for whoever asked
            self._ended(self, job, _unsendable(job.request) or error, False)
        else:
            if done.is_spent:
                self._renew()
            evaluation = done.evaluation
            if evaluation.failure and not evaluation.failure_log:
                evaluation = replace(evaluation, failure_log=self._tail())
            self._ended(self, job, evaluation, False)

    def _died(self, job: Job, code: int) -> tuple[Evaluation, bool]:
        if code == _FORKSERVER_GONE:
            return job.failed("crash", f"{job.stage}: the process that workers are forked from died", self._tail()), True
        if code >= 0:
            return job.failed("crash", f"{job.stage}: its worker ended by itself with exit code {code}", self._tail()), False
        name = _name_of(-code)
        if -code == signal.SIGKILL and _kills_for_memory() > self._kills_before:
            return job.failed(
                "out_of_memory", f"{job.stage}: the system killed its worker as memory ran out", self._tail()
            ), False
        killed = -code in _KILLED
        more = f", {job.begun} times" if killed and job.begun > 1 else ""
        return job.failed("crash", f"{job.stage}: its worker died of {name}{more}", self._tail()), killed

    def _tail(self) -> str:
        """Return the end of what was written to the log since the job began."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._log_begins, self._log.stat().st_size - _TAIL_BYTES))
                text = file.read().decode(errors="replace").strip()
            return text.partition("\nExtension modules: ")[0].strip()
        except OSError:
            return ""


def _part_of(stage: str) -> str | None:
    if stage == "data":
        return "data"
    if stage in ("build", "complexity"):
        return "build"
    if stage in ("latency", "memory", "energy"):
        return "measure"
    return "train" if stage.startswith("train") else None


def _unsendable(request: EvaluationRequest) -> InputError | None:
    """Return what a user is told of a request that cannot be pickled; ``None`` if it can."""
    for key, owner, part in (
        ("space", request.space, request.space),
        ("space", request.space, request.architecture),
        ("data", request.data.source, request.data.source),
    ):
        try:
            ForkingPickler.dumps(part)
        except Exception as error:  # noqa: BLE001 - whatever a user's class raises
            name = f"{type(owner).__module__}.{type(owner).__qualname__}"
            return InputError(
                f"{key}._target_={name} cannot be sent to a worker ({first_line(error)}): keep in {type(part).__qualname__} "
                "nothing that cannot be pickled, or set engine.workers=0."
            )
    return None


def _is_gone(pid: int) -> bool:
    """Whether a process has ended, also if nobody has asked yet how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return os.path.exists("/proc/self")


def _drop_logs_of_the_dead(folder: Path, name: str) -> None:
    for path in folder.glob(f"{name}-*.log"):
        pid = path.stem.rpartition("-")[2]
        if pid == str(os.getpid()) or (pid.isdigit() and _is_gone(int(pid))):
            path.unlink(missing_ok=True)


def _kills_for_memory(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many processes of this control group the system has killed for want of memory; 0 where it does not tell."""
    group = ""
    with contextlib.suppress(OSError):
        group = next((line[3:].strip("/") for line in own.read_text(encoding="utf-8").splitlines() if line.startswith("0::")), "")
    # In a container the group's own path may be the host's: the file is then at the top.
    for folder in (cgroups / group, *(cgroups / group).parents):
        with contextlib.suppress(OSError, ValueError):
            for line in (folder / "memory.events").read_text(encoding="utf-8").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        if folder == cgroups:
            break
    return 0


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time ones have none
        return f"signal {number}"
