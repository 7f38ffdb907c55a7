from __future__ import annotations

import gc
import json
import statistics

import pytest
import torch
from torch import nn
from torch.utils.benchmark import Timer

from nas.errors import InputError
from nas.measure import device, energy, latency, memory, subject
from nas.measure.complexity import count
from nas.measure.latency import Latency
from nas.measure.nvml import open_gpu
from nas.measure.record import SensorError
from nas.measure.settings import MeasureSettings
from nas.measure.subject import Subject
from nas.measure.timers import EventTimer, cache_bytes, flusher

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

SHAPE = (64, 56, 56)


def network() -> nn.Sequential:
    layers = [layer for _ in range(12) for layer in (nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())]
    return nn.Sequential(*layers)


@pytest.fixture(params=["fp32", "tf32", "bf16", "fp16"])
def net(request: pytest.FixtureRequest) -> Subject:
    try:
        return subject.make(network(), SHAPE, device="cuda", batch_size=64, precision=request.param)
    except InputError as lack:
        pytest.skip(str(lack))


def test_latency_agrees_with_torchs_timer(net: Subject) -> None:
    result = latency.measure(net).eager
    assert result.n >= 10
    assert result.p5_ms <= result.median_ms <= result.p95_ms
    with device.numeric_context(net.conditions):
        timer = Timer("run()", globals={"run": net.run}).blocked_autorange(min_run_time=1.0)
    assert result.median_ms == pytest.approx(1e3 * timer.median, rel=0.05)


def test_latency_of_a_search_costs_1_5_s_at_most() -> None:
    net = subject.make(network(), SHAPE, device="cuda", batch_size=64)
    latency.measure(net)  # picks the algorithms
    result = latency.measure(net)
    assert result.eager.seconds <= 1.5
    assert result.eager.warm and result.eager.stop_reason != "time_limit"


def test_work_scales_with_the_batch() -> None:
    # In fp32 and at batches that fill any board for milliseconds: launches and partly filled waves no longer count.
    net = subject.make(network(), SHAPE, device="cuda", batch_size=256, precision="fp32")
    times = [latency.measure(each).eager.median_ms for each in (net, net.at_batch(512))]
    assert times[1] / times[0] == pytest.approx(2, rel=0.15)


def test_device_is_watched_while_it_is_timed() -> None:
    net = subject.make(network(), SHAPE, device="cuda", batch_size=64, latency_max_seconds=3.0)
    watched = latency.measure(net).watched
    try:
        with open_gpu(net.device) as gpu:
            gpu.clock_mhz("SM"), gpu.clock_reasons(), gpu.temperature_c()
    except SensorError:
        assert watched.reason
        return
    assert watched.sm_clock_mhz is not None and watched.temperature_c is not None
    assert 100 < watched.sm_clock_mhz[0] <= watched.sm_clock_mhz[1] <= watched.sm_clock_mhz[2] < 4000
    # Looked at under load: neither idle nor at the clock of an idle board.
    assert "gpu_idle" not in watched.clock_reasons
    assert 10 < watched.temperature_c < 110


def test_small_network_is_bound_by_launches_and_its_graph_is_not() -> None:
    small = nn.Sequential(*(layer for _ in range(40) for layer in (nn.Conv2d(16, 16, 1), nn.ReLU())))
    variants = ("graph", "enqueue", "cold")
    net = subject.make(small, (16, 8, 8), device="cuda", batch_size=1, precision="fp32", variants=variants)
    result = latency.measure(net)
    assert result.reasons == ()
    assert result.graph is not None and result.enqueue is not None and result.cold is not None
    assert result.graph.median_ms < 0.7 * result.eager.median_ms
    # The host is the bound: a pass takes as long as queuing it, events and all.
    assert result.enqueue.median_ms == pytest.approx(result.eager.median_ms, rel=0.3)
    assert Latency.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_large_network_takes_as_long_by_graph_and_its_queuing_is_short() -> None:
    net = subject.make(network(), SHAPE, device="cuda", batch_size=256, precision="fp32", variants=("graph", "enqueue", "cold"))
    result = latency.measure(net)
    assert result.graph is not None and result.enqueue is not None and result.cold is not None
    assert result.graph.median_ms == pytest.approx(result.eager.median_ms, rel=0.05)
    assert result.enqueue.median_ms < 0.5 * result.eager.median_ms
    # 50 MB read again from memory are nothing beside its time; the flush itself would be seen.
    assert result.cold.median_ms == pytest.approx(result.eager.median_ms, rel=0.1)


def test_cold_caches_cost_time_where_the_data_fit_in_them() -> None:
    layer = nn.Sequential(nn.Flatten(), nn.Linear(2048, 2048, bias=False))
    net = subject.make(layer, (2048, 1, 1), device="cuda", batch_size=1, precision="fp32")
    if cache_bytes(net.device) < 20e6:
        pytest.skip("this board's L2 does not hold the 16 MB of weights")
    with device.numeric_context(net.conditions):
        flush = flusher(net.device)
        # Both kinds keep the GPU busy for longer than it takes to queue a pass, so that neither waits for its launch.
        cold, warm = EventTimer(net.run, flush), EventTimer(net.run, lambda: torch.cuda._sleep(1_000_000))
        medians_ms = [statistics.median(timer(200)) for timer in (cold, warm, cold, warm)]
    assert min(medians_ms[0::2]) > max(medians_ms[1::2])


def test_compiled_network_is_timed_and_gives_its_memory_back() -> None:
    net = subject.make(network(), SHAPE, device="cuda", batch_size=16, variants=("compiled", "graph"))
    before = torch.cuda.memory_allocated()
    result = latency.measure(net)
    if result.compiled is None:
        pytest.skip(f"no compiled network here: {dict(result.reasons)['compiled']}")
    assert result.compile_seconds is not None and result.compile_seconds > 1e-3 * result.compiled.median_ms
    # Fused activations and no launches by Python: not slower than eager.
    assert result.compiled.median_ms < 1.2 * result.eager.median_ms
    assert torch.cuda.memory_allocated() <= before + 64e6  # but for the libraries' workspaces


class Waits(nn.Module):
    """Looks at a value on the host, which no graph can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (2 if x.sum().item() > 0 else 3)


def test_network_that_cannot_be_captured_loses_its_graph_and_nothing_else() -> None:
    net = subject.make(Waits(), SHAPE, device="cuda", batch_size=2, variants=("graph", "enqueue"))
    stream = torch.cuda.current_stream()
    result = latency.measure(net)
    assert result.graph is None and "graph" in dict(result.reasons)
    assert result.enqueue is not None
    assert torch.cuda.current_stream() == stream
    assert latency.measure(net).eager.median_ms > 0
    # Emptying the cache is what an allocator that still waits for the end of a capture refuses.
    assert memory.measure(net).peak_memory_mb is not None


def test_memory_does_not_grow_with_every_capture() -> None:
    dense = nn.Sequential(nn.Flatten(), nn.Linear(512, 512))
    net = subject.make(dense, (512, 1, 1), device="cuda", batch_size=8, variants=("graph",))
    latency.measure(net)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        assert latency.measure(net).graph is not None
    assert torch.cuda.memory_allocated() <= before


def test_peak_memory_is_what_the_largest_layer_holds_whatever_else_is_there() -> None:
    other = torch.zeros(50_000_000, dtype=torch.uint8, device="cuda")
    net = subject.make(nn.Sequential(nn.ReLU(), nn.ReLU()), SHAPE, device="cuda", batch_size=64, precision="fp32")
    result = memory.measure(net)
    # Input, the first output and the second are alive at once.
    assert result.peak_memory_mb == pytest.approx(3 * net.example.nbytes / 1e6, rel=1e-3)
    assert result.allocated_mb is not None and result.reserved_mb is not None
    assert result.reserved_mb >= result.allocated_mb >= result.peak_memory_mb + other.nbytes / 1e6
    assert result.process_mb is not None or result.process_reason
    assert (result.parameters_mb, result.model_file_mb > 0) == (0, True)


@pytest.fixture(scope="module")
def energies() -> list[energy.Energy]:
    """A search's energy twice, the first with the idle power, and one of three windows."""
    search = subject.make(network(), SHAPE, device="cuda", batch_size=64)
    thorough = subject.make(network(), SHAPE, device="cuda", batch_size=64, energy_windows=3)
    found = [energy.measure(net) for net in (search, search, thorough)]
    if found[0].energy_j is None:
        assert found[0].reason
        pytest.skip(f"no energy here: {found[0].reason}")
    assert device.unavailable("energy_j", search.device) is None
    return found


def test_energy_is_power_over_throughput(energies: list[energy.Energy]) -> None:
    result = energies[1]
    assert result.energy_j is not None and result.power_w is not None
    net = subject.make(network(), SHAPE, device="cuda", batch_size=64)
    limit_w = device.fingerprint(net.device).agreed.power_limit_w
    assert 20 < result.power_w < 1.05 * (limit_w or 2000)
    # Latency is timed in short blocks, energy under a long load, which may lower clocks.
    per_image_s = latency.measure(net).eager.median_ms / 1e3 / 64
    assert result.energy_j == pytest.approx(result.power_w * per_image_s, rel=0.15)


def test_energy_repeats_and_its_sensors_agree_or_say_that_they_do_not(energies: list[energy.Energy]) -> None:
    once, again, thorough = energies
    assert once.energy_j is not None and again.energy_j is not None and thorough.energy_j is not None
    assert again.energy_j == pytest.approx(once.energy_j, rel=0.03)
    assert thorough.energy_j == pytest.approx(again.energy_j, rel=0.03)
    assert thorough.energy_sd_j is not None and len(thorough.windows) == 3
    assert thorough.energy_sd_j <= 0.01 * thorough.energy_j or any("windows differ" in flag for flag in thorough.flags)
    for result in energies:
        assert result.energy_uncertainty_j is not None and 0 < result.energy_uncertainty_j < 0.05 * thorough.energy_j
        if result.method == "nvml_counter" and result.check_method:
            ratio = result.counter_over_power
            assert (ratio is not None and abs(ratio - 1) <= 0.02) or result.flags
            assert 0.005 < (result.windows[0].tick_s or 0) < 0.2


def test_energy_of_a_search_costs_7_s_at_most(energies: list[energy.Energy]) -> None:
    assert energies[1].seconds <= 7


def test_idle_power_is_taken_once_and_lies_below_the_load(energies: list[energy.Energy]) -> None:
    once, again, _ = energies
    if once.idle_power_w is None:
        assert once.idle_reason
        pytest.skip(f"no idle power here: {once.idle_reason}")
    assert again.idle_power_w == once.idle_power_w
    assert (again.idle_age_s or 0) > (once.idle_age_s or 0)
    assert once.power_w is not None and 5 < once.idle_power_w < once.power_w
    assert once.energy_net_j is not None and once.energy_j is not None and 0 < once.energy_net_j < once.energy_j


def test_counting_leaves_the_gpu_alone() -> None:
    gc.collect()  # what an earlier test left in a circle would go meanwhile
    before = torch.cuda.memory_allocated()
    assert count(network(), SHAPE).mult_adds == 12 * 9 * 64 * 64 * 56 * 56
    assert torch.cuda.memory_allocated() == before


def test_flags_are_restored() -> None:
    try:
        held = device.resolve_conditions(MeasureSettings(precision="tf32"), device.resolve_device("cuda"))
    except InputError as lack:
        pytest.skip(str(lack))
    before = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    with device.numeric_context(held):
        assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    assert (torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision) == before
