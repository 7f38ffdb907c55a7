"""What the trials of a study tell: about a candidate, about those at a rung, about whom a sampler shall learn from.

Changes nothing. A trial that has ended is looked at once, so that all of it stays cheap as a study grows.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from nas.archive import STATES, outcome_of
from nas.outcomes import UNCOUNTED, Outcome
from nas.scheduler import Mark

RUNG = "rung:"
"""Begins the name of the trial attribute that holds a mark; the epoch follows."""

WAITS = "waits_for"
"""The trial attribute that holds the number of the running trial that builds the same."""

_LASTING = ("out_of_memory", "diverged")
"""Failures that another attempt at the same architecture would end in too."""


class History:
    """The trials of one study, as of the last ``update``.

    Attributes:
        trials: All of them, by number; not to be changed.
        ended: Those that have ended, in the order in which this history came to know of it.
        hidden: Numbers of those from which a sampler shall learn nothing: they repeat another one, or were gone on with.
    """

    def __init__(self) -> None:
        self.trials: Sequence[FrozenTrial] = ()
        self.ended: list[FrozenTrial] = []
        self.hidden: set[int] = set()
        self._seen = 0
        self._open: list[int] = []
        self._outcomes: dict[int, Outcome] = {}
        self._known: dict[str, FrozenTrial] = {}
        self._marks: dict[int, dict[int, Mark]] = {}
        self._stopped: dict[int, dict[int, FrozenTrial]] = {}
        self._resumed: set[int] = set()
        self._counted = 0

    def update(self, trials: Sequence[FrozenTrial]) -> History:
        """Take in all trials, the place of each being its number."""
        self.trials = trials
        still_open = []
        for number in (*self._open, *range(self._seen, len(trials))):
            trial = trials[number]
            self._take_marks(trial)
            if "resumed_from" in trial.user_attrs:
                self._resumed.add(trial.user_attrs["resumed_from"])
            if trial.state.is_finished():
                self._close(trial)
            else:
                still_open.append(number)
        self._open, self._seen = still_open, len(trials)
        return self

    def _take_marks(self, trial: FrozenTrial) -> None:
        for name, mark in trial.user_attrs.items():
            if name.startswith(RUNG) and mark:
                rung = int(name.removeprefix(RUNG))
                self._marks.setdefault(rung, {})[trial.number] = Mark(tuple(mark["values"]), mark["missed"], mark.get("score"))

    def _close(self, trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        self.ended.append(trial)
        self._counted += not attributes.get(UNCOUNTED)
        if trial.state in STATES:
            self._outcomes[trial.number] = outcome_of(trial)
        repeats = isinstance(attributes.get("reused_from"), int)  # text: of another study, and the first one here
        if repeats:
            self.hidden.add(trial.number)
        if "resumed_from" in attributes:
            self.hidden.add(attributes["resumed_from"])
        if repeats:
            return
        name = attributes.get("architecture_id")
        if tells(trial) and name is not None and (name not in self._known or _worth(trial) > _worth(self._known[name])):
            self._known[name] = trial
        if trial.state == TrialState.PRUNED and attributes.get("stopped_at") is not None:
            self._stopped.setdefault(attributes["stopped_at"], {})[trial.number] = trial

    @property
    def outcomes(self) -> list[Outcome]:
        """The trials that ended, in the order of their numbers."""
        return [self._outcomes[number] for number in sorted(self._outcomes)]

    @property
    def open(self) -> set[int]:
        """Numbers of the trials that have not ended."""
        return set(self._open)

    @property
    def counted(self) -> int:
        """How many of the trials that the study shall hold were begun."""
        begun = (self.trials[number] for number in self._open)
        return self._counted + sum(trial.state != TrialState.WAITING and not trial.user_attrs.get(UNCOUNTED) for trial in begun)

    def known(self, architecture_id: str) -> FrozenTrial | None:
        """Return the ended trial that tells most about an architecture; ``None`` if it must be evaluated."""
        return self._known.get(architecture_id)

    def under_way(self, architecture_id: str, number: int) -> FrozenTrial | None:
        """Return the running trial, of another number, that evaluates an architecture."""
        for trial in (self.trials[other] for other in self._open if other != number):
            attributes = trial.user_attrs
            here = trial.state == TrialState.RUNNING and attributes.get("architecture_id") == architecture_id
            if here and attributes.get(WAITS) is None:
                return trial
        return None

    def marks(self, rung: int) -> dict[int, Mark]:
        """Return how every candidate stood that came to a rung, by its trial's number."""
        return self._marks.get(rung, {})

    def stopped(self, rung: int) -> list[FrozenTrial]:
        """Return the trials that were stopped at a rung and not gone on with since."""
        found = self._stopped.get(rung, {})
        return [found[number] for number in sorted(found) if number not in self._resumed]

    @property
    def all_stopped(self) -> list[FrozenTrial]:
        """The trials that were stopped at any rung and not gone on with since, by number."""
        return sorted((trial for rung in self._stopped for trial in self.stopped(rung)), key=lambda trial: trial.number)

    def stops(self, rung: int) -> int:
        """Return how many trials were stopped at a rung, whether gone on with since or not."""
        return len(self._stopped.get(rung, {}))

    def repeats_before(self, number: int) -> int:
        """Return how many suggestions just before trial ``number`` were repeats, one after the other."""
        count = 0
        for trial in reversed(self.trials[:number]):
            if not trial.state.is_finished() or "resumed_from" in trial.user_attrs:
                continue
            if not isinstance(trial.user_attrs.get("reused_from"), int):
                break
            count += 1
        return count


def tells(trial: FrozenTrial) -> bool:
    """Return whether an ended trial tells something of its architecture, and not of what went wrong beside it."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or trial.user_attrs.get("failure") in _LASTING


def _worth(trial: FrozenTrial) -> tuple[bool, int]:
    return trial.state != TrialState.PRUNED, trial.user_attrs.get("fidelity", 0)
