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
from nas.analyse.tradeoffs import minimised
from nas.metrics import Metric
from nas.outcomes import Outcome

CLEAR = 0.1
"""By so much of its value the figure of a brief look has to be beaten at least. On a quiet machine 5 of 100 looks of 0.1 s were
slower than the timing in full by more than that, and 2 or 3 timings in full than the look; see
``docs/results/search_efficiency.md``."""
_BEYOND_NOISE = 2.0
_CHEAP = 0.2


def is_timing_cheap(timing_seconds: float, train_seconds: float | None) -> bool:
    """Whether a timing in full takes a fifth of the training's time at most: to leave it out saves little, and a look may be off.

    Args:
        timing_seconds: That it has at most.
        train_seconds: That the training took.
    """
    return timing_seconds <= _CHEAP * (train_seconds or 0.0)


def is_enough(attributes: Mapping[str, Any], others: Sequence[Outcome], objectives: Sequence[Metric]) -> bool:
    """Whether one of the others is at least as good in every objective, and clearly better in those that hang on the latency.

    Clearly is by more than ``CLEAR`` of the value, by more than two standard deviations of the look's blocks, and by more than
    two combined spreads of both timings, within which the network would count as tied (``nas.analyse.study.population``).

    Args:
        attributes: What a trial came to, timed briefly and trained to its end, with a value for every objective.
        others: Complete trials that keep every bound.
        objectives: Of the study.
    """
    if not others:
        return False
    mine = minimised([Outcome("", None, "complete", attributes)], objectives)
    better_by = mine - minimised(others, objectives)
    beats = (better_by >= 0).all(axis=1) & (better_by > 0).any(axis=1)
    least = max(CLEAR, _BEYOND_NOISE * (attributes.get("latency_noise") or 0.0))
    for column, metric in enumerate(objectives):
        if metric.stage != "latency":
            continue
        spreads = np.array([spread(other.attributes, metric.name, None) or 0.0 for other in others])
        noise = _BEYOND_NOISE * np.hypot(spread(attributes, metric.name, None) or 0.0, spreads)
        beats &= better_by[:, column] > np.maximum(least * abs(mine[0, column]), noise)
    return bool(beats.any())
