"""Which of a study's networks keep its bounds, and which of those no other one beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.analyse.front import Array, non_dominated
from nas.metrics import METRICS, Metric
from nas.outcomes import Outcome


def violations(attributes: Mapping[str, Any], constraints: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each bound is missed, in the metric's unit; 0 or less is kept. Metrics without a value are left out."""
    found = {}
    for name, bound in constraints.items():
        value = attributes.get(name)
        if value is not None:
            found[name] = value - bound if METRICS[name].direction == "minimize" else bound - value
    return found


def feasible(outcomes: Sequence[Outcome], constraints: Mapping[str, float]) -> list[Outcome]:
    """Return the complete ones that keep every bound."""
    return [
        outcome
        for outcome in outcomes
        if outcome.state == "complete" and all(miss <= 0 for miss in violations(outcome.attributes, constraints).values())
    ]


def minimised(outcomes: Sequence[Outcome], objectives: Sequence[Metric]) -> Array:
    """Return the values, shape (n, objectives), with the sign flipped where more is better."""
    signs = np.array([1.0 if metric.direction == "minimize" else -1.0 for metric in objectives])
    rows = [[outcome.attributes[metric.name] for metric in objectives] for outcome in outcomes]
    values: Array = np.array(rows, dtype=np.float64).reshape(len(outcomes), len(signs)) * signs
    return values


def pareto_front(outcomes: Sequence[Outcome], objectives: Sequence[Metric]) -> list[Outcome]:
    """Return those that no other one dominates, best first by the first objective; hand in the feasible ones."""
    if not outcomes:
        return []
    values = minimised(outcomes, objectives)
    best = non_dominated(values)
    order = np.argsort(values[:, 0], kind="stable")
    return [outcomes[index] for index in order if best[index]]


def nearest_feasible(outcomes: Sequence[Outcome], constraints: Mapping[str, float]) -> tuple[Outcome, dict[str, float]] | None:
    """Return the one that misses the bounds by the least in all, relative to each bound, and its misses in their units.

    Complete ones come first; after them those that a bound kept from being trained, of which not every miss is known.
    ``None`` if there is none.
    """
    missed: list[tuple[bool, float, int, Outcome, dict[str, float]]] = []
    for outcome in outcomes:
        if outcome.state == "complete" or (outcome.state == "pruned" and outcome.attributes.get("gated_by")):
            misses = {name: miss for name, miss in violations(outcome.attributes, constraints).items() if miss > 0}
            total = sum(miss / (abs(constraints[name]) or 1.0) for name, miss in misses.items())
            missed.append((outcome.state != "complete", total, len(missed), outcome, misses))
    if not missed:
        return None
    *_, outcome, misses = min(missed, key=lambda miss: miss[:3])
    return outcome, misses
