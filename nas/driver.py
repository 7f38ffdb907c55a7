"""Keeps an engine busy until a study has its trials: asks, submits, and tells whatever ends, in the order in which it ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Protocol

from optuna.trial import FrozenTrial

from nas.engine import Engine
from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest
from nas.interrupt import Interrupted, InterruptGate
from nas.study import Asked, Study


class Observer(Protocol):
    """Is told what happens."""

    def asked(self, asked: Asked) -> None:
        """A candidate was chosen and is about to be evaluated."""
        ...

    def stage(self, number: int, stage: str) -> None:
        """A candidate entered a stage."""
        ...

    def told(self, trial: FrozenTrial) -> None:
        """A trial ended and is recorded."""
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
    pending: dict[Future[Evaluation], int] = {}

    def tell_done() -> None:
        for future in [future for future in pending if future.done()]:
            observer.told(study.tell(pending.pop(future), future.result()))

    try:
        while True:
            while len(pending) < engine.capacity and (asked := study.ask()) is not None:
                observer.asked(asked)
                try:
                    with gate.interruptible():
                        future = engine.submit(asked.number, request_for(asked), observer.stage)
                except (Interrupted, InputError):
                    study.release(asked.number)
                    raise
                pending[future] = asked.number
            if not pending:
                return
            with gate.interruptible():
                wait(pending, return_when=FIRST_COMPLETED)
            tell_done()
    except Interrupted:
        tell_done()
        for number in pending.values():
            study.release(number)
        raise
