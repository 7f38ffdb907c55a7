"""What the trials of a study tell about a candidate: what is known of it, and how it stood at the rungs. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optuna.trial import FrozenTrial, TrialState

from nas.scheduler import Mark

RUNG = "rung:"
"""Begins the name of the trial attribute that holds a mark; the epoch follows."""

WAITS = "waits_for"
"""The trial attribute that holds the number of the running trial that builds the same."""

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


def under_way(trials: Sequence[FrozenTrial], architecture_id: str, number: int) -> FrozenTrial | None:
    """Return the running trial, of another number, that evaluates an architecture."""
    for trial in trials:
        if (
            trial.state == TrialState.RUNNING
            and trial.number != number
            and trial.user_attrs.get("architecture_id") == architecture_id
            and trial.user_attrs.get(WAITS) is None
        ):
            return trial
    return None


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


def distinct(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials without those that repeat another one, and without those that were gone on with to their end."""
    gone_on = {
        trial.user_attrs["resumed_from"] for trial in trials if trial.state.is_finished() and "resumed_from" in trial.user_attrs
    }
    return [trial for trial in trials if trial.number not in gone_on and not _repeats(trial)]


def repeats_before(trials: Sequence[FrozenTrial], number: int) -> int:
    """Return how many suggestions just before trial ``number`` were repeats, one after the other."""
    count = 0
    for trial in reversed(trials):
        if trial.number >= number or not trial.state.is_finished() or "resumed_from" in trial.user_attrs:
            continue
        if not _repeats(trial):
            break
        count += 1
    return count


def _repeats(trial: FrozenTrial) -> bool:
    return isinstance(trial.user_attrs.get("reused_from"), int)  # of another study: the first one here
