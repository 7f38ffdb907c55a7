from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from simulated import PowercapTree
from torch import Tensor, nn

from nas.measure import device, energy
from nas.measure.record import SensorError
from nas.measure.sensor import Sensor, Sensors
from nas.measure.settings import MeasureSettings


class SimulatedDevice:
    """Draws ``power_w`` and puts out ``batch`` images every ``pass_s``; its counter ticks every ``tick_s``."""

    def __init__(self, power_w: float = 300.0, pass_s: float = 0.013, batch: int = 64, tick_s: float = 0.1) -> None:
        self.power_w, self.pass_s, self.batch, self.tick_s = power_w, pass_s, batch, tick_s
        self.now_s = 0.0371  # between two ticks and within a pass
        self.done = int(self.now_s / pass_s)

    def clock(self) -> float:
        return self.now_s

    def poll(self) -> int:
        self.now_s += 0.0007
        passes = int(self.now_s / self.pass_s) - self.done
        self.done += passes
        return passes * self.batch

    def counter_j(self) -> float:
        return self.power_w * self.tick_s * int(self.now_s / self.tick_s)

    def watts(self) -> float:
        return self.power_w

    @property
    def truth_j(self) -> float:
        return self.power_w * self.pass_s / self.batch


@pytest.mark.parametrize("pass_s", [0.0008, 0.013, 0.31])
@pytest.mark.parametrize("tick_s", [0.001, 0.02, 0.1])
def test_counter_window_is_exact_to_a_poll(pass_s: float, tick_s: float) -> None:
    simulated = SimulatedDevice(pass_s=pass_s, tick_s=tick_s)
    window = energy.counter_window(simulated.counter_j, simulated.poll, 5.0, simulated.clock)
    assert 5.0 <= window.seconds <= 5.0 + tick_s + 0.01
    assert window.joules_per_image == pytest.approx(simulated.truth_j, rel=3e-3)
    assert window.power_w == pytest.approx(300.0, rel=2.5e-3)


def test_window_lasts_until_an_image_has_come_out() -> None:
    simulated = SimulatedDevice(pass_s=0.9)
    for window in (
        energy.counter_window(simulated.counter_j, simulated.poll, 0.1, simulated.clock),
        energy.power_window(simulated.watts, simulated.poll, 0.1, simulated.clock),
    ):
        assert window.images == 64
        assert window.joules_per_image == pytest.approx(simulated.truth_j, rel=1e-2)


def test_counter_that_stands_still() -> None:
    simulated = SimulatedDevice()
    with pytest.raises(SensorError, match="stood still for 2 s"):
        energy.counter_window(lambda: 5.0, simulated.poll, 5.0, simulated.clock)
    assert simulated.now_s < 2.2


def test_counter_that_runs_backwards() -> None:
    simulated = SimulatedDevice()
    with pytest.raises(SensorError, match="backwards"):
        energy.counter_window(lambda: -simulated.now_s, simulated.poll, 5.0, simulated.clock)


def test_power_is_integrated_by_trapezoids() -> None:
    simulated = SimulatedDevice()
    start_s = simulated.now_s
    window = energy.power_window(lambda: 100 * simulated.now_s, simulated.poll, 5.0, simulated.clock)
    end_s = start_s + window.seconds
    assert window.joules == pytest.approx(50 * (end_s**2 - start_s**2), rel=1e-9)
    assert window.images * simulated.pass_s == pytest.approx(window.image_seconds * 64, rel=2e-3)


def test_power_is_polled_no_faster_than_it_is_refreshed() -> None:
    simulated = SimulatedDevice()
    times: list[float] = []

    def read() -> float:
        times.append(simulated.now_s)
        return 300.0

    window = energy.power_window(read, simulated.poll, 1.0, simulated.clock)
    assert min(later - sooner for sooner, later in itertools.pairwise(times)) >= 0.05
    assert window.joules_per_image == pytest.approx(simulated.truth_j, rel=2e-2)


def test_counter_is_not_asked_at_each_poll() -> None:
    simulated = SimulatedDevice()
    times: list[float] = []

    def read() -> float:
        times.append(simulated.now_s)
        return simulated.counter_j()

    energy.counter_window(read, simulated.poll, 1.0, simulated.clock)
    assert min(later - sooner for sooner, later in itertools.pairwise(times[1:])) >= 0.005


def test_power_sensor_that_reads_nothing() -> None:
    simulated = SimulatedDevice()
    with pytest.raises(SensorError, match="zero"):
        energy.power_window(lambda: 0.0, simulated.poll, 0.5, simulated.clock)


def test_sensor_that_fails_while_measuring_hands_over_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> float:
        raise SensorError("GPU is lost")

    steady = Sensor("nvml_power", "power", lambda: 100.0)
    method, window = energy._first_window((Sensor("nvml_counter", "counter", lost), steady), lambda: 1, 0.1)
    assert method == "nvml_power"
    assert window.power_w == pytest.approx(100.0)
    with pytest.raises(SensorError, match="lost; GPU is lost"):
        energy._first_window((Sensor("nvml_counter", "counter", lost), Sensor("nvml_power", "power", lost)), lambda: 1, 0.1)


class Watched(nn.Module):
    """Counts its images and can bring in a disturbance."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.images += len(x)
        return x


class SimulatedPass(Watched):
    """Takes 2 ms at 50 W by a clock of its own."""

    now_s = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.now_s += 0.002
        return super().forward(x)


def test_measure_gives_mean_power_over_output_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimulatedPass()

    @contextmanager
    def open_sensors(device: torch.device) -> Iterator[Sensors]:
        yield Sensors((Sensor("rapl", "counter", lambda: 50 * model.now_s),), check=lambda: None)

    monkeypatch.setattr(energy, "open_sensors", open_sensors)
    monkeypatch.setattr(energy, "WARM_UP_SECONDS", 0.01)
    monkeypatch.setattr(energy, "counter_window", partial(energy.counter_window, clock=lambda: model.now_s))
    settings = MeasureSettings(batch_size=4, energy_window_seconds=0.2, threads=1)
    conditions = device.resolve_conditions(settings, torch.device("cpu"))
    result = energy.measure(model, device.example_input((1, 4, 4), conditions), conditions)
    assert (result.method, result.reason) == ("rapl", None)
    assert result.power_w == pytest.approx(50)
    assert result.energy_j == pytest.approx(50 * 0.002 / 4)
    assert result.window_s == pytest.approx(0.2, abs=0.008)
    assert result.images is not None and 0 < result.images < model.images
    assert energy.Energy.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert not torch.is_inference_mode_enabled()


def test_process_that_comes_in_the_middle_spoils_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    def disturbed() -> None:
        raise SensorError("other processes compute on it")

    @contextmanager
    def open_sensors(device: torch.device) -> Iterator[Sensors]:
        yield Sensors((Sensor("rapl", "counter", time.perf_counter),), check=disturbed)

    monkeypatch.setattr(energy, "open_sensors", open_sensors)
    monkeypatch.setattr(energy, "WARM_UP_SECONDS", 0.0)
    conditions = device.resolve_conditions(MeasureSettings(batch_size=1, energy_window_seconds=0.02), torch.device("cpu"))
    result = energy.measure(Watched(), device.example_input((1, 4, 4), conditions), conditions)
    assert (result.energy_j, result.reason) == (None, "other processes compute on it")


def test_no_sensor_is_a_reason_and_not_a_number(powercap: PowercapTree) -> None:
    conditions = device.resolve_conditions(MeasureSettings(batch_size=1), torch.device("cpu"))
    model = Watched()
    result = energy.measure(model, device.example_input((1, 4, 4), conditions), conditions)
    assert result.reason is not None and "no RAPL counter" in result.reason
    assert {result.energy_j, result.method, result.window_s, result.images, result.power_w} == {None}
    assert model.images == 0
    assert energy.Energy.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_counter_that_stands_still_is_a_reason(monkeypatch: pytest.MonkeyPatch, powercap: PowercapTree) -> None:
    monkeypatch.setattr(energy, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(energy, "STUCK_SECONDS", 0.05)
    powercap.zone("intel-rapl:0", "package-0", 5)
    conditions = device.resolve_conditions(MeasureSettings(batch_size=1), torch.device("cpu"))
    result = energy.measure(Watched(), device.example_input((1, 4, 4), conditions), conditions)
    assert (result.energy_j, result.reason) == (None, "the energy counter stood still for 0.05 s under load")
