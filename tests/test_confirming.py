"""Further seeds at the end of a search, and what it then says of its front."""

from __future__ import annotations

import io
import json
import math
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nas.analyse.spread import share_error, spread
from nas.analyse.study.population import Population
from nas.beside import with_seeds
from nas.confirming import confirm, contenders
from nas.driver import run
from nas.engine import OnStage
from nas.evaluate import Evaluation, EvaluationRequest, Metrics, metrics_of
from nas.interrupt import InterruptGate
from nas.outcomes import Outcome
from nas.storage import memory_storage
from nas.summary import confidence, print_summary, savings
from tests.test_scheduler import ToyEngine, Watcher
from tests.test_scheduler import request_ as request_
from tests.test_study import PLAN, Run

IMAGES = 400


def complete(number: int, top1: float, latency_ms: float, **more: object) -> Outcome:
    attributes = {
        "architecture_id": f"a{number}",
        "top1": top1,
        "latency_ms": latency_ms,
        "latency_iqr_ms": 0.0,
        "seeds": [0],
        "fidelity": 9,
        "train_seconds": 3.0,
        **more,
    }
    return Outcome(str(number), number, "complete", attributes)


class SeedEngine:
    """Trains a toy with a seed: its accuracy is off by a known amount per seed."""

    capacity = 1

    def __init__(self, fails: bool = False) -> None:
        self.trained: list[tuple[str, int]] = []
        self.fails = fails
        self.lowers: dict[str, float] = {}

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        assert request.begun is not None and request.begun.state is None and request.begun.metrics.latency_ms is not None
        on_stage(number, "train")
        self.trained.append((request.architecture.id, request.seed))
        lower = self.lowers.get(request.architecture.id, 0.0)
        found = replace(request.begun.metrics, top1=(request.begun.metrics.top1 or 0) - 0.01 * (request.seed - PLAN.seed) - lower)
        future: Future[Evaluation] = Future()
        future.set_result(Evaluation(found, failure="diverged", failure_reason="train: nan") if self.fails else Evaluation(found))
        return future


class Seen:
    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def seed_stage(self, name: str, stage: str) -> None: ...

    def seed_told(self, network: Outcome, seed: int, evaluation: Evaluation) -> None:
        self.told.append((network.name, seed))

    def timing_stage(self, name: str, stage: str) -> None: ...

    def timing_ended(self, network: Outcome, evaluation: Evaluation) -> None: ...

    def timed(self, network: Outcome, evaluation: Evaluation) -> None: ...


@pytest.fixture
def searched(tmp_path: Path, request_: EvaluationRequest) -> Run:
    opened = Run(tmp_path, storage=memory_storage())
    run(
        opened.study,
        ToyEngine(),
        lambda asked: replace(request_, architecture=asked.architecture),
        Watcher(),
        InterruptGate(),
    )
    return opened


def again(request: EvaluationRequest, opened: Run):  # type: ignore[no-untyped-def]
    def request_for(network: Outcome, seed: int) -> EvaluationRequest:
        architecture = opened.study.space.from_dict(json.loads(network.attributes["architecture"]))
        return replace(request, architecture=architecture, seed=seed, begun=Evaluation(metrics_of(network.attributes)))

    return request_for


def test_contenders_get_further_seeds_once_and_their_means_count(searched: Run, request_: EvaluationRequest) -> None:
    study, engine, seen = searched.study, SeedEngine(), Seen()
    first = {outcome.name: outcome.attributes["top1"] for outcome in study.finished}
    wanted = {outcome.attributes["architecture_id"] for outcome in contenders(study, IMAGES)}
    confirm(study, engine, again(request_, searched), 2, IMAGES, seen, InterruptGate())
    assert {identity for identity, seed in engine.trained if seed == PLAN.seed + 1} == wanted
    assert len(engine.trained) == len(set(engine.trained)) == len(seen.told)
    confirmed = [outcome for outcome in study.finished if len(outcome.attributes["seeds"]) == 3]
    assert confirmed
    for outcome in confirmed:
        assert outcome.attributes["seeds"] == [7, 8, 9]
        # Each seed is off by a further hundredth from what it began with, which the second round finds lowered already.
        assert outcome.attributes["top1"] < first[outcome.name]
    trained = len(engine.trained)
    confirm(study, engine, again(request_, searched), 2, IMAGES, seen, InterruptGate())
    done = {(outcome.name, seed) for outcome in study.finished for seed in outcome.attributes["seeds"]}
    assert len(engine.trained) - trained <= len(contenders(study, IMAGES)) * 2 and len(done) >= 12


def test_a_seed_that_fails_is_kept_and_changes_no_mean(searched: Run, request_: EvaluationRequest) -> None:
    study = searched.study
    before = {outcome.name: outcome.attributes["top1"] for outcome in study.finished}
    engine = SeedEngine(fails=True)
    confirm(study, engine, again(request_, searched), 1, IMAGES, Seen(), InterruptGate())
    confirm(study, engine, again(request_, searched), 1, IMAGES, Seen(), InterruptGate())
    assert engine.trained and len(engine.trained) == len(set(engine.trained))  # not tried again
    assert {outcome.name: outcome.attributes["top1"] for outcome in study.finished} == before
    assert all(outcome.attributes["seeds"] == [7] for outcome in study.finished)


def test_the_error_of_a_share_is_never_none() -> None:
    for images in (10, 287, 10_000):
        assert share_error(1.0, images) == pytest.approx(share_error(0.0, images)) and share_error(0.0, images) > 0
        # Of all right, 1 - 0.5^(1/n) is what is wrong with even odds: no less is one standard error.
        assert share_error(1.0, images) > 1 - 0.5 ** (1 / images)
        assert share_error(0.5, images) == pytest.approx(0.5 / math.sqrt(images), rel=2.1 / images)


def test_who_comes_to_the_front_by_the_falling_of_others_is_confirmed_too(searched: Run, request_: EvaluationRequest) -> None:
    study, engine = searched.study, SeedEngine()
    first = {outcome.attributes["architecture_id"] for outcome in contenders(study, IMAGES)}
    engine.lowers = dict.fromkeys(first, 0.3)
    confirm(study, engine, again(request_, searched), 2, IMAGES, Seen(), InterruptGate())
    assert {identity for identity, _ in engine.trained} - first, "others have come to the front"
    for outcome in contenders(study, IMAGES):
        assert outcome.attributes["seeds"] == [7, 8, 9]


def test_means_and_pooled_noise_are_numpys() -> None:
    outcomes = [complete(0, 0.90, 1.0), complete(1, 0.80, 2.0), complete(2, 0.5, 3.0)]
    attributes = {
        "seeds:0": [{"seed": 1, "top1": 0.92}, {"seed": 2, "top1": 0.94}],
        "seeds:1": [{"seed": 1, "top1": 0.86}],
        "other": 3,
    }
    found = with_seeds(outcomes, attributes)
    a, b = [0.90, 0.92, 0.94], [0.80, 0.86]
    pooled = math.sqrt((np.var(a, ddof=1) * 2 + np.var(b, ddof=1)) / 3)
    assert found[0].attributes["top1"] == pytest.approx(np.mean(a)) and found[0].attributes["seeds"] == [0, 1, 2]
    assert found[1].attributes["top1"] == pytest.approx(np.mean(b)) and found[1].attributes["seeds"] == [0, 1]
    assert found[2].attributes["top1"] == 0.5
    assert all(outcome.attributes["top1_seed_sd"] == pytest.approx(pooled) for outcome in found)
    # One seed carries the whole noise of a seed, three a third of its variance, beside that of the images.
    assert spread(found[2].attributes, "top1", IMAGES) == pytest.approx(math.hypot(share_error(0.5, IMAGES), pooled))
    wanted = math.sqrt(share_error(float(np.mean(a)), IMAGES) ** 2 + pooled**2 / 3)
    assert spread(found[0].attributes, "top1", IMAGES) == pytest.approx(wanted)
    assert with_seeds(outcomes, {"other": 3}) == outcomes
    assert outcomes[0].attributes["top1"] == 0.90  # what a trial recorded stays


def test_the_end_says_what_was_saved_and_how_sure_the_front_is() -> None:
    outcomes = (
        complete(0, 0.95, 4.0),
        complete(1, 0.945, 4.0),
        complete(2, 0.60, 1.0),
        Outcome("3", 3, "pruned", {"architecture_id": "a3", "gated_by": ["params"], "fidelity": 0}),
        Outcome("4", 4, "pruned", {"architecture_id": "a4", "gated_by": ["params", "latency_ms"], "fidelity": 0}),
        Outcome("5", 5, "pruned", {"architecture_id": "a5", "stopped_at": 1, "fidelity": 1, "train_seconds": 1.0}),
        Outcome("6", 6, "pruned", {"architecture_id": "a6", "stopped_at": 3, "fidelity": 3, "train_seconds": 1.0}),
        complete(7, 0.5, 9.0, resumed_from=6, uncounted=True, latency_brief=True),
        Outcome("8", 8, "repeated", {"architecture_id": "a0", "reused_from": 0, "uncounted": True}),
    )
    assert list(savings(outcomes, 9)) == [
        "gate: 2 candidates missed a bound and were not trained (params 2, latency_ms 1); a training took 3 s in the median",
        "stopping: 2 trainings were stopped early (1 after 1, 1 after 3 of 9 epochs, 1 of them went on later); "
        "37 of 45 epochs ran",
        "timing: 1 of 4 trained networks were timed briefly only: another network was clearly ahead, or the meter refused more",
        "repeats: 1 suggestions built what was known already and were not evaluated",
    ]
    population = Population(outcomes, (), PLAN.objectives, {}, IMAGES)
    sure = confidence(population)
    assert set(sure) == {"0", "2"} and sure["2"] > 0.99 and 0.5 < sure["0"] < 0.9
    written = io.StringIO()
    print_summary(Console(file=written, width=160), population, [], 9, interrupted=False)
    told = written.getvalue()
    assert "done: 7 trials, 8 distinct architectures" in told and "within noise of the front: 1" in told
    assert f"{sure['0']:.0%}" in told


def test_a_search_that_saved_nothing_says_nothing_of_it() -> None:
    assert list(savings([complete(0, 0.9, 1.0)], 9)) == []


def test_metrics_come_back_from_attributes() -> None:
    metrics = Metrics("a", top1=0.5, train_loss=(2.0, 1.0), curve=((1, 0.4), (2, 0.5)), measure_flags=("x",), epochs=2)
    plain = json.loads(json.dumps(Evaluation(metrics).attributes()))
    assert metrics_of(plain) == metrics
    assert metrics_of({"architecture_id": "a"}) == Metrics("a")
