"""How a study's networks were drawn, by each run of it that drew some, and what keeps them from being a fair sample of its space.

Nothing of this has to agree between two runs of one study, so none of it can be read off the last run's configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas.config.search import SearchConfig
from nas.metrics import METRICS
from nas.plan import DRAWN_BY

FAIR = ("RandomSampler", "QMCSampler", "GridSampler", "BruteForceSampler")
"""Samplers that draw without looking at results."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """By what a run drew networks.

    Attributes:
        sampler: The name of the sampler's class.
        scheduler: Which trainings it stopped early, by ``scheduler.kind``.
        gating: The bounds that networks had to keep to be trained.
        start: How many of the first networks were chosen by the user.
    """

    sampler: str
    scheduler: str
    gating: tuple[str, ...] = ()
    start: int = 0


def drawn_by(config: SearchConfig) -> Drawn:
    """Return by what a run under a configuration draws."""
    gating = _gating(config.constraints) if config.gate else ()
    return Drawn(_class_of(config.sampler), config.scheduler.kind, gating, len(config.start))


def all_drawn(attributes: Mapping[str, Any], config: SearchConfig) -> tuple[Drawn, ...]:
    """Return by what a study's networks were drawn.

    Args:
        attributes: The study's.
        config: Of its last run: taken where the study does not say.
    """
    kept = attributes.get(DRAWN_BY) or [{}]
    return tuple(Drawn(**{**one, "gating": tuple(one["gating"])}) if one else _at_first(attributes, config) for one in kept)


def _at_first(attributes: Mapping[str, Any], config: SearchConfig) -> Drawn:
    """Return what a run of an earlier version, which did not keep it, drew by: what the study was begun with."""
    plain = attributes.get("config")
    if not plain:
        return drawn_by(config)
    gating = _gating(plain.get("constraints") or {}) if plain.get("gate", True) else ()
    kind = (plain.get("scheduler") or {}).get("kind", "none")
    return Drawn(_class_of(plain["sampler"]), kind, gating, len(plain.get("start") or ()))


def _gating(constraints: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in constraints if METRICS[name].stage != "train")


def _class_of(sampler: Mapping[str, Any]) -> str:
    return str(sampler["_target_"]).rpartition(".")[2]


def doubts(drawn: Sequence[Drawn]) -> tuple[str, ...]:
    """Return what keeps networks from being a fair sample of each value, one sentence each."""
    samplers = dict.fromkeys(one.sampler for one in drawn if one.sampler not in FAIR)
    kinds = dict.fromkeys(one.scheduler for one in drawn if one.scheduler != "none")
    looks = "draws where it expects good networks, so these are no fair sample"
    stops = "trains to the end only what stands high early, so the low ones are missing"
    found = [f"{name} {looks}: ask with sampler=random" for name in samplers]
    found += [f"scheduler={kind} {stops}: ask with scheduler=none" for kind in kinds]
    if gating := list(dict.fromkeys(name for one in drawn for name in one.gating)):
        found.append(f"networks that miss a bound ({', '.join(gating)}) are not trained and are missing: ask with gate=false")
    if start := max((one.start for one in drawn), default=0):
        found.append(f"the {start} networks of start were chosen and not drawn: ask without them")
    return tuple(found)
