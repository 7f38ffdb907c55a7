"""A real Ray on this machine as several nodes: candidates go where the resources are, and none is lost with a node."""

from __future__ import annotations

import importlib.util
import shlex
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from nas import cluster
from nas.cluster import Node, Share, Staff
from nas.config.search import EngineSettings, SearchConfig, TimeoutSettings
from nas.errors import InputError
from nas.evaluate import evaluate
from nas.measure.settings import MeasureSettings
from nas.remote import Kind, RayEngine, Where, _Seat
from nas.slots import Job, Slots
from tests.conftest import QUICK, Search
from tests.faults.faulty import FaultyArchitecture
from tests.test_docs import arguments, commands
from tests.test_local import GOOD, request_of, silent

ROOT = Path(__file__).resolve().parents[1]
QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head that works nothing, and two nodes of two classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
        made = Cluster(initialize_head=True, head_node_args=head)
        made.add_node(num_cpus=1, resources={"edge_gpu": 1})
        made.add_node(num_cpus=1, resources={"fast": 1, "pool": 1})
        made.wait_for_nodes()
        yield made
        made.shutdown()


@pytest.fixture
def address(nodes: Any) -> Iterator[str]:
    """Where it is; whoever connected to it and failed is disconnected."""
    import ray

    yield nodes.address
    ray.shutdown()


def node_with(resource: str) -> str:
    """Return how a worker on the node of that class is recorded."""
    (found,) = [node for node in cluster.nodes() if resource in node.resources]
    return f"{found.host}/cpu/{found.id[:8]}"


def test_measured_there_and_trained_here_is_what_one_process_comes_to(address: str) -> None:
    cluster.connect(address)
    staff = Staff(Share(1.0, 0.0, {"edge_gpu": 1.0}), Share(1.0, 0.0, {"fast": 1.0}), 1, 1)
    stages: list[str] = []
    with RayEngine(staff, Path.cwd(), ("cpu", "cpu"), TimeoutSettings()) as engine:
        assert engine.capacity == 2
        edge, fast = node_with("edge_gpu"), node_with("fast")
        there = engine.submit(7, request_of(GOOD), lambda number, stage: stages.append(f"{number} {stage}")).result(timeout=600)
        # Two epochs, up to a rung after the first; then the rest, and the latency in full.
        longer = replace(request_of(GOOD), train=replace(request_of(GOOD).train, epochs=2), first_latency_seconds=0.01)
        first = engine.submit(8, replace(longer, until_epoch=1, keep_state=True), silent).result(timeout=600)
        trained = engine.submit(8, replace(longer, begun=first), silent).result(timeout=600)
        whole = engine.submit(8, replace(longer, begun=trained, only_measure=True), silent).result(timeout=600)
        crashed = engine.submit(9, request_of(FaultyArchitecture(4, "train", "crash")), silent).result(timeout=600)
        broken = engine.submit(10, request_of(FaultyArchitecture(4, "latency", "exception")), silent).result(timeout=600)
    here = evaluate(request_of(GOOD))
    assert there.metrics.train_loss == here.metrics.train_loss and there.weights == here.weights
    assert (there.measured_by, there.worker, there.begun) == (edge, fast, 1) and there.metrics.latency_ms is not None
    assert stages[0] == "7 data" and "7 latency" in stages and stages[-1] == "7 train 1/1"
    assert first.state is not None and first.metrics.epochs == 1 and first.measurement is not None
    assert first.measurement.conditions.latency_max_seconds == 0.01
    assert trained.measurement == first.measurement and (trained.worker, whole.worker) == (fast, edge)
    assert whole.metrics.train_loss == evaluate(replace(longer, first_latency_seconds=None)).metrics.train_loss
    assert whole.measurement is not None and whole.measurement.conditions.latency_max_seconds == 0.05
    assert crashed.failure == "crash" and "died of SIGSEGV" in str(crashed.failure_reason)
    assert "Segmentation fault" in str(crashed.failure_log) and crashed.metrics.latency_ms is not None
    assert broken.failure == "error" and broken.measured_by == edge and "Traceback" in str(broken.failure_log)


def test_a_node_that_dies_takes_no_trial_with_it(
    nodes: Any, address: str, search: Search, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One class of nodes measures, two nodes of another train; one of the two dies in the middle of its second training."""
    doomed = nodes.add_node(num_cpus=1, resources={"doomed": 1, "pool": 1})
    cluster.connect(address)
    edge, fast, short_lived = node_with("edge_gpu"), node_with("fast"), node_with("doomed")
    begin, begun = _Seat.begin, Counter[str]()

    def begin_and_die(seat: _Seat, job: Job) -> None:
        begin(seat, job)
        begun[seat.told] += 1
        if seat.told == short_lived and begun[seat.told] == 2:
            threading.Timer(0.1, lambda: nodes.remove_node(doomed, allow_graceful=False)).start()

    monkeypatch.setattr(_Seat, "begin", begin_and_die)
    asked = ("study.trials=8", "sampler=random", "scheduler=none", "objectives=[top1,latency_ms]", "train.epochs=3")
    there = ("engine=ray", f"engine.address={address}", "measure.resources={edge_gpu: 1}", "train.resources={pool: 1}")
    code, out, err = search("conf=osa_digits", *QUICK, *asked, *there)
    assert code == 0, err
    assert "cluster: 4 nodes; 2 workers train (num_cpus: 1, pool: 1), 1 measure (num_cpus: 1, edge_gpu: 1)" in out
    trials = optuna.load_study(study_name="osa_digits", storage=f"sqlite:///{workdir}/runs/osa_digits/study.db").trials
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert sum(not trial.user_attrs.get("uncounted") for trial in trials) == 8
    own = [trial for trial in trials if "reused_from" not in trial.user_attrs]
    assert max(Counter(trial.user_attrs["architecture_id"] for trial in own).values()) == 1
    assert {trial.user_attrs["measured_by"] for trial in own} == {edge}
    assert {trial.user_attrs["worker"] for trial in own} == {fast, short_lived}
    assert Counter(trial.user_attrs["attempt"] for trial in own)[2] == 1, "what was under way there was begun again"


@pytest.mark.parametrize("command", commands("ray"))
def test_the_searches_that_the_document_shows_are_read(command: str, search: Search) -> None:
    code, out, err = search(*arguments(command), "--cfg")
    assert code == 0 and "kind: ray" in out, err


@pytest.mark.parametrize("command", commands("ray-start"))
def test_nodes_start_as_the_document_shows(command: str) -> None:
    from ray.scripts.scripts import start

    program, verb, *given = shlex.split(command)
    assert (program, verb) == ("ray", "start") and start.make_context("start", given).params["node_ip_address"] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("measure.resources={tpu: 1}",),
            "measure.resources={tpu: 1} cannot be had: no node of the cluster has num_cpus: 1, tpu: 1",
        ),
        (("train.resources={num_gpus: 0.25}",), "train.resources={num_gpus: 0.25} cannot be had"),
        (("device=cuda",), "train.resources=null cannot be had: no node of the cluster has num_cpus: 1, num_gpus: 1"),
        (("engine.workers=9",), "engine.workers=9 is more than the cluster's 3 nodes bear (num_cpus: 1 each): give at most 2"),
        (
            ("measure.resources={fast: 1}", "train.resources={fast: 1}"),
            "train.resources (num_cpus: 1, fast: 1) cannot be had beside measure.resources",
        ),
    ],
)
def test_what_no_node_bears_is_refused(given: tuple[str, ...], said: str, address: str, search: Search, workdir: Path) -> None:
    code, _, err = search("conf=osa_digits", *QUICK, "engine=ray", f"engine.address={address}", *given)
    assert code == 2 and said in err and err.count("\n") == 1
    assert not (workdir / "runs").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("engine.address=127.0.0.1:1",), "engine.address=127.0.0.1:1 does not answer"),
        (("engine.address=nowhere",), "engine.address=nowhere cannot be used: give host:port"),
        (("engine.workers=0",), "engine.workers=0 cannot be used with engine=ray"),
        (("train.resources={num_gpus: -1}",), "train.resources.num_gpus=-1 cannot be used"),
        (
            ("train.resources={num_gpus: 1.5}",),
            "train.resources.num_gpus=1.5 cannot be used: above 1 it should be a whole number",
        ),
        (("train.resources={GPU: 1}",), "write train.resources.num_gpus=1"),
        (("measure.resources=4",), "measure.resources=4 cannot be used: it should be a mapping"),
        (("engine=local", "measure.resources={edge_gpu: 1}"), "measure.resources names nodes of a cluster"),
    ],
)
def test_what_cannot_work_is_refused_at_once(given: tuple[str, ...], said: str, search: Search, workdir: Path) -> None:
    began_s = time.monotonic()
    engine = () if "engine=local" in given else ("engine=ray",)
    code, _, err = search("conf=osa_digits", *QUICK, *engine, *given)
    assert code == 2 and said in err and err.count("\n") == 1 and time.monotonic() - began_s < 10
    assert not (workdir / "runs").exists()


def test_without_the_package_one_sentence_names_the_extra(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else real(name, *more))
    code, _, err = search("conf=osa_digits", "engine=ray")
    assert code == 2 and "with its extra, '.[ray]'" in err and err.count("\n") == 1


def test_where_no_ray_runs_auto_says_so(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, _, err = search("conf=osa_digits", "engine=ray")
    assert code == 2 and "engine.address=auto cannot be used: no Ray runs on this machine" in err
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, _, err = search("conf=osa_digits", "engine=ray")
    assert code == 2 and "engine.address=auto (RAY_ADDRESS=127.0.0.1:1) does not answer" in err


def test_something_else_than_ray_answers(search: Search, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        code, _, err = search("conf=osa_digits", "engine=ray", f"engine.address={address}")
    assert code == 2 and f"engine.address={address} cannot be used (no Ray head answers within 4 s)" in err
    assert err.count("\n") == 1 and not (workdir / "runs").exists()


@pytest.mark.parametrize("is_rays", [False, True])
def test_an_error_of_whatever_kind_is_told_to_who_waits(monkeypatch: pytest.MonkeyPatch, is_rays: bool) -> None:
    import ray
    from ray.exceptions import RayError

    def fail(_: Any) -> None:
        raise RayError("the node is gone") if is_rays else ValueError("nobody thought of it")

    monkeypatch.setattr(ray, "get", fail)
    monkeypatch.setattr(ray, "kill", fail)  # for another worker in its place
    line = Slots([])
    seat = _Seat(Share(1.0, 0.0), "cpu", (), line, lambda error: None, None)
    job = seat.job = Job(3, request_of(GOOD), silent)
    stream = SimpleNamespace(remote=lambda *_: iter(["a reference"]))
    seat._follow(job, job.request, SimpleNamespace(evaluate=SimpleNamespace(options=lambda **_: stream)))
    assert seat.job is None and isinstance(job.promise.exception(timeout=0), RayError if is_rays else ValueError)


def test_a_node_that_joins_later_measures_only_if_it_is_of_the_same_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "get", lambda told: told)
    desk = SimpleNamespace(identity=SimpleNamespace(remote=lambda threads: {"name": "slow", "threads": threads}))

    def unlike(ours: str, node: str) -> str | None:
        kind = Kind({"name": ours, "threads": 1}, 1, frozenset({"known"}))
        return _Seat(Share(1.0, 0.0), "cpu", (), Slots([]), lambda error: None, kind)._unlike(desk, Where("host", node, ()))

    assert unlike("fast", "known") is None and unlike("slow", "new") is None
    assert "has slow, and the study measures on fast" in str(unlike("fast", "new"))


def config(
    measure: dict[str, float] | None, train: dict[str, float] | None, packing: Any = 1, device: str = "auto"
) -> SearchConfig:
    found = SearchConfig.__new__(SearchConfig)
    keys = {"measure_resources": measure, "train_resources": train, "packing": packing, "device": device}
    for name, value in {**keys, "measure": MeasureSettings(), "engine": EngineSettings(kind="ray")}.items():
        object.__setattr__(found, name, value)
    return found


GPUS = [
    Node("a", "a", {"CPU": 16.0, "GPU": 2.0}),
    Node("b", "b", {"CPU": 16.0, "GPU": 2.0}),
    Node("c", "c", {"CPU": 4.0, "GPU": 1.0, "edge_gpu": 1.0}),
    Node("d", "d", {"CPU": 8.0}),
]


def test_on_gpus_the_default_is_a_whole_one_to_measure_and_a_share_to_train() -> None:
    measuring, training = cluster.shares(config(None, None, packing=3), GPUS)
    assert measuring is None and training == Share(1.0, 0.3333) and training.workers_per_gpu == 3
    assert cluster.staff(None, training, GPUS, "auto").trainers == 15
    assert cluster.staff(None, training, GPUS, 4).trainers == 4
    measuring, training = cluster.shares(config({"edge_gpu": 1}, None, packing=2), GPUS)
    assert measuring == Share(1.0, 1.0, {"edge_gpu": 1}) and training == Share(1.0, 0.5)
    staff = cluster.staff(measuring, training, GPUS, "auto")
    assert (staff.measurers, staff.trainers) == (1, 8), "the edge node has no GPU left to train on"
    measuring, training = cluster.shares(config({"num_gpus": 1}, {"num_gpus": 0.25}), GPUS)
    assert measuring is not None
    staff = cluster.staff(measuring, training, GPUS[:1], "auto")
    assert (staff.measurers, staff.trainers) == (1, 4)
    with pytest.raises(InputError, match=r"take measure\.resources out"):
        cluster.staff(measuring, training, [Node("e", "e", {"CPU": 4.0, "GPU": 1.0})], "auto")


def test_without_gpus_it_is_a_cpu_each() -> None:
    _, training = cluster.shares(config(None, None), GPUS[3:])
    assert training == Share(1.0, 0.0) and cluster.staff(None, training, GPUS[3:], "auto").trainers == 8
    _, training = cluster.shares(config(None, None, device="cpu"), GPUS)
    assert training.gpus == 0 and cluster.staff(None, training, GPUS, "auto").trainers == 44
    _, wide = cluster.shares(config(None, {"num_cpus": 4}, device="cpu"), GPUS)
    assert cluster.staff(None, wide, GPUS, "auto").trainers == 11
