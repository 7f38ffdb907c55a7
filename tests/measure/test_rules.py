from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.measure.rules import StoppingRule, ThrottleRule, WarmUp, block_noise

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


def test_warm_up_that_is_allowed_less_takes_less() -> None:
    assert WarmUp().within(10.0) == WarmUp(min_seconds=0.5, max_seconds=10.0)
    assert WarmUp().within(0.2) == WarmUp(min_seconds=0.2, max_seconds=0.2)
    settled, calls = warm_up(WarmUp().within(-1.0), [10.0])
    assert (settled, calls) == (False, 1)


def test_blocks_may_be_counted_in_place_of_measured_time() -> None:
    rule = StoppingRule(min_seconds=0.0, min_blocks=10)
    assert rule.verdict([[0.01] * 100] * 9, 0.5) is None
    assert rule.verdict([[0.01] * 100] * 10, 0.5) == "converged"


def test_no_time_left_still_means_the_least_samples() -> None:
    rule = StoppingRule().within(-3.0)
    assert rule.verdict([[10.0] * 9], 0.1) is None
    assert rule.verdict([[10.0] * 10], 0.1) == "time_limit"


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(1, 100), min_size=1, max_size=5), min_size=2, max_size=8))
def test_noise_is_the_spread_of_the_blocks_means(blocks_ms: list[list[float]]) -> None:
    means = [np.mean(block) for block in blocks_ms]
    assert block_noise(blocks_ms) == pytest.approx(np.std(means, ddof=1) / np.mean(means), abs=1e-9)


def test_a_single_block_has_no_noise() -> None:
    assert block_noise([[1.0, 2.0]]) is None


THROTTLE = ThrottleRule(frozenset({"hot", "power_brake"}))


def test_block_on_a_free_device_counts() -> None:
    assert THROTTLE.causes([], None, ()) == ()
    assert THROTTLE.causes([1980], 1980, ("power_cap", "idle")) == ()


def test_block_under_a_throttling_reason_does_not_count() -> None:
    assert THROTTLE.causes([1980], 1980, ("power_cap", "power_brake", "hot")) == ("hot", "power_brake")


@settings(deadline=None)
@given(st.lists(st.integers(200, 3000), min_size=1, max_size=9), st.integers(200, 3000))
def test_clock_is_held_against_three_quarters_of_the_running_median(clocks_mhz: list[int], clock_mhz: int) -> None:
    low = clock_mhz < 0.75 * statistics.median(clocks_mhz)
    assert THROTTLE.causes(clocks_mhz, clock_mhz, ()) == (("low clock",) if low else ())


def test_clock_that_is_not_told_is_not_low() -> None:
    assert THROTTLE.causes([1980, 1980], None, ()) == ()
    assert THROTTLE.causes([], 210, ()) == ()
