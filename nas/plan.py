"""What a search wants of its study, and what the study asks of it: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nas.metrics import Metric
from nas.outcomes import Outcome
from search_spaces.base import Architecture

DRAWN_BY = "drawn_by"
"""The study attribute that holds by what each run drew candidates, in the order in which they began; see ``nas.drawn``."""


@dataclass(frozen=True)
class Known:
    """A result of another study.

    Attributes:
        source: The study and the trial there.
        attributes: What was recorded, without what belongs to that study alone.
    """

    source: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class StudyPlan:
    """What a search wants of its study; plain data.

    Attributes:
        trials: How many trials the study shall hold in the end.
        objectives: In the order of the trials' values.
        constraints: Bounds by metric: upper where less is better, lower where more is.
        conditions: All that must agree between two runs of one study, nested.
        record: Further study attributes, written when the study is made.
        start: Parameters of the first trials, before the sampler is asked.
        known: Results of other studies that are taken, by the architecture's id.
        drawn_by: By what this run draws candidates; a study keeps that of each run that drew some.
    """

    name: str
    trials: int
    seed: int
    objectives: tuple[Metric, ...]
    constraints: Mapping[str, float]
    conditions: Mapping[str, Any]
    record: Mapping[str, Any] = field(default_factory=dict)
    start: tuple[Mapping[str, Any], ...] = ()
    known: Mapping[str, Known] = field(default_factory=dict)
    drawn_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A candidate to be evaluated.

    Attributes:
        begun: The trial that was stopped early and whose training it goes on with; ``None`` for a new candidate.
    """

    number: int
    architecture: Architecture
    begun: Outcome | None = None
