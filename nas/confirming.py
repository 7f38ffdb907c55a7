"""The last part of a search: further seeds for the networks on the front and those within noise of it, round by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from nas.analyse.study.population import Population
from nas.engine import Engine, OnStage
from nas.evaluate import Evaluation, EvaluationRequest
from nas.interrupt import InterruptGate
from nas.outcomes import Outcome
from nas.study import Study


class SeedObserver(Protocol):
    """Is told what happens."""

    def seed_stage(self, name: str, stage: str) -> None:
        """The training of a further seed entered a stage."""
        ...

    def seed_told(self, network: Outcome, seed: int, evaluation: Evaluation) -> None:
        """A further seed is recorded."""
        ...


def contenders(study: Study, validation_images: int | None) -> list[Outcome]:
    """Return the networks on the front and those that noise alone keeps off it."""
    plan = study.plan
    population = Population(tuple(study.finished), (), plan.objectives, plan.constraints, validation_images)
    return [*population.front, *population.tied]


def confirm(
    study: Study,
    engine: Engine,
    request_for: Callable[[Outcome, int], EvaluationRequest],
    seeds: int,
    validation_images: int | None,
    observer: SeedObserver,
    gate: InterruptGate,
) -> None:
    """Train every contender with further seeds; after each round only those go on that are contenders then.

    Args:
        study: Its trials have ended.
        engine: Trains them.
        request_for: How to train a network with a seed; nothing is measured again.
        seeds: How many further seeds.
        validation_images: How many images the accuracies are shares of.
        observer: Is told.
        gate: May stop it.

    Raises:
        Interrupted: If the gate was asked to stop; what was recorded is not trained again.
    """
    if not seeds:
        return
    wanted = range(study.plan.seed + 1, study.plan.seed + 1 + seeds)
    while due := _due(study, wanted, validation_images):
        for network, number, seed in due:
            if seed in study.beside.seeds(number):
                continue  # by another process, meanwhile
            with gate.interruptible():
                evaluation = engine.submit(-1, request_for(network, seed), _under(network.name, observer)).result()
            study.beside.record_seed(number, seed, evaluation)
            observer.seed_told(network, seed, evaluation)


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


def _under(name: str, observer: SeedObserver) -> OnStage:
    return lambda _, stage: observer.seed_stage(name, stage)
