"""When a training is stopped early: at rungs of epochs, by how a candidate stands among those that were there before it.

Pure decisions on plain numbers: who keeps the rungs is ``nas.study``, who asks is ``nas.driver``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nas.analyse.promotion import goes_on, places
from nas.errors import InputError


@dataclass(frozen=True)
class Mark:
    """What a candidate had come to at a rung.

    Attributes:
        values: The objectives, minimised, with the accuracy of that epoch.
        missed: By how much it misses the bounds that are known then, each relative to its bound, in all; 0 keeps them.
    """

    values: tuple[float, ...]
    missed: float = 0.0


@dataclass(frozen=True)
class Scheduler:
    """Lets every training run to its end. ``MoAsha`` is the other one.

    Attributes:
        rungs: Epochs after which is decided, ascending.
    """

    rungs: tuple[int, ...] = field(default=(), init=False)

    def next_rung(self, epochs: int) -> int | None:
        """Return the next rung of a candidate that was trained for ``epochs``; ``None`` if it goes on to the end."""
        return next((rung for rung in self.rungs if rung > epochs), None)

    def goes_on(self, number: int, rung: Mapping[int, Mark]) -> bool:
        """Whether candidate ``number`` goes on, given all marks of a rung, its own among them."""
        return True


@dataclass(frozen=True)
class MoAsha(Scheduler):
    """Asynchronous successive halving by all objectives at once: the top 1/eta of those who came to a rung so far go on.

    A candidate that misses a bound stands behind all that keep them; of those the one that misses by less stands first.

    Args:
        rungs: Epochs after which is decided.
        eta: Of so many candidates one goes on.
    """

    rungs: tuple[int, ...] = field(default=())
    eta: float = 3.0

    def goes_on(self, number: int, rung: Mapping[int, Mark]) -> bool:
        """See ``Scheduler``."""
        marks = list(rung.values())
        mine = rung[number]
        left = places(len(marks), self.eta)
        if mine.missed > 0:
            return sum(mark.missed < mine.missed for mark in marks) < left
        kept = [(other, mark) for other, mark in rung.items() if mark.missed <= 0]
        values = np.array([mark.values for _, mark in kept], dtype=np.float64)
        return goes_on(values, [other for other, _ in kept].index(number), left)


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


def make_scheduler(kind: str, eta: float, rungs: Sequence[int] | None, epochs: int) -> Scheduler:
    """Return the scheduler that a configuration asks for.

    Raises:
        InputError: The rungs do not fit the recipe.
    """
    if kind == "none":
        return Scheduler()
    if rungs is None:
        return MoAsha(default_rungs(epochs, eta), eta)
    beyond = [rung for rung in rungs if rung >= epochs]
    if beyond:
        raise InputError(
            f"scheduler.rungs={list(rungs)} cannot be used: {beyond[0]} is not below train.epochs={epochs}; a rung is an epoch "
            "before the last."
        )
    if list(rungs) != sorted(set(rungs)):
        raise InputError(f"scheduler.rungs={list(rungs)} cannot be used: give each epoch once, ascending.")
    return MoAsha(tuple(rungs), eta)
