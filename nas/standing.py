"""How a running study stands: its front and that front's hypervolume, at a cost that stays a small share of the search's time."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nas.analyse.hypervolume import normalised_hypervolume
from nas.analyse.tradeoffs import feasible
from nas.outcomes import Outcome
from nas.study import Study

SHARE = 0.01
"""Of the time that may go into looking through all trials, and into hypervolumes: both take seconds where there are thousands."""


class Standing:
    """The front as trials end.

    Args:
        study: The study.
        clock: Seconds.

    Attributes:
        front: The feasible trials that no other one dominates, best first by the first objective.
        ended: The trials that had ended when all were looked through last.
        hypervolume: Theirs, as a share of the box between the best and the worst values seen; in a long study as of a
            moment ago.
    """

    def __init__(self, study: Study, clock: Callable[[], float] = time.monotonic) -> None:
        self.front: list[Outcome] = []
        self.ended: list[Outcome] = []
        self.hypervolume = 0.0
        self._study, self._clock = study, clock
        self._worst: NDArray[np.float64] | None = None
        self._look_due_s = self._volume_due_s = clock()
        self.look()

    def look(self) -> None:
        """Look through all trials, those of other processes too."""
        began_s = self._clock()
        kept = self._study.feasible()
        self.ended = self._study.finished
        self.front = self._study.front(kept)
        self._worst = self._study.minimised(kept).max(axis=0) if kept else None
        self._look_due_s = _due(began_s, self._clock())
        self._measure()

    def take(self, trial: Outcome) -> bool:
        """Take in a trial of this process that ended; return whether it was time to look, and others' were seen too."""
        if self._clock() >= self._look_due_s:
            self.look()
            return True
        kept = feasible([trial], self._study.plan.constraints)
        if kept:
            values = self._study.minimised(kept)[0]
            self._worst = values if self._worst is None else np.maximum(self._worst, values)
            others = [other for other in self.front if other.number != trial.number]  # a look may have seen it before
            self.front = self._study.front([*others, *kept])
            self._measure()
        return False

    def _measure(self) -> None:
        began_s = self._clock()
        if self._worst is None or began_s < self._volume_due_s:
            return
        # The best of each objective is on the front; a point that is the worst in all adds nothing.
        self.hypervolume = normalised_hypervolume(np.vstack([self._study.minimised(self.front), self._worst]))
        self._volume_due_s = _due(began_s, self._clock())


def _due(began_s: float, ended_s: float) -> float:
    return ended_s + (ended_s - began_s) / SHARE
