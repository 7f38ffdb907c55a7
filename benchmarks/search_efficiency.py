"""What a search costs until its front is as good as the best known one: ours, ours without each of its parts, and others.

With ``--simulated`` every candidate is looked up in a table of really evaluated networks (``make_table.py``) and time is virtual;
the study, the driver and the samplers are the real ones. A front's worth is the hypervolume of (top1, latency_ms) as a share of
that of the whole table's front; a point counts from the moment at which its trial was told. Every method has the same virtual
time, as long as ``--trials`` candidates take on the naive way on average. A seed that does not come so far has taken all of it.

    python benchmarks/search_efficiency.py --simulated --seeds 50 [--methods naive,tpe,ours] [--jobs 2] [--charge-sampler]
    python benchmarks/search_efficiency.py --seeds 5 --trials 40     # for real, on digits: naive.py against nas.search

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import torch
import yaml
from closing import keep, show
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table as Printed

from nas.analyse.front import Array
from nas.analyse.hypervolume import hypervolume
from nas.analyse.ranking import kendall, spearman
from nas.driver import run
from nas.engine import OnStage
from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest
from nas.interrupt import Interrupted, InterruptGate
from nas.measure.device import resolve_conditions
from nas.measure.settings import MeasureSettings
from nas.metrics import METRICS
from nas.outcomes import Outcome
from nas.owner import Owner
from nas.sampling import TrialSeededSampler
from nas.scheduler import make_scheduler
from nas.simulate import Row, SimulatedEngine, Table
from nas.storage import memory_storage
from nas.study import Asked, Study, StudyPlan
from nas.targets import build_target, locate_target
from nas.train.data import DataRequest
from nas.train.datasets import Digits
from nas.train.settings import DataSettings, NumericFormat
from search_spaces.base import Architecture, SearchSpace, Trial

ROOT = Path(__file__).resolve().parents[1]
OBJECTIVES = (METRICS["top1"], METRICS["latency_ms"])
SHARES = (0.95, 0.99)
WHOLE = 1 - 1e-9
"""Of the best known hypervolume: all of it, but for rounding."""

MOST_ASKS = 100
"""Suggestions in a row of networks that are known already after which a search ends: it has nothing left to find."""

RESAMPLES = 200
DEVICE = torch.device("cpu")
Reference = Literal["table", "front"]


# ---- how good a front is, and when


@dataclass(frozen=True)
class Yardstick:
    """How fronts are measured: scaled by fixed bounds, against a fixed reference point.

    Attributes:
        least: Of each objective, minimised.
        span: Likewise.
        reference: In scaled objectives.
        best: The greatest hypervolume that is known.
    """

    least: Array
    span: Array
    reference: Array
    best: float

    @classmethod
    def of(cls, values: Array, allowed: Array | None = None, reference: Reference = "table") -> Yardstick:
        """Measure by what is known.

        Args:
            values: Shape (n, m), all networks, minimised: what is scaled by.
            allowed: Those of them that may be on a front; all, if not given.
            reference: Where the reference point lies: at the worst of all networks, or a tenth beyond the worst of the front.
        """
        least, span = values.min(axis=0), np.ptp(values, axis=0)
        if not (span > 0).all():
            raise InputError("all networks are equal in an objective: there is nothing to search for.")
        scaled = ((values if allowed is None else allowed) - least) / span
        point = np.ones(values.shape[1])
        if reference == "front":
            front = _front(scaled)
            point = front.max(axis=0) + 0.1 * np.ptp(front, axis=0)
        return cls(least, span, point, hypervolume(scaled, point))


class Trace:
    """The share of the best known hypervolume that a search has come to, as it goes.

    Attributes:
        steps: Seconds and share, whenever the share grew.
    """

    def __init__(self, yardstick: Yardstick) -> None:
        self.steps: list[tuple[float, float]] = []
        self._yardstick = yardstick
        self._front = np.empty((0, len(yardstick.reference)))

    @property
    def share(self) -> float:
        """The share now."""
        return self.steps[-1][1] if self.steps else 0.0

    def add(self, seconds: float, values: Sequence[float]) -> None:
        """Take in a network, minimised; never earlier than the one before it."""
        point = (np.array(values) - self._yardstick.least) / self._yardstick.span
        if (self._front <= point).all(axis=1).any():
            return
        self._front = np.vstack([self._front[~(point <= self._front).all(axis=1)], point])
        share = hypervolume(self._front, self._yardstick.reference) / self._yardstick.best
        if share > self.share:
            self.steps.append((seconds, share))


def _front(values: Array) -> Array:
    dominated = [((values <= row).all(axis=1) & (values < row).any(axis=1)).any() for row in values]
    return values[~np.array(dominated)]


def time_to(share: float, steps: Sequence[tuple[float, float]]) -> float | None:
    """Return when a share was reached; ``None`` if it was not."""
    return next((seconds for seconds, reached in steps if reached >= share), None)


def ratios(times: Sequence[float | None], ours: Sequence[float | None], budget_s: float) -> list[float]:
    """Return, seed by seed, how often ours fits into the other's time; what was not reached has taken the whole budget."""
    return [
        (budget_s if other is None else other) / (budget_s if mine is None else mine)
        for other, mine in zip(times, ours, strict=True)
    ]


def least_final_ratio(ours: Sequence[float], others: Sequence[Sequence[float]]) -> float | None:
    """Return the least, over seeds, of our final hypervolume over the best of the others'; ``None`` without others."""
    if not others:
        return None
    return min(mine / max(rivals) for mine, *rivals in zip(ours, *others, strict=True))


# ---- what is played


@dataclass(frozen=True)
class Method:
    """A way to search.

    Attributes:
        way: ``naive`` and ``plain`` are a loop of ask and tell that evaluates whatever is suggested, at the costs of
            ``naive.py`` or at ours; ``ours`` is this package's study.
        sampler: Of ``conf/sampler``; ``default`` is Optuna's own choice.
        eta: Of ``mo_asha``; ``None`` for no scheduler.
        reuse: Whether what is known is not evaluated again.
        bounded: Whether networks have to keep a bound of ``params``.
        gate: Whether what misses it is not trained.
    """

    told: str
    way: Literal["naive", "plain", "ours"]
    sampler: str
    eta: float | None = None
    reuse: bool = True
    bounded: bool = False
    gate: bool = True


def _methods() -> dict[str, Method]:
    eta = float(yaml.safe_load((ROOT / "conf" / "scheduler" / "mo_asha.yaml").read_text(encoding="utf-8"))["eta"])
    methods = {
        "naive": Method("Optuna's default, naive costs", "naive", "default"),
        "random": Method("random, no scheduler", "ours", "random"),
        "nsga2": Method("NSGA-II, plain loop, our costs", "plain", "nsga2"),
        "tpe": Method("TPE, plain loop, our costs", "plain", "tpe"),
        "ours": Method(f"ours: TPE, mo_asha (eta {eta:g}), no repeats", "ours", "tpe", eta),
        "no_scheduler": Method("ours without the scheduler", "ours", "tpe"),
        "repeats": Method("ours, repeats evaluated again", "ours", "tpe", eta, reuse=False),
        "random_asha": Method("ours, random instead of TPE", "ours", "random", eta),
    }
    for other in (2.0, 3.0, 4.0):
        if other != eta:
            methods[f"eta{other:g}"] = Method(f"ours, eta {other:g}", "ours", "tpe", other)
    return {
        **methods,
        "bound_naive": dataclasses.replace(methods["naive"], bounded=True),
        "bound_tpe": dataclasses.replace(methods["tpe"], bounded=True),
        "bound_ours": dataclasses.replace(methods["ours"], bounded=True),
        "bound_no_gate": Method("ours without the gate", "ours", "tpe", eta, bounded=True, gate=False),
    }


METHODS = _methods()
RIVALS = ("nsga2", "tpe")
"""Of which ours shall be faster than the best: what a plain user of our way of evaluating would take."""


@dataclass(frozen=True)
class Ground:
    """What methods are compared on.

    Attributes:
        request: For any network; the architecture is to be set.
        budget_s: Virtual seconds that a method has.
        yardstick: Of all networks.
        bound: The greatest number of parameters, where there is a bound.
        bounded: The yardstick of the networks that keep it; ``None`` if that is too few or all of them.
    """

    table: Table
    space: SearchSpace
    request: EvaluationRequest
    budget_s: float
    yardstick: Yardstick
    bound: float
    bounded: Yardstick | None


def minimised(row: Row) -> tuple[float, float]:
    """Return a network's objectives as the table's first seed has them."""
    return -row.top1[-1], row.figures["latency_ms"]


def ground_of(table: Table, space: SearchSpace, trials: int, reference: Reference = "table") -> Ground:
    """Return the ground that a table makes."""
    rows = list(table.rows.values())
    values = np.array([minimised(row) for row in rows])
    bound = statistics.median_low([row.figures["params"] for row in rows])
    kept = np.array([row.figures["params"] <= bound for row in rows])
    # A bound that all keep, or of which no trade-off is left, asks for nothing.
    sensible = not kept.all() and len(_front(values[kept])) > 2
    each_s = statistics.mean(
        row.naive.measure_seconds
        + row.naive.setup_seconds
        + table.recipe.epochs * row.naive.epoch_seconds
        + row.naive.score_seconds
        for row in rows
    )
    request = EvaluationRequest(
        space=space,
        architecture=space.from_dict(rows[0].architecture),
        data=DataRequest(Digits(), DataSettings(), 0),  # not looked at
        train=table.recipe,
        numeric=NumericFormat("fp32", "channels_last"),
        measure=resolve_conditions(MeasureSettings(), DEVICE),
        device="cpu",
        seed=0,
        required=tuple(metric.name for metric in OBJECTIVES),
    )
    bounded = Yardstick.of(values, values[kept], reference) if sensible else None
    return Ground(table, space, request, trials * each_s, Yardstick.of(values, None, reference), bound, bounded)


@dataclass(frozen=True)
class Played:
    """What a method came to with one seed.

    Attributes:
        steps: See ``Trace``.
        seconds: Virtual seconds when it ended.
        end: Why it ended: ``time`` was up, the whole ``front`` was found, or only what is ``known`` was suggested.
        full: Networks trained in full, repeats included that were trained.
        resumed: Of these, those that had been stopped before.
        stopped: Networks stopped early for good.
        gated: Networks not trained.
        repeated: Suggestions of what was known, whether evaluated again or not.
        asked: Suggestions.
        sampler_s: Real seconds of asking and telling.
    """

    method: str
    seed: int
    steps: tuple[tuple[float, float], ...]
    seconds: float
    end: Literal["time", "front", "known"]
    full: int
    resumed: int
    stopped: int
    gated: int
    repeated: int
    asked: int
    sampler_s: float

    @property
    def final(self) -> float:
        """The share of the best known hypervolume in the end."""
        return self.steps[-1][1] if self.steps else 0.0


class Clock:
    """Virtual time, in which the sampler's real time may count.

    Attributes:
        sampler_s: Real seconds within ``sampling``.
    """

    def __init__(self, engine: SimulatedEngine, trace: Trace, budget_s: float, charged: bool) -> None:
        self.sampler_s = 0.0
        self.trace, self.budget_s = trace, budget_s
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
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self.sampler_s += time.perf_counter() - began_s

    def found(self, row: Row) -> None:
        """Take in a network that was told just now."""
        if self.now_s <= self.budget_s:
            self.trace.add(self.now_s, minimised(row))


def play(name: str, ground: Ground, seed: int, charged: bool = False) -> Played:
    """Let a method search until its time is up."""
    method = METHODS[name]
    yardstick = ground.bounded if method.bounded else ground.yardstick
    assert yardstick is not None
    engine = SimulatedEngine(ground.table, way="naive" if method.way == "naive" else "ours")
    clock = Clock(engine, Trace(yardstick), ground.budget_s, charged)
    counts, end = (_play_ours if method.way == "ours" else _play_plain)(method, ground, seed, engine, clock)
    if end is None:
        end = "front" if clock.trace.share >= WHOLE else "time"
    return Played(name, seed, tuple(clock.trace.steps), clock.now_s, end, sampler_s=clock.sampler_s, **counts)


def _node(sampler: str) -> dict[str, Any]:
    node = yaml.safe_load((ROOT / "conf" / "sampler" / f"{sampler}.yaml").read_text(encoding="utf-8"))
    assert isinstance(node, dict)
    return node


def _play_plain(
    method: Method, ground: Ground, seed: int, engine: SimulatedEngine, clock: Clock
) -> tuple[dict[str, int], Literal["known"] | None]:
    sampler: BaseSampler
    if method.sampler == "default":
        sampler = TPESampler(seed=seed)  # what Optuna 5 takes by itself, but repeatable
    else:
        sampler = build_target("sampler", _node(method.sampler), seed=seed)
    study = optuna.create_study(directions=[metric.direction for metric in OBJECTIVES], sampler=sampler)
    seen: set[str] = set()
    evaluated = 0
    while not clock.is_over:
        with clock.sampling():
            trial = study.ask()
            architecture = ground.space.suggest(trial)
        found = engine.submit(trial.number, dataclasses.replace(ground.request, architecture=architecture), _silent).result()
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

    def tell(self, number: int, evaluation: Evaluation, stopped_at: int | None = None) -> Outcome:
        with self.clock.sampling():
            return super().tell(number, evaluation, stopped_at)


class _Sampler(TrialSeededSampler):
    """Gives up when it has suggested nothing but what is known for long: its study would ask it for ever.

    Attributes:
        asked: Suggestions since a network was evaluated.
    """

    asked = 0

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.asked += 1
        if self.asked > MOST_ASKS:
            raise Interrupted
        super().before_trial(study, trial)


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

    def __init__(self, ground: Ground, method: Method, engine: SimulatedEngine, clock: Clock, sampler: _Sampler) -> None:
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
        )

    def asked(self, asked: Asked) -> None: ...

    def stage(self, number: int, stage: str) -> None: ...

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        if evaluation.state is not None:
            self._kept[number] = evaluation

    def told(self, trial: Outcome) -> None:
        row = self._ground.table.rows[trial.attributes["architecture_id"].partition("#")[0]]
        if trial.state == "complete" and (not self._method.bounded or row.figures["params"] <= self._ground.bound):
            self._clock.found(row)


def _play_ours(
    method: Method, ground: Ground, seed: int, engine: SimulatedEngine, clock: Clock
) -> tuple[dict[str, int], Literal["known"] | None]:
    node = _node(method.sampler)
    sampler = _Sampler(
        locate_target("sampler._target_", node["_target_"]), lambda **extra: build_target("sampler", node, **extra), seed
    )
    plan = StudyPlan(
        name="played",
        trials=sys.maxsize,  # time ends it
        seed=seed,
        objectives=OBJECTIVES,
        constraints={"params": ground.bound} if method.bounded else {},
        conditions={},
    )
    epochs = ground.table.recipe.epochs
    scheduler = make_scheduler("none" if method.eta is None else "mo_asha", method.eta or math.inf, None, epochs)
    space = ground.space if method.reuse else _AnewSpace(ground.space)
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
    counts = _counted(study.trials)
    return counts, "known" if sampler.asked > MOST_ASKS else None


def _counted(trials: Sequence[FrozenTrial]) -> dict[str, int]:
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


# ---- many seeds


@lru_cache(maxsize=1)
def _ground(table: str, trials: int, reference: Reference) -> Ground:
    read = Table.read(table)
    space = yaml.safe_load((ROOT / "conf" / "space" / f"{read.made['space']}.yaml").read_text(encoding="utf-8"))
    return ground_of(read, build_target("space", space), trials, reference)


def _play_seed(ground: tuple[str, int, Reference], methods: Sequence[str], seed: int, charged: bool) -> list[Played]:
    """Play every method with one seed; runs in any process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    turn = seed % len(methods)  # no method is always the first
    played = [play(name, _ground(*ground), seed, charged) for name in (*methods[turn:], *methods[:turn])]
    return sorted(played, key=lambda one: methods.index(one.method))


def play_all(
    ground: tuple[str, int, Reference], methods: Sequence[str], seeds: int, charged: bool, jobs: int
) -> dict[str, list[Played]]:
    """Return what each method came to, by seed."""
    found: list[list[Played]] = []
    began_s = time.perf_counter()

    def take(played: list[Played]) -> None:
        found.append(played)
        print(f"seed {len(found)} of {seeds}, {time.perf_counter() - began_s:.0f} s", file=sys.stderr, flush=True)

    if jobs == 1:
        for seed in range(seeds):
            take(_play_seed(ground, methods, seed, charged))
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(_play_seed, ground, methods, seed, charged) for seed in range(seeds)]:
                take(future.result())
    return {name: [played[place] for played in found] for place, name in enumerate(methods)}


def quartiles(values: Sequence[float], digits: int = 0) -> str:
    """Return the median, and between which quartiles it lies, as short text."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def _reached(played: Sequence[Played], share: float, budget_s: float) -> str:
    times = [time_to(share, one.steps) for one in played]
    missed = times.count(None)
    return quartiles([budget_s if seconds is None else seconds for seconds in times]) + (f" {missed} not" if missed else "")


def _times(played: Sequence[Played], share: float = SHARES[-1]) -> list[float | None]:
    return [time_to(share, one.steps) for one in played]


def _comparison(played: Mapping[str, Sequence[Played]], ours: str, budget_s: float) -> Printed:
    shares = [f"s to {share:.0%}" for share in SHARES]
    printed = Printed(
        *("method", *shares, f"{SHARES[-1]:.0%}: × ours", "final share", "least"),
        *("in full", "resumed", "stopped", "gated", "repeats", "ended", "ask+tell", "ms each"),
        box=None,
    )
    for name, runs in played.items():
        against = ratios(_times(runs), _times(played[ours]), budget_s) if ours in played else None
        ends = {end: sum(one.end == end for one in runs) for end in ("time", "front", "known")}
        printed.add_row(
            f"{name}: {METHODS[name].told}",
            *(_reached(runs, share, budget_s) for share in SHARES),
            "–" if against is None else quartiles(against, 2),
            f"{statistics.median(one.final for one in runs):.4f}",
            f"{min(one.final for one in runs):.4f}",
            *(
                f"{statistics.median(getattr(one, count) for one in runs):g}"
                for count in ("full", "resumed", "stopped", "gated", "repeated")
            ),
            ", ".join(f"{end} {count}" for end, count in ends.items() if count),
            f"{statistics.median(one.sampler_s / one.seconds for one in runs):.2%}",
            f"{statistics.median(1e3 * one.sampler_s / max(1, one.asked) for one in runs):.1f}",
        )
    return printed


def summary(played: Mapping[str, Sequence[Played]], budget_s: float) -> dict[str, float | str | None]:
    """Return the figures by which a search is judged; ``None`` where a method that one needs was not played."""
    found: dict[str, float | str | None] = dict.fromkeys(
        ("speedup_vs_naive_99", "speedup_vs_best_99", "final_hypervolume_ratio_min", "best")
    )
    if "ours" not in played:
        return found
    ours = _times(played["ours"])

    def speedup(name: str) -> float:
        return statistics.median(ratios(_times(played[name]), ours, budget_s))

    if "naive" in played:
        found["speedup_vs_naive_99"] = speedup("naive")
    if rivals := [name for name in RIVALS if name in played]:
        # The one that is faster by itself: taken seed by seed, the best of several draws would stand against one draw.
        best = min(rivals, key=lambda name: statistics.median(budget_s if t is None else t for t in _times(played[name])))
        found |= {"speedup_vs_best_99": speedup(best), "best": best}
    others = [[one.final for one in played[name]] for name in ("naive", "random", *RIVALS) if name in played]
    found["final_hypervolume_ratio_min"] = least_final_ratio([one.final for one in played["ours"]], others)
    return found


# ---- whether the order of the brief proxies is right


def proxies(row: Row, epochs: int) -> dict[tuple[str, int], float]:
    """Return each proxy's score after each epoch of the first training, higher is better."""
    found: dict[tuple[str, int], float] = {}
    for epoch in range(1, epochs + 1):
        late = [row.top1[past - 1] for past in range(1, epoch + 1) if past > epoch * 2 / 3]
        found["top1", epoch] = row.top1[epoch - 1]
        found["top1_mean", epoch] = statistics.fmean(late)
        found["train_loss_area", epoch] = -statistics.fmean(row.train_loss[:epoch])
    return found


def _proxies(table: Table) -> tuple[str, Printed]:
    several = [row for row in table.rows.values() if row.top1_seeds]
    rows = several or list(table.rows.values())
    # The proxies are the first seed's: where there are others, they alone are the truth.
    truth = np.array([statistics.fmean(course[-1] for course in (row.top1_seeds or [row.top1])) for row in rows])
    scores = [proxies(row, table.recipe.epochs) for row in rows]
    draws = np.random.default_rng(0).integers(0, len(rows), size=(RESAMPLES, len(rows)))
    columns = {key: np.array([score[key] for score in scores]) for key in scores[0]}
    taus = {
        key: np.array([kendall(column[draw].tolist(), truth[draw].tolist()) for draw in draws]) for key, column in columns.items()
    }
    printed = Printed("proxy", "epochs", "Spearman", "Kendall", "95 % interval", "above top1 of that epoch", box=None)
    for (name, epoch), column in columns.items():
        low, high = np.nanquantile(taus[name, epoch], [0.025, 0.975])
        rival = taus["top1", epoch]
        wins = (taus[name, epoch] > rival).mean() + 0.5 * (taus[name, epoch] == rival).mean()
        printed.add_row(
            name,
            str(epoch),
            f"{spearman(column.tolist(), truth.tolist()):.3f}",
            f"{kendall(column.tolist(), truth.tolist()):.3f}",
            f"{low:.3f} to {high:.3f}",
            "–" if name == "top1" else f"{wins:.0%} of draws",
        )
    against = (
        f"the mean final top1 of further seeds ({min(len(row.top1_seeds) for row in rows)} or more)"
        if several
        else "the final top1 of the same training, for want of further seeds: the later epochs are compared with themselves"
    )
    told = (
        f"\nIs the order of the brief proxies right? Those of the first seed against {against}, over {len(rows)} networks; "
        f"{RESAMPLES} bootstrap draws of networks"
    )
    return told, printed


def simulated(options: argparse.Namespace) -> dict[str, Any]:
    """Play the methods on the table, print what they came to, and return the summary."""
    key: tuple[str, int, Reference] = (str(options.table), options.trials, options.reference)
    ground = _ground(*key)
    methods = [name for name in options.methods if not METHODS[name].bounded or ground.bounded is not None]
    played = play_all(key, methods, options.seeds, options.charge_sampler, options.jobs)
    keep("search_efficiency.json", {name: [dataclasses.asdict(one) for one in runs] for name, runs in played.items()})
    free = {name: runs for name, runs in played.items() if not METHODS[name].bounded}
    bounded = {name: runs for name, runs in played.items() if METHODS[name].bounded}
    table, budget_s = ground.table, ground.budget_s
    found = {**summary(free, budget_s), "seeds": options.seeds, "budget_s": round(budget_s, 1)}
    point = "the worst of the table" if options.reference == "table" else "a tenth beyond the worst of the front"
    told = (
        f"{table.path}: {len(table.rows)} networks of {table.made.get('space')}, made on {table.made.get('date')} on "
        f"{json.dumps(table.made.get('device'))}\n"
        f"medians (quartiles) over {options.seeds} seeds, in virtual seconds; each method has {budget_s:,.0f} s, as long as "
        f"{options.trials} candidates take on the naive way on average; reference point: {point}; what is not reached has taken "
        f"all of it; a search ends before when it has the whole front, or suggests {MOST_ASKS} known networks in a row\n"
        "ask+tell: real seconds, on an in-memory storage, as a share of the virtual ones, "
        + ("and charged to them" if options.charge_sampler else "and not charged to them")
    )
    show(DEVICE, told, _comparison(free, "ours", budget_s), options.width)
    if bounded and ground.bounded is not None:
        told = f"\nwith a hard bound, params ≤ {ground.bound:,.0f} (the table's median); hypervolume of what keeps it"
        show(DEVICE, told, _comparison(bounded, "bound_ours", budget_s), options.width)
    if not options.no_proxies:
        show(DEVICE, *_proxies(table), options.width)
    return found


# ---- for real


@dataclass(frozen=True)
class Searched:
    """A search that was run for real.

    Attributes:
        points: Seconds since its process was launched, and the objectives, minimised, of each network trained in full.
    """

    points: tuple[tuple[float, tuple[float, float]], ...]
    seconds: float
    stopped: int = field(default=0)
    repeated: int = field(default=0)


def search_naively(seed: int, trials: int, folder: Path) -> Searched:
    """Run ``naive.py`` on digits."""
    launched_s, began_s = time.time(), time.perf_counter()
    command = [sys.executable, str(ROOT / "benchmarks" / "naive.py"), "--trials", str(trials), "--seed", str(seed)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OUT": str(folder)}, cwd=ROOT)
    seconds = time.perf_counter() - began_s
    path = folder / "naive.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    # The file is written as the search ends; what lies before the search is the start of the process.
    start_s = path.stat().st_mtime - found[-1]["ended_s"] - launched_s
    points = tuple((start_s + one["ended_s"], (-one["top1"], one["latency_ms"])) for one in found)
    return Searched(points, seconds)


def search_ours(seed: int, budget_s: float, folder: Path) -> Searched:
    """Run ``nas.search`` on digits for so long."""
    launched_s = time.time()
    command = [sys.executable, "-m", "nas.search", "conf=osa_digits", "space=osa_digits_table", "scheduler=mo_asha"]
    command += ["objectives=[top1,latency_ms]", "study.name=real", "study.trials=1000000", f"seed={seed}", f"run_dir={folder}"]
    command += ["measure.energy=false", "measure.latency_max_seconds=0.6", "checkpoints=none"]
    command += ["train.precision=fp32", "train.memory_format=channels_last"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    try:
        process.wait(budget_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # what has ended is told, and nothing more is begun
        process.wait()
    seconds = time.time() - launched_s
    study = optuna.load_study(study_name="real", storage=f"sqlite:///{folder}/study.db")
    trials = [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    points = []
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.datetime_complete is not None:
            top1, latency_ms = trial.values
            points.append((trial.datetime_complete.timestamp() - launched_s, (-top1, latency_ms)))
    counts = _counted(trials)
    within = tuple((ended_s, values) for ended_s, values in sorted(points) if ended_s <= budget_s)
    return Searched(within, seconds, counts["stopped"], counts["repeated"])


def for_real(options: argparse.Namespace) -> dict[str, Any]:
    """Run naive searches and ours by turns, print what they came to, and return the summary."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    searched: dict[str, list[Searched]] = {"naive": [], "ours": []}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            searched["naive"].append(search_naively(seed, options.trials, Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            # Both have the time of the naive one.
            searched["ours"].append(search_ours(seed, searched["naive"][-1].points[-1][0], Path(folder) / "run"))
        print(f"seed {seed + 1} of {options.seeds}", file=sys.stderr, flush=True)
    keep("search_efficiency.json", {way: [dataclasses.asdict(one) for one in found] for way, found in searched.items()})
    values = np.array([values for found in searched.values() for one in found for _, values in one.points])
    yardstick = Yardstick.of(values, None, options.reference)
    budgets = [one.points[-1][0] for one in searched["naive"]]
    traces = {way: [_trace(one, yardstick) for one in found] for way, found in searched.items()}
    printed = Printed(
        *("method", *(f"s to {share:.0%}" for share in SHARES), "final share", "least"),
        *("in full", "stopped", "repeats"),
        box=None,
    )
    times: dict[str, list[float | None]] = {}
    for way, found in searched.items():
        columns = []
        for share in SHARES:
            times[way] = [time_to(share, trace.steps) for trace in traces[way]]
            missed = times[way].count(None)
            reached = [budget if seconds is None else seconds for seconds, budget in zip(times[way], budgets, strict=True)]
            columns.append(quartiles(reached, 1) + (f" {missed} not" if missed else ""))
        finals = [trace.share for trace in traces[way]]
        counted = [[len(one.points) for one in found], [one.stopped for one in found], [one.repeated for one in found]]
        printed.add_row(
            way, *columns, f"{statistics.median(finals):.4f}", f"{min(finals):.4f}", *(f"{statistics.median(c):g}" for c in counted)
        )
    told = (
        f"digits, conf/space/osa_digits_table.yaml, medians (quartiles) over {options.seeds} seeds, by turns; each search has the "
        f"time in which naive.py evaluates {options.trials} candidates ({quartiles(budgets, 1)} s), from the launch of its process\n"
        "best known: the front of all that both found, each accuracy as it was trained and each latency as that way measured it "
        "(nothing is measured again, so a difference between the two ways of measuring counts as one of the networks)"
    )
    show(DEVICE, told, printed, options.width)
    paired = [
        ratios([theirs], [mine], budget)[0]
        for theirs, mine, budget in zip(times["naive"], times["ours"], budgets, strict=True)
    ]
    return {
        "speedup_vs_naive_99": statistics.median(paired),
        "speedup_vs_best_99": None,  # the others are compared on the table alone
        "final_hypervolume_ratio_min": least_final_ratio(
            [trace.share for trace in traces["ours"]], [[trace.share for trace in traces["naive"]]]
        ),
        "seeds": options.seeds,
    }


def _trace(searched: Searched, yardstick: Yardstick) -> Trace:
    trace = Trace(yardstick)
    for seconds, values in searched.points:
        trace.add(seconds, values)
    return trace


def main() -> None:
    """Print the comparison, and the summary as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulated", action="store_true", help="look candidates up in --table, in virtual time")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, help="naive candidates that set the time of every method; 150, for real 40")
    parser.add_argument("--table", type=Path, default=Path("benchmarks/tables/digits.parquet"))
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS), help=", ".join(METHODS))
    parser.add_argument("--reference", choices=("table", "front"), default="table", help="where the reference point lies")
    parser.add_argument("--charge-sampler", action="store_true", help="real seconds of asking and telling count as virtual ones")
    parser.add_argument("--no-proxies", action="store_true", help="leave out the section on brief proxies")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds")
    parser.add_argument("--width", type=int, default=230)
    options = parser.parse_args()
    for name in options.methods:
        if name not in METHODS:
            raise InputError(f"--methods: {name} is none of them: {', '.join(METHODS)}.")
    for name in ("seeds", "trials", "jobs"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InputError(f"--{name}={value} is not 1 or more.")
    options.trials = options.trials or (150 if options.simulated else 40)
    found: Callable[[argparse.Namespace], dict[str, Any]] = simulated if options.simulated else for_real
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in found(options).items()}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
