from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.benchmark import Timer

from nas.errors import InputError
from nas.measure import device, energy, latency, memory
from nas.measure.complexity import count
from nas.measure.settings import MeasureSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

SHAPE = (64, 56, 56)


def network() -> nn.Sequential:
    layers = [layer for _ in range(12) for layer in (nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())]
    return nn.Sequential(*layers)


@pytest.fixture(params=["fp32", "tf32", "bf16", "fp16"])
def held(request: pytest.FixtureRequest) -> device.MeasureConditions:
    settings = MeasureSettings(batch_size=64, precision=request.param)
    try:
        return device.resolve_conditions(settings, device.resolve_device("cuda"))
    except InputError as lack:
        pytest.skip(str(lack))


def test_latency_agrees_with_torchs_timer(held: device.MeasureConditions) -> None:
    model, x = device.prepare(network(), held), device.example_input(SHAPE, held)
    result = latency.measure(model, x, held)
    assert len(result.samples_ms) >= 10
    assert result.p5_ms <= result.median_ms <= result.p95_ms
    with device.numeric_context(held):
        timer = Timer("model(x)", globals={"model": model, "x": x}).blocked_autorange(min_run_time=1.0)
    assert result.median_ms == pytest.approx(1e3 * timer.median, rel=0.05)


def test_work_scales_with_the_batch() -> None:
    # In fp32 and at batches that fill any board for milliseconds: launches and partly filled waves no longer count.
    times = {}
    for batch in (256, 512):
        settings = MeasureSettings(batch_size=batch, precision="fp32")
        held = device.resolve_conditions(settings, device.resolve_device("cuda"))
        times[batch] = latency.measure(device.prepare(network(), held), device.example_input(SHAPE, held), held).median_ms
    assert times[512] / times[256] == pytest.approx(2, rel=0.15)


def test_peak_memory_is_what_the_largest_layer_holds_whatever_else_is_there() -> None:
    held = device.resolve_conditions(MeasureSettings(batch_size=64, precision="fp32"), device.resolve_device("cuda"))
    other = torch.zeros(50_000_000, dtype=torch.uint8, device=held.device)
    x = device.example_input(SHAPE, held)
    result = memory.measure(device.prepare(nn.Sequential(nn.ReLU(), nn.ReLU()), held), x, held)
    # Input, the first output and the second are alive at once.
    assert result.peak_memory_mb == pytest.approx(3 * x.nbytes / 1e6, rel=1e-3)
    assert result.reserved_mb is not None and result.reserved_mb >= result.peak_memory_mb + other.nbytes / 1e6
    assert result.process_mb is not None or result.process_reason


def test_energy_is_power_over_throughput() -> None:
    held = device.resolve_conditions(MeasureSettings(batch_size=64), device.resolve_device("cuda"))
    model, x = device.prepare(network(), held), device.example_input(SHAPE, held)
    result = energy.measure(model, x, held)
    reason = device.unavailable("energy_j", device.resolve_device("cuda"))
    if result.energy_j is None:
        assert result.reason
        pytest.skip(f"no energy here: {result.reason}")
    assert reason is None
    assert result.power_w is not None and result.window_s is not None
    limit_w = device.fingerprint(x.device).agreed.power_limit_w
    assert 20 < result.power_w < 1.05 * (limit_w or 2000)
    # Latency is timed in short blocks, energy under a long load, which may lower clocks.
    per_image_s = latency.measure(model, x, held).median_ms / 1e3 / 64
    assert result.energy_j == pytest.approx(result.power_w * per_image_s, rel=0.15)


def test_counting_leaves_the_gpu_alone() -> None:
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
