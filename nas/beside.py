"""What a study keeps beside its trials: its references, and what further seeds and later timings of its networks came to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import optuna

from nas.analyse.spread import SEED_NOISE
from nas.evaluate import Evaluation
from nas.outcomes import Outcome
from nas.owner import TrialOwner

MOST_ATTEMPTS = 3
"""Times that a network is begun before it is taken for the cause of its process's death."""

SEEDED = ("top1", "top1_mean", "top5", "train_loss_area")
"""Metrics that depend on the training's seed."""

TIMED = (
    *("latency_ms", "latency_iqr_ms", "latency_noise", "latency_stop_reason", "latency_warm", "latency_brief"),
    *("latency_graph_ms", "latency_compiled_ms", "latency_enqueue_ms", "latency_cold_ms", "images_per_s", "flops_per_s"),
    *("compile_seconds", "measure_flags"),
)
"""Metrics that a timing in full tells anew."""

_REFERENCE = "reference:"
"""Begins the name of the study attribute that holds a reference."""

_ATTEMPTS = "reference_attempts:"
"""Begins the name of the one that holds which processes have begun it since it ended last."""

_SEEDS = "seeds:"
"""Begins the name of the one that holds what further seeds of a trial came to; its number follows."""

_TIMING = "timed:"
"""Likewise, of the one that holds how a trial was timed in full after it was told."""

Begun = Literal["here", "known", "elsewhere", "unsure", "too often"]
"""Whether a reference is this process's to evaluate, was evaluated, is under way in another one that lives, or of which that is
not seen yet, or has killed too many."""


class Beside:
    """Reads and writes it.

    Args:
        study: Whose attributes hold it.
        owner: This process; others keep things beside the same study.
        missing: Says which objective or constraint has no value among an evaluation's attributes, and why.
    """

    def __init__(self, study: optuna.Study, owner: TrialOwner, missing: Callable[[Mapping[str, Any]], str | None]) -> None:
        self._study, self._owner, self._missing = study, owner, missing

    @property
    def references(self) -> list[Outcome]:
        """The reference networks that were evaluated under this study's conditions."""
        return references_in(self._study.user_attrs)

    def begin_reference(self, name: str) -> Begun:
        """Note that the evaluation of a reference begins, and say whether it may."""
        key = f"{_ATTEMPTS}{name}"
        with self._owner.election():
            begun = self._study.user_attrs.get(key, [])
            begun = [""] * begun if isinstance(begun, int) else list(begun)  # once their number was all that was kept
            done = self._study.user_attrs.get(f"{_REFERENCE}{name}")
            if done is not None and not done.get("failure"):
                return "known"
            alive = [other for other in begun if other != self._owner.name and self._owner.lives(other)]
            if alive:
                return "unsure" if all(self._owner.is_unsure(other) for other in alive) else "elsewhere"
            if len(begun) >= MOST_ATTEMPTS:
                return "too often"
            self._study.set_user_attr(key, [*begun, self._owner.name])
            return "here"

    def release_reference(self, name: str) -> None:
        """Stopping on request does not count as a death."""
        key = f"{_ATTEMPTS}{name}"
        with self._owner.election():
            self._study.set_user_attr(key, [other for other in self._study.user_attrs[key] if other != self._owner.name])

    def record_reference(self, name: str, evaluation: Evaluation) -> Outcome:
        """Keep the evaluation of a reference network; the sampler does not learn of it."""
        attributes = evaluation.attributes()
        missing = None if evaluation.failure else self._missing(attributes)
        if missing:
            attributes |= {"failure": "error", "failure_reason": missing}
        self._study.set_user_attr(f"{_REFERENCE}{name}", attributes)
        self._study.set_user_attr(f"{_ATTEMPTS}{name}", [])
        return _reference(name, attributes)

    def seeds(self, number: int) -> list[int]:
        """Return the further seeds that a trial was trained with."""
        return [record["seed"] for record in self._study.user_attrs.get(f"{_SEEDS}{number}", [])]

    def record_seed(self, number: int, seed: int, evaluation: Evaluation) -> None:
        """Keep what a further seed of a complete trial came to; one that failed is kept too, so that it is not tried again."""
        key = f"{_SEEDS}{number}"
        attributes = evaluation.attributes()
        record = {"seed": seed, "train_seconds": attributes["train_seconds"], **{name: attributes[name] for name in SEEDED}}
        if evaluation.failure:
            record["failure_reason"] = evaluation.failure_reason
        with self._owner.election():
            if seed not in self.seeds(number):  # two processes may have trained the same one
                self._study.set_user_attr(key, [*self._study.user_attrs.get(key, []), record])

    def is_timed(self, number: int) -> bool:
        """Whether a trial, whose latency had only been looked at when it was told, was timed in full since."""
        return f"{_TIMING}{number}" in self._study.user_attrs

    def record_timing(self, network: Outcome, evaluation: Evaluation) -> None:
        """Keep how a complete trial, whose latency had only been looked at, was timed in full; of several timings, the first."""
        assert network.number is not None
        attributes = evaluation.attributes()
        kept = {name: attributes[name] for name in TIMED}
        kept |= {f"{name}_reason": attributes.get(f"{name}_reason") for name in TIMED if f"{name}_reason" in network.attributes}
        kept["measured_by"] = None if evaluation.worker == network.attributes.get("worker") else evaluation.worker
        with self._owner.election():
            if not self.is_timed(network.number):  # two processes may have timed it
                self._study.set_user_attr(f"{_TIMING}{network.number}", kept)


def references_in(attributes: Mapping[str, Any]) -> list[Outcome]:
    """Return the reference networks that a study's attributes hold."""
    return [_reference(key.removeprefix(_REFERENCE), value) for key, value in attributes.items() if key.startswith(_REFERENCE)]


def _reference(name: str, attributes: Mapping[str, Any]) -> Outcome:
    """Return a reference network as an outcome."""
    return Outcome(name, None, "failed" if attributes.get("failure") else "complete", attributes)


def with_timings(outcomes: Sequence[Outcome], attributes: Mapping[str, Any]) -> list[Outcome]:
    """Return outcomes with the latencies of those that were timed in full after they were told.

    Args:
        outcomes: As ``outcome_of`` returns them.
        attributes: The study's.
    """
    found = {key.removeprefix(_TIMING): timed for key, timed in attributes.items() if key.startswith(_TIMING)}
    if not found:
        return list(outcomes)
    return [
        replace(outcome, attributes={**outcome.attributes, **found[outcome.name]}) if outcome.name in found else outcome
        for outcome in outcomes
    ]


def with_seeds(outcomes: Sequence[Outcome], attributes: Mapping[str, Any]) -> list[Outcome]:
    """Return outcomes with the means over all seeds of those that were confirmed, and the noise of a seed in all of them.

    A trial's own attributes keep what its first seed came to; a trial that ended cannot be written any more.

    Args:
        outcomes: As ``with_timings`` returns them.
        attributes: The study's.
    """
    found = {
        # Each seed once: an earlier version let two processes record the same one.
        key.removeprefix(_SEEDS): [
            record for record in {record["seed"]: record for record in records}.values() if "failure_reason" not in record
        ]
        for key, records in attributes.items()
        if key.startswith(_SEEDS)
    }
    if not found:
        return list(outcomes)
    scores = {outcome.name: _by_seed(outcome, found[outcome.name]) for outcome in outcomes if outcome.name in found}
    noise = {f"{name}{SEED_NOISE}": _pooled([by_seed[name] for by_seed in scores.values()]) for name in SEEDED}
    changed = []
    for outcome in outcomes:
        more: dict[str, Any] = {key: value for key, value in noise.items() if value is not None}
        by_seed = scores.get(outcome.name)
        if by_seed is not None:
            more |= {name: statistics.fmean(values) for name, values in by_seed.items() if values}
            further = [record["seed"] for record in found[outcome.name]]
            more["seeds"] = [*(outcome.attributes.get("seeds") or [0]), *further]
        changed.append(replace(outcome, attributes={**outcome.attributes, **more}))
    return changed


def _by_seed(outcome: Outcome, records: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the figures of all seeds of a trial, by metric, its own first; nothing for a metric that one of them lacks."""
    rows = [outcome.attributes, *records]
    return {name: [float(row[name]) for row in rows] if all(row.get(name) is not None for row in rows) else [] for name in SEEDED}


def _pooled(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the standard deviation within groups, pooled over them; ``None`` without a group of two."""
    several = [group for group in groups if len(group) > 1]
    if not several:
        return None
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in several)
    return math.sqrt(squares / sum(len(group) - 1 for group in several))
