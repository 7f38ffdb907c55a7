"""When a training is stopped early: at rungs of epochs, by how a candidate stands among those that were there before it.

Pure decisions on plain numbers: who keeps the rungs is ``nas.study``, who asks is ``nas.driver``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from nas.analyse.promotion import among_best, places
from nas.errors import InputError

Score = Literal["loss", "objective"]


@dataclass(frozen=True)
class Mark:
    """What a candidate had come to at a rung.

    Attributes:
        values: The objectives, minimised, as far as they are known then.
        missed: By how much it misses the bounds that are known then, each relative to its bound, in all; 0 keeps them.
        score: What stands for what only a training tells; see ``Scheduler``. Marks of different scores do not compare.
            ``None`` where it was not kept.
    """

    values: tuple[float, ...]
    missed: float = 0.0
    score: Score | None = "loss"


@dataclass(frozen=True)
class Scheduler:
    """Lets every training run to its end. ``MoAsha`` is the other one.

    Attributes:
        rungs: Epochs after which is decided, ascending.
        score: What a training is judged by at a rung, in place of each objective that only a training tells: the mean loss of
            its last epoch, or that objective after so many epochs.
    """

    rungs: tuple[int, ...] = field(default=(), init=False)
    score: Score = field(default="loss", init=False)

    def next_rung(self, epochs: int) -> int | None:
        """Return the next rung of a candidate that was trained for ``epochs``; ``None`` if it goes on to the end."""
        return next((rung for rung in self.rungs if rung > epochs), None)

    def those_who_go_on(self, rung: Mapping[int, Mark]) -> set[int]:
        """Return which of the candidates whose marks stand at a rung go on."""
        return set(rung)


@dataclass(frozen=True)
class MoAsha(Scheduler):
    """Asynchronous successive halving by all objectives at once: the top 1/eta of those who came to a rung so far go on.

    A candidate that misses a bound stands behind all that keep them; of those the one that misses by less stands first.

    Args:
        rungs: Epochs after which is decided.
        eta: Of so many candidates one goes on.
        score: See ``Scheduler``.
    """

    rungs: tuple[int, ...] = field(default=())
    eta: float = 3.0
    score: Score = "loss"

    def those_who_go_on(self, rung: Mapping[int, Mark]) -> set[int]:
        """See ``Scheduler``."""
        left = places(len(rung), self.eta)
        kept = [(number, mark) for number, mark in rung.items() if mark.missed <= 0]
        if kept:
            chosen = among_best(np.array([mark.values for _, mark in kept], dtype=np.float64), left)
            found = {number for (number, _), goes_on in zip(kept, chosen, strict=True) if goes_on}
        else:
            found = set()
        missed = np.sort([mark.missed for mark in rung.values()])
        return found | {
            number
            for number, mark in rung.items()
            if mark.missed > 0 and int(np.searchsorted(missed, mark.missed, side="left")) < left
        }


def default_rungs(epochs: int, eta: float) -> tuple[int, ...]:
    """Return the rungs of a recipe: its epochs divided by eta again and again, down to one epoch.

    >>> default_rungs(10, 3.0)
    (1, 3)
    """
    rungs = []
    rung = epochs / eta
    while rung >= 0.75:  # what rounds to an epoch
        rungs.append(max(1, round(rung)))
        rung /= eta
    return tuple(sorted({rung for rung in rungs if rung < epochs}))


def make_scheduler(kind: str, eta: float, rungs: Sequence[int] | None, epochs: int, score: Score = "loss") -> Scheduler:
    """Return the scheduler that a configuration asks for.

    Raises:
        InputError: The rungs do not fit the recipe.
    """
    if kind == "none":
        return Scheduler()
    if rungs is None:
        return MoAsha(rungs=default_rungs(epochs, eta), eta=eta, score=score)
    beyond = [rung for rung in rungs if rung >= epochs]
    if beyond:
        raise InputError(
            f"scheduler.rungs={list(rungs)} cannot be used: {beyond[0]} is not below train.epochs={epochs}; a rung is an epoch "
            "before the last."
        )
    if list(rungs) != sorted(set(rungs)):
        raise InputError(f"scheduler.rungs={list(rungs)} cannot be used: give each epoch once, ascending.")
    return MoAsha(rungs=tuple(rungs), eta=eta, score=score)
