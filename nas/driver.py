"""Keeps an engine busy until a study has its trials: asks, submits, and tells whatever ends, in the order in which it ends.

Where a scheduler may stop trainings early, a candidate is evaluated in stretches from rung to rung; behind the last one it is
timed in full, if a first look at its latency is not enough.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Protocol

from nas.beside import MOST_ATTEMPTS
from nas.engine import Engine, OnStage
from nas.errors import InputError, RunError, StorageAwayError
from nas.evaluate import Evaluation, EvaluationRequest, Metrics
from nas.interrupt import Interrupted, InterruptGate
from nas.outcomes import Outcome
from nas.plan import Asked
from nas.retrying import patiently
from nas.study import Study

MOST_FAILURES = 10
"""Candidates in a row that fail in one way before a search gives up: the rest would burn the budget."""

_LOOK_SECONDS = 0.5

_REMEDIES = {
    "out_of_memory": "Lower train.batch_size, measure.batch_size or train.packing, or narrow the space.",
    "timeout": "Raise engine.timeout, or look at the workers' logs for what they wait for.",
    "crash": "Look at the workers' logs, and let nas.doctor look at the device.",
    "diverged": "Lower train.peak_lr.",
    "error": "Mend what it says, in the space, the data or the device.",
}


class Observer(Protocol):
    """Is told what happens."""

    def asked(self, asked: Asked) -> None:
        """A candidate was chosen and is about to be evaluated."""
        ...

    def stage(self, number: int, stage: str) -> None:
        """A candidate entered a stage."""
        ...

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """An evaluation ended; its trial is not recorded yet."""
        ...

    def told(self, trial: Outcome) -> None:
        """A trial ended and is recorded."""
        ...


class ReferenceObserver(Protocol):
    """Is told what happens to the reference networks."""

    def reference_stage(self, name: str, stage: str) -> None:
        """A reference entered a stage."""
        ...

    def reference_told(self, reference: Outcome) -> None:
        """A reference was evaluated and is recorded."""
        ...


def run(
    study: Study,
    engine: Engine,
    request_for: Callable[[Asked], EvaluationRequest],
    observer: Observer,
    gate: InterruptGate,
) -> None:
    """Evaluate candidates until the study is full.

    Raises:
        Interrupted: If the gate was asked to stop. Trials that had ended are told; those under way are left running in the
            storage and are taken up again by the next run.
        RunError: Candidate after candidate failed in the same way.
    """
    streak = _Streak()
    pending: dict[Future[Evaluation], _Stretch] = {}

    def submit(stretch: _Stretch) -> None:
        try:
            with gate.interruptible():
                future = engine.submit(stretch.number, stretch.request, observer.stage)
        except (Interrupted, InputError, RunError) as error:
            if stretch.trained is not None:
                tell(stretch.number, stretch.trained)  # its timing is made good when the study ends
            elif not isinstance(error, RunError):
                study.release(stretch.number)
            raise
        pending[future] = stretch

    def train(number: int, request: EvaluationRequest, passed: int = 0) -> None:
        """Evaluate up to the next rung: of those that it has passed, if its state is lost, it is not judged again."""
        done = request.begun.metrics.epochs or 0 if request.begun is not None else 0
        rung = study.scheduler.next_rung(max(done, passed))
        submit(_Stretch(number, replace(request, until_epoch=rung, keep_state=rung is not None)))

    def tell(number: int, evaluation: Evaluation, stopped_at: int | None = None) -> Outcome:
        patiently(lambda: observer.evaluated(number, evaluation), "the run folder")  # as a full disk is waited for
        outcome = study.tell(number, evaluation, stopped_at)
        observer.told(outcome)
        return outcome

    def take_done() -> None:
        for future in [future for future in pending if future.done()]:
            stretch = pending[future]
            # What these raise leaves the trial among those under way.
            evaluation = stretch.joined(future.result())
            looked_at = stretch.leaves_timing(evaluation)
            goes_to_meter = looked_at and not study.first_look_is_enough(evaluation, stretch.timing_seconds)
            del pending[future]
            number, request = stretch.number, stretch.request
            if not stretch.is_last(evaluation):
                if study.goes_on(number, evaluation):
                    train(number, replace(request, begun=evaluation))
                else:
                    streak.add(tell(number, evaluation, request.until_epoch))
            elif goes_to_meter:
                submit(stretch.timing(evaluation))
            else:
                streak.add(tell(number, evaluation))

    def give_up(is_away: bool = False) -> None:
        """Tell what has ended and release the rest; while the storage is away, keep what has ended for the next run."""
        for future, stretch in pending.items():
            number = stretch.number
            evaluation = stretch.joined(future.result()) if future.done() and future.exception() is None else stretch.trained
            try:
                if evaluation is None or not stretch.is_last(evaluation):
                    if not is_away:
                        study.release(number)
                elif is_away:
                    with contextlib.suppress(OSError):
                        observer.evaluated(number, evaluation)
                        study.keep(number, evaluation)
                else:
                    tell(number, evaluation)
            except StorageAwayError:
                is_away = True
        if not is_away:
            study.release_waiting()

    try:
        while True:
            take_done()
            while len(pending) < engine.capacity:
                asked = study.ask()
                for outcome in study.told_meanwhile():
                    observer.told(outcome)
                if asked is None:
                    break
                observer.asked(asked)
                request, passed = request_for(asked), 0
                if asked.begun is not None:
                    passed = asked.begun.attributes["stopped_at"]
                    study.resumes(asked.number, anew=request.begun is None)
                train(asked.number, request, passed)
            if not pending and not study.waits and not study.watches:
                return
            with gate.interruptible():
                if pending:
                    wait(pending, timeout=_LOOK_SECONDS if study.waits else None, return_when=FIRST_COMPLETED)
                else:
                    time.sleep(_LOOK_SECONDS)  # for trials of other processes
    except StorageAwayError:
        give_up(is_away=True)
        raise
    except (Interrupted, InputError, RunError):
        give_up()
        raise


@dataclass(frozen=True)
class _Stretch:
    """A part of a candidate's way that is under way.

    Attributes:
        trained: What the training came to, where only the timing is left; ``None`` before that.
    """

    number: int
    request: EvaluationRequest
    trained: Evaluation | None = None

    def joined(self, found: Evaluation) -> Evaluation:
        """Return what was found together with what a timing leaves out; of one that failed, what was known before it."""
        if self.trained is None:
            return found
        before = self.trained
        if found.failure:
            reason = f"it could not be timed in full: {found.failure_reason}"
            return replace(before, reasons={**before.reasons, "latency_brief": reason}, begun=before.begun + found.begun - 1)
        measured_by = None if found.worker == before.worker else found.worker
        if found.metrics.latency_brief:
            measured_by = before.measured_by
        return replace(
            found,
            state=before.state,
            weights=before.weights,
            worker=before.worker,
            measured_by=measured_by,
            begun=before.begun + found.begun - 1,
        )

    def is_last(self, evaluation: Evaluation) -> bool:
        """Whether the candidate came to the end of its training, and not to a rung of it, or will never come there."""
        return bool(evaluation.failure or evaluation.gated_by) or self.request.until_epoch is None

    def leaves_timing(self, evaluation: Evaluation) -> bool:
        """Whether the network is trained to its end, but its latency was only looked at."""
        is_trained = self.is_last(evaluation) and not (evaluation.failure or evaluation.gated_by)
        return self.trained is None and is_trained and bool(evaluation.metrics.latency_brief)

    @property
    def timing_seconds(self) -> float:
        """What timing it in full takes at most."""
        return self.request.measure.latency_max_seconds * (1 + len(self.request.measure.variants))

    def timing(self, trained: Evaluation) -> _Stretch:
        """Return the stretch that is left then. What was trained is not gated any more."""
        begun = replace(trained, state=None, weights=None)  # it is no meter's concern
        return _Stretch(self.number, replace(self.request, begun=begun, only_measure=True, gate={}), trained)


class _Streak:
    """Candidates that fail one after the other in one way: then it is not they who are at fault."""

    def __init__(self) -> None:
        self._failed: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Take in how a trial ended.

        Raises:
            RunError: There have been too many in a row.
        """
        if outcome.state != "failed":
            self._failed = []
            return
        kind = outcome.attributes.get("failure")
        if self._failed and self._failed[-1].attributes.get("failure") != kind:
            self._failed = []
        self._failed.append(outcome)
        if len(self._failed) >= MOST_FAILURES:
            raise RunError(
                f"{len(self._failed)} candidates in a row failed ({kind}), the last one (trial {outcome.name}) with: "
                f"{outcome.failure_reason}. {_REMEDIES.get(str(kind), _REMEDIES['error'])} The same command goes on."
            )


def run_references(
    study: Study,
    engine: Engine,
    requests: Mapping[str, EvaluationRequest],
    observer: ReferenceObserver,
    gate: InterruptGate,
    patient: bool = False,
) -> list[str]:
    """Evaluate the reference networks that the study does not hold yet, one after the other; those that failed are tried again.

    One that another process is evaluating is left to it. It may take a while to see whether that one lives.

    Args:
        study: Keeps them.
        engine: Evaluates them.
        requests: How to evaluate each, by its name.
        observer: Is told.
        gate: May stop it.
        patient: Whether to wait until it is seen if a process lives that has begun one.

    Returns:
        The names of those that were left to others.

    Raises:
        Interrupted: If the gate was asked to stop.
    """
    left = []
    for name, request in requests.items():
        begun = study.beside.begin_reference(name)
        while begun == "unsure" and patient:
            with gate.interruptible():
                time.sleep(_LOOK_SECONDS)
            begun = study.beside.begin_reference(name)
        if begun in ("elsewhere", "unsure"):
            left.append(name)
            continue
        if begun == "known":
            continue
        if begun == "here":
            try:
                with gate.interruptible():
                    evaluation = engine.submit(-1, request, _under(name, observer)).result()
            except (Interrupted, InputError):
                study.beside.release_reference(name)
                raise
        else:
            reason = f"its process died {MOST_ATTEMPTS} times while it was under way"
            evaluation = Evaluation(Metrics(request.architecture.id), failure="crash", failure_reason=reason)
        observer.reference_told(study.beside.record_reference(name, evaluation))
    return left


def _under(name: str, observer: ReferenceObserver) -> OnStage:
    return lambda _, stage: observer.reference_stage(name, stage)
