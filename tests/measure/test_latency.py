from __future__ import annotations

import gc
import json
import logging
import math
import random
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.measure import device, latency
from nas.measure.latency import Latency, StoppingRule, WarmUp
from nas.measure.settings import MeasureSettings

RULE = StoppingRule(max_seconds=15.0)


def run(rule: StoppingRule, block_seconds: float, noise: float, passes: int = 5, seed: int = 0) -> tuple[str, float, int]:
    """Sample a simulated device whose blocks' means scatter by ``noise``; return the verdict, the time and the blocks."""
    draw = random.Random(seed)
    blocks: list[list[float]] = []
    elapsed_s = 0.0
    while (reason := rule.verdict(blocks, elapsed_s)) is None:
        mean_ms = 1e3 * block_seconds / passes * draw.gauss(1, noise)
        blocks.append([mean_ms * factor for factor in np.linspace(0.9, 1.1, passes)])
        elapsed_s += sum(blocks[-1]) / 1e3
    return reason, elapsed_s, len(blocks)


def test_quiet_device_converges_after_the_minimum() -> None:
    reason, elapsed_s, _ = run(RULE, block_seconds=0.05, noise=0.001)
    assert reason == "converged"
    assert 0.5 <= elapsed_s <= 0.6


def test_noisy_device_stops_when_its_noise_holds_still() -> None:
    reason, elapsed_s, _ = run(RULE, block_seconds=0.05, noise=0.03)
    assert reason == "stabilised"
    assert 1.0 <= elapsed_s < 15


def test_erratic_device_runs_into_the_limit_and_is_not_called_converged() -> None:
    rule = StoppingRule(max_seconds=3.0, drift=0.0)
    reason, elapsed_s, _ = run(rule, block_seconds=0.05, noise=0.03)
    assert reason == "time_limit"
    assert 3.0 <= elapsed_s <= 3.1


def test_slow_network_gets_its_samples_whatever_the_limit() -> None:
    reason, _, blocks = run(StoppingRule(max_seconds=1.0), block_seconds=0.8, noise=0.05, passes=1)
    assert (reason, blocks) == ("time_limit", 10)


@pytest.mark.parametrize("seed", range(20))
def test_converged_means_that_the_noise_is_below_the_goal(seed: int) -> None:
    draw = random.Random(seed)
    blocks = [[draw.gauss(10, 0.08) for _ in range(4)] for _ in range(30)]
    means = np.mean(blocks, axis=1)
    relative = np.std(means, ddof=1) / np.mean(means)
    assert (RULE.verdict(blocks, 0.0) == "converged") == bool(relative < 0.005)


def test_too_few_samples_or_too_little_time_never_stop() -> None:
    assert RULE.verdict([], 99.0) is None
    assert RULE.verdict([[60.0] * 3] * 3, 99.0) is None
    assert RULE.verdict([[1.0] * 10] * 4, 0.04) is None
    assert RULE.verdict([[1.0] * 1000], 1.0) is None


def test_drift_delays_convergence() -> None:
    """A device that still speeds up by 3 % per block is not measured, however smooth its times are."""
    blocks = [[50.0 * 0.97**i] for i in range(12)]
    assert RULE.verdict(blocks, 1.0) is None


def test_noise_must_be_seen_to_hold_still() -> None:
    assert RULE.verdict([[100.0] * 5, [130.0] * 5], 1.0) is None
    assert RULE.verdict([[100.0] * 5, [130.0] * 5] * 15, 1.0) == "stabilised"


def test_warmth_is_judged_on_three_blocks() -> None:
    assert not WarmUp().settled([10.0, 10.0], passes=99, elapsed_s=1.0)
    assert WarmUp().settled([10.0, 10.0, 10.0], passes=99, elapsed_s=1.0)


def warm_up(rule: WarmUp, times_ms: list[float]) -> tuple[bool, int]:
    now_s, calls = 0.0, 0

    def block() -> list[float]:
        nonlocal now_s, calls
        time_ms = times_ms[min(calls, len(times_ms) - 1)]
        calls += 1
        now_s += 4 * time_ms / 1e3
        return [time_ms] * 4

    return rule.run(block, lambda: now_s), calls


def test_warm_up_waits_for_the_drift_to_end() -> None:
    falling = [50 * 0.95**i for i in range(6)]
    settled, calls = warm_up(WarmUp(max_seconds=10), [*falling, 36.0])
    assert settled
    assert calls == 6 + 3


def test_warm_up_lasts_its_minimum_on_a_steady_device() -> None:
    settled, calls = warm_up(WarmUp(), [10.0])
    assert settled
    assert calls == math.ceil(0.5 / 0.04)


def test_warm_up_that_never_settles_ends_and_says_so() -> None:
    settled, calls = warm_up(WarmUp(max_seconds=1.0), [float(10 + 5 * (i % 2)) for i in range(1000)])
    assert not settled
    assert 15 <= calls <= 25


def conditions(**keys: float) -> device.MeasureConditions:
    settings = MeasureSettings(batch_size=2, threads=1, **keys)  # type: ignore[arg-type]
    return device.resolve_conditions(settings, torch.device("cpu"))


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


def test_cpu_latency_agrees_with_its_own_samples() -> None:
    held = conditions(latency_max_seconds=0.4)
    model = device.prepare(Watched(), held)
    before = torch.get_num_threads()
    result = latency.measure(model, device.example_input((3, 16, 16), held), held)
    samples = np.array(result.samples_ms)
    assert len(samples) >= 4
    assert (samples > 0).all()
    for found, percentile in ((result.p5_ms, 5), (result.median_ms, 50), (result.p95_ms, 95)):
        assert found == pytest.approx(np.percentile(samples, percentile))
    assert result.iqr_ms == pytest.approx(np.subtract(*np.percentile(samples, [75, 25])))
    assert (result.stop_reason == "converged") == (result.iqr_ms / result.median_ms < 0.02)
    assert result.stop_reason in ("converged", "time_limit")
    assert result.passes_per_sample >= 1
    assert Latency.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    # The timed passes run in inference, with the study's threads and no collector; only the norms' one pass does not.
    assert model.seen <= {(True, False, before, True), (False, True, 1, False)}
    assert (torch.get_num_threads(), gc.isenabled(), torch.is_inference_mode_enabled()) == (before, True, False)


def test_network_slower_than_the_limit_still_gets_samples() -> None:
    held = conditions(latency_max_seconds=0.02)
    result = latency.measure(device.prepare(Watched(seconds=0.03), held), device.example_input((3, 8, 8), held), held)
    assert len(result.samples_ms) >= 4
    assert result.median_ms >= 30
    assert result.passes_per_sample == 1


def test_known_sleep_is_what_is_measured() -> None:
    held = conditions(latency_max_seconds=0.5)
    result = latency.measure(device.prepare(Watched(seconds=0.02), held), device.example_input((3, 8, 8), held), held)
    assert min(result.samples_ms) >= 20


def test_failing_network_leaves_no_trace() -> None:
    held = conditions()
    with pytest.raises(RuntimeError):
        latency.measure(device.prepare(Watched(), held), device.example_input((4, 8, 8), held), held)
    assert gc.isenabled()
    assert not torch.is_inference_mode_enabled()


def test_importing_the_timer_leaves_the_log_as_it_was() -> None:
    log = logging.getLogger("torch.utils.cpp_extension")
    level = log.level
    assert latency._timer_class().__module__.startswith("torch.utils.benchmark")
    assert log.level == level
