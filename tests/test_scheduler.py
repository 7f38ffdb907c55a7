"""Stopping early, the gate and repeats, from the decision at a rung to what the study and a run folder hold afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from nas import driver
from nas.driver import MOST_FAILURES, run
from nas.engine import OnStage
from nas.errors import InputError, RunError, StorageAwayError
from nas.evaluate import Evaluation, EvaluationRequest, Metrics
from nas.history import History
from nas.interrupt import InterruptGate
from nas.measure.device import resolve_conditions
from nas.measure.settings import MeasureSettings
from nas.outcomes import Outcome
from nas.plan import Asked, Known, StudyPlan
from nas.scheduler import Mark, MoAsha, Scheduler, default_rungs, make_scheduler
from nas.spool import Spool
from nas.storage import memory_storage
from nas.study import MOST_REPEATS
from nas.summary import savings
from nas.train.data import DataRequest
from nas.train.datasets import Digits
from nas.train.settings import DataSettings, NumericFormat, TrainSettings
from nas.verdict import Verdict
from tests.test_study import PLAN, Run, sampler
from tests.toy import ToyArchitecture, ToySpace, toy_evaluation

EPOCHS = 9


# ---- the decision


@given(st.integers(1, 400), st.floats(1.01, 10.0))
def test_default_rungs_lie_below_the_last_epoch_and_thin_out(epochs: int, eta: float) -> None:
    rungs = default_rungs(epochs, eta)
    assert list(rungs) == sorted(set(rungs)) and all(1 <= rung < epochs for rung in rungs)
    if epochs >= 2 * eta and eta >= 1.5:
        assert rungs[-1] == pytest.approx(epochs / eta, abs=0.51)


def test_rungs_of_usual_recipes() -> None:
    assert default_rungs(10, 3.0) == (1, 3)
    assert default_rungs(7, 3.0) == (1, 2)
    assert default_rungs(1, 3.0) == ()
    assert default_rungs(81, 3.0) == (1, 3, 9, 27)


@pytest.mark.parametrize(
    ("rungs", "message"),
    [([2, 9], "9 is not below train.epochs=9"), ([3, 2], "give each epoch once, ascending"), ([2, 2], "give each epoch once")],
)
def test_rungs_that_do_not_fit_are_refused(rungs: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_scheduler("mo_asha", 3.0, rungs, EPOCHS)


def test_without_a_scheduler_everything_goes_on() -> None:
    scheduler = make_scheduler("none", 3.0, None, EPOCHS)
    assert scheduler == Scheduler() and scheduler.next_rung(0) is None


def test_who_misses_a_bound_stands_behind_all_who_keep_them() -> None:
    scheduler = MoAsha((1,), eta=2.0)
    rung = {0: Mark((0.0,), missed=0.1), 1: Mark((9.0,)), 2: Mark((8.0,)), 3: Mark((1.0,), missed=0.3)}
    assert scheduler.those_who_go_on(rung) == {1, 2}
    alone = {5: Mark((3.0,), missed=1.0), 6: Mark((3.0,), missed=2.0)}
    assert scheduler.those_who_go_on(alone) == {5}


# ---- the study


def learning(architecture: ToyArchitecture, epochs: int) -> Evaluation:
    """The toy's accuracy, reached along a curve."""
    full = toy_evaluation(architecture).metrics
    assert full.top1 is not None
    luck = 0.4 + 0.6 * (architecture.width * 7919 % 97) / 97  # of equal width some are much better, so others are dominated
    course = [luck * full.top1 * (1 - math.exp(-3 * epoch / EPOCHS)) for epoch in range(1, epochs + 1)]
    losses = tuple(1 - value for value in course)
    curve = ((epochs, course[-1]),)
    metrics = replace(full, top1=course[-1], epochs=epochs, train_loss=losses, curve=curve, train_seconds=float(epochs))
    return Evaluation(metrics, state=None if epochs == EPOCHS else json.dumps({"epochs": epochs}).encode())


class ToyEngine:
    """Evaluates toys in stretches, and keeps count of the epochs that it trained."""

    capacity = 1

    def __init__(self, found: Callable[[ToyArchitecture, int], Evaluation] = learning) -> None:
        self.found, self.epochs, self.requests = found, 0, []  # type: ignore[var-annotated]

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        before = 0 if request.begun is None else json.loads(request.begun.state or b"")["epochs"]
        until = request.until_epoch or EPOCHS
        assert until > before
        self.requests.append((number, before, until))
        future: Future[Evaluation] = Future()
        evaluation = self.found(request.architecture, until)  # type: ignore[arg-type]
        if not evaluation.gated_by:
            self.epochs += until - before
        future.set_result(evaluation)
        return future


class Watcher:
    """Keeps what it is told, and what stopped candidates would leave on disk."""

    def __init__(self) -> None:
        self.told_: list[Outcome] = []
        self.kept: dict[int, Evaluation] = {}

    def asked(self, asked: Asked) -> None: ...

    def stage(self, number: int, stage: str) -> None: ...

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        if evaluation.state is not None:
            self.kept[number] = evaluation

    def told(self, trial: Outcome) -> None:
        self.told_.append(trial)


@pytest.fixture
def request_() -> EvaluationRequest:
    return EvaluationRequest(
        space=ToySpace(),
        architecture=ToyArchitecture(1, "a"),
        data=DataRequest(Digits(), DataSettings(), seed=0),
        train=TrainSettings(epochs=EPOCHS),
        numeric=NumericFormat("fp32", "contiguous"),
        measure=resolve_conditions(MeasureSettings(), torch.device("cpu")),
        device="cpu",
        seed=0,
    )


def search(
    folder: Path, plan: StudyPlan, scheduler: Scheduler, request: EvaluationRequest, engine: ToyEngine
) -> tuple[Run, Watcher]:
    opened, watcher = Run(folder, plan=plan, storage=memory_storage()), Watcher()
    opened.study.scheduler = scheduler

    def request_for(asked: Asked) -> EvaluationRequest:
        begun = None if asked.begun is None else watcher.kept[int(asked.begun.name)]
        return replace(request, architecture=asked.architecture, begun=begun)

    run(opened.study, engine, request_for, watcher, InterruptGate())
    return opened, watcher


def test_low_standing_candidates_are_stopped_and_told_as_pruned(tmp_path: Path, request_: EvaluationRequest) -> None:
    scheduler = MoAsha((1, 3), eta=3.0)
    plan = replace(PLAN, trials=40)
    whole, stopping = ToyEngine(), ToyEngine()
    search(tmp_path / "whole", plan, Scheduler(), request_, whole)
    opened, watcher = search(tmp_path / "stopping", plan, scheduler, request_, stopping)
    assert whole.epochs == 40 * EPOCHS and stopping.epochs < 0.7 * whole.epochs
    trials = opened.study.trials
    assert sum(not trial.user_attrs.get("uncounted") for trial in trials) == 40
    stopped = [trial for trial in trials if trial.state == TrialState.PRUNED]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(stopped) + len(complete) == len(trials) and stopped and complete
    for trial in trials:
        assert trial.user_attrs["fidelity"] == trial.user_attrs.get("epochs", trial.user_attrs["fidelity"])
    for trial in stopped:
        assert trial.user_attrs["stopped_at"] == trial.user_attrs["fidelity"] in (1, 3) and trial.values is None
    assert all(trial.user_attrs["fidelity"] == EPOCHS and "stopped_at" not in trial.user_attrs for trial in complete)
    # What is partly trained is never compared with what is trained in full.
    assert {outcome.number for outcome in opened.study.front()} <= {trial.number for trial in complete}
    assert {"pruned", "complete"} <= {outcome.state for outcome in watcher.told_} <= {"pruned", "complete", "repeated"}


def test_every_decision_was_right_among_the_marks_of_its_time(tmp_path: Path, request_: EvaluationRequest) -> None:
    scheduler = MoAsha((1, 3), eta=3.0)
    opened, _ = search(tmp_path, replace(PLAN, trials=30), scheduler, request_, ToyEngine())
    for rung in scheduler.rungs:
        there = History().update(opened.study.trials).marks(rung)
        resumed = {trial.user_attrs.get("resumed_from") for trial in opened.study.trials}
        for number, mark in there.items():
            trial = opened.study.trials[number]
            assert mark.values == (
                learning(opened.study.space.from_dict(json.loads(trial.user_attrs["architecture"])), rung).metrics.train_loss[-1],
                trial.user_attrs["latency_ms"],
            )
            if trial.user_attrs.get("stopped_at") == rung and number not in resumed:
                # In the end nobody is left behind who stands high enough to go on.
                assert number not in scheduler.those_who_go_on(there)


def test_a_stopped_candidate_goes_on_once_it_stands_high_enough(tmp_path: Path, request_: EvaluationRequest) -> None:
    scheduler = MoAsha((1,), eta=3.0)
    engine = ToyEngine()
    opened, _ = search(tmp_path, replace(PLAN, trials=40), scheduler, request_, engine)
    resumed = [trial for trial in opened.study.trials if "resumed_from" in trial.user_attrs]
    assert resumed
    for trial in resumed:
        old = opened.study.trials[trial.user_attrs["resumed_from"]]
        assert trial.params == old.params and trial.user_attrs["architecture_id"] == old.user_attrs["architecture_id"]
        assert trial.user_attrs["uncounted"] and old.user_attrs["stopped_at"] == 1
        assert (trial.number, 1, EPOCHS) in engine.requests  # from where it was stopped, and not from the start
    begun = [trial.user_attrs["resumed_from"] for trial in resumed]
    assert len(set(begun)) == len(begun)


def test_a_resumption_that_is_cut_off_is_one_again(tmp_path: Path, request_: EvaluationRequest) -> None:
    plan, scheduler = replace(PLAN, trials=40), MoAsha((1,), eta=3.0)
    storage = memory_storage()
    opened = Run(tmp_path, plan=plan, storage=storage)
    opened.study.scheduler = scheduler
    while True:
        asked = opened.study.ask()
        assert asked is not None
        if asked.begun is not None:
            break
        first = learning(asked.architecture, 1)  # type: ignore[arg-type]
        if opened.study.goes_on(asked.number, first):
            opened.study.tell(asked.number, learning(asked.architecture, EPOCHS))  # type: ignore[arg-type]
        else:
            opened.study.tell(asked.number, first, 1)
    opened.die()
    again = Run(tmp_path, plan=plan, storage=storage)
    again.study.scheduler = scheduler
    taken = again.study.ask()
    assert taken is not None and taken.number == asked.number
    assert taken.begun is not None and taken.begun.name == asked.begun.name and taken.begun.attributes["stopped_at"] == 1


def gating(architecture: ToyArchitecture, epochs: int) -> Evaluation:
    found = toy_evaluation(architecture)
    if architecture.width <= 300:
        return replace(found, metrics=replace(found.metrics, epochs=epochs))
    return Evaluation(Metrics(architecture.id, params=architecture.width), {}, gated_by=("params",))


def test_a_gated_candidate_is_pruned_with_the_bounds_known_so_far(tmp_path: Path, request_: EvaluationRequest) -> None:
    plan = replace(PLAN, trials=20, constraints={"params": 300.0, "latency_ms": 1e9})
    opened, watcher = search(tmp_path, plan, Scheduler(), request_, ToyEngine(gating))
    gated = [trial for trial in opened.study.trials if trial.state == TrialState.PRUNED]
    assert 0 < len(gated) < 20
    for trial in gated:
        assert trial.user_attrs["gated_by"] == ["params"] and trial.user_attrs["fidelity"] == 0
        assert trial.constraints["params"] == trial.user_attrs["params"] - 300 > 0 and "latency_ms" not in trial.constraints
        assert trial.user_attrs["top1"] is None
    front = {outcome.number for outcome in opened.study.front()}
    assert front.isdisjoint(trial.number for trial in gated)
    told = next(outcome for outcome in watcher.told_ if outcome.state == "pruned")
    assert told.pruned_reason == "not trained: misses params"


def test_the_gate_teaches_tpe(tmp_path: Path, request_: EvaluationRequest) -> None:
    plan = replace(PLAN, trials=60, constraints={"params": 300.0})
    counts = {}
    for name in ("random", "tpe"):
        opened = Run(tmp_path / name, name, plan, memory_storage())
        run(
            opened.study,
            ToyEngine(gating),
            lambda asked: replace(request_, architecture=asked.architecture),
            Watcher(),
            InterruptGate(),
        )
        late = [trial for trial in opened.study.trials if trial.number >= 20 and "reused_from" not in trial.user_attrs]
        counts[name] = sum(trial.state == TrialState.PRUNED for trial in late) / len(late)
    assert counts["random"] > 0.5 and counts["tpe"] < 2 / 3 * counts["random"]  # after a repeat TPE too draws at random


# ---- repeats


class Few(ToySpace):
    """Three architectures."""

    def suggest(self, trial: object) -> ToyArchitecture:  # type: ignore[override]
        return ToyArchitecture(10 * trial.suggest_int("third", 1, 3), "a")  # type: ignore[attr-defined]


def few(folder: Path, plan: StudyPlan) -> Run:
    opened = Run(folder, plan=plan, storage=memory_storage())
    opened.study.space = Few()
    return opened


def test_nothing_is_evaluated_twice_and_a_small_space_ends(tmp_path: Path, request_: EvaluationRequest) -> None:
    plan = replace(PLAN, trials=8)
    opened, engine, watcher = few(tmp_path, plan), ToyEngine(), Watcher()
    run(opened.study, engine, lambda asked: replace(request_, architecture=asked.architecture), watcher, InterruptGate())
    ids = [trial.user_attrs["architecture_id"] for trial in opened.study.trials]
    assert len(engine.requests) == len(set(ids)) == 3
    repeats = [trial for trial in opened.study.trials if "reused_from" in trial.user_attrs]
    assert len(repeats) == len(ids) - 3
    assert sum(not trial.user_attrs.get("uncounted") for trial in opened.study.trials) == 8
    # A repeat counts as a trial only after the sampler was asked again often enough.
    counting = [trial.number for trial in repeats if not trial.user_attrs["uncounted"]]
    for number in counting:
        assert all(opened.study.trials[number - back].user_attrs.get("uncounted") for back in range(1, MOST_REPEATS + 1))
    for trial in repeats:
        known = opened.study.trials[trial.user_attrs["reused_from"]]
        assert "reused_from" not in known.user_attrs
        assert trial.values == known.values and trial.user_attrs["architecture_id"] == known.user_attrs["architecture_id"]
        assert trial.user_attrs.get("train_seconds") is None  # nothing was spent on it
    finished = opened.study.finished
    assert {outcome.state for outcome in finished} == {"complete", "repeated"}
    front = [outcome.attributes["architecture_id"] for outcome in opened.study.front()]
    assert len(front) == len(set(front))


@pytest.mark.parametrize(("failure", "times"), [("out_of_memory", 1), ("diverged", 1), ("error", 2), ("crash", 2)])
def test_a_failure_is_taken_again_only_where_another_attempt_would_end_alike(
    tmp_path: Path, request_: EvaluationRequest, failure: str, times: int
) -> None:
    class One(ToySpace):
        def suggest(self, trial: object) -> ToyArchitecture:  # type: ignore[override]
            trial.suggest_int("same", 1, 1)  # type: ignore[attr-defined]
            return ToyArchitecture(10, "a")

    def fails(architecture: ToyArchitecture, epochs: int) -> Evaluation:
        return Evaluation(Metrics(architecture.id), {}, failure, "train: it broke")  # type: ignore[arg-type]

    opened, engine = Run(tmp_path, plan=replace(PLAN, trials=2), storage=memory_storage()), ToyEngine(fails)
    opened.study.space = One()
    run(opened.study, engine, lambda asked: replace(request_, architecture=asked.architecture), Watcher(), InterruptGate())
    assert len(engine.requests) == times
    assert {trial.state for trial in opened.study.trials} == {TrialState.FAIL}
    assert all(trial.user_attrs["failure_reason"] == "train: it broke" for trial in opened.study.trials)


def test_repeats_change_nothing_of_what_random_sampling_finds(tmp_path: Path, request_: EvaluationRequest) -> None:
    assert sampler("random").is_seeded
    one, other = few(tmp_path / "one", replace(PLAN, trials=4)), few(tmp_path / "other", replace(PLAN, trials=4))
    for opened in (one, other):
        run(
            opened.study,
            ToyEngine(),
            lambda asked: replace(request_, architecture=asked.architecture),
            Watcher(),
            InterruptGate(),
        )
    assert [t.params for t in one.study.trials] == [t.params for t in other.study.trials]


def test_what_another_study_knows_is_taken_over_once(tmp_path: Path, request_: EvaluationRequest) -> None:
    first = few(tmp_path / "first", replace(PLAN, trials=8))
    run(first.study, ToyEngine(), lambda asked: replace(request_, architecture=asked.architecture), Watcher(), InterruptGate())
    keys = ("top1", "latency_ms", "params", "fidelity")
    known = {
        outcome.attributes["architecture_id"]: Known(f"first/{outcome.name}", {key: outcome.attributes[key] for key in keys})
        for outcome in first.study.finished
        if outcome.state == "complete"
    }
    assert len(known) == 3
    opened, engine = few(tmp_path / "second", replace(PLAN, trials=8, known=known)), ToyEngine()
    run(opened.study, engine, lambda asked: replace(request_, architecture=asked.architecture), Watcher(), InterruptGate())
    states = [outcome.state for outcome in opened.study.finished]
    assert not engine.requests and states.count("complete") == 3 and set(states) == {"complete", "repeated"}
    assert sum(outcome.counts for outcome in opened.study.finished) == 8
    front = [outcome.attributes["architecture_id"] for outcome in opened.study.front()]
    assert front and len(front) == len(set(front))


# ---- a driver's judgment


def test_a_candidate_that_was_stopped_ends_a_row_of_failures(tmp_path: Path, request_: EvaluationRequest) -> None:
    calls = count()

    def every_other_fails(architecture: ToyArchitecture, epochs: int) -> Evaluation:
        number = next(calls)
        if number % 2:
            return Evaluation(Metrics(architecture.id), {}, "out_of_memory", "train: no memory")
        found = learning(architecture, epochs)
        # Each is worse than the one before it: all but the first are stopped.
        worse = replace(found.metrics, latency_ms=1.0 + number, train_loss=(1.0 + number,) * epochs)
        return replace(found, metrics=worse)

    plan = replace(PLAN, trials=4 * MOST_FAILURES)
    opened, _ = search(tmp_path, plan, MoAsha((1,), eta=100.0), request_, ToyEngine(every_other_fails))
    states = [outcome.state for outcome in opened.study.finished]
    assert states.count("failed") > MOST_FAILURES and states.count("pruned") > MOST_FAILURES and "complete" not in states


def test_nothing_but_failures_ends_a_search(tmp_path: Path, request_: EvaluationRequest) -> None:
    def fails(architecture: ToyArchitecture, epochs: int) -> Evaluation:
        return Evaluation(Metrics(architecture.id), {}, "out_of_memory", "train: no memory")

    engine = ToyEngine(fails)
    with pytest.raises(RunError, match=r"10 candidates in a row failed \(out_of_memory\).*Lower train.batch_size"):
        search(tmp_path, replace(PLAN, trials=40), MoAsha((1,), eta=3.0), request_, engine)
    assert len(engine.requests) == MOST_FAILURES


def test_a_bound_on_accuracy_says_nothing_of_a_training_that_has_not_ended(tmp_path: Path, request_: EvaluationRequest) -> None:
    plan, scheduler = replace(PLAN, trials=30), MoAsha((1, 3), eta=3.0)
    free, _ = search(tmp_path / "free", plan, scheduler, request_, ToyEngine())
    bounded, _ = search(tmp_path / "bounded", replace(plan, constraints={"top1": 0.5}), scheduler, request_, ToyEngine())
    stops = [[(trial.params, trial.user_attrs.get("stopped_at")) for trial in opened.study.trials] for opened in (free, bounded)]
    assert stops[0] == stops[1]
    for trial in bounded.study.trials:
        assert ("top1" in trial.constraints) == (trial.state == TrialState.COMPLETE)
    assert all(outcome.attributes["top1"] >= 0.5 for outcome in bounded.study.front())


def test_one_whose_state_is_lost_is_not_judged_again_where_it_was_let_through(
    tmp_path: Path, request_: EvaluationRequest
) -> None:
    opened, engine = Run(tmp_path, plan=replace(PLAN, trials=40), storage=memory_storage()), ToyEngine()
    opened.study.scheduler = MoAsha((1, 3), eta=3.0)
    run(opened.study, engine, lambda asked: replace(request_, architecture=asked.architecture), Watcher(), InterruptGate())
    resumed = [trial for trial in opened.study.trials if "resumed_from" in trial.user_attrs]
    assert resumed
    for trial in resumed:
        stopped_at = opened.study.trials[trial.user_attrs["resumed_from"]].user_attrs["stopped_at"]
        legs = [until for number, _, until in engine.requests if number == trial.number]
        assert legs[0] == {1: 3, 3: EPOCHS}[stopped_at]
        assert "rung:1" not in trial.user_attrs


def test_marks_of_another_score_are_not_compared(tmp_path: Path, request_: EvaluationRequest) -> None:
    storage, plan = memory_storage(), replace(PLAN, trials=12)
    for trials, score in ((12, "loss"), (24, "objective")):
        opened = Run(tmp_path, plan=replace(plan, trials=trials), storage=storage)
        opened.study.scheduler = MoAsha((1,), eta=3.0, score=score)  # type: ignore[arg-type]
        run(
            opened.study,
            ToyEngine(),
            lambda asked: replace(request_, architecture=asked.architecture),
            Watcher(),
            InterruptGate(),
        )
        opened.owner.close()
    marks = History().update(opened.study.trials).marks(1)
    assert {mark.score for mark in marks.values()} == {"loss", "objective"}
    later = {number: mark for number, mark in marks.items() if mark.score == "objective"}
    chosen = opened.study.scheduler.those_who_go_on(later)
    stopped = [n for n in later if opened.study.trials[n].state == TrialState.PRUNED]
    resumed = {trial.user_attrs.get("resumed_from") for trial in opened.study.trials}
    assert stopped and not [number for number in stopped if number in chosen and number not in resumed]


def test_a_training_that_begins_anew_says_so(tmp_path: Path, request_: EvaluationRequest) -> None:
    scheduler, plan = MoAsha((1,), eta=3.0), replace(PLAN, trials=40)
    kept, _ = search(tmp_path / "kept", plan, scheduler, request_, ToyEngine())
    lost = Run(tmp_path / "lost", plan=plan, storage=memory_storage())
    lost.study.scheduler, engine = scheduler, ToyEngine()
    run(lost.study, engine, lambda asked: replace(request_, architecture=asked.architecture), Watcher(), InterruptGate())
    for opened, anew in ((kept, False), (lost, True)):
        resumed = [trial for trial in opened.study.trials if "resumed_from" in trial.user_attrs]
        assert resumed and all(trial.user_attrs["anew"] is anew for trial in resumed)
    (told,) = [line for line in savings(lost.study.finished, EPOCHS) if line.startswith("stopping")]
    candidates = sum("resumed_from" not in trial.user_attrs for trial in lost.study.trials)
    assert f"; {engine.epochs} of {EPOCHS * candidates} epochs ran" in told


def test_a_promotion_takes_no_first_trial_for_itself(tmp_path: Path, request_: EvaluationRequest) -> None:
    """What was enqueued first is asked for first: with one left when the study is full, it would come as one too many."""

    def narrower_is_better(architecture: ToyArchitecture, epochs: int) -> Evaluation:
        found = learning(architecture, epochs)
        return replace(found, metrics=replace(found.metrics, train_loss=(float(architecture.width),) * epochs))

    start = tuple({"width": width, "kind": "b"} for width in (1, 2, 3, 4, 5))
    plan, scheduler = replace(PLAN, trials=4, start=start), MoAsha((1,), eta=3.0)
    opened, _ = search(tmp_path, plan, scheduler, request_, ToyEngine(narrower_is_better))
    trials = opened.study.trials
    assert [trial.params for trial in trials if trial.state.is_finished()] == list(start[:4])
    # The second one was stopped when there was one place only, and would go on by now.
    assert trials[1].user_attrs["stopped_at"] == 1
    assert 1 in scheduler.those_who_go_on(History().update(trials).marks(1))


def test_a_full_study_waits_until_it_is_known_who_lives(
    tmp_path: Path, request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_LOOK_SECONDS", 0.001)
    plan, storage = replace(PLAN, trials=3), memory_storage()
    elsewhere = Run(tmp_path, plan=plan, storage=storage)
    asked = elsewhere.study.ask()
    assert asked is not None
    here, looks = Run(tmp_path, plan=plan, storage=storage), count()
    # A pulse that was seen only just: it takes some looks to tell that it stands still.
    monkeypatch.setattr(here.owner, "lives", lambda name: name == here.owner.name or next(looks) < 8)
    monkeypatch.setattr(here.owner, "is_unsure", lambda name: name != here.owner.name)
    run(here.study, ToyEngine(), lambda asked: replace(request_, architecture=asked.architecture), Watcher(), InterruptGate())
    assert [trial.state for trial in here.study.trials] == [TrialState.COMPLETE] * 3
    assert here.study.trials[asked.number].user_attrs["attempt"] == 2


def test_what_has_ended_is_kept_while_the_storage_is_away(
    tmp_path: Path, request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Three(ToyEngine):
        capacity = 3

    def go(engine: ToyEngine) -> Run:
        opened = Run(tmp_path, plan=replace(PLAN, trials=6), spool=Spool(tmp_path / "spool", PLAN.name))
        try:
            watcher, gate = Watcher(), InterruptGate()
            run(opened.study, engine, lambda asked: replace(request_, architecture=asked.architecture), watcher, gate)
        finally:
            opened.die()
        return opened

    def away(*_: object) -> None:
        raise StorageAwayError("study.storage was away for 600 s")

    with monkeypatch.context() as patch, pytest.raises(StorageAwayError):
        patch.setattr(Verdict, "tell", away)
        go(Three())
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["0.json", "1.json", "2.json"]
    second = Three()
    opened = go(second)
    assert [number for number, _, _ in second.requests] == [3, 4, 5], "what had ended is told and not evaluated again"
    assert [trial.state for trial in opened.study.trials] == [TrialState.COMPLETE] * 6
    assert not list((tmp_path / "spool").iterdir())
