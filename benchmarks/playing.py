"""Plays searches on a table of really evaluated networks, in virtual time: the methods that ``search_efficiency.py`` compares.

The study, the driver, the scheduler and the samplers are the real ones; only the engine looks its answers up.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from ground import OBJECTIVES, Ground, minimised, unseen
from methods import METHODS, Method, sampler_node
from noisy import NoisyEngine
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from yardstick import Trace

from nas.analyse.front import non_dominated
from nas.driver import run
from nas.engine import OnStage
from nas.evaluate import Evaluation, EvaluationRequest
from nas.interrupt import Interrupted, InterruptGate
from nas.lookup import Row
from nas.outcomes import Outcome
from nas.owner import Owner
from nas.plan import Asked, StudyPlan
from nas.samplers import make_sampler
from nas.scheduler import make_scheduler
from nas.simulate import SimulatedEngine
from nas.storage import memory_storage
from nas.study import Study
from nas.suggest.sampler import Resuming
from nas.targets import build_target
from search_spaces.base import Architecture, SearchSpace, Trial

WHOLE = 1 - 1e-9
"""Of the best known hypervolume: all of it, but for rounding."""

MOST_ASKS = 100
"""Suggestions in a row of networks that are known already after which a search ends: it finds nothing more."""

End = Literal["time", "front", "known"]


@dataclass(frozen=True)
class Played:
    """What a method came to with one seed.

    Attributes:
        steps: See ``Trace``.
        budget_s: Virtual seconds that it had.
        seconds: Virtual seconds when it ended.
        end: Why it ended: ``time`` was up, the whole ``front`` was found, or only what is ``known`` was suggested.
        full: Networks trained in full, repeats included that were trained.
        resumed: Of these, those that had been stopped before.
        stopped: Networks stopped early for good.
        gated: Networks not trained.
        repeated: Suggestions of what was known, whether evaluated again or not.
        asked: Suggestions.
        worth: What its last front is worth by the seeds that it did not see, a share of the best; ``None`` where there are none.
        sampler_s: Processor seconds of asking and telling.
    """

    method: str
    seed: int
    steps: tuple[tuple[float, float], ...]
    budget_s: float
    seconds: float
    end: End
    full: int
    resumed: int
    stopped: int
    gated: int
    repeated: int
    asked: int
    worth: float | None
    sampler_s: float

    @property
    def final(self) -> float:
        """The share of the best known hypervolume in the end."""
        return self.steps[-1][1] if self.steps else 0.0


class Clock:
    """Virtual time, in which the sampler's own time may count.

    Attributes:
        sampler_s: Processor seconds within ``sampling``.
        told: What was found, and when.
    """

    def __init__(self, engine: SimulatedEngine, trace: Trace, budget_s: float, charged: bool) -> None:
        self.sampler_s = 0.0
        self.trace, self.budget_s = trace, budget_s
        self.told: list[tuple[float, Row]] = []
        self._engine, self._charged = engine, charged

    @property
    def now_s(self) -> float:
        return self._engine.now_s + (self.sampler_s if self._charged else 0.0)

    @property
    def is_over(self) -> bool:
        """Whether time is up, or nothing is left to be found."""
        return self.now_s >= self.budget_s or self.trace.share >= WHOLE

    @contextmanager
    def sampling(self) -> Iterator[None]:
        began_s = time.thread_time()  # of the processor, so that what else the machine does is not taken for the sampler's
        try:
            yield
        finally:
            self.sampler_s += time.thread_time() - began_s

    def found(self, row: Row) -> None:
        """Take in a network that was told just now."""
        if self.now_s <= self.budget_s:
            self.trace.add(self.now_s, minimised(row))
            self.told.append((self.now_s, row))


def play(name: str, ground: Ground, seed: int, charged: bool = False, latency_noise: float = 0.0) -> Played:
    """Let a method search until its time is up; with ``latency_noise`` (see ``noisy``) judged by what latencies truly are."""
    method = METHODS[name]
    yardstick = ground.bounded if method.bounded else ground.yardstick
    assert yardstick is not None
    engine = NoisyEngine(ground.table, "naive" if method.way == "naive" else "ours", latency_noise, seed)
    clock = Clock(engine, Trace(yardstick), ground.budget_s, charged)
    counts, end = (_play_ours if method.way == "ours" else _play_plain)(method, ground, seed, engine, clock)
    if end is None:
        end = "front" if clock.trace.share >= WHOLE else "time"
    worth = None
    if ground.unseen is not None and not method.bounded and clock.told:
        seen = np.array([minimised(row) for _, row in clock.told])
        others = np.array([unseen(row) for _, row in clock.told])
        worth = ground.unseen.share(others[non_dominated(seen)])
    return Played(
        name,
        seed,
        tuple(clock.trace.steps),
        ground.budget_s,
        clock.now_s,
        end,
        worth=worth,
        sampler_s=clock.sampler_s,
        **counts,
    )


def _play_plain(
    method: Method, ground: Ground, seed: int, engine: SimulatedEngine, clock: Clock
) -> tuple[dict[str, int], End | None]:
    # The default is what Optuna 5 takes by itself, but repeatable.
    naive = method.sampler == "default"
    sampler: BaseSampler = TPESampler(seed=seed) if naive else build_target("sampler", sampler_node(method.sampler), seed=seed)
    study = optuna.create_study(directions=[metric.direction for metric in OBJECTIVES], sampler=sampler)
    request = ground.request
    if method.briefly and not naive:
        brief_seconds = ground.table.made["brief_latency_seconds"]
        request = dataclasses.replace(request, until_epoch=ground.table.recipe.epochs, first_latency_seconds=brief_seconds)
    seen: set[str] = set()
    evaluated = 0
    while not clock.is_over:
        with clock.sampling():
            trial = study.ask()
            architecture = ground.space.suggest(trial)
        found = engine.submit(trial.number, dataclasses.replace(request, architecture=architecture), _silent).result()
        row = ground.table.row(architecture)
        with clock.sampling():
            if method.bounded:
                trial.set_constraint("params", row.figures["params"] - ground.bound)
            study.tell(trial, [getattr(found.metrics, metric.name) for metric in OBJECTIVES])
        if not method.bounded or row.figures["params"] <= ground.bound:
            clock.found(row)
        evaluated += 1
        seen.add(architecture.id)
    counts = {"full": evaluated, "resumed": 0, "stopped": 0, "gated": 0, "repeated": evaluated - len(seen), "asked": evaluated}
    return counts, None


def _silent(number: int, stage: str) -> None:
    pass


class _TimedStudy(Study):
    """Our study, with the time that it takes for itself."""

    clock: Clock

    def ask(self) -> Asked | None:
        with self.clock.sampling():
            return super().ask()

    def goes_on(self, number: int, evaluation: Evaluation) -> bool:
        with self.clock.sampling():
            return super().goes_on(number, evaluation)

    def first_look_is_enough(self, evaluation: Evaluation, timing_seconds: float) -> bool:
        with self.clock.sampling():
            return super().first_look_is_enough(evaluation, timing_seconds)

    def tell(self, number: int, evaluation: Evaluation, stopped_at: int | None = None) -> Outcome:
        with self.clock.sampling():
            return super().tell(number, evaluation, stopped_at)


class _Limited(BaseSampler):
    """Gives up when a sampler has suggested nothing but what is known for long: its study would ask it for ever.

    Attributes:
        asked: Suggestions since a network was evaluated.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler, self.asked = sampler, 0

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.asked += 1
        if self.asked > MOST_ASKS:
            raise Interrupted
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def goes_on_with(self, number: int) -> int | None:
        return self._sampler.goes_on_with(number) if isinstance(self._sampler, Resuming) else None

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)


def _sampler(name: str, space: SearchSpace, seed: int) -> _Limited:
    """Return the sampler that a search has under a name of ``conf/sampler``."""
    return _Limited(make_sampler(sampler_node(name), space, seed))


@dataclass(frozen=True)
class _Anew:
    """An architecture that no study takes for one that it knows."""

    architecture: Architecture
    suggestion: int

    @property
    def id(self) -> str:
        return f"{self.architecture.id}#{self.suggestion}"

    def to_dict(self) -> dict[str, Any]:
        return self.architecture.to_dict()


class _AnewSpace:
    """A space in which nothing is ever suggested twice: what switches off that repeats are known."""

    def __init__(self, space: SearchSpace) -> None:
        self._space, self._suggested = space, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)

    def suggest(self, trial: Trial) -> _Anew:
        self._suggested += 1
        return _Anew(self._space.suggest(trial), self._suggested)


class _Playing:
    """The engine as our driver sees it, which ends the search when time is up, and the observer of what comes of it."""

    capacity = 1

    def __init__(self, ground: Ground, method: Method, engine: SimulatedEngine, clock: Clock, sampler: _Limited) -> None:
        self._ground, self._method, self._engine, self._clock, self._sampler = ground, method, engine, clock, sampler
        self._kept: dict[int, Evaluation] = {}

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        if self._clock.is_over:
            raise Interrupted
        self._sampler.asked = 0
        return self._engine.submit(number, request, on_stage)

    def request_for(self, asked: Asked) -> EvaluationRequest:
        architecture = asked.architecture.architecture if isinstance(asked.architecture, _Anew) else asked.architecture
        return dataclasses.replace(
            self._ground.request,
            architecture=architecture,
            gate={"params": self._ground.bound} if self._method.bounded and self._method.gate else {},
            begun=None if asked.begun is None else self._kept[int(asked.begun.name)],
            first_latency_seconds=self._ground.table.made["brief_latency_seconds"] if self._method.briefly else None,
        )

    def asked(self, asked: Asked) -> None: ...

    def stage(self, number: int, stage: str) -> None: ...

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        if evaluation.state is not None:
            self._kept[number] = evaluation

    def told(self, trial: Outcome) -> None:
        row = self._ground.table.rows[trial.attributes["architecture_id"].partition("#")[0]]
        if (
            trial.state == "complete"
            and not trial.attributes.get("latency_brief")
            and (not self._method.bounded or row.figures["params"] <= self._ground.bound)
        ):
            self._clock.found(row)


def _play_ours(
    method: Method, ground: Ground, seed: int, engine: SimulatedEngine, clock: Clock
) -> tuple[dict[str, int], End | None]:
    sampler = _sampler(method.sampler, ground.space, seed)
    plan = StudyPlan(
        name="played",
        trials=sys.maxsize,  # time ends it
        seed=seed,
        objectives=OBJECTIVES,
        constraints={"params": ground.bound} if method.bounded else {},
        conditions={},
    )
    epochs = ground.table.recipe.epochs
    scheduler = make_scheduler("none" if method.eta is None else "mo_asha", method.eta or math.inf, None, epochs, method.score)
    space: Any = ground.space if method.reuse else _AnewSpace(ground.space)
    playing = _Playing(ground, method, engine, clock, sampler)
    with tempfile.TemporaryDirectory() as folder:
        owner = Owner(Path(folder))
        try:
            study = _TimedStudy(memory_storage(), plan, space, sampler, owner, scheduler)
            study.clock = clock
            run(study, playing, playing.request_for, playing, InterruptGate())
        except Interrupted:
            pass
        finally:
            owner.close()
    counts = counted(study.trials)
    return counts, "known" if sampler.asked > MOST_ASKS else None


def counted(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Count what became of the trials of our study."""
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    own = [trial for trial in ended if "reused_from" not in trial.user_attrs]
    full = [trial for trial in own if trial.state == TrialState.COMPLETE]
    resumed = {trial.user_attrs.get("resumed_from") for trial in own} - {None}
    new = [trial for trial in own if "resumed_from" not in trial.user_attrs]
    stopped = [trial for trial in own if trial.user_attrs.get("stopped_at") is not None and trial.number not in resumed]
    distinct = {str(trial.user_attrs["architecture_id"]).partition("#")[0] for trial in new}
    return {
        "full": len(full),
        "resumed": sum("resumed_from" in trial.user_attrs for trial in full),
        "stopped": len(stopped),
        "gated": sum(bool(trial.user_attrs.get("gated_by")) for trial in own),
        "repeated": len(ended) - len(own) + len(new) - len(distinct),
        "asked": len(ended) - len(own) + len(new),
    }
