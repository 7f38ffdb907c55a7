"""A study under ask and tell: opened or continued in Optuna, each trial's randomness its own, nothing counted twice."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.analyse.tradeoffs import feasible, minimised, pareto_front, violations
from nas.archive import outcome_of
from nas.beside import MOST_ATTEMPTS, Beside, with_seeds, with_timings
from nas.conditions import FORMAT, check_conditions, stored_conditions
from nas.errors import InputError, RunError
from nas.evaluate import Evaluation
from nas.first_look import is_enough
from nas.history import RUNG, WAITS, History
from nas.outcomes import ANEW, TAKEN_AT, UNCOUNTED, Outcome
from nas.owner import TrialOwner
from nas.plan import DRAWN_BY, Asked, Known, StudyPlan
from nas.retrying import patiently
from nas.scheduler import Mark, Scheduler
from nas.spool import Spool
from nas.storage import Storage
from nas.suggest.sampler import Resuming
from nas.verdict import Verdict
from search_spaces.base import Architecture, SearchSpace

MOST_REPEATS = 8
"""Repeats in a row for which the sampler is asked again; the next one counts as a trial, or a small space would never end."""

_STALE = ("failure", "failure_reason", "failure_log", "gated_by", "stopped_at")


class Study:
    """One study and this process's part in it.

    Args:
        storage: Where it is kept.
        plan: What is wanted; a study that is there must have been begun under the same conditions.
        space: The design space.
        sampler: Makes the suggestions.
        owner: This process.
        scheduler: Decides which trainings are stopped early.
        spool: Where results wait that are not recorded yet.

    Attributes:
        verdict: Tells trials that have ended.
        beside: What it keeps that is no trial.

    Raises:
        InputError: If a study of that name was begun under other conditions.
    """

    def __init__(
        self,
        storage: Storage,
        plan: StudyPlan,
        space: SearchSpace,
        sampler: BaseSampler,
        owner: TrialOwner,
        scheduler: Scheduler | None = None,
        spool: Spool | None = None,
    ) -> None:
        self.plan, self.space = plan, space
        self.scheduler = scheduler or Scheduler()
        self._storage, self._owner, self._spool = storage, owner, spool
        before = stored_conditions(storage, plan.name)
        if before is not None:
            check_conditions(plan.name, before, plan.conditions)
        self._study = optuna.create_study(
            study_name=plan.name,
            storage=storage.optuna,
            directions=[metric.direction for metric in plan.objectives],
            sampler=sampler,
            load_if_exists=True,
        )
        found, wanted = ([d.name.lower() for d in self._study.directions], [m.direction for m in plan.objectives])
        if found != wanted:
            raise InputError(f"study.name={plan.name} is there with other objectives ({found}): take another study.name.")
        if before is None:
            self._study.set_metric_names([metric.title for metric in plan.objectives])
            for key, value in {**plan.record, "objectives": [metric.name for metric in plan.objectives]}.items():
                self._study.set_user_attr(key, value)
            self._study.set_user_attr("constraints", dict(plan.constraints))
            self._study.set_user_attr("format", FORMAT)
            for params in plan.start:
                self._study.enqueue_trial(dict(params), user_attrs={"start": True}, skip_if_exists=True)
            # Last: a study with conditions is a whole one.
            self._study.set_user_attr("conditions", json.loads(json.dumps(plan.conditions)))
        self.verdict = Verdict(self._study, storage, plan)
        self.beside = Beside(self._study, owner, self.verdict.missing)
        self._index = History()
        self._running: dict[int, optuna.Trial] = {}
        self._waiting: list[optuna.Trial] = []
        self._marks_seen: dict[int, tuple[int, int]] = {}
        self._told_meanwhile: list[Outcome] = []
        self._recorded: list[int] = []
        self._first = True
        self._draws = False

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, not to be changed."""
        return self._study.get_trials(deepcopy=False)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The study's own attributes."""
        return self._study.user_attrs

    @property
    def _history(self) -> History:
        """The trials as they are now."""
        return self._index.update(self.trials)

    @property
    def finished(self) -> list[Outcome]:
        """The trials that ended by themselves, in whatever state."""
        return with_seeds(self.as_told, self._study.user_attrs)

    @property
    def as_told(self) -> list[Outcome]:
        """The same without what further seeds came to: all networks by one seed each, where those are compared."""
        return with_timings(self._history.outcomes, self._study.user_attrs)

    def ask(self) -> Asked | None:
        """Return the next candidate, ``None`` when the study has, or will have, all its trials.

        A trial whose process died is asked for again before any new one: under its own number, with the suggestions that
        it had. If that process had recorded the outcome and died before telling it, it is told now. After that come
        candidates that were stopped early and have turned out to be worth going on with; the sampler may choose such a one too.
        A suggestion that builds what is known already is told as what is known, and the sampler is asked again.
        """
        told = len(self._told_meanwhile)
        while True:
            try:
                # Held until the suggestion stands in the storage, where every other process that asks will look for it.
                with self._owner.election(), self._storage.together():
                    asked = self._next()
            except UpdateFinishedTrialError:  # another process took this one for dead: what that one told stands
                self._drop_recorded()
                ended = self._study.get_trials(deepcopy=False)
                self._told_meanwhile[told:] = [
                    outcome_of(ended[outcome.number])
                    for outcome in self._told_meanwhile[told:]
                    if outcome.number is not None and ended[outcome.number].state.is_finished()
                ]
                continue
            self._drop_recorded()
            if asked is None:
                return None
            trial, architecture = asked
            self._running[trial.number] = trial
            begun = trial.user_attrs.get("resumed_from")
            return Asked(trial.number, architecture, None if begun is None else outcome_of(self.trials[begun]))

    def _drop_recorded(self) -> None:
        """Give up the spooled copies of results that stand in the storage by now."""
        if self._spool is not None and self._recorded:
            self._storage.make_durable()
            while self._recorded:
                self._spool.drop(self._recorded.pop())

    def _next(self) -> tuple[optuna.Trial, Architecture] | None:
        repeats = 0
        while True:
            # Looking for orphans reads the storage: once at the start, and again before this process has nothing to do.
            trial = self._no_longer_waiting() or self._left_behind() or self._promoted() or self._new() or self._orphan()
            if trial is None:
                return None
            architecture = self._suggest(trial)
            if architecture is None:
                continue
            begun = trial.user_attrs.get("resumed_from")
            counts = repeats >= MOST_REPEATS
            if begun is None and self._is_known(trial, architecture, counts):
                repeats = 0 if counts else repeats + 1
                continue
            return trial, architecture

    def _is_known(self, trial: optuna.Trial, architecture: Architecture, counts: bool) -> bool:
        """Tell a trial whose architecture is known as what is known, or let it wait for who is evaluating it."""
        history = self._history
        before = history.known(architecture.id)
        elsewhere = self.plan.known.get(architecture.id)
        if before is not None:
            self._repeat(trial, before, counts)
        elif elsewhere is not None and self._holds_here(elsewhere):
            self._take_over(trial, elsewhere)
        elif (now := history.under_way(architecture.id, trial.number)) is not None:
            trial.set_user_attr(WAITS, now.number)
            trial.set_user_attr(UNCOUNTED, not counts)
            self._waiting.append(trial)
        else:
            return False
        return True

    @property
    def waits(self) -> bool:
        """Whether trials of this process wait for what others are evaluating; ``ask`` looks after them."""
        return bool(self._waiting)

    def _no_longer_waiting(self) -> optuna.Trial | None:
        """Tell the trials whose wait is over; return one that has to be evaluated after all, as the other one failed."""
        for trial in list(self._waiting):
            attributes = trial.user_attrs
            history = self._history
            if not history.trials[attributes[WAITS]].state.is_finished():
                continue
            self._waiting.remove(trial)
            trial.set_user_attr(WAITS, None)
            before = history.known(attributes["architecture_id"])
            if before is None:
                trial.set_user_attr(UNCOUNTED, False)
                return trial
            self._repeat(trial, before, not attributes[UNCOUNTED])
        return None

    def goes_on(self, number: int, evaluation: Evaluation) -> bool:
        """Keep what a running trial has come to at a rung, and return whether it is worth going on with."""
        attributes = evaluation.attributes()
        if self.verdict.missing(attributes):
            return False  # telling it will say so
        epochs = attributes["fidelity"]
        bounds = self.verdict.early_bounds
        missed = sum(max(0.0, miss) / (abs(bounds[name]) or 1.0) for name, miss in violations(attributes, bounds).items())
        (values,) = minimised([Outcome("", None, "pruned", attributes)], self.plan.objectives).tolist()
        if self.scheduler.score == "loss":
            loss = attributes["train_loss"][-1]
            values = [
                loss if metric.stage == "train" else value for metric, value in zip(self.plan.objectives, values, strict=True)
            ]
        mark = {"values": values, "missed": missed, "score": self.scheduler.score}
        try:
            with self._storage.together():
                self._running[number].set_user_attr(f"{RUNG}{epochs}", mark)
                return number in self.scheduler.those_who_go_on(self._marks(epochs))
        except UpdateFinishedTrialError:
            return False  # another process took this one for dead and was faster: telling it will find that out

    def first_look_is_enough(self, evaluation: Evaluation, timing_seconds: float) -> bool:
        """Whether a network that was trained to its end need not be timed in full; see ``nas.first_look``."""
        attributes = evaluation.attributes()
        # What lacks a value is told as failed.
        return bool(self.verdict.missing(attributes)) or is_enough(attributes, self.as_told, self.plan, timing_seconds)

    def _marks(self, rung: int) -> dict[int, Mark]:
        """Return how candidates stood at a rung, of those that were judged by what this run judges by."""
        # An earlier version did not keep the score: the study's first configuration tells.
        before = self._study.user_attrs.get("config", {}).get("scheduler", {}).get("score", "loss")
        marks = self._history.marks(rung).items()
        return {number: mark for number, mark in marks if (mark.score or before) == self.scheduler.score}

    def tell(self, number: int, evaluation: Evaluation, stopped_at: int | None = None) -> Outcome:
        """Record an evaluation and finish its trial: complete with its values, pruned, or failed with its reason.

        Args:
            number: The trial.
            evaluation: What it came to.
            stopped_at: The epoch after which it was stopped early.
        """
        trial = self._running.pop(number)
        patiently(lambda: self.keep(number, evaluation, stopped_at), "the run folder")
        try:
            with self._storage.together():
                attributes = self._told(evaluation, stopped_at)
                # What an attempt left that was cut off while it was being told must not decide over the attempt after it.
                stale = {key: None for key in _STALE if trial.user_attrs.get(key)}
                if evaluation.begun > 1:
                    attributes["attempt"] = trial.user_attrs["attempt"] + evaluation.begun - 1
                told = self._record(trial, {**stale, **attributes})
            self._storage.make_durable()
            outcome = outcome_of(told)
        except UpdateFinishedTrialError:  # another process took this one for dead and was faster: its result stands
            outcome = outcome_of(self.trials[number])
        # Not after any other error: what is kept then is what the next run takes.
        if self._spool is not None:
            self._spool.drop(number)
        return outcome

    def keep(self, number: int, evaluation: Evaluation, stopped_at: int | None = None) -> None:
        """Put a running trial's result where the next run finds it, without a word to the storage."""
        if self._spool is not None:
            self._spool.keep(number, {**dict.fromkeys(_STALE), **self._told(evaluation, stopped_at)})

    def _told(self, evaluation: Evaluation, stopped_at: int | None) -> dict[str, Any]:
        stopped = {} if stopped_at is None else {"stopped_at": stopped_at}
        return {**evaluation.attributes(), "seeds": [self.plan.seed], **stopped}

    def _record(self, trial: optuna.Trial, attributes: Mapping[str, Any]) -> FrozenTrial:
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        return self.verdict.tell(trial)

    def resumes(self, number: int, anew: bool) -> None:
        """Note whether a running trial, which goes on with another one, has to be trained from the start."""
        with contextlib.suppress(UpdateFinishedTrialError):  # telling it will find that out
            self._running[number].set_user_attr(ANEW, anew)

    def release(self, number: int) -> None:
        """Give up a trial without blame: stopping on request does not count as a cut-off."""
        self._release(self._running.pop(number))

    def release_waiting(self) -> None:
        """Give up, likewise, the trials that wait for others."""
        while self._waiting:
            self._release(self._waiting.pop())

    @staticmethod
    def _release(trial: optuna.Trial) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # another process took it for dead and has told it
            trial.set_user_attr("attempt", trial.user_attrs["attempt"] - 1)

    def front(self, feasible: Sequence[Outcome] | None = None) -> list[Outcome]:
        """Return the feasible trials that no other one dominates, best first by the first objective.

        Args:
            feasible: What ``feasible`` returned, if it was just asked for.
        """
        return pareto_front(self.feasible() if feasible is None else feasible, self.plan.objectives)

    def feasible(self) -> list[Outcome]:
        """Return the complete trials that keep every constraint."""
        return feasible(self.finished, self.plan.constraints)

    def minimised(self, trials: Sequence[Outcome]) -> NDArray[np.float64]:
        """Return the trials' values, shape (n, objectives), with the sign flipped where more is better."""
        return minimised(trials, self.plan.objectives)

    def _not_mine(self) -> Iterator[tuple[FrozenTrial, str]]:
        """Yield the running trials that this process does not know of, each with the name of its owner."""
        mine = {*self._running, *(trial.number for trial in self._waiting)}
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if frozen.number not in mine:
                yield frozen, str(frozen.user_attrs.get("owner", ""))

    @property
    def watches(self) -> bool:
        """Whether trials are under way of which it is not known yet if their processes live; ``ask`` looks after them."""
        return any(self._owner.is_unsure(owner) for _, owner in self._not_mine())

    def _left_behind(self) -> optuna.Trial | None:
        """Return what dead processes left, one after the other, until this one has had all that was there when it began."""
        trial = self._orphan() if self._first else None
        self._first = trial is not None
        return trial

    def _orphan(self) -> optuna.Trial | None:
        for frozen, owner in self._not_mine():
            # One of this process's own was made in a transaction of which the rest failed.
            if owner == self._owner.name or not self._owner.lives(owner):
                trial = optuna.Trial(self._study, frozen._trial_id)
                self._take(trial, frozen.user_attrs.get("attempt", 0) + 1)
                trial.set_user_attr(TAKEN_AT, time.time())
                if frozen.user_attrs.get(WAITS) is not None:
                    trial.set_user_attr(WAITS, None)
                    trial.set_user_attr(UNCOUNTED, False)
                return trial
        return None

    def _new(self) -> optuna.Trial | None:
        # A candidate that was chosen to go on by a process that died then is no further one.
        chosen = "resumed_from" in next(self._enqueued(), {})
        if self._history.counted >= self.plan.trials and not chosen:
            return None
        self._note_drawing()
        trial = self._study.ask()
        self._take(trial, 1)
        return trial

    def _note_drawing(self) -> None:
        """Keep by what this run draws, once, beside what runs before it drew by."""
        if self._draws:
            return
        mine = json.loads(json.dumps(self.plan.drawn_by))
        # What a run of an earlier version drew by, it did not keep: the study's first configuration tells.
        before = self._study.user_attrs.get(DRAWN_BY, [{}] if self._history.counted else [])
        if mine and mine not in before:
            self._study.set_user_attr(DRAWN_BY, [*before, mine])
        self._draws = True

    def _promoted(self) -> optuna.Trial | None:
        """Return a new trial for a candidate that was stopped at a rung and now stands high enough there to go on."""
        # What waits is asked for in the order in which it was enqueued.
        if not self.scheduler.rungs or any(True for _ in self._enqueued()):
            return None
        for rung in reversed(self.scheduler.rungs):
            history = self._history
            # One that comes to a rung while it is decided about is not among those stopped there yet.
            if (seen := (len(history.marks(rung)), history.stops(rung))) == self._marks_seen.get(rung):
                continue  # nobody came to this rung, or was stopped at it, since nobody was found
            chosen = self.scheduler.those_who_go_on(self._marks(rung))
            for old in history.stopped(rung):
                if old.number in chosen:
                    self._study.enqueue_trial(old.params, user_attrs={"resumed_from": old.number, UNCOUNTED: True})
                    trial = self._study.ask()
                    self._take(trial, 1)
                    return trial
            self._marks_seen[rung] = seen
        return None

    def _enqueued(self) -> Iterator[Mapping[str, Any]]:
        """Yield the attributes of the trials that were enqueued and not asked for yet, the oldest first."""
        history = self._history
        for number in sorted(history.open):
            if history.trials[number].state == TrialState.WAITING:
                yield history.trials[number].user_attrs

    def _repeat(self, trial: optuna.Trial, before: FrozenTrial, counts: bool) -> None:
        """Tell a trial as what is known of its architecture; what no sampler learns from stays with the known trial."""
        names = [*(metric.name for metric in self.plan.objectives), *self.plan.constraints]
        keys = dict.fromkeys([*names, "failure", "failure_reason", "fidelity", "gated_by", "stopped_at"])
        copied = {key: before.user_attrs[key] for key in keys if before.user_attrs.get(key) is not None}
        self._tell_known(trial, {**copied, "reused_from": before.number, UNCOUNTED: not counts})

    def _take_over(self, trial: optuna.Trial, known: Known) -> None:
        """Tell a trial as another study's result, which had the same seed."""
        self._tell_known(trial, {**known.attributes, "seeds": [self.plan.seed], "reused_from": known.source})

    def _holds_here(self, known: Known) -> bool:
        """Whether another study's result is one here: a look, for which a front far ahead was enough there, may not be."""
        return not known.attributes.get("latency_brief") or is_enough(known.attributes, self.as_told, self.plan)

    def _tell_known(self, trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
        try:
            for key, value in attributes.items():
                trial.set_user_attr(key, value)
            self._told_meanwhile.append(outcome_of(self.verdict.tell(trial)))
        except UpdateFinishedTrialError:
            return

    def told_meanwhile(self) -> list[Outcome]:
        """Return, once each, the trials that ``ask`` told without an evaluation since this was asked last."""
        told, self._told_meanwhile = self._told_meanwhile, []
        return told

    def _take(self, trial: optuna.Trial, attempt: int) -> None:
        trial.set_user_attr("owner", self._owner.name)
        trial.set_user_attr("attempt", attempt)

    @staticmethod
    def _took(trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
        """Let a trial that is told only now have begun as long ago as it took, and not when its process was found dead."""
        spent_s = sum(float(attributes.get(name) or 0.0) for name in ("train_seconds", "measure_seconds"))
        trial.set_user_attr(TAKEN_AT, time.time() - spent_s)

    def _suggest(self, trial: optuna.Trial) -> Architecture | None:
        if "outcome" in trial.user_attrs:
            self._took(trial, trial.user_attrs)
            self._told_meanwhile.append(outcome_of(self.verdict.tell(trial)))
            self._recorded.append(trial.number)
            return None
        # What was never suggested has no result: one that lies there is of a study that is gone.
        if self._spool is not None and "architecture" not in trial.user_attrs:
            self._spool.drop(trial.number)
        elif self._spool is not None and (kept := self._spool.take(trial.number)) is not None:
            self._took(trial, kept)
            self._told_meanwhile.append(outcome_of(self._record(trial, kept)))
            self._recorded.append(trial.number)
            return None
        if trial.user_attrs["attempt"] > MOST_ATTEMPTS:
            trial.set_user_attr("failure", "crash")
            trial.set_user_attr("failure_reason", f"its process died {MOST_ATTEMPTS} times while it was under way")
            self._told_meanwhile.append(outcome_of(self.verdict.tell(trial)))
            return None
        architecture = self.space.suggest(trial)
        trial.set_user_attr("architecture", json.dumps(architecture.to_dict()))
        trial.set_user_attr("architecture_id", architecture.id)
        self._let_resume(trial, architecture)
        return architecture

    def _let_resume(self, trial: optuna.Trial, architecture: Architecture) -> None:
        """Let a trial go on with one that was stopped, if that is what the sampler chose for it and it builds the same."""
        sampler = self._study.sampler
        stopped = sampler.goes_on_with(trial.number) if isinstance(sampler, Resuming) else None
        if stopped is not None and self.trials[stopped].user_attrs["architecture_id"] == architecture.id:
            trial.set_user_attr("resumed_from", stopped)
            trial.set_user_attr(UNCOUNTED, True)


def require_success(study: Study) -> None:
    """Refuse to call a search done in which every trial failed.

    Raises:
        RunError: With the first reason.
    """
    finished = study.finished
    if finished and all(trial.state == "failed" for trial in finished):
        first = finished[0]
        raise RunError(f"all {len(finished)} trials failed; the first (trial {first.name}): {first.failure_reason}.")
