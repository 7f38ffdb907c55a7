"""When a first, brief look at a network's latency is enough: when another network beats it by more than that look leaves open.

Timing a small network in full can take as long as training it. What stands far behind the front stays there, however well it
is timed; what may belong on the front is timed in full, and so is all of which the training took much longer. Where no
objective hangs on the latency, being beaten at all is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.analyse.spread import spread
from nas.analyse.study.population import BEYOND_NOISE
from nas.analyse.tradeoffs import feasible, minimised, violations
from nas.metrics import METRICS, Metric
from nas.outcomes import Outcome
from nas.plan import StudyPlan

CLEAR = 0.1
"""By so much of its value the figure of a brief look has to be beaten at least. On a quiet machine 5 of 100 looks of 0.1 s were
slower than the timing in full by more than that, and 2 or 3 timings in full than the look; see
``docs/results/search_efficiency.md``."""
_CHEAP = 0.2


def is_enough(
    attributes: Mapping[str, Any], told: Sequence[Outcome], plan: StudyPlan, timing_seconds: float | None = None
) -> bool:
    """Whether a network need not be timed in full: it misses a bound anyway, or another one beats it clearly.

    Another one does if it is at least as good in every objective, and clearly better in those that hang on the latency: by more
    than ``CLEAR`` of the value, by more than two standard deviations of the look's blocks, and by more than two combined
    spreads of both timings, within which the network would count as tied (``nas.analyse.study.population``).

    Args:
        attributes: What a trial came to, timed briefly and trained to its end, with a value for every objective.
        told: The trials that have ended.
        plan: Of the study.
        timing_seconds: That a timing in full has at most. If that is no more than a fifth of what the training took, leaving it
            out saves little, and another network's lead is not enough.
    """
    missed = violations(attributes, plan.constraints)
    if any(miss > 0 and METRICS[name].stage != "latency" for name, miss in missed.items()):
        return True
    if timing_seconds is not None and timing_seconds <= _CHEAP * (attributes.get("train_seconds") or 0.0):
        return False
    return _is_beaten(attributes, feasible(told, plan.constraints), plan.objectives)


def _is_beaten(attributes: Mapping[str, Any], others: Sequence[Outcome], objectives: Sequence[Metric]) -> bool:
    if not others:
        return False
    mine = minimised([Outcome("", None, "complete", attributes)], objectives)
    better_by = mine - minimised(others, objectives)
    beats = (better_by >= 0).all(axis=1) & (better_by > 0).any(axis=1)
    least = max(CLEAR, BEYOND_NOISE * (attributes.get("latency_noise") or 0.0))
    for column, metric in enumerate(objectives):
        if metric.stage != "latency":
            continue
        spreads = np.array([spread(other.attributes, metric.name, None) or 0.0 for other in others])
        noise = BEYOND_NOISE * np.hypot(spread(attributes, metric.name, None) or 0.0, spreads)
        beats &= better_by[:, column] > np.maximum(least * abs(mine[0, column]), noise)
    return bool(beats.any())
