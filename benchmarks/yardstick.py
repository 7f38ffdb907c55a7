"""How good a front is, and when a search had it: a share of the best known hypervolume. Plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nas.analyse.front import Array, non_dominated
from nas.analyse.hypervolume import hypervolume
from nas.errors import InputError

Reference = Literal["table", "front"]


@dataclass(frozen=True)
class Yardstick:
    """How fronts are measured: scaled by fixed bounds, against a fixed reference point.

    Attributes:
        least: Of each objective, minimised.
        span: Likewise.
        reference: In scaled objectives.
        best: The greatest hypervolume that is known.
    """

    least: Array
    span: Array
    reference: Array
    best: float

    @classmethod
    def of(cls, values: Array, allowed: Array | None = None, reference: Reference = "table") -> Yardstick:
        """Measure by what is known.

        Args:
            values: Shape (n, m), all networks, minimised: what is scaled by.
            allowed: Those of them that may be on a front; all, if not given.
            reference: Where the reference point lies: at the worst of all networks, or a tenth beyond the worst of the front.
        """
        least, span = values.min(axis=0), np.ptp(values, axis=0)
        if not (span > 0).all():
            raise InputError("all networks are equal in an objective: there is nothing to search for.")
        scaled = ((values if allowed is None else allowed) - least) / span
        point = np.ones(values.shape[1])
        if reference == "front":
            front = scaled[non_dominated(scaled)]
            point = front.max(axis=0) + 0.1 * np.ptp(front, axis=0)
        return cls(least, span, point, hypervolume(scaled, point))

    def scaled(self, values: Array) -> Array:
        """Return objectives, minimised, as shares of what they span."""
        return (values - self.least) / self.span

    def share(self, values: Array) -> float:
        """Return the share of the best known hypervolume that networks have, shape (n, m), minimised."""
        return hypervolume(self.scaled(values), self.reference) / self.best


class Trace:
    """The share of the best known hypervolume that a search has come to, as it goes.

    Attributes:
        steps: Seconds and share, whenever the share grew.
    """

    def __init__(self, yardstick: Yardstick) -> None:
        self.steps: list[tuple[float, float]] = []
        self._yardstick = yardstick
        self._front = np.empty((0, len(yardstick.reference)))

    @property
    def share(self) -> float:
        """The share now."""
        return self.steps[-1][1] if self.steps else 0.0

    def add(self, seconds: float, values: Sequence[float]) -> None:
        """Take in a network, minimised; never earlier than the one before it."""
        point = self._yardstick.scaled(np.array(values))
        if (self._front <= point).all(axis=1).any():
            return
        self._front = np.vstack([self._front[~(point <= self._front).all(axis=1)], point])
        share = hypervolume(self._front, self._yardstick.reference) / self._yardstick.best
        if share > self.share:
            self.steps.append((seconds, share))


def worth_of_own_front(
    points: Sequence[tuple[float, tuple[float, float], tuple[float, float]]], yardstick: Yardstick
) -> tuple[tuple[float, float], ...]:
    """Return, at each point, the share that the front is worth which a search has by then by what it saw.

    It may fall: a network that was lucky drives a better one from the front.

    Args:
        points: Seconds, the objectives that the search saw and those that the network is worth, minimised, as they were told.
        yardstick: Of what networks are worth.
    """
    steps = []
    for n in range(1, len(points) + 1):
        is_best = non_dominated(np.array([seen for _, seen, _ in points[:n]]))
        worth = np.array([worth for _, _, worth in points[:n]])
        steps.append((points[n - 1][0], yardstick.share(worth[is_best])))
    return tuple(steps)


def time_to(share: float, steps: Sequence[tuple[float, float]]) -> float | None:
    """Return when a share was reached for good; ``None`` if it was not, or was lost again."""
    found = None
    for seconds, reached in steps:
        if reached < share:
            found = None
        elif found is None:
            found = seconds
    return found


def taken(times: Sequence[float | None], budgets_s: Sequence[float]) -> list[float]:
    """Return the times, where what was not reached has taken all the time that there was."""
    return [budget_s if seconds is None else seconds for seconds, budget_s in zip(times, budgets_s, strict=True)]


def speedups(theirs: Sequence[float | None], budgets_s: Sequence[float], ours: Sequence[float | None]) -> list[float]:
    """Return, seed by seed, how many times as long as ours the others took: at least, as theirs may not be there in their time.

    Where ours is not there it is no faster than anything: 0.
    """
    return [0.0 if mine is None else their_s / mine for their_s, mine in zip(taken(theirs, budgets_s), ours, strict=True)]


def median_interval(values: Sequence[float], draws: int = 10_000) -> tuple[float, float]:
    """Return the bounds of a median with 95 %, of as many draws with replacement (percentile bootstrap)."""
    drawn = np.random.default_rng(0).choice(np.array(values), (draws, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def least_final_ratio(ours: Sequence[float], others: Sequence[Sequence[float]]) -> float | None:
    """Return the least, over seeds, of our final hypervolume over the best of the others'; ``None`` without others."""
    if not others:
        return None
    return min(mine / max(rivals) if any(rivals) else math.inf for mine, *rivals in zip(ours, *others, strict=True))
