"""What Optuna keeps of a study, as plain outcomes; a study that is there is read and never changed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.analyse.spread import SEED_NOISE
from nas.conditions import check_format
from nas.errors import InputError, suggestion
from nas.outcomes import Outcome, State
from nas.storage import Storage

STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
"""The states of a trial that ended."""

REFERENCE = "reference:"
"""Begins the name of the study attribute that holds a reference."""

SEEDS = "seeds:"
"""Begins the name of the study attribute that holds what further seeds of a trial came to; its number follows."""

SEEDED = ("top1", "top1_mean", "top5", "train_loss_area")
"""Metrics that depend on the training's seed."""


@dataclass(frozen=True)
class Archive:
    """A study as it lies in its storage.

    Attributes:
        outcomes: The trials that ended, in whatever state, in the order of their numbers.
        references: The reference networks that were evaluated.
        running: Trials that are under way, or whose process died.
        attributes: The study's own attributes: its conditions, its device, its configuration.
    """

    outcomes: tuple[Outcome, ...]
    references: tuple[Outcome, ...]
    running: int
    attributes: Mapping[str, Any]


def read_archive(storage: Storage, name: str) -> Archive:
    """Read a study.

    Raises:
        InputError: The storage holds no study of that name, or one that a newer version has written.
    """
    try:
        study = optuna.load_study(study_name=name, storage=storage.optuna)
    except KeyError:
        known = optuna.get_all_study_names(storage.optuna)
        raise InputError(f"study {name!r} is not in {storage.spec.shown}{suggestion(name, known, 'studies')}") from None
    check_format(name, study.user_attrs)
    trials = study.get_trials(deepcopy=False)
    return Archive(
        outcomes=tuple(with_seeds([outcome_of(trial) for trial in trials if trial.state in STATES], study.user_attrs)),
        references=tuple(references_in(study.user_attrs)),
        running=sum(trial.state == TrialState.RUNNING for trial in trials),
        attributes=study.user_attrs,
    )


def outcome_of(trial: FrozenTrial) -> Outcome:
    """Return a trial that ended as an outcome."""
    return Outcome(
        name=str(trial.number),
        number=trial.number,
        state=_state(trial),
        attributes=trial.user_attrs,
        params=trial.params,
        started_at=_seconds(trial.datetime_start),
        ended_at=_seconds(trial.datetime_complete),
    )


def with_seeds(outcomes: Sequence[Outcome], attributes: Mapping[str, Any]) -> list[Outcome]:
    """Return outcomes with the means over all seeds of those that were confirmed, and the noise of a seed in all of them.

    A trial's own attributes keep what its first seed came to; a trial that ended cannot be written any more.

    Args:
        outcomes: As ``outcome_of`` returns them.
        attributes: The study's.
    """
    found = {
        key.removeprefix(SEEDS): [record for record in records if "failure_reason" not in record]
        for key, records in attributes.items()
        if key.startswith(SEEDS)
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


def _state(trial: FrozenTrial) -> State:
    known = trial.user_attrs.get("reused_from")
    if isinstance(known, int) and trial.state != TrialState.FAIL:
        return "repeated"
    return STATES[trial.state]


def references_in(attributes: Mapping[str, Any]) -> list[Outcome]:
    """Return the reference networks that a study's attributes hold; they are no trials."""
    return [
        reference_outcome(key.removeprefix(REFERENCE), value) for key, value in attributes.items() if key.startswith(REFERENCE)
    ]


def reference_outcome(name: str, attributes: Mapping[str, Any]) -> Outcome:
    """Return a reference network as an outcome."""
    return Outcome(name, None, "failed" if attributes.get("failure") else "complete", attributes)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
