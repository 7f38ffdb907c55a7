"""Evaluates on the nodes of a Ray cluster: each seat there has a worker of ``nas.local``, so that candidates' faults end alike.

Ray places the seats and says when a node died; whose seat is lost is begun again elsewhere. Which seats there are is
``nas.cluster``'s.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from nas.cluster import Share, Staff, settle_in, unprepared
from nas.config.search import TimeoutSettings
from nas.engine import OnStage
from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest
from nas.local import Family, LocalEngine, Place
from nas.measure.fingerprint import fingerprint
from nas.processes import fresh_process
from nas.slots import MOST_KILLS, Job, Slots

_PATIENCE_SECONDS = 30.0
_FAREWELL_SECONDS = 5.0
_LOG_CHARACTERS = 4000


@dataclass(frozen=True)
class Kind:
    """The device that a study measures on.

    Attributes:
        identity: What must agree.
        threads: CPU threads while timing on a CPU.
        known: Ray's names of the nodes that are known to have such a device.
    """

    identity: Mapping[str, Any]
    threads: int | None
    known: frozenset[str]


@dataclass(frozen=True)
class Where:
    """Where a seat has come to stand.

    Attributes:
        node: Ray's name of the node.
        gpus: Ray's names of the GPUs that it was given.
    """

    host: str
    node: str
    gpus: tuple[str, ...]


class Desk:
    """A seat's far end: a Ray actor on a node with a worker process of its own, which a candidate cannot bring down.

    Args:
        folder: Where the command runs.
        device: As torch calls it in this process.
        deadlines: How long an evaluation may take.
        contexts: How many workers of the search may be on one GPU.
    """

    def __init__(self, folder: str, device: str, deadlines: TimeoutSettings, contexts: int) -> None:
        settle_in(folder)
        self._device = device
        self._logs = tempfile.mkdtemp(prefix="osa-nas-")
        # All workers of a node descend from the process that started this one.
        family = Family(os.getppid(), contexts)
        self._engine = LocalEngine([Place(device)], Path(self._logs), deadlines, family)
        self._engine.__enter__()

    def where(self) -> Where:
        """Tell where this is."""
        import ray

        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        return Where(os.uname().nodename, context.get_node_id(), tuple(map(str, gpus)))

    def identity(self, threads: int | None) -> dict[str, Any]:
        """Tell what the device is; by a process that ends, as asking takes some of a GPU's memory."""
        with fresh_process() as pool:
            return pool.submit(fingerprint, torch.device(self._device), threads).result().identity()

    def evaluate(self, number: int, request: EvaluationRequest) -> Iterator[str | Evaluation | InputError]:
        """Yield the stages as they begin, and at last what the evaluation came to."""
        stages: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        try:
            promise = self._engine.submit(number, request, lambda _, stage: stages.put(stage))
            promise.add_done_callback(lambda _: stages.put(None))
            while (stage := stages.get()) is not None:
                yield stage
            yield promise.result()
        except InputError as error:
            yield error

    def close(self) -> None:
        """End the worker, whatever it does."""
        self._engine.__exit__(None, None, None)
        shutil.rmtree(self._logs, ignore_errors=True)


class RayEngine:
    """See ``nas.engine.Engine``; the process is connected to the cluster. Leaving it ends all workers and the connection.

    Args:
        staff: How many workers of which kind.
        folder: Where the command runs.
        devices: As torch calls them on the nodes, the one that is measured on and the one that is trained on.
        deadlines: How long an evaluation may take.
        kind: What is measured on; a node that joins later and has another device measures nothing.
    """

    def __init__(
        self, staff: Staff, folder: Path, devices: tuple[str, str], deadlines: TimeoutSettings, kind: Kind | None = None
    ) -> None:
        def seats(share: Share | None, device: str, count: int, kind: Kind | None) -> tuple[list[_Seat], Slots]:
            made: list[_Seat] = []
            line = Slots(made)

            def gave_up(error: InputError) -> None:
                if all(seat.is_broken for seat in made):
                    line.give_up(error)

            if share is not None:
                arguments = (str(folder), device, deadlines, share.workers_per_gpu)
                made.extend(_Seat(share, device, arguments, line, gave_up, kind) for _ in range(count))
            return made, line

        self._measurers, self._measuring = seats(staff.measuring, devices[0], staff.measurers, kind)
        self._trainers, self._training = seats(staff.training, devices[1], staff.trainers, None if staff.measuring else kind)

    @property
    def capacity(self) -> int:
        """How many evaluations may be under way at once: fewer while a node is lost."""
        return max(1, sum(not seat.is_lost for seat in (*self._measurers, *self._trainers)))

    def __enter__(self) -> RayEngine:
        # First those that only some nodes can have: others would take their room.
        for seats in (self._measurers, self._trainers):
            for seat in seats:
                seat.open()
            for seat in self._measurers:
                seat.arrived.wait(_PATIENCE_SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import ray

        for line in (self._measuring, self._training):
            line.close()
        leaving = [ended for seat in (*self._measurers, *self._trainers) if (ended := seat.leave()) is not None]
        if leaving:
            ray.wait(leaving, num_returns=len(leaving), timeout=_FAREWELL_SECONDS)
        for seat in (*self._measurers, *self._trainers):
            seat.close()
        ray.shutdown()

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        """See ``Engine``; ``on_stage`` is called in another thread."""
        if not self._measurers or not request.measures:
            return self._training.submit(number, request, on_stage)
        promise: Future[Evaluation] = Future()

        def finish(trained: Future[Evaluation], measured: Evaluation) -> None:
            if error := trained.exception():
                promise.set_exception(error)
                return
            found = trained.result()
            begun = measured.begun + found.begun - 1
            promise.set_result(replace(found, begun=begun))

        def go_on(done: Future[Evaluation]) -> None:
            if error := done.exception():
                promise.set_exception(error)
                return
            measured = done.result()
            if request.only_measure:
                promise.set_result(measured)
                return
            if measured.failure or measured.gated_by:
                promise.set_result(replace(measured, measured_by=measured.worker))
                return
            rest = replace(request, begun=replace(measured, measured_by=measured.worker))
            self._training.submit(number, rest, on_stage).add_done_callback(lambda trained: finish(trained, measured))

        first = self._measuring.submit(number, replace(request, only_measure=True), on_stage)
        first.add_done_callback(go_on)
        return promise


class _Seat:
    """One worker of the cluster, on whichever node it is at the moment. See ``nas.slots.Slot``."""

    def __init__(
        self,
        share: Share,
        device: str,
        arguments: Sequence[Any],
        line: Slots,
        gave_up: Callable[[InputError], None],
        kind: Kind | None,
    ) -> None:
        self.job: Job | None = None
        self.told = ""
        self.device = f"{id(self)}"
        self.is_open = False
        self.is_lost = False
        self.is_broken = False
        self.arrived = threading.Event()
        self._share, self._on, self._arguments, self._line = share, device, arguments, line
        self._gave_up, self._kind = gave_up, kind
        self._desk: Any = None
        self._left = False
        self._changing = threading.Lock()

    def open(self, tries: int = MOST_KILLS) -> None:
        """Ask for a place; Ray waits until there is one, and this does not."""
        import ray

        with self._changing:
            if self._left:
                return
            options = {**self._share.options(), "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
            self._desk = ray.remote(Desk).options(**options).remote(*self._arguments)
            self._arrival = threading.Thread(target=self._arrive, args=(self._desk, tries), daemon=True)
            self._arrival.start()

    def _arrive(self, desk: Any, tries: int) -> None:
        import ray
        from ray.exceptions import RayError

        try:
            where: Where = ray.get(desk.where.remote())
            unlike = self._unlike(desk, where)
        except RayError as error:
            if tries > 1:
                self.open(tries - 1)
            elif not self._left:
                self._break(unprepared(error))
            return
        if unlike:
            self._break(InputError(f"engine=ray: {unlike}: name the nodes that measure with measure.resources."))
            return
        gpus = "+".join(where.gpus)
        self.told = f"{where.host}/{self._on}/{where.node[:8]}"
        self.device = f"{where.node}/{gpus}" if gpus else f"{where.host}/{self._on}"
        self.is_open, self.is_lost = True, False
        self.arrived.set()
        self._line.hand_out()

    def _break(self, error: InputError) -> None:
        """Take no jobs any more; the search goes on while another seat does."""
        self.is_lost = self.is_broken = True
        self.arrived.set()
        self._gave_up(error)

    def _unlike(self, desk: Any, where: Where) -> str | None:
        """Return how the device differs from what is measured on, if this seat measures; one of a known node does not."""
        import ray

        if self._kind is None or where.node in self._kind.known:
            return None
        found = ray.get(desk.identity.remote(self._kind.threads))
        if found == self._kind.identity:
            return None
        ours = self._kind.identity["name"]
        return f"{where.host}, which joined the cluster, has {found['name']}, and the study measures on {ours}"

    def begin(self, job: Job) -> None:
        """Let the worker evaluate; never waits for it."""
        request = job.request
        if request.device != self._on:
            request = replace(request, device=self._on)
        threading.Thread(target=self._follow, args=(job, request, self._desk), daemon=True).start()

    def _follow(self, job: Job, request: EvaluationRequest, desk: Any) -> None:
        try:
            result, killed = self._attend(job, request, desk)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for whoever asked, who would wait for ever
            result, killed = error, False
        self._line.ended(self, job, result, killed)

    def _attend(self, job: Job, request: EvaluationRequest, desk: Any) -> tuple[Evaluation | BaseException, bool]:
        """Wait for the end of a job; return what came of it, and whether its worker was killed from outside."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        found: Any = None
        try:
            for reference in desk.evaluate.options(num_returns="streaming").remote(job.number, request):
                found = ray.get(reference)
                if isinstance(found, str):
                    job.stage = found
                    job.on_stage(job.number, found)
        except RayTaskError as error:  # a defect, of ours or of the node's installation
            return (unprepared(error.cause) if isinstance(error.cause, ImportError) else error), False
        except RayError as error:
            more = f", {job.begun} times" if job.begun > 1 else ""
            if isinstance(error, OutOfMemoryError):
                result = job.failed("out_of_memory", f"{job.stage}: Ray ended its worker as the node's memory ran out{more}")
            else:
                result = job.failed(
                    "crash", f"{job.stage}: its node died, or its worker there{more}", str(error)[:_LOG_CHARACTERS]
                )
            self._renew(desk)
            return result, True
        if isinstance(found, Evaluation):
            job.begun += found.begun - 1
        return found, False

    def _renew(self, desk: Any) -> None:
        import ray

        self.is_open, self.is_lost = False, True
        ray.kill(desk)  # one that is only out of reach must not go on
        self.open()

    def leave(self) -> Any:
        """Begin to end the worker for good, whatever it is doing; returns what that is awaited by, if anything."""
        with self._changing:
            self._left = True
        return self._desk.close.remote() if self.is_open else None

    def close(self) -> None:
        """End it at once."""
        import ray

        ray.kill(self._desk)
        self._arrival.join(_FAREWELL_SECONDS)
