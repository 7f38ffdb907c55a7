"""Keeps an engine busy until a study has its trials: asks, submits, and tells whatever ends, in the order in which it ends.

Where a scheduler may stop trainings early, a candidate is evaluated in stretches from rung to rung.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Protocol

from nas.engine import Engine, OnStage
from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest, Metrics
from nas.interrupt import Interrupted, InterruptGate
from nas.outcomes import Outcome
from nas.study import MOST_ATTEMPTS, Asked, Study


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
    """
    pending: dict[Future[Evaluation], tuple[int, EvaluationRequest]] = {}

    def submit(number: int, request: EvaluationRequest) -> None:
        done = request.begun.metrics.epochs or 0 if request.begun is not None else 0
        rung = study.scheduler.next_rung(done)
        request = replace(request, until_epoch=rung, keep_state=rung is not None)
        try:
            with gate.interruptible():
                future = engine.submit(number, request, observer.stage)
        except (Interrupted, InputError):
            study.release(number)
            raise
        pending[future] = number, request

    def tell(number: int, evaluation: Evaluation, stopped_at: int | None = None) -> None:
        observer.evaluated(number, evaluation)
        observer.told(study.tell(number, evaluation, stopped_at))

    def take_done(and_go_on: bool) -> None:
        for future in [future for future in pending if future.done()]:
            number, request = pending[future]
            evaluation = future.result()
            if _ended(request, evaluation):
                del pending[future]
                tell(number, evaluation)
            elif and_go_on:
                del pending[future]
                if study.goes_on(number, evaluation):
                    submit(number, replace(request, begun=evaluation))
                else:
                    tell(number, evaluation, request.until_epoch)

    try:
        while True:
            take_done(and_go_on=True)
            while len(pending) < engine.capacity:
                asked = study.ask()
                for outcome in study.told_meanwhile():
                    observer.told(outcome)
                if asked is None:
                    break
                observer.asked(asked)
                submit(asked.number, request_for(asked))
            if not pending:
                return
            with gate.interruptible():
                wait(pending, return_when=FIRST_COMPLETED)
    except Interrupted:
        take_done(and_go_on=False)
        for number, _ in pending.values():
            study.release(number)
        raise


def _ended(request: EvaluationRequest, evaluation: Evaluation) -> bool:
    """Whether a candidate came to the end of its way, and not to a rung of it."""
    return bool(evaluation.failure or evaluation.gated_by) or request.until_epoch is None


def run_references(
    study: Study,
    engine: Engine,
    requests: Mapping[str, EvaluationRequest],
    observer: ReferenceObserver,
    gate: InterruptGate,
) -> None:
    """Evaluate the reference networks that the study does not hold yet, one after the other; those that failed are tried again.

    Raises:
        Interrupted: If the gate was asked to stop.
    """
    known = {reference.name for reference in study.references if reference.state != "failed"}
    for name, request in requests.items():
        if name in known:
            continue
        if study.begin_reference(name):
            try:
                with gate.interruptible():
                    evaluation = engine.submit(-1, request, _under(name, observer)).result()
            except (Interrupted, InputError):
                study.release_reference(name)
                raise
        else:
            reason = f"its process died {MOST_ATTEMPTS} times while it was under way"
            evaluation = Evaluation(Metrics(request.architecture.id), failure="crash", failure_reason=reason)
        observer.reference_told(study.record_reference(name, evaluation))


def _under(name: str, observer: ReferenceObserver) -> OnStage:
    return lambda _, stage: observer.reference_stage(name, stage)
