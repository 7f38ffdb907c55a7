from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.measure import windows
from nas.measure.record import SensorError
from nas.measure.windows import Done, EnergyWindow, Output, Span, counter_span, power_span, trapezoid


class SimulatedDevice:
    """Draws ``power_w`` and puts out ``batch`` images every ``pass_s``; its counter ticks every ``tick_s``.

    With ``prompt`` a poll runs one pass, as on a CPU; otherwise it lets 0.7 ms go by.
    """

    def __init__(
        self, power_w: float = 300.0, pass_s: float = 0.013, tick_s: float = 0.1, phase: float = 0.371, prompt: bool = False
    ) -> None:
        self.power_w, self.pass_s, self.tick_s, self.prompt = power_w, pass_s, tick_s, prompt
        self.batch = 64
        self.now_s = phase * tick_s
        self.began_s = self.now_s
        self.passes = 0

    def clock(self) -> float:
        return self.now_s

    def poll(self) -> Done | None:
        self.now_s += self.pass_s if self.prompt else 0.0007
        done = int((self.now_s - self.began_s) / self.pass_s * (1 + 1e-12)) - self.passes
        self.passes += done
        return Done(done * self.batch, self.began_s + self.passes * self.pass_s) if done else None

    def counter_j(self) -> float:
        self.now_s += 20e-6
        return self.power_w * self.tick_s * int(self.now_s / self.tick_s)

    def watts(self) -> float:
        return self.power_w

    def output(self) -> Output:
        return Output(self.poll, self.clock)

    def counter_window(self, window_s: float = 5.0) -> EnergyWindow:
        output = self.output()
        return EnergyWindow.of(counter_span(self.counter_j, output, window_s, self.clock, self.watts), output)

    @property
    def truth_j(self) -> float:
        return self.power_w * self.pass_s / self.batch


@settings(deadline=None)
@given(
    tick_s=st.floats(0.0005, 0.1),
    phase=st.floats(0, 1),
    pass_s=st.floats(0.0008, 0.2),
    power_w=st.floats(1, 1000),
    window_s=st.floats(1, 3),
)
def test_constant_load_lies_within_the_uncertainty_at_any_phase(
    tick_s: float, phase: float, pass_s: float, power_w: float, window_s: float
) -> None:
    simulated = SimulatedDevice(power_w, pass_s, tick_s, phase)
    window = simulated.counter_window(window_s)
    assert window_s <= window.seconds <= window_s + tick_s + 0.007
    # To first order in tick over window: measured and true length differ by up to a tick.
    assert abs(window.energy_j - simulated.truth_j) <= window.energy_uncertainty_j / (1 - tick_s / window_s)
    assert window.energy_uncertainty_j <= simulated.truth_j * (tick_s + 0.007) / window_s * 1.1
    assert window.check_joules == pytest.approx(power_w * window.seconds, rel=1e-6)


@settings(deadline=None)
@given(tick_s=st.floats(0.0005, 0.1), phase=st.floats(0, 1), pass_s=st.floats(0.0008, 0.4))
def test_passes_longer_than_a_tick_cost_no_certainty(tick_s: float, phase: float, pass_s: float) -> None:
    """On a CPU the counter is read between passes only, and has moved each time."""
    simulated = SimulatedDevice(50.0, pass_s, tick_s, phase, prompt=True)
    window = simulated.counter_window(1.0)
    # Reading takes time too, in which the load stands still.
    assert abs(window.power_w - 50) <= window.joules_uncertainty / window.seconds / (1 - tick_s)
    assert window.seconds_per_image == pytest.approx(pass_s / 64, rel=0.04)
    assert window.tick_s is not None and window.tick_s <= max(tick_s, 0.005) * 1.05 + max(0.006, pass_s if pass_s < tick_s else 0)


@pytest.mark.parametrize("tick_s", [0.02, 0.05, 0.1])
def test_tick_of_a_coarse_counter_is_seen(tick_s: float) -> None:
    window = SimulatedDevice(tick_s=tick_s).counter_window()
    assert window.tick_s == pytest.approx(tick_s, abs=0.006)
    assert window.joules_uncertainty == pytest.approx(300 * tick_s, rel=0.3)
    # Aligned with ticks it is better than it may claim.
    assert window.power_w == pytest.approx(300, rel=2.5e-3)


def test_window_lasts_until_an_image_has_come_out() -> None:
    simulated = SimulatedDevice(pass_s=0.9)
    outputs = simulated.output(), simulated.output()
    spans = (
        counter_span(simulated.counter_j, outputs[0], 0.1, simulated.clock),
        power_span(simulated.watts, outputs[1], 0.1, simulated.clock),
    )
    for window in map(EnergyWindow.of, spans, outputs):
        assert window.images == 64
        assert window.image_seconds == pytest.approx(0.9)
        assert window.check_joules is None
        assert window.energy_j == pytest.approx(simulated.truth_j, rel=1e-2)


def test_counter_that_stands_still() -> None:
    simulated = SimulatedDevice()
    with pytest.raises(SensorError, match="stood still for 2 s"):
        counter_span(lambda: 5.0, simulated.output(), 5.0, simulated.clock)
    assert simulated.now_s < 2.2


def test_counter_that_runs_backwards() -> None:
    simulated = SimulatedDevice()
    with pytest.raises(SensorError, match="backwards"):
        counter_span(lambda: -simulated.now_s, simulated.output(), 5.0, simulated.clock)


def test_counter_is_not_asked_at_each_poll() -> None:
    simulated = SimulatedDevice()
    times: list[float] = []

    def read() -> float:
        times.append(simulated.now_s)
        return simulated.counter_j()

    counter_span(read, simulated.output(), 1.0, simulated.clock)
    assert min(later - sooner for sooner, later in itertools.pairwise(times[1:])) >= 0.005


def test_between_the_edges_the_host_is_left_to_the_load() -> None:
    simulated = SimulatedDevice()
    times: list[float] = []

    def read() -> float:
        times.append(simulated.now_s)
        return simulated.counter_j()

    span = counter_span(read, simulated.output(), 5.0, simulated.clock)
    middle = [at_s for at_s in times if times[0] + 0.5 < at_s < times[-1] - 0.5]
    assert len(middle) <= 4 / 0.25
    assert span.tick_s == pytest.approx(0.1, abs=0.006) and span.power_w == pytest.approx(300, rel=1e-3)


@pytest.mark.parametrize("fails_with", [math.nan, 0.0])
def test_check_that_fails_is_no_figure(fails_with: float) -> None:
    simulated = SimulatedDevice()
    assert counter_span(simulated.counter_j, simulated.output(), 1.0, simulated.clock, lambda: fails_with).check_joules is None


def test_check_covers_the_counters_span_and_nothing_else() -> None:
    simulated = SimulatedDevice(tick_s=0.09)
    times: list[float] = []

    def read_w() -> float:
        times.append(simulated.now_s)
        return 100 * simulated.now_s

    span = counter_span(simulated.counter_j, simulated.output(), 2.0, simulated.clock, read_w)
    assert times[-1] - times[0] == pytest.approx(span.seconds, abs=1e-9)
    assert span.check_joules == pytest.approx(50 * (times[-1] ** 2 - times[0] ** 2))
    assert min(later - sooner for sooner, later in itertools.pairwise(times[:-1])) >= 0.05


def test_power_is_integrated_by_trapezoids() -> None:
    simulated = SimulatedDevice()
    start_s = simulated.now_s
    span = power_span(lambda: 100 * simulated.now_s, simulated.output(), 5.0, simulated.clock)
    end_s = start_s + span.seconds
    assert span.joules == pytest.approx(50 * (end_s**2 - start_s**2), rel=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.001, 10), st.floats(0, 1000)), min_size=2, max_size=50))
def test_trapezoid_is_numpys(readings: list[tuple[float, float]]) -> None:
    gaps_s, watts = zip(*readings, strict=True)
    times_s = list(itertools.accumulate(gaps_s))
    assert trapezoid(times_s, watts) == pytest.approx(float(np.trapezoid(watts, times_s)))


@settings(deadline=None)
@given(power_w=st.floats(1, 1000), pass_s=st.floats(0.0008, 0.2), phase=st.floats(0, 1))
def test_constant_power_is_exact(power_w: float, pass_s: float, phase: float) -> None:
    simulated = SimulatedDevice(power_w, pass_s, phase=phase)
    output = simulated.output()
    window = EnergyWindow.of(power_span(simulated.watts, output, 1.0, simulated.clock), output)
    assert window.energy_j == pytest.approx(simulated.truth_j, rel=1e-9)
    assert window.energy_uncertainty_j == pytest.approx(0, abs=1e-9 * window.energy_j)


def test_unsteady_power_is_uncertain_by_its_spread() -> None:
    """Over many windows of noise the mean's error is within the claim: two standard errors hold 95 % of them."""
    rng = np.random.default_rng(0)
    within = 0
    for _ in range(100):
        simulated, readings = SimulatedDevice(), list[float]()

        def read_w(readings: list[float] = readings) -> float:
            readings.append(float(rng.normal(300, 30)))
            return readings[-1]

        span = power_span(read_w, simulated.output(), 2.0, simulated.clock)
        mean_j = span.seconds * np.std(readings, ddof=1) / len(readings) ** 0.5
        assert span.joules_uncertainty == pytest.approx(mean_j + 0.0504 * np.ptp(readings), rel=0.1)
        within += abs(span.power_w - 300) * span.seconds <= 2 * span.joules_uncertainty
    assert within >= 95


def test_power_is_polled_no_faster_than_it_is_refreshed() -> None:
    simulated = SimulatedDevice()
    times: list[float] = []

    def read() -> float:
        times.append(simulated.now_s)
        return 300.0

    power_span(read, simulated.output(), 1.0, simulated.clock)
    assert min(later - sooner for sooner, later in itertools.pairwise(times)) >= windows.POWER_POLL_SECONDS


def test_power_sensor_that_reads_nothing() -> None:
    simulated = SimulatedDevice()
    with pytest.raises(SensorError, match="zero"):
        power_span(lambda: 0.0, simulated.output(), 0.5, simulated.clock)


def test_output_counts_from_one_completion_to_another() -> None:
    done = iter([None, Done(8, 1.0), None, Done(8, 1.5), Done(16, 2.25), None])
    output = Output(lambda: next(done), lambda: 9.0)
    seen = []
    for _ in range(6):
        assert output.step() == 9.0
        seen.append((output.complete, output.images, output.seconds))
    assert seen == [(False, 0, 0), (False, 0, 0), (False, 0, 0), (True, 8, 0.5), (True, 24, 1.25), (True, 24, 1.25)]


def test_energy_of_an_image_is_power_over_rate() -> None:
    span = Span(joules=1000.0, seconds=5.0, joules_uncertainty=20.0, tick_s=0.1, check_joules=None)
    window = EnergyWindow(**span.to_dict(), images=640, image_seconds=4.0)
    assert (window.power_w, window.seconds_per_image) == (200.0, 4.0 / 640)
    assert window.energy_j == pytest.approx(1.25)
    assert window.energy_uncertainty_j == pytest.approx(1.25 * 0.02)
