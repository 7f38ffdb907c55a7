from __future__ import annotations

import gc
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from simulated import SimulatedBoard, SimulatedStream
from torch import Tensor, nn

from nas.measure import latency, subject, timers, timing
from nas.measure.latency import Latency
from nas.measure.load import CpuLoad
from nas.measure.record import SensorError
from nas.measure.settings import Variant
from nas.measure.subject import Subject
from nas.measure.timers import Run

VARIANTS: tuple[Variant, ...] = get_args(Variant)


class Watched(nn.Module):
    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.seconds = seconds
        self.seen: set[tuple[object, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add((self.norm.training, torch.is_inference_mode_enabled(), torch.get_num_threads(), gc.isenabled()))
        time.sleep(self.seconds)
        return self.norm(self.conv(x))


def on_cpu(model: nn.Module, **settings: Any) -> Subject:
    settings = {"batch_size": 2, "threads": 1, "latency_max_seconds": 0.1} | settings
    return subject.make(model, (3, 16, 16), "cpu", **settings)


def test_network_is_timed_in_inference_with_the_studys_threads_and_no_collector() -> None:
    before = torch.get_num_threads()
    made = on_cpu(Watched(), variants=("cold",))
    made.model.seen.clear()  # type: ignore[operator,union-attr]
    result = latency.measure(made)
    assert made.model.seen == {(False, True, 1, False)}
    assert (torch.get_num_threads(), gc.isenabled(), torch.is_inference_mode_enabled()) == (before, True, False)
    assert result.reasons == ()
    assert Latency.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_known_sleep_is_what_is_measured() -> None:
    result = latency.measure(on_cpu(Watched(seconds=0.02), variants=("cold",)))
    assert min(result.eager.samples_ms) >= 20
    assert result.cold is not None and min(result.cold.samples_ms) >= 20
    assert (result.eager.passes_per_sample, result.cold.passes_per_sample) == (1, 1)
    assert result.eager.n >= 4 and result.cold.n >= 10


def test_only_what_is_asked_for_is_timed() -> None:
    result = latency.measure(on_cpu(nn.ReLU()))
    assert [getattr(result, name) for name in VARIANTS] == [None] * 4
    assert (result.compile_seconds, result.reasons) == (None, ())


def test_cpu_has_no_queue_and_no_graphs() -> None:
    result = latency.measure(on_cpu(nn.ReLU(), variants=("graph", "enqueue")))
    assert (result.graph, result.enqueue) == (None, None)
    assert dict(result.reasons) == {
        "graph": "CUDA graphs are a GPU's",
        "enqueue": "on a CPU a pass runs within its call: nothing is queued",
    }


def test_failing_network_leaves_no_trace() -> None:
    made = on_cpu(nn.Conv2d(3, 8, 3))
    with pytest.raises(RuntimeError):
        latency.measure(replace(made, example=torch.zeros(2, 4, 8, 8)))
    assert gc.isenabled()
    assert not torch.is_inference_mode_enabled()


def test_cache_that_cannot_be_flushed_costs_the_cold_figure_only(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "CPUS", tmp_path)
    result = latency.measure(on_cpu(nn.ReLU(), variants=("cold",)))
    assert result.cold is None
    assert result.reasons == (("cold", "the size of the last cache of cpu is not known"),)


@pytest.fixture
def compiler(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is none")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    import torch._inductor.config

    # Neither probing for vector instructions nor precompiling headers, which take longer than compiling.
    with torch._inductor.config.patch({"cpp.simdlen": 1, "cpp_cache_precompile_headers": False}):
        yield


@pytest.mark.usefixtures("compiler")
def test_compiled_network_is_timed_and_forgotten() -> None:
    from torch._dynamo.utils import counters

    class Noted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(x) * (2.0 if torch.compiler.is_compiling() else 1.0)

    made = on_cpu(Noted(), variants=("compiled",))
    graphs = counters["stats"]["unique_graphs"]
    result = latency.measure(made)
    assert result.reasons == ()
    assert result.compiled is not None and result.compiled.n >= 4
    # The compilers took part of a second at least; a pass of the network takes microseconds.
    assert result.compile_seconds is not None and 1e3 * result.compile_seconds > 100 * result.compiled.median_ms
    assert counters["stats"]["unique_graphs"] == graphs + 1
    # The network itself is still the eager one.
    assert torch.equal(made.run(), torch.sigmoid(made.example))
    assert Latency.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_compiler_that_is_switched_off_is_not_timed_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo.config

    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    result = latency.measure(on_cpu(nn.ReLU(), variants=("compiled",)))
    assert (result.compiled, result.compile_seconds) == (None, None)
    ((name, reason),) = result.reasons
    assert name == "compiled" and "switched off" in reason


def test_missing_compiler_costs_the_compiled_figure_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import torch._inductor.config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/c++",))
    result = latency.measure(on_cpu(nn.Softplus(beta=1.25), variants=("compiled",)))
    assert result.compiled is None
    ((name, reason),) = result.reasons
    assert name == "compiled" and len(reason) <= 201 and "\n" not in reason
    assert not torch.is_inference_mode_enabled()


def loaded_by(monkeypatch: pytest.MonkeyPatch, cpus: float) -> None:
    """Let others keep ``cpus`` CPUs busy."""
    monkeypatch.setattr(latency, "usable_cpus", lambda: (0, 1))
    monkeypatch.setattr(CpuLoad, "others_cpus", lambda self, later, seconds: cpus)


@pytest.mark.parametrize("when_loaded", ["auto", "flag"])
def test_time_beside_others_is_flagged(monkeypatch: pytest.MonkeyPatch, when_loaded: str) -> None:
    loaded_by(monkeypatch, 0.8)
    result = latency.measure(on_cpu(nn.ReLU(), when_loaded=when_loaded, variants=("cold",)))
    assert result.watched.others_cpus == 0.8
    assert {"eager: others kept 0.8 of 2 CPUs busy", "cold: others kept 0.8 of 2 CPUs busy"} <= set(result.flags)


def test_time_beside_others_is_refused_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded_by(monkeypatch, 1.2)
    with pytest.raises(SensorError, match=r"^cpu was not alone: others kept 1\.2 of 2 CPUs busy$"):
        latency.measure(on_cpu(nn.ReLU(), when_loaded="refuse"))


@pytest.mark.parametrize("when_loaded", ["auto", "flag", "refuse"])
def test_a_tenth_of_the_cpus_is_no_load(monkeypatch: pytest.MonkeyPatch, when_loaded: str) -> None:
    loaded_by(monkeypatch, 0.15)
    result = latency.measure(on_cpu(nn.ReLU(), when_loaded=when_loaded))
    assert not any("others" in flag for flag in result.flags)


Gpu = Callable[..., Subject]


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch, board: SimulatedBoard) -> SimulatedStream:
    """A simulated GPU under all of latency; graphs and compiled networks take half of the eager time."""
    stream = SimulatedStream(pass_s=0.004, enqueue_s=0.001)
    for module in (timers, timing):
        stream.install(monkeypatch, module)

    def half() -> None:
        stream.work(0.002)

    @contextmanager
    def compiled(made: Subject) -> Iterator[tuple[Run, float]]:
        yield half, 12.5

    loaded_by(monkeypatch, 0.0)
    monkeypatch.setattr(latency, "numeric_context", lambda conditions: nullcontext())
    monkeypatch.setattr(latency, "captured", lambda run: half)
    monkeypatch.setattr(latency, "compiled", compiled)
    monkeypatch.setattr(latency, "flusher", lambda device: lambda: stream.work(0.003))
    return stream


def on_gpu(stream: SimulatedStream, **settings: Any) -> Subject:
    made = on_cpu(nn.ReLU(), latency_max_seconds=1.5, **settings)
    model: Any = stream.model
    return Subject(model, torch.zeros(1), replace(made.conditions, device="cuda:0", threads=None))


def test_gpu_has_every_variant(stream: SimulatedStream) -> None:
    result = latency.measure(on_gpu(stream, variants=VARIANTS))
    found = {name: getattr(result, name).median_ms for name in ("eager", *VARIANTS)}
    assert found == pytest.approx({"eager": 4.0, "graph": 2.0, "compiled": 2.0, "enqueue": 1.0, "cold": 4.0})
    assert (result.compile_seconds, result.reasons, result.flags) == (12.5, (), ())
    # Each had its own time.
    assert stream.now_s <= 5 * 1.6
    assert Latency.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_variants_that_fail_cost_their_own_figure_only(stream: SimulatedStream, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Callable[..., Any]:
        def raising(*args: Any) -> Any:
            raise error

        return raising

    monkeypatch.setattr(latency, "captured", fails(RuntimeError("operation not permitted\nwhen stream is capturing")))
    monkeypatch.setattr(latency, "compiled", fails(AssertionError("x" * 999)))
    monkeypatch.setattr(latency, "flusher", fails(torch.OutOfMemoryError("CUDA out of memory.")))
    emptied: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(None))
    result = latency.measure(on_gpu(stream, variants=VARIANTS))
    assert result.enqueue is not None
    assert (result.graph, result.compiled, result.cold, result.compile_seconds) == (None, None, None, None)
    reasons = dict(result.reasons)
    assert reasons["graph"] == "RuntimeError: operation not permitted when stream is capturing"
    assert reasons["cold"] == "OutOfMemoryError: CUDA out of memory."
    assert reasons["compiled"].startswith("AssertionError: xxx") and reasons["compiled"].endswith("x…")
    assert len(emptied) == 4


def test_interruption_is_not_a_reason(stream: SimulatedStream, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(run: Run) -> Run:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "captured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        latency.measure(on_gpu(stream, variants=("graph",)))


@pytest.mark.parametrize("when_loaded", ["auto", "flag"])
def test_other_processes_on_the_board_are_flagged(stream: SimulatedStream, board: SimulatedBoard, when_loaded: str) -> None:
    board.processes = [(os.getpid(), 1), (77, 1), (5, 1)]
    result = latency.measure(on_gpu(stream, when_loaded=when_loaded))
    assert result.flags == ("eager: other processes compute on the board (5, 77)",)
    assert result.watched.foreign_processes == (5, 77)


def test_other_processes_on_the_board_are_refused_where_that_is_wanted(stream: SimulatedStream, board: SimulatedBoard) -> None:
    board.processes = [(os.getpid(), 1), (77, 1)]
    made = on_gpu(stream, when_loaded="refuse")
    with pytest.raises(SensorError, match=r"^cuda:0 was not alone: other processes compute on the board \(77\)$"):
        latency.measure(made)


def test_process_that_comes_later_costs_the_variants_only(stream: SimulatedStream, board: SimulatedBoard) -> None:
    board.processes = lambda: [(os.getpid(), 1)] + ([(77, 1)] if stream.now_s > 1.5 else [])
    result = latency.measure(on_gpu(stream, when_loaded="refuse", variants=("graph", "enqueue")))
    assert result.eager.n >= 10
    assert set(dict(result.reasons)) == {"graph", "enqueue"}
    assert "not alone" in dict(result.reasons)["graph"]


def test_busy_host_disturbs_what_the_host_decides(
    stream: SimulatedStream, board: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded_by(monkeypatch, 1.5)
    result = latency.measure(on_gpu(stream, variants=VARIANTS))
    assert result.flags == ("enqueue: others kept 1.5 of 2 CPUs busy",)
    assert result.watched.others_cpus == 1.5
