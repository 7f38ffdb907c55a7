"""Where evaluations run: an engine takes a request and promises its evaluation for later. Here, in this very process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self

from nas.evaluate import Evaluation, EvaluationRequest, evaluate

OnStage = Callable[[int, str], None]


class Engine(Protocol):
    """Runs evaluations, several at once if ``capacity`` says so; they may end in any order."""

    @property
    def capacity(self) -> int:
        """How many evaluations may be under way at once."""
        ...

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        """Begin the evaluation of trial ``number``; ``on_stage(number, stage)`` is called as it moves on."""
        ...

    def __enter__(self) -> Self:
        """Make ready."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give up what is under way, and everything else that it holds."""
        ...


class Unattended:
    """An engine that has nothing to make ready and nothing to give up."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class InlineEngine(Unattended):
    """Evaluates in the calling thread: ``submit`` returns when the evaluation has ended."""

    capacity = 1

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        """Evaluate now and return a future that is done; see ``Engine``."""
        future: Future[Evaluation] = Future()
        future.set_result(evaluate(request, lambda stage: on_stage(number, stage)))
        return future
