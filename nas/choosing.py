"""Which network of a study a user means: the knee of its front, the best under conditions, a trial, or an architecture's file."""

from __future__ import annotations

from dataclasses import dataclass

from nas.outcomes import Outcome
from nas.runs import Run
from search_spaces.base import Architecture, SearchSpace


@dataclass(frozen=True)
class Chosen:
    """One network.

    Attributes:
        outcome: Its trial; ``None`` for an architecture from a file.
        space: What builds it.
        label: Names its folders: the trial's number, or the architecture's id.
        why: One sentence: how it was chosen.
    """

    outcome: Outcome | None
    architecture: Architecture
    space: SearchSpace
    label: str
    why: str


def choose(run: Run, pick: str | None, trial: int | None, architecture: str | None) -> Chosen:
    """Return the network that the keys ``pick``, ``trial`` and ``architecture`` mean; the knee if none is set.

    Raises:
        InputError: More than one is set, or there is no such network.
    """
    raise NotImplementedError
