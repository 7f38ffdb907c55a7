"""Whatever a candidate does to its worker process, it ends that candidate alone, and its evaluation says what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas import local, worker
from nas.config.search import TimeoutSettings
from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest, evaluate
from nas.local import _GRACE_SECONDS, LocalEngine, Place, _kills_for_memory
from nas.measure.device import resolve_conditions
from nas.measure.settings import MeasureSettings
from nas.slots import MOST_KILLS, Job
from nas.train.data import DataRequest
from nas.train.datasets import Digits
from nas.train.folder import ImageFolder
from nas.train.settings import DataSettings, NumericFormat, TrainSettings
from tests.faults import late
from tests.faults.faulty import FaultyArchitecture, FaultySpace

GOOD = FaultyArchitecture(4)


def request_of(architecture: FaultyArchitecture) -> EvaluationRequest:
    settings = MeasureSettings(batch_size=4, latency_max_seconds=0.05, energy=False)
    return EvaluationRequest(
        space=FaultySpace(),
        architecture=architecture,
        data=DataRequest(Digits(), DataSettings(), seed=0),
        train=TrainSettings(epochs=1, batch_size=128, peak_lr=0.05),
        numeric=NumericFormat("fp32", "contiguous"),
        measure=resolve_conditions(settings, torch.device("cpu")),
        device="cpu",
        seed=3,
        required=("latency_ms",),
        keep_weights=True,
    )


def silent(number: int, stage: str) -> None: ...


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    """One worker for all tests: each finds it as the one before it left it."""
    with LocalEngine(
        [Place("cpu")], tmp_path_factory.mktemp("workers"), TimeoutSettings(data=60.0, build=4.0, measure=4.0, train=4.0)
    ) as made:
        yield made


def came_to(engine: LocalEngine, architecture: FaultyArchitecture) -> Evaluation:
    return engine.submit(0, request_of(architecture), silent).result(timeout=60)


def test_a_worker_comes_to_what_this_process_comes_to(engine: LocalEngine) -> None:
    stages: list[str] = []
    there = engine.submit(7, request_of(GOOD), lambda number, stage: stages.append(f"{number} {stage}")).result(timeout=60)
    here = evaluate(request_of(GOOD))
    assert there.metrics.top1 == here.metrics.top1 and there.metrics.train_loss == here.metrics.train_loss
    assert there.weights == here.weights
    assert there.worker is not None and there.worker.endswith("/cpu/worker-0") and here.worker is None
    deadline = time.monotonic() + 5
    while stages[-1:] != ["7 train 1/1"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stages[0] == "7 data" and stages[-1] == "7 train 1/1"


WHAT = {
    "exception": ("error", "RuntimeError: injected", "Traceback"),
    "out_of_memory": ("out_of_memory", "injected: out of memory", "Traceback"),
    "exit": ("crash", "ended by itself with exit code 3", "about to leave"),
    "crash": ("crash", "died of SIGSEGV", "Fatal Python error: Segmentation fault"),
}


@pytest.mark.parametrize("fault", WHAT)
@pytest.mark.parametrize("stage", ["build", "latency", "train"])
def test_a_fault_ends_its_candidate_alone(engine: LocalEngine, stage: str, fault: str) -> None:
    failure, reason, log = WHAT[fault]
    found = came_to(engine, FaultyArchitecture(4, stage, fault))
    assert found.failure == failure and found.failure_reason is not None and found.failure_log is not None
    assert found.failure_reason.startswith(f"{stage}: ") and reason in found.failure_reason
    assert log in found.failure_log
    assert found.begun == 1, "what is a candidate's own fault is not tried again"
    assert came_to(engine, GOOD).metrics.top1 is not None


@pytest.mark.parametrize(("stage", "part"), [("build", "build"), ("latency", "measure"), ("train", "train")])
def test_a_hang_ends_at_the_deadline(engine: LocalEngine, stage: str, part: str) -> None:
    found = came_to(engine, FaultyArchitecture(4, stage, "hang"))
    assert found.failure == "timeout" and found.failure_reason == f"{stage}: no end within engine.timeout.{part}=4 s"
    assert came_to(engine, GOOD).metrics.top1 is not None


class Clock:
    """This process's, which a test moves on."""

    def __init__(self) -> None:
        self.more_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.more_s


@pytest.mark.parametrize(("begin", "begins"), [(late.begin_at_the_second_try, 2), (late.begin_never, MOST_KILLS)])
def test_a_worker_that_does_not_begin_is_replaced(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Any, begins: int
) -> None:
    clock, tried = Clock(), late.tries(tmp_path / f"worker-0-{os.getpid()}.log")
    monkeypatch.setattr(local, "time", clock)
    monkeypatch.setattr(local, "worker", SimpleNamespace(begin=begin, work=worker.work))
    with LocalEngine([Place("cpu")], tmp_path) as made:
        promise = made.submit(0, request_of(GOOD), silent)
        for number in range(1, begins if begin is late.begin_at_the_second_try else begins + 1):
            deadline_s = time.monotonic() + 60
            while not (tried.exists() and tried.stat().st_size == number):
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
            clock.more_s += local._START_SECONDS + 1
        found = promise.result(timeout=60)
    assert found.begun == begins == tried.stat().st_size
    if begin is late.begin_never:
        assert found.failure == "crash" and found.failure_reason == "begin: its worker did not begin within 600 s, 3 times"
    else:
        assert found.failure is None and found.metrics.top1 is not None


class Script:
    """What a worker reports, each line so many seconds after the one before."""

    def __init__(self, clock: Clock, lines: list[tuple[float, str]]) -> None:
        self._clock, self._lines = clock, lines

    def recv_bytes(self) -> bytes:
        if not self._lines:
            raise EOFError
        seconds, line = self._lines.pop(0)
        self._clock.more_s += seconds
        return line.encode()


@pytest.mark.parametrize(
    ("deadlines", "lines", "left_s", "reason"),
    [
        # 61 s before and 30 s after the wait.
        (
            TimeoutSettings(train=100.0),
            [(1, "train"), (60, "train 1/3"), (1, "waiting for the device"), (9e3, "train 1/3"), (30, "train 2/3")],
            9.0,
            "train 2/3: no end within engine.timeout.train=100 s",
        ),
        (
            TimeoutSettings(measure=50.0),
            [(1, "latency"), (30, "waiting for the device"), (9e3, "latency"), (5, "energy")],
            15.0,
            "energy: no end within engine.timeout.measure=50 s",
        ),
        (TimeoutSettings(), [(1, "data"), (9e3, "build")], 600.0, "build: no end within engine.timeout.build=600 s"),
        (TimeoutSettings(data=None), [(1, "data"), (9e3, "data")], 9e9, None),
        (TimeoutSettings(data=700.0), [(1, "data")], 700.0, "data: no end within engine.timeout.data=700 s"),
    ],
)
def test_a_deadline_is_for_all_time_in_a_part_and_for_no_waiting(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    deadlines: TimeoutSettings,
    lines: list[tuple[float, str]],
    left_s: float,
    reason: str | None,
) -> None:
    clock = Clock()
    monkeypatch.setattr(local, "time", clock)
    clock.monotonic = lambda: clock.more_s  # type: ignore[method-assign]
    slot: Any = LocalEngine([Place("cpu")], tmp_path, deadlines)._slots[0]
    slot.job, slot._number, slot._future = Job(7, request_of(GOOD), silent), 1, Future()
    slot._listen(Script(clock, [(0, "0 77"), *((seconds, f"1 {stage}") for seconds, stage in lines)]))
    clock.more_s += left_s - 0.5
    slot.notice_overtime(deadlines)
    assert slot._expired is None and not slot._future.cancelled()
    clock.more_s += 1.0
    slot.notice_overtime(deadlines)
    assert slot._expired == reason and slot._future.cancelled() == (reason is not None)


def test_a_display_that_fails_does_not_hide_what_the_worker_does(tmp_path: Path) -> None:
    def fail(number: int, stage: str) -> None:
        raise RuntimeError("the terminal is gone")

    slot: Any = LocalEngine([Place("cpu")], tmp_path)._slots[0]
    slot.job, slot._number = Job(7, request_of(GOOD), fail), 1
    slot._listen(Script(Clock(), [(0, "0 77"), (0, "1 data"), (0, "1 build")]))
    assert slot.job.stage == "build" and slot._at_work == 77


def test_a_signal_without_a_name_is_named_by_its_number(tmp_path: Path) -> None:
    slot: Any = LocalEngine([Place("cpu")], tmp_path)._slots[0]
    job = Job(7, request_of(GOOD), silent, stage="train")
    unnamed = signal.SIGRTMIN + 3
    found, killed = slot._died(job, -unnamed)
    assert found.failure_reason == f"train: its worker died of signal {unnamed}" and not killed
    assert slot._died(job, -signal.SIGSEGV)[0].failure_reason == "train: its worker died of SIGSEGV"


class Refuses:
    """Cannot be pickled, in a way that pebble does not expect."""

    def __reduce__(self) -> Any:
        raise ValueError("it holds a camera")


class RefusingSpace(Refuses, FaultySpace): ...


class RefusingArchitecture(Refuses, FaultyArchitecture): ...


class RefusingSource(Refuses, Digits): ...


class HoldsAThread(FaultySpace):
    """Cannot be pickled, in the usual way."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle '_thread.lock' object")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"space": RefusingSpace()},
            r"^space\._target_=\S*RefusingSpace cannot be sent to a worker \(it holds a camera\): keep in R",
        ),
        ({"architecture": RefusingArchitecture(4)}, r"^space\._target_=\S*FaultySpace cannot .* keep in RefusingArchitecture "),
        ({"data": DataRequest(RefusingSource(), DataSettings(), 0)}, r"^data\._target_=\S*RefusingSource .*engine\.workers=0\.$"),
    ],
)
def test_what_cannot_be_pickled_is_the_users_to_mend(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LocalEngine([Place("cpu")], tmp_path).submit(0, replace(request_of(GOOD), **changed), silent)


def test_what_cannot_be_pickled_later_is_told_alike_and_costs_nothing_else(engine: LocalEngine) -> None:
    came_to(engine, GOOD)
    with pytest.raises(InputError, match=r"HoldsAThread cannot be sent to a worker \(cannot pickle '_thread\.lock' object\)"):
        engine.submit(0, replace(request_of(GOOD), space=HoldsAThread()), silent).result(timeout=60)
    assert came_to(engine, GOOD).metrics.top1 is not None


def test_a_worker_that_leaves_as_if_all_was_well_is_missed(engine: LocalEngine) -> None:
    """Long before a deadline, which need not even be."""
    began_s = time.monotonic()
    found = came_to(engine, FaultyArchitecture(4, "train", "exit_0"))
    assert found.failure == "crash" and found.failure_reason == "train: its worker ended by itself"
    assert time.monotonic() - began_s < 4.0 + _GRACE_SECONDS and _GRACE_SECONDS < 4.0
    assert came_to(engine, GOOD).metrics.top1 is not None


def test_each_command_has_its_own_logs_and_those_of_the_dead_go(tmp_path: Path) -> None:
    (tmp_path / "worker-0-999999999.log").write_text("of a process that is no more")
    with subprocess.Popen(["sleep", "600"]) as other:
        (tmp_path / f"worker-0-{other.pid}.log").write_text("of one that lives")
        with LocalEngine([Place("cpu")], tmp_path) as made:
            came_to(made, GOOD)
            names = {path.name for path in tmp_path.glob("*.log")}
        other.kill()
    assert names == {f"worker-0-{os.getpid()}.log", f"worker-0-{other.pid}.log"}


@pytest.mark.parametrize(
    ("line", "folder"),
    [("0::/user.slice/job_7", "user.slice/job_7"), ("0::/user.slice/job_7", "user.slice"), ("0::/", "."), ("1:cpu:/x", ".")],
)
def test_kills_for_memory_are_those_of_the_own_control_group(tmp_path: Path, line: str, folder: str) -> None:
    (tmp_path / "own").write_text(f"{line}\n")
    root = tmp_path / "cgroups"
    (root / folder).mkdir(parents=True)
    assert _kills_for_memory(root, tmp_path / "own") == 0
    (root / folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert _kills_for_memory(root, tmp_path / "own") == 2


def test_whose_worker_is_killed_from_outside_is_begun_again_and_not_for_ever(engine: LocalEngine) -> None:
    found = came_to(engine, FaultyArchitecture(4, "train", "sigkill"))
    assert found.failure == "crash" and found.begun == MOST_KILLS
    assert found.failure_reason == f"train: its worker died of SIGKILL, {MOST_KILLS} times"
    promise = engine.submit(0, request_of(replace(GOOD, stage="train", fault="hang")), silent)
    killed = 0
    while killed < 1:
        killed += sum(_kill(pid) for pid in workers(engine) if engine._slots[0].job and engine._slots[0].job.stage == "train")
        time.sleep(0.02)
    assert promise.result(timeout=60).begun == 2


def test_a_worker_that_dies_idle_is_replaced(engine: LocalEngine) -> None:
    came_to(engine, GOOD)
    for _ in range(3):
        for pid in workers(engine):
            _kill(pid)
        assert came_to(engine, GOOD).metrics.top1 is not None
        time.sleep(0.3)
        assert came_to(engine, GOOD).metrics.top1 is not None


def test_what_a_user_can_mend_is_raised_as_such(engine: LocalEngine, tmp_path: Path) -> None:
    wanted = replace(
        request_of(GOOD), data=DataRequest(ImageFolder(root=str(tmp_path / "gone"), image_size=8), DataSettings(), 0)
    )
    with pytest.raises(InputError, match="gone"):
        engine.submit(0, wanted, silent).result(timeout=60)


def test_several_work_at_once_on_cpus_of_their_own(tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    places = [Place("cpu", (cpus[index % len(cpus)],)) for index in range(2)]
    with LocalEngine(places, tmp_path) as pair:
        assert pair.capacity == 2
        promises = [pair.submit(index, request_of(FaultyArchitecture(2 + index % 3)), silent) for index in range(5)]
        found = [promise.result(timeout=60) for promise in promises]
    assert {evaluation.worker for evaluation in found} == {f"{os.uname().nodename}/cpu/worker-{index}" for index in range(2)}
    assert found[0].metrics.top1 == found[3].metrics.top1, "which worker it was makes no difference"


def test_exhausted_memory_beside_others_is_tried_again_alone(tmp_path: Path) -> None:
    with LocalEngine([Place("cpu"), Place("cpu")], tmp_path) as pair:
        neighbour = pair.submit(0, request_of(GOOD), silent)
        found = pair.submit(1, request_of(FaultyArchitecture(4, "train", "out_of_memory")), silent).result(timeout=60)
        assert found.failure == "out_of_memory" and found.begun == 2
        assert neighbour.result(timeout=60).failure is None


def test_leaving_ends_everything_at_once(tmp_path: Path) -> None:
    with LocalEngine([Place("cpu")], tmp_path) as made:
        promise = made.submit(0, request_of(FaultyArchitecture(4, "train", "hang")), silent)
        while not workers(made):
            time.sleep(0.01)
        (pid,) = workers(made)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 10 and not Path(f"/proc/{pid}").exists()
    assert not promise.done() or promise.exception() is not None or promise.result().failure is not None


def workers(engine: LocalEngine) -> list[int]:
    pool = engine._slots[0]._pool
    assert pool is not None
    manager = pool._pool_manager
    return list(manager.worker_manager.workers)


def _kill(pid: int) -> int:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1
