from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml
import pytest
import torch
from simulated import SimulatedBoard, SimulatedStream

from nas.measure import timers, timing
from nas.measure.record import SensorError
from nas.measure.timers import EnqueueTimer, EventTimer, HostTimer, cache_bytes, captured, flusher
from nas.measure.timing import CPU_APART, GPU, GPU_APART, Timing, by_blocks, by_torch
from nas.measure.watch import Watch

HOT, BRAKE, CAPPED = 0x20, 0x80, 0x04
"""Software thermal slowdown and power brake throttle; a power cap does not."""


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, board: SimulatedBoard) -> Callable[..., SimulatedStream]:
    """Make a simulated stream on the simulated board that keeps the time of all of timing."""

    def make(pass_s: float, enqueue_s: float = 0.0) -> SimulatedStream:
        stream = SimulatedStream(pass_s, enqueue_s)
        for module in (timers, timing):
            stream.install(monkeypatch, module)
        return stream

    return make


OnGpu = Callable[..., SimulatedStream]


def pass_of(stream: SimulatedStream) -> Callable[[], Any]:
    return lambda: stream.model(torch.zeros(1))


def timed(stream: SimulatedStream, cuda: torch.device, budget_s: float = 2.0) -> Timing:
    with Watch.open(cuda) as watch:
        return by_blocks(EventTimer(pass_of(stream)), watch, budget_s, GPU)


def test_each_pass_is_timed_by_its_own_events(on_gpu: OnGpu, cuda: torch.device) -> None:
    stream = on_gpu(pass_s=0.003)
    result = timed(stream, cuda)
    assert (result.stop_reason, result.warm, result.passes_per_sample) == ("converged", True, 1)
    assert result.samples_ms == pytest.approx([3.0] * result.n)
    assert (result.median_ms, result.iqr_ms) == (pytest.approx(3.0), pytest.approx(0.0, abs=1e-9))
    assert (result.noise, result.flags, result.discarded_blocks) == (pytest.approx(0.0, abs=1e-9), (), 0)
    # One block's pairs, used again and again.
    assert stream.events == 2 * round(0.05 / 0.003) < result.n
    # Half a second of warming up, half a second of samples.
    assert stream.now_s == pytest.approx(1.05, abs=0.1)
    assert result.seconds == pytest.approx(stream.now_s)


@pytest.mark.parametrize("pass_s", [0.0001, 0.001, 0.01, 0.04])
@pytest.mark.parametrize("budget_s", [0.3, 1.5, 15.0])
def test_all_of_a_timing_keeps_to_its_time(on_gpu: OnGpu, cuda: torch.device, pass_s: float, budget_s: float) -> None:
    stream = on_gpu(pass_s)
    result = timed(stream, cuda, budget_s)
    least_s = 20 * pass_s
    assert result.seconds <= max(budget_s, least_s) + 2 * 0.055
    assert result.n >= 10
    # With less than half a second of samples nothing is called converged.
    assert (result.stop_reason == "converged") == (sum(result.samples_ms) >= 499.9)


@pytest.mark.parametrize(("search_s", "seconds"), [(0.2, 1.3), (0.4, 1.5), (3.0, 4.2)])
def test_long_search_for_algorithms_costs_time_and_no_care(
    on_gpu: OnGpu, cuda: torch.device, search_s: float, seconds: float
) -> None:
    stream = on_gpu(pass_s=0.003)

    def run() -> None:
        if not stream.passes:
            stream.work(search_s)
        stream.model(torch.zeros(1))

    with Watch.open(cuda) as watch:
        result = by_blocks(EventTimer(run), watch, 1.5, GPU)
    assert result.warm and result.stop_reason == "converged"
    assert sum(result.samples_ms) >= 499.9
    assert result.seconds <= seconds


def test_slow_network_is_not_timed_for_ever(on_gpu: OnGpu, cuda: torch.device) -> None:
    stream = on_gpu(pass_s=1.0)
    result = timed(stream, cuda)
    assert (result.n, result.warm) == (10, False)
    assert stream.passes <= 2 + 1 + 10
    assert result.flags == ("not known to be warm",)


def test_device_that_does_not_settle_is_flagged(on_gpu: OnGpu, cuda: torch.device) -> None:
    stream = on_gpu(pass_s=0.01)

    def run() -> None:
        stream.pass_s = 0.01 if int(stream.now_s / 0.2) % 2 else 0.016
        stream.model(torch.zeros(1))

    with Watch.open(cuda) as watch:
        result = by_blocks(EventTimer(run), watch, 1.5, GPU)
    assert result.noise is not None and result.noise > 0.1
    assert f"spread {100 * result.noise:.1f} % is above 2 %" in result.flags
    assert result.stop_reason != "converged"


def test_launch_bound_network_takes_as_long_as_its_launches(on_gpu: OnGpu, cuda: torch.device) -> None:
    stream = on_gpu(pass_s=0.0005, enqueue_s=0.002)
    result = timed(stream, cuda)
    assert result.median_ms == pytest.approx(2.0)


@pytest.mark.parametrize("pass_s", [0.0005, 0.01])
def test_enqueue_is_the_hosts_time_alone(on_gpu: OnGpu, cuda: torch.device, pass_s: float) -> None:
    stream = on_gpu(pass_s, enqueue_s=0.002)
    queued: list[int] = []

    def run() -> None:
        queued.append(stream.busy_until_s > stream.now_s)
        stream.model(torch.zeros(1))

    with Watch.open(cuda) as watch:
        result = by_blocks(EnqueueTimer(run), watch, 2.0, GPU_APART)
    assert result.samples_ms == pytest.approx([2.0] * result.n)
    assert result.stop_reason == "converged"
    assert not any(queued)


def test_flush_lies_outside_the_events(on_gpu: OnGpu, cuda: torch.device) -> None:
    stream = on_gpu(pass_s=0.001)
    flushes = 0

    def flush() -> None:
        nonlocal flushes
        flushes += 1
        stream.work(0.004)

    with Watch.open(cuda) as watch:
        result = by_blocks(EventTimer(pass_of(stream), flush), watch, 2.0, GPU_APART)
    assert result.samples_ms == pytest.approx([1.0] * result.n)
    assert result.stop_reason == "converged"
    assert flushes == stream.passes
    assert stream.busy_until_s == pytest.approx(0.005 * flushes)
    assert result.seconds <= 2.1


def test_flush_lies_outside_the_hosts_time(on_gpu: OnGpu) -> None:
    stream = on_gpu(pass_s=0.0, enqueue_s=0.001)
    order: list[str] = []

    def flush() -> None:
        order.append("flush")
        stream.now_s += 0.004

    def run() -> None:
        order.append("run")
        stream.model(torch.zeros(1))

    assert HostTimer(run, flush)(3) == pytest.approx([1.0] * 3)
    assert order == ["flush", "run"] * 3
    with Watch.open(torch.device("cpu")) as watch:
        result = by_blocks(HostTimer(run, flush), watch, 2.0, CPU_APART)
    assert result.samples_ms == pytest.approx([1.0] * result.n)
    assert (result.stop_reason, result.warm) == ("converged", True)


@pytest.mark.parametrize("timer", [EventTimer, EnqueueTimer])
def test_device_is_looked_at_while_it_works(on_gpu: OnGpu, timer: Callable[[Any], Any]) -> None:
    stream = on_gpu(pass_s=0.01)
    seen: list[bool] = []
    timer(pass_of(stream))(4, lambda: seen.append(stream.busy_until_s > stream.now_s))
    assert seen == [True]


def test_clocks_are_seen_once_per_block(on_gpu: OnGpu, board: SimulatedBoard, cuda: torch.device) -> None:
    stream = on_gpu(pass_s=0.01)
    # Rising while the device warms up, which is not looked at.
    board.clocks_mhz = lambda: 1400 if stream.now_s < 0.4 else 1900
    board.temperature_c = lambda: 40 + int(10 * stream.now_s)
    board.clock_reasons = CAPPED
    result = timed(stream, cuda)
    assert result.watched.sm_clock_mhz == (1900, 1900, 1900)
    assert result.watched.temperature_c == pytest.approx(40 + 10 * stream.now_s, abs=2)
    assert result.watched.clock_reasons == ("sw_power_cap",)
    assert result.flags == ()


def test_throttled_blocks_are_measured_again(on_gpu: OnGpu, board: SimulatedBoard, cuda: torch.device) -> None:
    stream = on_gpu(pass_s=0.01)

    def hot() -> bool:
        return 0.7 <= stream.now_s < 0.95

    def run() -> None:
        stream.pass_s = 0.02 if hot() else 0.01
        stream.model(torch.zeros(1))

    board.clock_reasons = lambda: HOT | CAPPED if hot() else CAPPED
    with Watch.open(cuda) as watch:
        result = by_blocks(EventTimer(run), watch, 3.0, GPU)
    assert result.samples_ms == pytest.approx([10.0] * result.n)
    assert 1 <= result.discarded_blocks <= 3
    plural = "s" if result.discarded_blocks > 1 else ""
    assert result.flags == (f"{result.discarded_blocks} block{plural} discarded: sw_thermal_slowdown",)
    assert result.stop_reason == "converged"
    assert result.watched.clock_reasons == ("sw_power_cap", "sw_thermal_slowdown")


def test_block_at_a_low_clock_is_measured_again(on_gpu: OnGpu, board: SimulatedBoard, cuda: torch.device) -> None:
    stream = on_gpu(pass_s=0.01)
    board.clocks_mhz = lambda: 1480 if 0.8 < stream.now_s < 0.88 else 1980
    result = timed(stream, cuda, budget_s=3.0)
    assert (result.discarded_blocks, result.flags) == (1, ("1 block discarded: low clock",))
    # Just above three quarters is no throttling.
    board.clocks_mhz = lambda: 1490 if 0.8 < stream.now_s < 0.88 else 1980
    stream.now_s = stream.busy_until_s = 0.0
    assert timed(stream, cuda, budget_s=3.0).discarded_blocks == 0


def test_device_that_throttles_for_good_is_measured_so_and_flagged(
    on_gpu: OnGpu, board: SimulatedBoard, cuda: torch.device
) -> None:
    stream = on_gpu(pass_s=0.01)
    board.clock_reasons = BRAKE
    result = timed(stream, cuda, budget_s=3.0)
    assert result.discarded_blocks == 10
    assert result.n >= 10
    assert result.flags == (
        "10 blocks discarded: hw_power_brake_slowdown",
        "throttled blocks kept: hw_power_brake_slowdown",
    )
    assert result.seconds <= 3.1


def test_throttling_takes_no_more_than_the_time(on_gpu: OnGpu, board: SimulatedBoard, cuda: torch.device) -> None:
    stream = on_gpu(pass_s=0.01)
    board.clock_reasons = HOT
    result = timed(stream, cuda, budget_s=1.5)
    # Warm-up, ten blocks and ten pauses of a thirtieth leave just enough for the least samples.
    assert result.seconds <= 1.5 + 0.3
    assert result.stop_reason == "time_limit" and result.n >= 10


def test_without_a_driver_nothing_is_discarded(
    on_gpu: OnGpu, board: SimulatedBoard, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise pynvml.NVMLError_LibraryNotFound()

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    board.clock_reasons = HOT
    result = timed(on_gpu(pass_s=0.01), cuda)
    assert (result.discarded_blocks, result.stop_reason) == (0, "converged")
    assert result.watched.reason == "NVML is not installed: this machine has no NVIDIA driver"


class SimulatedGraphs:
    """Stands in for streams and graphs: a capture records what is run, a replay does it in ``replay_s``."""

    def __init__(self, stream: SimulatedStream, replay_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = "main"
        self.calls: list[str] = []
        self.underway: set[int] = set()
        self.torch_cleans_up = True
        outer = self

        class Stream(str):
            def wait_stream(self, other: str) -> None:
                outer.calls.append(f"{self} waits for {other}")

        class On:
            def __init__(self, name: str) -> None:
                self.name = name

            def __enter__(self) -> None:
                self.before, outer.current = outer.current, self.name

            def __exit__(self, *error: object) -> None:
                outer.current = self.before

        class Graph:
            def replay(self) -> None:
                stream.work(replay_s)

        class Capture:
            def __init__(self, graph: Graph, pool: int, stream: str) -> None:
                self.pool, self.stream = pool, stream

            def __enter__(self) -> None:
                outer.current = "capturing"
                outer.underway.add(self.pool)
                outer.calls.append(f"capture on {self.stream}")

            def __exit__(self, kind: object, *error: object) -> None:
                if kind is None or outer.torch_cleans_up:
                    outer.underway.remove(self.pool)
                if kind is not None:
                    raise RuntimeError("the capture was invalidated")  # and the stream stays the capturing one
                outer.current = "main"

        def end(device: int, pool: int) -> None:
            if pool not in outer.underway:
                raise RuntimeError("not currently recording to mempool_id")
            outer.underway.remove(pool)

        monkeypatch.setattr(timers, "_side_stream", functools.cache(timers._side_stream.__wrapped__))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"side {device}"))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 7)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *pool: self.calls.append(f"release {pool}"), raising=False)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream(self.current))
        monkeypatch.setattr(torch.cuda, "stream", On)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Capture)


def test_graph_is_warmed_up_aside_captured_once_and_replayed(
    on_gpu: OnGpu, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = on_gpu(pass_s=0.001, enqueue_s=0.003)
    graphs = SimulatedGraphs(stream, 0.001, monkeypatch)
    ran_on: list[str] = []

    def run() -> None:
        ran_on.append(graphs.current)
        stream.model(torch.zeros(1))

    with Watch.open(cuda) as watch:
        result = by_blocks(EventTimer(captured(run)), watch, 2.0, GPU)
    assert ran_on == ["side 1"] * 3 + ["capturing"]
    assert graphs.calls == ["side 1 waits for main", "main waits for side 1", "capture on side 1"]
    assert (graphs.current, graphs.underway) == ("main", set())
    # A replay costs no launches.
    assert result.median_ms == pytest.approx(1.0)


@pytest.mark.parametrize("torch_cleans_up", [True, False])
def test_failed_capture_leaves_stream_and_allocator_as_they_were(
    on_gpu: OnGpu, monkeypatch: pytest.MonkeyPatch, torch_cleans_up: bool
) -> None:
    graphs = SimulatedGraphs(on_gpu(pass_s=0.001), 0.001, monkeypatch)
    graphs.torch_cleans_up = torch_cleans_up

    def run() -> None:
        if graphs.current == "capturing":
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="invalidated"):
        captured(run)
    assert (graphs.current, graphs.underway) == ("main", set())
    assert [call for call in graphs.calls if "release" in call] == ([] if torch_cleans_up else ["release (1, 7)"])


def test_all_captures_share_a_stream(on_gpu: OnGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library keeps a workspace for each stream that it has seen."""
    stream = on_gpu(pass_s=0.001)
    SimulatedGraphs(stream, 0.001, monkeypatch)
    made: list[int] = []
    make: Any = torch.cuda.Stream

    def noted(device: int) -> Any:
        made.append(device)
        return make(device)

    monkeypatch.setattr(torch.cuda, "Stream", noted)
    for device in (0, 0, 1, 0):
        monkeypatch.setattr(torch.cuda, "current_device", lambda device=device: device)
        captured(pass_of(stream))
    assert made == [0, 1]


def by_torch_of(seconds: float, budget_s: float) -> Timing:
    with Watch.open(torch.device("cpu")) as watch:
        return by_torch(lambda: time.sleep(seconds), 1, watch, budget_s)


def test_samples_on_a_cpu_are_what_they_are_summed_up_to() -> None:
    result = by_torch_of(0.002, budget_s=0.4)
    samples = np.array(result.samples_ms)
    assert result.n >= 4 and result.passes_per_sample >= 1
    assert (samples >= 2).all()
    for found, percentile in ((result.p5_ms, 5), (result.median_ms, 50), (result.p95_ms, 95)):
        assert found == pytest.approx(np.percentile(samples, percentile))
    assert result.iqr_ms == pytest.approx(np.subtract(*np.percentile(samples, [75, 25])))
    assert result.noise == pytest.approx(result.iqr_ms / result.median_ms)
    assert (result.stop_reason == "converged") == (result.noise < 0.02)
    assert ("time limit" in result.flags) == (result.stop_reason == "time_limit")
    assert Timing.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_network_slower_than_the_limit_still_gets_samples() -> None:
    result = by_torch_of(0.03, budget_s=0.02)
    assert result.n == 4
    assert result.median_ms >= 30
    assert (result.passes_per_sample, result.stop_reason, result.discarded_blocks) == (1, "time_limit", 0)


def test_importing_the_timer_leaves_the_log_as_it_was() -> None:
    log = logging.getLogger("torch.utils.cpp_extension")
    level = log.level
    assert timing._timer_class().__module__.startswith("torch.utils.benchmark")
    assert log.level == level


def make_caches(tmp_path: Any, sizes: list[tuple[int, str]], cpu: int = 0, shared: str | None = None) -> None:
    for index, (level, size) in enumerate(sizes):
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
        if shared is not None:
            (folder / "shared_cpu_list").write_text(f"{shared if level > 1 else cpu}\n")


@pytest.fixture
def cpus(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight CPUs, of which this process may use the first six."""
    monkeypatch.setattr(timers, "CPUS", tmp_path)
    monkeypatch.setattr(timers, "usable_cpus", lambda: tuple(range(6)))


@pytest.mark.parametrize(
    ("each", "total"),
    [
        ([(1, "32K"), (2, "512K"), (3, "32M")], 3 * 32 * 1024**2),  # of four that the machine has
        ([(1, "32K"), (2, "512K")], 3 * 512 * 1024),
        ([(1, "32K")], 6 * 32 * 1024),
    ],
)
def test_last_caches_of_several_groups_of_cpus_count_once_each(
    tmp_path: Any, cpus: None, each: list[tuple[int, str]], total: int
) -> None:
    for cpu in range(8):
        make_caches(tmp_path, each, cpu, shared=f"{cpu - cpu % 2}-{cpu - cpu % 2 + 1}")
    assert cache_bytes(torch.device("cpu")) == total


def test_last_cache_of_a_cpu(tmp_path: Any, cpus: None) -> None:
    make_caches(tmp_path, [(1, "48K"), (1, "32K"), (2, "2048K"), (3, "30M")])
    assert cache_bytes(torch.device("cpu")) == 30 * 1024**2
    flush = flusher(torch.device("cpu"))
    first, second = flush().clone(), flush()
    assert second.nbytes == 30 * 1024**2
    assert bool((second == first + 1).all())


@pytest.mark.parametrize("size", [None, "", "32", "32X"])
def test_cache_of_unknown_size_is_not_guessed(tmp_path: Any, cpus: None, size: str | None) -> None:
    make_caches(tmp_path, [] if size is None else [(3, size)])
    with pytest.raises(SensorError, match=r"size of the (last )?cache"):
        flusher(torch.device("cpu"))


def test_cache_of_a_gpu_is_what_torch_says(monkeypatch: pytest.MonkeyPatch, cuda: torch.device) -> None:
    size = 50 * 1024**2
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=size))
    assert cache_bytes(cuda) == size
    size = 0
    with pytest.raises(SensorError, match="last cache of cuda:0 is not known"):
        cache_bytes(cuda)
