"""What the trials of a study tell about a candidate: what is known of it, and how it stood at the rungs. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optuna.trial import FrozenTrial, TrialState

from nas.scheduler import Mark

RUNG = "rung:"
"""Begins the name of the trial attribute that holds a mark; the epoch follows."""

_LASTING = ("out_of_memory", "diverged")
"""Failures that another attempt at the same architecture would end in too."""


def known(trials: Sequence[FrozenTrial], architecture_id: str, number: int) -> FrozenTrial | None:
    """Return the ended trial, of another number, that tells most about an architecture; ``None`` if it must be evaluated."""
    found = [
        trial
        for trial in trials
        if trial.user_attrs.get("architecture_id") == architecture_id
        and trial.number != number
        and "reused_from" not in trial.user_attrs
        and (
            trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            or (trial.state == TrialState.FAIL and trial.user_attrs.get("failure") in _LASTING)
        )
    ]
    return max(found, key=lambda trial: (trial.state != TrialState.PRUNED, trial.user_attrs.get("fidelity", 0)), default=None)


def marks(trials: Sequence[FrozenTrial], rung: int) -> dict[int, Mark]:
    """Return how every candidate stood that came to a rung, by its trial's number."""
    found = ((trial.number, trial.user_attrs.get(f"{RUNG}{rung}")) for trial in trials)
    return {number: Mark(tuple(mark["values"]), mark["missed"]) for number, mark in found if mark}


def stopped(trials: Sequence[FrozenTrial], rung: int) -> Iterator[FrozenTrial]:
    """Yield the trials that were stopped at a rung and not gone on with since."""
    resumed = {trial.user_attrs.get("resumed_from") for trial in trials}
    for trial in trials:
        here = trial.user_attrs.get("stopped_at") == rung and "reused_from" not in trial.user_attrs
        if here and trial.state == TrialState.PRUNED and trial.number not in resumed:
            yield trial
