"""The last part of a search, for the networks on the front and those within noise of it: timing in full, and further seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from nas.analyse.study.population import Population
from nas.engine import Engine, OnStage
from nas.evaluate import Evaluation, EvaluationRequest
from nas.interrupt import InterruptGate
from nas.outcomes import Outcome
from nas.study import Study


class ContenderObserver(Protocol):
    """Is told what happens."""

    def seed_stage(self, name: str, stage: str) -> None:
        """The training of a further seed entered a stage."""
        ...

    def seed_told(self, network: Outcome, seed: int, evaluation: Evaluation) -> None:
        """A further seed is recorded."""
        ...

    def timing_stage(self, name: str, stage: str) -> None:
        """The timing of a network in full entered a stage."""
        ...

    def timing_ended(self, network: Outcome, evaluation: Evaluation) -> None:
        """A network was timed in full; that is not recorded yet."""
        ...

    def timed(self, network: Outcome, evaluation: Evaluation) -> None:
        """That is recorded, or the network could not be timed in full."""
        ...


def contenders(study: Study, validation_images: int | None) -> list[Outcome]:
    """Return the networks on the front and those that noise alone keeps off it."""
    plan = study.plan
    population = Population(tuple(study.finished), (), plan.objectives, plan.constraints, validation_images)
    return [*population.front, *population.tied]


def time_contenders(
    study: Study,
    engine: Engine,
    request_for: Callable[[Outcome], EvaluationRequest],
    validation_images: int | None,
    observer: ContenderObserver,
    gate: InterruptGate,
) -> bool:
    """Time every contender in full whose latency was only looked at; those too that are contenders then.

    There are some where a search was interrupted before it timed them, where a meter refused, or where other networks' means
    over several seeds have fallen.

    Args:
        study: Its trials have ended.
        engine: Times them.
        request_for: How to time a network; it is not trained.
        validation_images: How many images the accuracies are shares of.
        observer: Is told.
        gate: May stop it.

    Returns:
        Whether one was timed. Each is tried once.

    Raises:
        Interrupted: If the gate was asked to stop; what was recorded is not timed again.
    """
    tried: set[str] = set()
    timed = False
    while due := [one for one in contenders(study, validation_images) if _is_only_looked_at(one) and one.name not in tried]:
        for network in due:
            assert network.number is not None
            tried.add(network.name)
            if study.beside.is_timed(network.number):
                continue  # by another process, meanwhile
            stages = _under(network.name, observer.timing_stage)
            with gate.interruptible():
                evaluation = engine.submit(-1, request_for(network), stages).result()
            if not evaluation.failure and not evaluation.metrics.latency_brief:
                observer.timing_ended(network, evaluation)
                study.beside.record_timing(network, evaluation)
                timed = True
            observer.timed(network, evaluation)
    return timed


def _is_only_looked_at(network: Outcome) -> bool:
    return bool(network.attributes.get("latency_brief"))


def confirm(
    study: Study,
    engine: Engine,
    request_for: Callable[[Outcome, int], EvaluationRequest],
    seeds: int,
    validation_images: int | None,
    observer: ContenderObserver,
    gate: InterruptGate,
) -> bool:
    """Train every contender with further seeds; after each round only those go on that are contenders then.

    Args:
        study: Its trials have ended.
        engine: Trains them.
        request_for: How to train a network with a seed; nothing is measured again.
        seeds: How many further seeds.
        validation_images: How many images the accuracies are shares of.
        observer: Is told.
        gate: May stop it.

    Returns:
        Whether one was trained.

    Raises:
        Interrupted: If the gate was asked to stop; what was recorded is not trained again.
    """
    trained = False
    if not seeds:
        return trained
    wanted = range(study.plan.seed + 1, study.plan.seed + 1 + seeds)
    while due := _due(study, wanted, validation_images):
        for network, number, seed in due:
            if seed in study.beside.seeds(number):
                continue  # by another process, meanwhile
            with gate.interruptible():
                evaluation = engine.submit(-1, request_for(network, seed), _under(network.name, observer.seed_stage)).result()
            study.beside.record_seed(number, seed, evaluation)
            observer.seed_told(network, seed, evaluation)
            trained = True
    return trained


def _due(study: Study, wanted: Sequence[int], validation_images: int | None) -> list[tuple[Outcome, int, int]]:
    """Return each contender that lacks a seed, its number and the first seed that it lacks.

    None lacks one in the end: a network that only others' means have brought to the front is confirmed like these.
    """
    found = []
    for network in contenders(study, validation_images):
        assert network.number is not None
        known = study.beside.seeds(network.number)
        if (lacking := next((seed for seed in wanted if seed not in known), None)) is not None:
            found.append((network, network.number, lacking))
    return found


def _under(name: str, note: Callable[[str, str], None]) -> OnStage:
    return lambda _, stage: note(name, stage)
