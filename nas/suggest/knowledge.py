"""What the ended trials of a study tell a model: costs that it can learn from, how unsure each is, how far bounds are missed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.analyse.tradeoffs import violations
from nas.metrics import METRICS

Array = NDArray[np.float64]

LEAST_ERROR = 0.01
"""Added to a share of errors before its logarithm is taken: what lies below it is chance."""

FEWEST = 4
"""Complete trials that it takes to tell from them what a training that was stopped would have come to."""


@dataclass(frozen=True)
class Aim:
    """What a study looks for.

    Attributes:
        objectives: The metrics' names, in the order of the values; empty names where the study does not say.
        directions: Of each.
        bounds: By metric; see ``nas.plan.StudyPlan.constraints``.
    """

    objectives: tuple[str, ...]
    directions: tuple[StudyDirection, ...]
    bounds: Mapping[str, float]

    def is_trained(self, index: int) -> bool:
        """Whether only a training tells an objective."""
        metric = METRICS.get(self.objectives[index])
        return metric is None or metric.stage == "train"

    def scale(self, index: int, values: Array) -> Callable[[Array], Array]:
        """Return what turns an objective's values into costs: minimised, and equal ratios are equal steps if all are above 0.

        A fraction of which more is better, as an accuracy, counts by the errors that are left.
        """
        metric = METRICS.get(self.objectives[index])
        maximized = self.directions[index] == StudyDirection.MAXIMIZE
        if metric is not None and metric.unit == "fraction" and maximized:
            return lambda shares: np.log(1.0 + LEAST_ERROR - np.minimum(shares, 1.0))
        sign = -1.0 if maximized else 1.0
        if len(values) and values.min() > 0:
            return lambda figures: sign * np.log(figures)
        return lambda figures: sign * figures


@dataclass(frozen=True)
class Knowledge:
    """What is known of n networks.

    Attributes:
        costs: Of each objective, minimised, shape (n, m); NaN where it is not known.
        further: Variance by which each cost is off beyond what all are, shape (n, m).
        complete: How many of them were trained to the end.
        is_best: Which of them may be on a front: complete, and no bound is missed; shape (n,).
        misses: By how much each bound is missed, shape (n, bounds); NaN where it is not known. Where some networks could not be
            trained at all, the last one says which: 1, and -1 for the others.
    """

    costs: Array
    further: Array
    complete: int
    is_best: NDArray[np.bool_]
    misses: Array


def knowledge_of(trials: Sequence[FrozenTrial], aim: Aim) -> Knowledge:
    """Return what trials tell that have ended, of which none repeats another."""
    is_complete = np.array([trial.state == TrialState.COMPLETE for trial in trials], dtype=bool)
    misses = np.array([_missed(trial, aim) for trial in trials], dtype=np.float64).reshape(len(trials), len(aim.bounds))
    is_best = is_complete & ~(misses > 0).any(axis=1)
    failed = np.array([trial.state == TrialState.FAIL for trial in trials], dtype=bool)
    if failed.any():
        misses = np.column_stack([misses, np.where(failed, 1.0, -1.0)])
    costs = np.full((len(trials), len(aim.objectives)), np.nan)
    further = np.zeros_like(costs)
    for index in range(len(aim.objectives)):
        values = np.array([_value(trial, index, aim) for trial in trials])
        known = np.isfinite(values)
        to_costs = aim.scale(index, values[known])
        costs[known, index] = to_costs(values[known])
        if aim.is_trained(index):
            _foretell(trials, is_complete, costs[:, index], further[:, index])
    return Knowledge(costs, further, int(is_complete.sum()), is_best, misses)


def _missed(trial: FrozenTrial, aim: Aim) -> list[float]:
    found = violations(trial.user_attrs, aim.bounds)
    whole = trial.state == TrialState.COMPLETE
    return [found.get(name, math.nan) if whole or METRICS[name].stage != "train" else math.nan for name in aim.bounds]


def _value(trial: FrozenTrial, index: int, aim: Aim) -> float:
    if trial.state == TrialState.COMPLETE:
        return float(trial.values[index])
    value = math.nan if aim.is_trained(index) else trial.user_attrs.get(aim.objectives[index])
    return math.nan if value is None else float(value)


def _foretell(trials: Sequence[FrozenTrial], is_complete: NDArray[np.bool_], costs: Array, further: Array) -> None:
    """Fill in what trainings that were stopped would have come to, by their loss then and what such a loss led to in others.

    A straight line between the loss's logarithm and the cost, by least squares. What it leaves, and how unsure the line itself
    is there, is how far each is off.
    """
    by_epoch: dict[int, list[int]] = {}
    for number, trial in enumerate(trials):
        if (epoch := trial.user_attrs.get("stopped_at")) is not None and _log_loss(trial.user_attrs, epoch) is not None:
            by_epoch.setdefault(epoch, []).append(number)
    for epoch, stopped in by_epoch.items():
        taught = [
            (loss, costs[number])
            for number in np.flatnonzero(is_complete & np.isfinite(costs)).tolist()
            if (loss := _log_loss(trials[number].user_attrs, epoch)) is not None
        ]
        if len(taught) < FEWEST:
            continue
        losses, seen = np.array(taught).T
        spread = float(((losses - losses.mean()) ** 2).sum()) + 1e-3  # a slope of nothing, where all losses are equal
        slope = float(((losses - losses.mean()) * (seen - seen.mean())).sum()) / spread
        left = seen - seen.mean() - slope * (losses - losses.mean())
        now = np.array([_log_loss(trials[number].user_attrs, epoch) for number in stopped], dtype=np.float64)
        costs[stopped] = seen.mean() + slope * (now - losses.mean())
        off = float((left**2).sum()) / (len(taught) - 2)
        # The line itself is unsure, the more so the further a loss is from those that it was drawn through.
        further[stopped] = off * (1.0 + 1.0 / len(taught) + (now - losses.mean()) ** 2 / spread)


def _log_loss(attributes: Mapping[str, Any], epoch: int) -> float | None:
    """Return the logarithm of the mean training loss of an epoch; ``None`` if it is not known."""
    losses = attributes.get("train_loss") or ()
    if not 0 < epoch <= len(losses):
        return None
    loss = losses[epoch - 1]
    return math.log(loss) if loss is not None and 0 < loss < math.inf else None
