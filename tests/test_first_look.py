"""Brief looks at latencies: when one is enough, and that whatever belongs on a front was timed in full."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.confirming import contenders, time_contenders
from nas.driver import run
from nas.engine import Engine, OnStage
from nas.errors import RunError, StorageAwayError
from nas.evaluate import Evaluation, EvaluationRequest, Metrics, metrics_of
from nas.first_look import CLEAR, is_enough
from nas.interrupt import Interrupted, InterruptGate
from nas.metrics import METRICS, Metric
from nas.outcomes import Outcome
from nas.plan import Known, StudyPlan
from nas.scheduler import MoAsha
from nas.spool import Spool
from nas.study import Study
from tests.test_scheduler import EPOCHS, ToyEngine, Watcher, learning, request_, search
from tests.test_study import PLAN, Run
from tests.toy import ToyArchitecture

__all__ = ["request_"]

OBJECTIVES = (METRICS["top1"], METRICS["latency_ms"], METRICS["params"])
SCHEDULER = MoAsha((1, 3), eta=1.5)
SLOWER = 1.04
"""By so much every look is off."""


def network(top1: float, latency_ms: float, params: int = 1, iqr_ms: float = 0.0, noise: float | None = None) -> dict[str, Any]:
    figures = {"top1": top1, "latency_ms": latency_ms, "latency_iqr_ms": iqr_ms, "params": params, "latency_noise": noise}
    return {**figures, "latency_brief": True}


def outcome(attributes: dict[str, Any]) -> Outcome:
    return Outcome("0", 0, "complete", attributes)


def wanting(objectives: tuple[Metric, ...]) -> StudyPlan:
    return replace(PLAN, objectives=objectives)


NETWORKS = st.builds(
    network,
    st.sampled_from([0.5, 0.6, 0.7]),
    st.sampled_from([1.0, 1.05, 1.2, 2.0]),
    st.integers(1, 2),
    st.sampled_from([0.0, 0.02, 0.4]),
    st.sampled_from([None, 0.01, 0.2]),
)


@given(NETWORKS, st.lists(NETWORKS, max_size=5))
def test_a_look_is_enough_where_one_network_beats_it_beyond_doubt(mine: dict[str, Any], others: list[dict[str, Any]]) -> None:
    def beats(other: dict[str, Any]) -> bool:
        slower_ms = mine["latency_ms"] - other["latency_ms"]
        in_doubt_ms = max(
            CLEAR * mine["latency_ms"],
            2 * (mine["latency_noise"] or 0.0) * mine["latency_ms"],
            2 * ((mine["latency_iqr_ms"] / 2) ** 2 + (other["latency_iqr_ms"] / 2) ** 2) ** 0.5,
        )
        return other["top1"] >= mine["top1"] and other["params"] <= mine["params"] and slower_ms > in_doubt_ms

    told = [outcome(other) for other in others]
    assert is_enough(mine, told, wanting(OBJECTIVES)) == any(beats(other) for other in others)


def test_where_no_objective_hangs_on_the_latency_what_is_dominated_needs_no_timing() -> None:
    objectives = (METRICS["top1"], METRICS["params"])
    better, equal = outcome(network(0.7, 9.0, 1)), outcome(network(0.6, 9.0, 1))
    assert is_enough(network(0.6, 1.0, 1), [better], wanting(objectives))
    assert not is_enough(network(0.6, 1.0, 1), [equal], wanting(objectives))


def test_more_images_per_second_count_as_less_time() -> None:
    objectives = (METRICS["top1"], METRICS["images_per_s"])
    mine = {"top1": 0.6, "images_per_s": 100.0, "latency_ms": 10.0, "latency_iqr_ms": 0.0}
    assert is_enough(mine, [outcome({**mine, "images_per_s": 115.0})], wanting(objectives))
    assert not is_enough(mine, [outcome({**mine, "images_per_s": 105.0})], wanting(objectives))


# ---- the driver


def latency_ms(width: int) -> float:
    """Likewise uneven: of equal width some are slower."""
    return width * (1 + (width * 31 % 10) / 10)


def uneven(architecture: ToyArchitecture, epochs: int) -> Evaluation:
    found = learning(architecture, epochs)
    return replace(found, metrics=replace(found.metrics, latency_ms=latency_ms(architecture.width)))


class LookingEngine(ToyEngine):
    """Looks first, which is a little off, and times in full when it is asked to; another worker than the one that trained."""

    def __init__(self, found: Callable[[ToyArchitecture, int], Evaluation] = uneven) -> None:
        super().__init__(found)
        self.timed: list[int] = []

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        future: Future[Evaluation] = Future()
        if request.only_measure:
            assert request.measures and request.begun is not None
            assert (request.begun.state, request.begun.weights, request.gate) == (None, None, {})
            self.timed.append(number)
            future.set_result(self.time(request.begun))
            return future
        found = super().submit(number, request, on_stage).result()
        looked = replace(found.metrics, latency_ms=(found.metrics.latency_ms or 0.0) * SLOWER, latency_brief=True)
        weights = b"weights" if found.metrics.epochs == EPOCHS else None
        future.set_result(replace(found, metrics=looked, weights=weights, worker="trainer"))
        return future

    def time(self, begun: Evaluation) -> Evaluation:
        metrics = replace(begun.metrics, latency_ms=(begun.metrics.latency_ms or 0.0) / SLOWER, latency_brief=False)
        return replace(begun, metrics=metrics, worker="meter")


class Weighing(Watcher):
    """Keeps what every trial left."""

    def __init__(self) -> None:
        super().__init__()
        self.left: dict[int, Evaluation] = {}

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        super().evaluated(number, evaluation)
        self.left[number] = evaluation


def searched(folder: Path, request: EvaluationRequest, engine: LookingEngine, watcher: Watcher, **plan: Any) -> Run:
    opened = Run(folder, plan=replace(PLAN, **plan))
    opened.study.scheduler = SCHEDULER

    def request_for(asked: Any) -> EvaluationRequest:
        begun = None if asked.begun is None else watcher.kept[int(asked.begun.name)]
        return replace(request, architecture=asked.architecture, begun=begun, gate={"latency_ms": 1e6})

    run(opened.study, engine, request_for, watcher, InterruptGate())
    return opened


def test_the_front_is_timed_in_full_and_what_is_far_behind_it_is_not(tmp_path: Path, request_: EvaluationRequest) -> None:
    engine, watcher = LookingEngine(), Weighing()
    study = searched(tmp_path, request_, engine, watcher, trials=60).study
    complete = [one for one in study.finished if one.state == "complete"]
    looked = [one for one in complete if one.attributes["latency_brief"]]
    in_full = [one for one in complete if not one.attributes["latency_brief"]]
    assert looked and in_full and {one.number for one in in_full} == set(engine.timed)
    assert len(engine.timed) == len(set(engine.timed)), "each once"
    assert all(one.attributes["latency_ms"] == pytest.approx(latency_ms(one.params["width"])) for one in in_full)
    assert all(one in in_full for one in study.front())
    for one in looked:
        others = [other for other in in_full if other.attributes["top1"] >= one.attributes["top1"]]
        assert any(other.attributes["latency_ms"] < (1 - CLEAR) * one.attributes["latency_ms"] for other in others)
    for one in complete:
        left = watcher.left[one.number or 0]
        assert (left.worker, left.weights, left.metrics.epochs) == ("trainer", b"weights", EPOCHS)
        assert left.measured_by == (None if one in looked else "meter")
    assert len([one for one in engine.requests if one[2] == EPOCHS]) == len(complete), "and trained once"
    assert all(one.attributes["latency_brief"] for one in study.finished if one.state == "pruned")


def test_where_training_takes_much_longer_all_that_was_trained_is_timed_in_full(
    tmp_path: Path, request_: EvaluationRequest
) -> None:
    engine = LookingEngine()
    quickly_timed = replace(request_, measure=replace(request_.measure, latency_max_seconds=0.2 * EPOCHS))
    study = searched(tmp_path, quickly_timed, engine, Watcher(), trials=60).study
    complete = [one.number for one in study.finished if one.state == "complete"]
    assert complete and sorted(complete) == sorted(engine.timed)


def test_without_looks_nothing_is_timed_twice(tmp_path: Path, request_: EvaluationRequest) -> None:
    engine = ToyEngine()  # knows no timing apart, and would fail if it were asked for one
    opened, _ = search(tmp_path, replace(PLAN, trials=20), SCHEDULER, request_, engine)
    assert any(one.state == "complete" for one in opened.study.finished)


class Breaking(LookingEngine):
    """Comes to no timing in full."""

    def time(self, begun: Evaluation) -> Evaluation:
        return Evaluation(Metrics(begun.metrics.architecture_id), failure="timeout", failure_reason="it hangs", begun=2)


def test_a_timing_that_fails_leaves_the_training_and_its_look(tmp_path: Path, request_: EvaluationRequest) -> None:
    engine, watcher = Breaking(), Weighing()
    study = searched(tmp_path, request_, engine, watcher, trials=12).study
    complete = [one for one in study.finished if one.state == "complete"]
    assert engine.timed and {one.state for one in study.finished} == {"complete", "pruned"}
    for one in complete:
        left = watcher.left[one.number or 0]
        assert one.attributes["latency_brief"] and (left.worker, left.weights) == ("trainer", b"weights")
        assert ("it could not be timed in full: it hangs" in one.attributes.values()) == (one.number in engine.timed)
        assert one.attributes["attempt"] == (2 if one.number in engine.timed else 1)


class BreaksOff(LookingEngine):
    """Never comes to a timing in full."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def time(self, begun: Evaluation) -> Evaluation:
        raise self.error


class Seen:
    """Keeps what it is told of timings."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool | None]] = []

    def seed_stage(self, name: str, stage: str) -> None: ...

    def seed_told(self, network: Outcome, seed: int, evaluation: Evaluation) -> None: ...

    def timing_stage(self, name: str, stage: str) -> None: ...

    def timing_ended(self, network: Outcome, evaluation: Evaluation) -> None:
        assert not evaluation.failure and not evaluation.metrics.latency_brief

    def timed(self, network: Outcome, evaluation: Evaluation) -> None:
        self.told.append((network.name, evaluation.metrics.latency_brief))


def timed_at_the_end(study: Study, request: EvaluationRequest, engine: Engine) -> tuple[bool, Seen]:
    def request_for(network: Outcome) -> EvaluationRequest:
        return replace(request, begun=Evaluation(metrics_of(network.attributes)), only_measure=True)

    seen = Seen()
    return time_contenders(study, engine, request_for, 400, seen, InterruptGate()), seen


@pytest.mark.parametrize("error", [RunError("the device is gone"), Interrupted()])
def test_a_training_is_not_lost_where_its_timing_breaks_off(
    tmp_path: Path, request_: EvaluationRequest, error: BaseException
) -> None:
    watcher = Weighing()
    with pytest.raises(type(error)):
        searched(tmp_path, request_, BreaksOff(error), watcher, trials=8)
    (cut_off,) = [one for one in watcher.told_ if one.state == "complete"]
    assert cut_off.attributes["latency_brief"] and watcher.left[cut_off.number or 0].weights == b"weights"
    engine = LookingEngine()
    study = searched(tmp_path, request_, engine, watcher, trials=8).study
    assert sum(one.counts for one in study.finished) == 8 and cut_off.number not in [number for number, *_ in engine.requests]
    looked = {one.name for one in contenders(study, 400) if one.attributes["latency_brief"]}
    any_timed, seen = timed_at_the_end(study, request_, engine)
    assert any_timed == bool(looked) and looked <= {name for name, _ in seen.told}
    for one in (*contenders(study, 400), *study.front()):
        assert not one.attributes["latency_brief"] and one.attributes["latency_ms"] == pytest.approx(
            latency_ms(one.params["width"])
        )
        if one.name in looked:
            assert one.attributes["measured_by"] == "meter"
    assert study.as_told == study.finished
    again, seen = timed_at_the_end(study, request_, engine)
    assert not again and not seen.told, "once"


def test_a_contender_whose_timing_is_refused_is_tried_once_and_stays_a_look(tmp_path: Path, request_: EvaluationRequest) -> None:
    with pytest.raises(Interrupted):
        searched(tmp_path, request_, BreaksOff(Interrupted()), Weighing(), trials=8)
    study = searched(tmp_path, request_, Refusing(), Weighing(), trials=8).study
    any_timed, seen = timed_at_the_end(study, request_, Refusing())
    assert not any_timed and seen.told and all(is_brief for _, is_brief in seen.told)
    assert len(seen.told) == len(set(seen.told)) and all(one.attributes["latency_brief"] for one in study.front())


class Refusing(LookingEngine):
    """Its meter refuses."""

    def time(self, begun: Evaluation) -> Evaluation:
        return replace(begun, worker="meter")


def test_what_was_trained_is_kept_while_the_storage_is_away(
    tmp_path: Path, request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Three(LookingEngine):
        capacity = 3

        def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
            # The first one's timing takes for ever; the storage goes away over the second one.
            return Future() if request.only_measure else super().submit(number, request, on_stage)

    def go(engine: LookingEngine) -> Run:
        opened = Run(tmp_path, plan=replace(PLAN, trials=6), spool=Spool(tmp_path / "spool", PLAN.name))
        try:
            run(
                opened.study, engine, lambda asked: replace(request_, architecture=asked.architecture), Watcher(), InterruptGate()
            )
        finally:
            opened.die()
        return opened

    looks = count()

    def enough(*_: object) -> bool:
        if next(looks):
            raise StorageAwayError("study.storage was away for 600 s")
        return False

    with monkeypatch.context() as patch, pytest.raises(StorageAwayError):
        patch.setattr(Study, "first_look_is_enough", enough)
        go(Three())
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["0.json", "1.json", "2.json"]
    second = LookingEngine()
    opened = go(second)
    assert [number for number, _, _ in second.requests] == [3, 4, 5], "what was trained is told and not trained again"
    assert [one.attributes["latency_brief"] for one in opened.study.as_told][:3] == [True] * 3


def test_what_is_on_no_front_for_another_bound_is_not_timed_in_full(tmp_path: Path, request_: EvaluationRequest) -> None:
    engine = LookingEngine()
    study = searched(tmp_path, request_, engine, Watcher(), trials=8, constraints={"params": 0.0}).study
    assert any(one.state == "complete" for one in study.finished) and not engine.timed and not study.front()


@pytest.mark.parametrize(("briefly", "taken"), [(True, 0), (False, 1), (None, 1)])
def test_a_look_of_another_study_holds_only_where_it_is_far_behind(
    tmp_path: Path, request_: EvaluationRequest, briefly: bool | None, taken: int
) -> None:
    first = ToyArchitecture(40, "a")
    attributes = {"top1": 0.9, "latency_ms": 40.0, "params": 40, "fidelity": EPOCHS, "latency_brief": briefly}
    known = {first.id: Known("other/3", {key: value for key, value in attributes.items() if value is not None})}
    start = ({"width": 40, "kind": "a"},)
    study = searched(tmp_path, request_, LookingEngine(), Watcher(), trials=3, known=known, start=start).study
    assert [one.attributes.get("reused_from") for one in study.finished].count("other/3") == taken


def test_a_look_of_another_study_is_taken_where_this_ones_front_is_ahead_too(tmp_path: Path, request_: EvaluationRequest) -> None:
    ahead, behind = ToyArchitecture(10, "a"), ToyArchitecture(40, "a")
    common = {"params": 40, "fidelity": EPOCHS}
    known = {
        ahead.id: Known("other/2", {"top1": 0.9, "latency_ms": 10.0, "latency_brief": False, **common}),
        behind.id: Known("other/3", {"top1": 0.8, "latency_ms": 40.0, "latency_brief": True, **common}),
    }
    start = ({"width": 10, "kind": "a"}, {"width": 40, "kind": "a"})
    study = searched(tmp_path, request_, LookingEngine(), Watcher(), trials=3, known=known, start=start).study
    assert [one.attributes.get("reused_from") for one in study.finished][:2] == ["other/2", "other/3"]
