"""The sampler by expected improvement in real studies: repeatable, never in vain, heedful of bounds, and better than chance."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from nas import gathering
from nas.driver import run
from nas.engine import OnStage
from nas.evaluate import Evaluation, EvaluationRequest, Metrics
from nas.history import History
from nas.interrupt import InterruptGate
from nas.lookup import Table
from nas.metrics import METRICS
from nas.outcomes import Outcome
from nas.owner import Owner
from nas.plan import Asked, StudyPlan
from nas.sampling import TrialSeededSampler
from nas.scheduler import MoAsha, Scheduler
from nas.simulate import SimulatedEngine
from nas.storage import Storage, memory_storage, open_storage, storage_spec
from nas.study import Study
from nas.suggest.drawing import Candidate
from nas.suggest.encoding import coordinates
from nas.suggest.knowledge import Aim, knowledge_of
from nas.suggest.sampler import EhviSampler, Resuming
from nas.targets import build_target
from search_spaces.base import SearchSpace
from tests.toy import ToySpace, toy_evaluation

ROOT = Path(__file__).resolve().parents[2]
PLAN = StudyPlan("toy", 24, 7, (METRICS["top1"], METRICS["latency_ms"]), {}, {})
EPOCHS = 3


@dataclass(frozen=True)
class Digits:
    """The table of all networks of a small space, and the ground that the benchmark of searches makes of it."""

    table: Table
    space: SearchSpace
    ground: Any
    yardstick: ModuleType


@pytest.fixture(scope="module")
def digits() -> Digits:
    table = Table.read(ROOT / "benchmarks" / "tables" / "digits.parquet")
    node = yaml.safe_load((ROOT / "conf" / "space" / "osa_digits_table.yaml").read_text(encoding="utf-8"))
    space = build_target("space", node)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yardstick, ground = importlib.import_module("yardstick"), importlib.import_module("ground")
    return Digits(table, space, ground.ground_of(table, space, trials=60), yardstick)


Open = Callable[..., Study]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Open a study in memory, as a process of its own would."""
    count = iter(range(1000))

    def make(
        plan: StudyPlan = PLAN,
        space: Any = None,
        sampler: BaseSampler | None = None,
        storage: Storage | None = None,
        scheduler: Scheduler | None = None,
        **settings: int,
    ) -> Study:
        space = ToySpace() if space is None else space
        sampler = sampler or EhviSampler(space, plan.seed, **settings)
        owner = Owner(tmp_path / str(next(count)))
        return Study(storage or memory_storage(), plan, space, sampler, owner, scheduler)

    return make


def at(architecture: Any, epochs: int = EPOCHS) -> Evaluation:
    """Return what a toy has come to after some epochs: its loss tells what its accuracy will be."""
    metrics = toy_evaluation(architecture).metrics
    assert metrics.top1 is not None
    losses = tuple((1.0 - metrics.top1) * (1 + EPOCHS - epoch) for epoch in range(1, epochs + 1))
    return Evaluation(replace(metrics, top1=metrics.top1 * epochs / EPOCHS, epochs=epochs, train_loss=losses))


def go(study: Study, count: int = 1000, tell: Callable[[Any, int], Evaluation] = at) -> list[Asked]:
    """Evaluate candidates one after the other, from rung to rung."""
    done: list[Asked] = []
    while len(done) < count and (asked := study.ask()) is not None:
        done.append(asked)
        epochs = 0 if asked.begun is None else int(asked.begun.attributes["stopped_at"])
        while (rung := study.scheduler.next_rung(epochs)) is not None:
            epochs = rung
            evaluation = tell(asked.architecture, rung)
            if not study.goes_on(asked.number, evaluation):
                study.tell(asked.number, evaluation, stopped_at=rung)
                break
        else:
            study.tell(asked.number, tell(asked.architecture, EPOCHS))
    return done


def suggested(study: Study) -> list[tuple[dict[str, Any], int | None]]:
    return [(trial.params, trial.user_attrs.get("resumed_from")) for trial in study.trials]


def ids(asked: list[Asked]) -> list[str]:
    return [one.architecture.id for one in asked]


# ---- repeatable


@pytest.mark.parametrize("scheduler", [Scheduler(), MoAsha((1,), eta=3.0)])
def test_equal_seeds_suggest_the_same_and_others_do_not(opened: Open, scheduler: Scheduler) -> None:
    one, same, other = (opened(replace(PLAN, seed=seed), scheduler=scheduler) for seed in (7, 7, 8))
    for study in (one, same, other):
        go(study)
    assert suggested(one) == suggested(same) != suggested(other)


@pytest.mark.parametrize("scheduler", [Scheduler(), MoAsha((1,), eta=3.0)])
def test_a_restart_changes_no_suggestion(opened: Open, scheduler: Scheduler) -> None:
    settings = {"looks_at": 10}  # so that what is learned from is chosen anew too
    whole = opened(scheduler=scheduler, **settings)
    go(whole)
    for first in (3, 15):
        storage = memory_storage()
        go(opened(storage=storage, scheduler=scheduler, **settings), first)
        parts = opened(storage=storage, scheduler=scheduler, **settings)
        go(parts)
        assert suggested(parts) == suggested(whole), f"cut after {first}"


def test_a_sampler_that_served_another_study_remembers_nothing_of_it(opened: Open) -> None:
    sampler = EhviSampler(ToySpace(), 7)
    go(opened(replace(PLAN, name="before"), sampler=sampler))
    again, fresh = opened(sampler=sampler), opened()
    go(again)
    go(fresh)
    assert suggested(again) == suggested(fresh)


# ---- never in vain


@pytest.mark.parametrize("scheduler", [Scheduler(), MoAsha((1,), eta=2.0)])
def test_what_is_known_is_not_suggested_while_anything_is_not(opened: Open, scheduler: Scheduler) -> None:
    study = opened(space=ToySpace(high=8), scheduler=scheduler)  # 24 networks
    done = [asked for asked in go(study) if asked.begun is None]
    assert len(set(ids(done))) == len(done) == 24
    assert not any("reused_from" in trial.user_attrs for trial in study.trials)


def test_a_space_that_is_exhausted_still_ends(opened: Open) -> None:
    study = opened(replace(PLAN, trials=14), ToySpace(high=4))  # 12 networks
    assert len(go(study)) == 12
    repeats = [trial for trial in study.trials if "reused_from" in trial.user_attrs]
    assert sum(not trial.user_attrs.get("uncounted") for trial in repeats) == 2


def test_fixed_trials_stay_as_they_are(opened: Open) -> None:
    start = ({"width": 5, "kind": "b"}, {"width": 900})
    study = opened(replace(PLAN, start=start))
    go(study, 12)
    study._study.enqueue_trial({"width": 17, "kind": "c"})
    go(study, 1)
    first, second, *_, last = study.trials
    assert (first.params, last.params) == ({"width": 5, "kind": "b"}, {"width": 17, "kind": "c"})
    assert second.params["width"] == 900, "and what is not fixed is drawn"
    assert not any("resumed_from" in trial.user_attrs for trial in study.trials)


def test_what_is_under_way_is_not_suggested_again(opened: Open) -> None:
    study = opened(space=ToySpace(high=8))
    done = go(study, 10)
    under_way = [asked for asked in (study.ask() for _ in range(14)) if asked is not None]
    assert len({*ids(done), *ids(under_way)}) == 24


def test_what_is_under_way_makes_its_neighbours_worth_less() -> None:
    domains = {"width": IntDistribution(1, 1000, log=True), "kind": CategoricalDistribution(["a"])}

    def trial(width: int, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
        params = {"width": width, "kind": "a"}
        values = [width / (width + 100), float(width)] if state == TrialState.COMPLETE else None
        return optuna.trial.create_trial(state=state, values=values, params=params, distributions=domains)

    # The front has a gap in its midst and lies close together elsewhere.
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials([trial(width) for width in (10, 13, 16, 20, 25, 32, 40, 50, 63, 500, 630, 800, 1000)])
    taught = study.trials
    told = knowledge_of(taught, Aim(("top1", "latency_ms"), tuple(study.directions), {}))
    candidates = [Candidate(found.params, coordinates(found.params, domains)) for found in map(trial, (160, 140, 190, 18))]
    sampler = EhviSampler(ToySpace(), 7)
    before, after = (
        sampler._worth(candidates, taught, told, under_way, number=len(taught))
        for under_way in ([], [trial(160, TrialState.RUNNING)])
    )
    asked, *near, far = after / before
    assert asked < 0.5 and max(near) < 0.7 and 0.8 < far < 1.5


# ---- going on with what was stopped


def test_a_stopped_candidate_is_gone_on_with_where_nothing_else_is_left(opened: Open) -> None:
    study = opened(replace(PLAN, trials=13), ToySpace(high=4))
    go(study, 11)
    last = study.ask()
    assert last is not None and last.begun is None
    study.tell(last.number, at(last.architecture, 1), stopped_at=1)
    asked = study.ask()
    assert asked is not None and asked.architecture == last.architecture
    assert asked.begun is not None and asked.begun.number == last.number and asked.begun.attributes["stopped_at"] == 1
    trial = study.trials[asked.number]
    assert trial.user_attrs["resumed_from"] == last.number and trial.user_attrs["uncounted"] is True
    assert isinstance(study._study.sampler, Resuming) and study._study.sampler.goes_on_with(asked.number) == last.number
    # It is under way now, and nobody else goes on with it.
    other = study.ask()
    assert other is None or other.begun is None
    study.tell(asked.number, at(asked.architecture))
    assert study.trials[asked.number].state == TrialState.COMPLETE


@pytest.mark.parametrize(("loss", "is_chosen"), [(0.03, True), (9.0, False)])
def test_a_stopped_candidate_is_chosen_for_what_its_loss_promises(opened: Open, loss: float, is_chosen: bool) -> None:
    study = opened(replace(PLAN, objectives=(METRICS["top1"],)))
    go(study, 9)
    stopped = study.ask()
    assert stopped is not None
    early = at(stopped.architecture, 1)
    study.tell(stopped.number, replace(early, metrics=replace(early.metrics, train_loss=(loss,))), stopped_at=1)
    begun = [asked.begun.number for asked in go(study, 4) if asked.begun is not None]
    assert begun == ([stopped.number] if is_chosen else [])


class Simulating(SimulatedEngine):
    """The simulated engine, and what a driver has to be told; keeps what was asked for."""

    def __init__(self, digits: Digits) -> None:
        super().__init__(digits.table)
        self.request = digits.ground.request
        self.brief = digits.table.made["brief_latency_seconds"]
        self.kept: dict[int, Evaluation] = {}
        self.trained: dict[int, list[tuple[int, int | None]]] = {}

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        before = 0 if request.begun is None else request.begun.metrics.epochs or 0
        self.trained.setdefault(number, []).append((before, request.until_epoch))
        return super().submit(number, request, on_stage)

    def request_for(self, asked: Asked) -> EvaluationRequest:
        begun = None if asked.begun is None else self.kept[int(asked.begun.name)]
        found: EvaluationRequest = replace(
            self.request, architecture=asked.architecture, begun=begun, first_latency_seconds=self.brief
        )
        return found

    def asked(self, asked: Asked) -> None: ...

    def stage(self, number: int, stage: str) -> None: ...

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        if evaluation.state is not None:
            self.kept[number] = evaluation

    def told(self, trial: Outcome) -> None: ...


def test_in_a_search_the_sampler_goes_on_with_some_of_what_was_stopped(opened: Open, digits: Digits) -> None:
    plan, simulating = replace(PLAN, trials=60), Simulating(digits)
    study = opened(plan, digits.space, scheduler=MoAsha((1, 3), eta=4.0))
    run(study, simulating, simulating.request_for, simulating, InterruptGate())
    trials = study.trials
    # What the scheduler chooses is enqueued with its parameters; what the sampler chooses is not.
    chosen = [t for t in trials if "resumed_from" in t.user_attrs and "fixed_params" not in t.system_attrs]
    assert chosen
    for trial in chosen:
        old = trials[trial.user_attrs["resumed_from"]]
        assert old.state == TrialState.PRUNED and trial.params == old.params and trial.user_attrs["uncounted"]
        assert trial.user_attrs["architecture_id"] == old.user_attrs["architecture_id"]
        assert simulating.trained[trial.number][0][0] == old.user_attrs["stopped_at"], "from where it was stopped"
    resumed = [trial.user_attrs["resumed_from"] for trial in trials if "resumed_from" in trial.user_attrs]
    assert len(set(resumed)) == len(resumed), "none twice"
    assert sum(not trial.user_attrs.get("uncounted") for trial in trials) == 60
    assert all(trial.state == TrialState.COMPLETE or "stopped_at" in trial.user_attrs for trial in trials)


# ---- what it looks for


def test_after_a_few_misses_most_suggestions_keep_a_hard_bound(opened: Open) -> None:
    def gated(architecture: Any, epochs: int) -> Evaluation:
        if architecture.width <= 100:
            return at(architecture, epochs)
        return Evaluation(Metrics(architecture.id, params=architecture.width), gated_by=("params",))

    # A tenth of the space keeps it, and what is best lies at the bound.
    study = opened(replace(PLAN, trials=40, constraints={"params": 100.0}))
    go(study, tell=gated)
    kept = [trial.params["width"] <= 100 for trial in study.trials]
    assert sum(kept[:8]) <= 3 and sum(kept[20:]) >= 14


def test_networks_that_cannot_be_trained_are_kept_away_from(opened: Open) -> None:
    def failing(architecture: Any, epochs: int) -> Evaluation:
        if architecture.width <= 500:
            return at(architecture, epochs)
        return Evaluation(Metrics(architecture.id), failure="out_of_memory", failure_reason="too wide")

    study = opened(replace(PLAN, trials=40))
    go(study, tell=failing)
    failed = [trial.state == TrialState.FAIL for trial in study.trials]
    assert sum(failed[:8]) >= 2 and sum(failed[20:]) <= 4


def test_one_objective_is_enough(opened: Open) -> None:
    study = opened(replace(PLAN, objectives=(METRICS["top1"],)))
    go(study)
    assert max(trial.params["width"] for trial in study.trials) >= 990


def test_three_objectives_are_not_too_many(opened: Open, digits: Digits) -> None:
    objectives = (METRICS["top1"], METRICS["latency_ms"], METRICS["params"])
    study, simulating = opened(replace(PLAN, objectives=objectives), digits.space), Simulating(digits)
    run(study, simulating, simulating.request_for, simulating, InterruptGate())
    assert len({trial.user_attrs["architecture_id"] for trial in study.trials}) == len(study.trials) == PLAN.trials
    assert len(study.front()) > 3


def needed(study: Study, digits: Digits, share: float) -> int:
    """Return how many networks were evaluated until their front had that share of the best known hypervolume."""
    trace = digits.yardstick.Trace(digits.ground.yardstick)
    for count in range(1, study.plan.trials + 1):
        asked = study.ask()
        assert asked is not None
        row = digits.table.row(asked.architecture)
        latency_ms, top1 = row.figures["latency_ms"], row.top1[-1]
        study.tell(asked.number, Evaluation(Metrics(asked.architecture.id, top1=top1, latency_ms=latency_ms)))
        trace.add(count, (-top1, latency_ms))
        if trace.share >= share:
            return count
    raise AssertionError(f"{share} is not there after {study.plan.trials} networks")


def test_it_needs_fewer_networks_than_chance_does(opened: Open, digits: Digits) -> None:
    counts: dict[str, list[int]] = {"ours": [], "random": []}
    for seed in range(5):
        plan = replace(PLAN, trials=200, seed=seed)
        by_chance = TrialSeededSampler(RandomSampler, lambda **extra: RandomSampler(**extra), seed)
        counts["ours"].append(needed(opened(plan, digits.space), digits, 0.95))
        counts["random"].append(needed(opened(plan, digits.space, by_chance), digits, 0.95))
    assert statistics.median(counts["ours"]) < 0.7 * statistics.median(counts["random"]), counts


# ---- settings


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("n_candidates", 1, 2),
        ("n_startup_trials", 0, 1),
        ("looks_at", 9, 10),
        ("looks_at", True, 10),
        ("n_candidates", 64.0, 2),
    ],
)
def test_a_number_that_cannot_be_used_is_named(name: str, value: Any, least: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name}={value} .* a whole number of {least} or more$"):
        EhviSampler(ToySpace(), 0, **{name: value})


def test_more_draws_at_first_than_are_learned_from_are_refused() -> None:
    with pytest.raises(ValueError, match="n_startup_trials=20 cannot be used: it should not be above looks_at=10"):
        EhviSampler(ToySpace(), 0, n_startup_trials=20, looks_at=10)


@pytest.mark.parametrize("storage", [None, "journal"])
def test_a_death_in_the_midst_of_choosing_what_was_stopped_changes_nothing(
    opened: Open, tmp_path: Path, storage: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(folder: Path) -> Study:
        """Return a study of a space of which nothing is left but a candidate that was stopped."""
        folder.mkdir()
        study = opened(replace(PLAN, trials=13), ToySpace(high=4), storage=open_storage(storage_spec(storage, folder)))
        go(study, 11)
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, at(asked.architecture, 1), stopped_at=1)
        return study

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    def after(study: Study) -> list[tuple[dict[str, Any], int | None]]:
        go(study, 1)
        return suggested(study)[12:13]

    whole = after(begun(tmp_path / "whole"))
    assert whole[0][1] is not None, "it goes on with what was stopped"
    dying = begun(tmp_path / "parts")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gathering._Unit, "flush", dies)
        dying.ask()
    dying._owner.close()
    storage_again = open_storage(storage_spec(storage, tmp_path / "parts"))
    assert after(opened(replace(PLAN, trials=13), ToySpace(high=4), storage=storage_again)) == whole


def test_before_enough_is_known_it_draws_at_random(opened: Open) -> None:
    late, later = opened(n_startup_trials=10), opened(n_startup_trials=20)
    go(late, 20)
    go(later, 20)
    assert suggested(late)[:10] == suggested(later)[:10] and suggested(late)[10:] != suggested(later)[10:]


def test_what_it_learns_from_is_no_more_than_it_may_look_at(opened: Open) -> None:
    study = opened(looks_at=10)
    go(study)
    sampler = study._study.sampler
    assert isinstance(sampler, EhviSampler)
    taught = sampler._taught(study._study, History().update(study.trials))
    assert len(taught) <= 10 < len(study.trials)
