"""A queue before slots that take one evaluation at a time: what the engines that have several workers share.

Whose worker was killed from outside is begun again, and whose memory ran out beside others is tried again alone. What a slot is,
a process here or a seat on another machine, is the engines'.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Protocol

from nas.engine import OnStage
from nas.evaluate import Evaluation, EvaluationRequest, Failure, Metrics

MOST_KILLS = 3
"""Times that an evaluation is begun whose worker was killed from outside before the candidate is taken for the cause."""


@dataclass
class Job:
    """An evaluation that was asked for.

    Attributes:
        stage: The one that it has come to.
        begun: How often it was begun.
        alone: Whether nothing else may be under way on its device.
    """

    number: int
    request: EvaluationRequest
    on_stage: OnStage
    promise: Future[Evaluation] = field(default_factory=Future)
    stage: str = "begin"
    begun: int = 0
    alone: bool = False

    def failed(self, failure: Failure, reason: str, log: str = "") -> Evaluation:
        """Return an evaluation that came to nothing, with what had been measured before."""
        begun = self.request.begun
        metrics = Metrics(self.request.architecture.id) if begun is None else begun.metrics
        return Evaluation(metrics, failure=failure, failure_reason=reason, failure_log=log)


class Slot(Protocol):
    """Takes one job at a time.

    Attributes:
        job: The one that it has.
        told: Where that is, for the record.
    """

    job: Job | None
    told: str

    @property
    def device(self) -> str:
        """What its jobs share with those of the slots that say the same."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether it can take a job, if it has none."""
        ...

    def begin(self, job: Job) -> None:
        """Take a job; never waits for its end, which ``Slots.ended`` is to be told."""
        ...


class Slots:
    """The queue.

    Args:
        slots: In the order in which they are filled.

    Attributes:
        lock: Held while jobs change places.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.lock = threading.RLock()
        self._slots = slots
        self._waiting: deque[Job] = deque()
        self._closed = False
        self._broken: BaseException | None = None

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        """See ``nas.engine.Engine``; ``on_stage`` is called in another thread."""
        job = Job(number, request, on_stage)
        with self.lock:
            self._waiting.append(job)
            self.hand_out()
        if self._broken is not None:
            self.give_up(self._broken)
        return job.promise

    def close(self) -> None:
        """Begin nothing any more."""
        with self.lock:
            self._closed = True

    def hand_out(self) -> None:
        """Give what waits to slots that are free; a job that must be alone on its device waits for that."""
        with self.lock:
            for slot in self._slots:
                if self._closed or not self._waiting:
                    return
                neighbours = self._neighbours(slot)
                if not slot.is_open or slot.job is not None or any(n.job is not None and n.job.alone for n in neighbours):
                    continue
                if self._waiting[0].alone and any(neighbour.job is not None for neighbour in neighbours):
                    continue
                job = self._waiting.popleft()
                job.begun += 1
                job.stage = "begin"
                slot.job = job
                slot.begin(job)

    def ended(self, slot: Slot, job: Job, result: Evaluation | BaseException, killed: bool) -> None:
        """Take what came of a slot's job, or begin it again.

        Args:
            slot: It is free now.
            job: The job.
            result: What the evaluation came to, or what went wrong and is no candidate's fault.
            killed: Whether its worker was killed from outside.
        """
        again = None
        with self.lock:
            slot.job = None
            if killed and job.begun < MOST_KILLS and not self._closed:
                again = job
            elif (
                isinstance(result, Evaluation) and result.failure == "out_of_memory" and not job.alone and self._neighbours(slot)
            ):
                job.alone = True  # its neighbours may have had the memory
                again = job
            if again is not None:
                self._waiting.appendleft(again)
            self.hand_out()
        if again is not None or job.promise.cancelled():
            return
        if isinstance(result, Evaluation):
            before = job.request.begun
            measured_by = None if before is None else before.measured_by
            job.promise.set_result(replace(result, worker=slot.told, measured_by=measured_by, begun=job.begun))
        else:
            job.promise.set_exception(result)

    def give_up(self, error: BaseException) -> None:
        """Let everything that waits, now or later, end with an error: there is nobody left to take it."""
        with self.lock:
            self._broken = error
            waiting, self._waiting = list(self._waiting), deque()
        for job in waiting:
            job.promise.set_exception(error)

    def _neighbours(self, slot: Slot) -> list[Slot]:
        return [other for other in self._slots if other is not slot and other.device == slot.device]
