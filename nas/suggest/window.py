"""Which of the ended trials a sampler learns from: what it costs grows with their number, and a search may take for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.analyse.front import non_dominated
from nas.history import History


class Best:
    """The complete trials that keep all bounds and that no other such one dominates, kept as trials end."""

    def __init__(self) -> None:
        self._front: list[FrozenTrial] = []
        self._taken = 0

    def update(self, study: optuna.Study, history: History) -> list[FrozenTrial]:
        """Take in what has ended since, and return the front by number."""
        ended = history.ended[self._taken :]
        self._taken += len(ended)
        both = self._front + [
            trial
            for trial in ended
            if trial.state == TrialState.COMPLETE
            and trial.number not in history.hidden
            and all(miss <= 0 for miss in trial.constraints.values())
        ]
        if len(both) > len(self._front):
            signs = np.array([1.0 if direction == StudyDirection.MINIMIZE else -1.0 for direction in study.directions])
            best = non_dominated(np.array([trial.values for trial in both]) * signs)
            self._front = sorted((trial for trial, is_best in zip(both, best, strict=True) if is_best), key=lambda t: t.number)
        return self._front


def window(history: History, front: Sequence[FrozenTrial], most: int, teaches: Callable[[FrozenTrial], bool]) -> set[int] | None:
    """Return the numbers of the ended trials that are learned from; ``None`` if that is all that are not hidden.

    Half of them may be of the front, the newest first; the others are the most recent.

    Args:
        history: The study's.
        front: Its best trials.
        most: So many are learned from at most.
        teaches: Whether a trial is worth one of these places.
    """
    if len(history.ended) - len(history.hidden) <= most:
        return None
    kept = {trial.number for trial in front[-(most // 2) :]} - history.hidden
    # By number: in which order they ended, each process sees for itself.
    for trial in reversed(history.trials):
        if len(kept) >= most:
            break
        if trial.state.is_finished() and trial.number not in history.hidden and teaches(trial):
            kept.add(trial.number)
    return kept
