"""The networks of a study sorted once for every figure: on the front, tied with it, dominated, infeasible, references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nas.analyse.families import Family
from nas.analyse.front import Array
from nas.analyse.spread import spread
from nas.analyse.tradeoffs import feasible, minimised, pareto_front
from nas.metrics import Metric
from nas.outcomes import Outcome

FRONT = Family("on the front", "#d55e00", "circle", stands_out=True)
TIED = Family("tied with the front", "#d55e00", "circle-open", stands_out=True)
BEATEN = Family("dominated", "#5b8fb9", "circle")
INFEASIBLE = Family("misses a constraint", "#8a8a8a", "triangle-down")
REFERENCE = Family("reference", "#000000", "diamond", stands_out=True)
RETRAINED = Family("trained in full", "#00805c", "star", stands_out=True)
KINDS = (FRONT, TIED, BEATEN, INFEASIBLE, REFERENCE)

BEYOND_NOISE = 2.0
"""Differences of more than this many combined spreads count: about 95 % of pure noise is below."""


@dataclass(frozen=True)
class Population:
    """What a study came to.

    Attributes:
        outcomes: Every trial that ended.
        references: Reference networks.
        objectives: In the order of the study.
        constraints: Bounds by metric.
        validation_images: How many images the accuracies are shares of.
    """

    outcomes: tuple[Outcome, ...]
    references: tuple[Outcome, ...]
    objectives: tuple[Metric, ...]
    constraints: Mapping[str, float] = field(default_factory=dict)
    validation_images: int | None = None

    @cached_property
    def complete(self) -> list[Outcome]:
        """Trials with a value for every objective."""
        return [outcome for outcome in self.outcomes if outcome.state == "complete"]

    @cached_property
    def feasible(self) -> list[Outcome]:
        """The complete trials that keep every bound."""
        return feasible(self.complete, self.constraints)

    @cached_property
    def front(self) -> list[Outcome]:
        """The feasible trials that no other one dominates, best first by the first objective."""
        return pareto_front(self.feasible, self.objectives)

    @cached_property
    def measured_references(self) -> list[Outcome]:
        """The references with a value for every objective."""
        wanted = [metric.name for metric in self.objectives]
        return [
            reference
            for reference in self.references
            if reference.state == "complete" and all(reference.attributes.get(name) is not None for name in wanted)
        ]

    @cached_property
    def tied(self) -> list[Outcome]:
        """Feasible trials off the front of which none of the others is better by more than noise.

        A trial is tied if every trial that dominates it does so by no more than two combined spreads in each objective; the
        combined spread of two trials is the root of the sum of their squared spreads.
        """
        if not self.feasible:
            return []
        values = minimised(self.feasible, self.objectives)
        noise = self.noise(self.feasible)
        on_front = {outcome.name for outcome in self.front}
        found = []
        for index, outcome in enumerate(self.feasible):
            if outcome.name in on_front:
                continue
            gain = values[index] - values  # how much better each other one is
            dominates = (gain >= 0).all(axis=1) & (gain > 0).any(axis=1)
            clearly = (gain > BEYOND_NOISE * np.sqrt(noise[index] ** 2 + noise**2)).any(axis=1)
            if not (dominates & clearly).any():
                found.append(outcome)
        return found

    def noise(self, outcomes: list[Outcome]) -> Array:
        """Return the spread of each objective, shape (n, objectives); 0 where none is known."""
        rows = [
            [spread(outcome.attributes, metric.name, self.validation_images) or 0.0 for metric in self.objectives]
            for outcome in outcomes
        ]
        return np.array(rows, dtype=np.float64).reshape(len(outcomes), len(self.objectives))

    @cached_property
    def kinds(self) -> dict[str, Family]:
        """The kind of every complete trial and measured reference, by its name."""
        front, tied = ({outcome.name for outcome in outcomes} for outcomes in (self.front, self.tied))
        allowed = {outcome.name for outcome in self.feasible}
        found = {}
        for outcome in self.complete:
            if outcome.name in front:
                found[outcome.name] = FRONT
            elif outcome.name in tied:
                found[outcome.name] = TIED
            else:
                found[outcome.name] = BEATEN if outcome.name in allowed else INFEASIBLE
        return found | {reference.name: REFERENCE for reference in self.measured_references}
