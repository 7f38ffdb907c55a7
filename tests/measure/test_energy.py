from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml
import pytest
import torch
from simulated import PowercapTree, SimulatedBoard
from torch import Tensor, nn

from nas.measure import energy, idle, subject, watch, windows, workload
from nas.measure.energy import Energy
from nas.measure.settings import MeasureConditions
from nas.measure.subject import Subject
from nas.measure.windows import Done

ME, OTHER = os.getpid(), os.getpid() + 1
UNSUPPORTED = pynvml.NVMLError_NotSupported()
PASS_S, BATCH, LOAD_W, IDLE_W = 0.013, 16, 300.0, 70.0


class Lab:
    """A board, its load and a clock of their own: asking a sensor takes 50 us, sleeping and polling as long as they say."""

    def __init__(self, board: SimulatedBoard) -> None:
        self.board = board
        self.now_s = 1000.0371
        self.load_w, self.idle_w, self.tick_s = LOAD_W, IDLE_W, 0.1
        self.power_factor = 1.0
        self.joules = self.counted_j = 0.0
        self.loaded = False
        self.loads = 0
        self.planned: list[tuple[float, Callable[[], None]]] = []
        board.energy_mj = self.counter_mj
        board.instant_power_mw = lambda: self.ask(self.watts() * self.power_factor)
        board.power_mw = lambda: self.ask(self.watts() * self.power_factor * 0.99)

    def watts(self) -> float:
        return self.load_w if self.loaded else self.idle_w

    def counter_mj(self) -> int:
        return self.ask(self.counted_j)

    def ask(self, value: float) -> int:
        self.sleep(50e-6)
        return round(1e3 * value)

    def sleep(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while (tick := (int(self.now_s / self.tick_s) + 1) * self.tick_s) <= end_s:
            self.joules += self.watts() * (tick - self.now_s)
            self.now_s = tick + 1e-12
            self.counted_j = self.joules
        self.joules += self.watts() * (end_s - self.now_s)
        self.now_s = end_s

    def clock(self) -> float:
        return self.now_s

    def after_load(self, seconds: float, happens: Callable[[], None]) -> None:
        """Plan what happens so long after the load began."""
        self.planned.append((seconds, happens))

    @contextmanager
    def busy(self, net: Subject) -> Iterator[Callable[[], Done | None]]:
        self.loaded = True
        self.loads += 1
        began_s, done = self.now_s, 0
        planned = sorted(self.planned, key=lambda plan: plan[0])

        def poll() -> Done | None:
            nonlocal done
            self.sleep(0.0005)
            while planned and self.now_s - began_s >= planned[0][0]:
                planned.pop(0)[1]()
            new = int((self.now_s - began_s) / PASS_S) - done
            done += new
            return Done(new * BATCH, began_s + done * PASS_S) if new else None

        try:
            yield poll
        finally:
            self.loaded = False


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, board: SimulatedBoard) -> Lab:
    lab = Lab(board)
    clock = SimpleNamespace(perf_counter=lab.clock, monotonic=lab.clock, sleep=lab.sleep)
    for module in (energy, idle, watch):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(energy, "busy", lab.busy)
    monkeypatch.setattr(energy, "numeric_context", lambda conditions: nullcontext())
    monkeypatch.setattr(idle, "_known", {})
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return lab


def on_board(**settings: Any) -> Subject:
    """A subject that says it is on a GPU."""
    held: MeasureConditions = subject.make(nn.Identity(), (1, 4, 4), device="cpu", batch_size=BATCH, **settings).conditions
    held = replace(held, device="cuda:0", threads=None, energy_window_seconds=settings.get("energy_window_seconds", 5.0))
    net: Any = SimpleNamespace(device=torch.device("cuda", 0), conditions=held)
    return net  # type: ignore[no-any-return]


def round_trip(result: Energy) -> Energy:
    return Energy.from_dict(json.loads(json.dumps(result.to_dict())))


def test_counter_gives_joules_per_image_and_all_that_belongs_to_them(lab: Lab) -> None:
    result = energy.measure(on_board())
    assert (result.method, result.check_method, result.reason, result.fallback_reason) == (
        "nvml_counter",
        "nvml_instant_power",
        None,
        None,
    )
    assert result.energy_j == pytest.approx(LOAD_W * PASS_S / BATCH, rel=1e-3)
    assert result.power_w == pytest.approx(LOAD_W, rel=1e-3)
    assert result.idle_power_w == pytest.approx(IDLE_W, rel=1e-2)
    assert result.energy_net_j == pytest.approx((LOAD_W - IDLE_W) * PASS_S / BATCH, rel=1e-2)
    assert (result.energy_sd_j, result.idle_reason, result.flags) == (None, None, ())
    assert result.counter_over_power == pytest.approx(1, abs=2e-3)
    (window,) = result.windows
    assert window.tick_s == pytest.approx(0.1, abs=0.006)
    assert result.energy_uncertainty_j == pytest.approx(result.energy_j * window.tick_s / window.seconds)
    assert result.watched is not None and result.watched.sm_clock_mhz == (1980, 1980, 1980)
    assert round_trip(result) == result


@pytest.mark.parametrize("tick_s", [0.02, 0.1])
def test_candidate_of_a_search_costs_no_more_than_7_s(lab: Lab, tick_s: float) -> None:
    lab.tick_s = tick_s
    assert 9 < energy.measure(on_board()).seconds < 11  # with the idle power of a board at rest
    assert 6 < energy.measure(on_board()).seconds < 6.5


def test_fallbacks_are_taken_in_order_and_named(lab: Lab) -> None:
    lab.board.energy_mj = UNSUPPORTED
    result = energy.measure(on_board())
    assert (result.method, result.check_method, result.counter_over_power) == ("nvml_instant_power", None, None)
    assert result.fallback_reason == "NVML refuses the energy counter: Not Supported"
    assert result.energy_j == pytest.approx(LOAD_W * PASS_S / BATCH)
    assert result.windows[0].tick_s is None
    lab.board.instant_power_mw = UNSUPPORTED
    idle._known.clear()
    result = energy.measure(on_board())
    assert (result.method, result.flags) == ("nvml_power", ())
    assert result.power_w == pytest.approx(0.99 * LOAD_W)
    assert round_trip(result) == result
    lab.board.power_mw = UNSUPPORTED
    result = energy.measure(on_board())
    assert (result.energy_j, result.method, result.windows) == (None, None, ())
    assert result.reason is not None and result.reason.count("Not Supported") == 3
    assert round_trip(result) == result


def test_idle_power_above_the_loads_gives_no_net_energy(lab: Lab) -> None:
    lab.load_w = IDLE_W - 10
    result = energy.measure(on_board())
    assert result.energy_j == pytest.approx((IDLE_W - 10) * PASS_S / BATCH, rel=1e-3)
    assert result.idle_power_w == pytest.approx(IDLE_W, rel=1e-2)
    assert result.energy_net_j is None
    assert re.fullmatch(r"idle power 70(\.\d)? W is not below the load's 60 W", str(result.idle_reason))
    assert round_trip(result) == result


def test_power_usage_checks_the_counter_where_there_is_no_instant_power(lab: Lab) -> None:
    lab.board.instant_power_mw = UNSUPPORTED
    result = energy.measure(on_board())
    assert (result.method, result.check_method, result.flags) == ("nvml_counter", "nvml_power", ())
    assert result.counter_over_power == pytest.approx(1 / 0.99, abs=2e-3)


def test_counter_that_never_moves_is_passed_over_in_time(lab: Lab) -> None:
    lab.board.energy_mj = 5
    energy.measure(on_board())
    result = energy.measure(on_board())
    assert (result.method, result.idle_reason) == ("nvml_instant_power", None)
    assert result.fallback_reason == "the energy counter stood still for 1 s under load"
    assert result.seconds < 7


def test_counter_that_stops_within_a_window(lab: Lab) -> None:
    lab.after_load(3.0, lambda: setattr(lab.board, "energy_mj", lab.counter_mj()))
    result = energy.measure(on_board())
    assert result.method == "nvml_instant_power"
    assert result.fallback_reason == "the energy counter stood still for 2 s"
    assert result.energy_net_j is None
    assert result.idle_reason == "idle power was taken by nvml_counter and energy by nvml_instant_power"


def test_counter_that_runs_backwards_within_a_window(lab: Lab) -> None:
    lab.after_load(3.0, lambda: setattr(lab, "joules", 1.0))
    result = energy.measure(on_board())
    assert (result.method, result.fallback_reason) == ("nvml_instant_power", "the energy counter ran backwards")
    assert result.energy_j == pytest.approx(LOAD_W * PASS_S / BATCH)


def test_sensor_that_is_lost_hands_over_to_the_next(lab: Lab) -> None:
    lab.after_load(3.0, lambda: setattr(lab.board, "energy_mj", pynvml.NVMLError_GpuIsLost()))
    result = energy.measure(on_board(energy_windows=2))
    assert (result.method, len(result.windows)) == ("nvml_instant_power", 2)
    assert result.fallback_reason == "NVML refuses the energy counter: GPU is lost"
    for sensor in ("energy_mj", "instant_power_mw", "power_mw"):
        lab.after_load(4.0, lambda sensor=sensor: setattr(lab.board, sensor, pynvml.NVMLError_GpuIsLost()))  # type: ignore[misc]
    lab.board.energy_mj = lab.counter_mj
    result = energy.measure(on_board())
    assert result.energy_j is None
    assert result.reason is not None and result.reason.count("GPU is lost") == 3
    assert result.idle_reason == result.reason


def test_no_power_at_all(lab: Lab) -> None:
    lab.board.energy_mj, lab.board.instant_power_mw, lab.board.power_mw = UNSUPPORTED, 0, 0
    result = energy.measure(on_board())
    assert result.energy_j is None
    assert result.reason == "; ".join(
        ("NVML refuses the energy counter: Not Supported", *["the power sensor reads zero under load"] * 2)
    )


@pytest.mark.parametrize(("factor", "flagged"), [(0.967, True), (1.05, True), (1.015, False), (0.985, False)])
def test_counter_and_power_that_disagree_are_flagged(lab: Lab, factor: float, flagged: bool) -> None:
    lab.power_factor = factor
    result = energy.measure(on_board())
    assert result.counter_over_power == pytest.approx(1 / factor, abs=2e-3)
    percent = f"{100 * abs(result.counter_over_power - 1):.1f}"
    assert result.flags == ((f"counter and integrated power differ by {percent} %, more than 2 %",) if flagged else ())
    assert result.energy_j == pytest.approx(LOAD_W * PASS_S / BATCH, rel=1e-3)


def test_throttling_is_flagged_and_a_power_cap_is_not(lab: Lab) -> None:
    lab.after_load(3.0, lambda: setattr(lab.board, "clock_reasons", 0x004 | 0x020))
    result = energy.measure(on_board())
    assert result.flags == ("clocks held down: sw_thermal_slowdown",)
    assert result.watched is not None and result.watched.clock_reasons == ("sw_power_cap", "sw_thermal_slowdown")


def test_check_that_fails_is_flagged_and_costs_nothing_else(lab: Lab) -> None:
    lab.after_load(3.0, lambda: setattr(lab.board, "instant_power_mw", UNSUPPORTED))
    result = energy.measure(on_board())
    assert (result.method, result.counter_over_power) == ("nvml_counter", None)
    assert result.flags == ("nvml_instant_power failed to check the counter",)
    assert round_trip(result) == result


@pytest.mark.parametrize("stays_s", [0.7, 60.0])
@pytest.mark.parametrize("when_loaded", ["auto", "refuse", "flag"])
def test_process_that_comes_in_the_middle(lab: Lab, when_loaded: str, stays_s: float) -> None:
    alone = lab.board.processes
    lab.after_load(3.0, lambda: setattr(lab.board, "processes", [*alone, (OTHER, 1)]))
    lab.after_load(3.0 + stays_s, lambda: setattr(lab.board, "processes", alone))
    result = energy.measure(on_board(when_loaded=when_loaded))
    if when_loaded == "flag":
        assert result.energy_j is not None
        assert result.flags == (f"other compute processes on the board (pid {OTHER})",)
    else:
        assert (result.energy_j, result.windows) == (None, ())
        assert result.reason == f"NVML measures the whole board: other compute processes on the board (pid {OTHER})"


def test_shared_board_is_not_even_loaded(lab: Lab) -> None:
    lab.board.mig = (1, 1)
    assert energy.measure(on_board()).reason == "NVML measures the whole board: MIG has split the board"
    lab.board.mig, lab.board.processes = (0, 0), [(ME, 1), (OTHER, 1)]
    assert "other compute processes" in str(energy.measure(on_board()).reason)
    assert lab.loads == 0


def test_mig_is_flagged_if_the_user_asks_for_it(lab: Lab) -> None:
    lab.board.mig, lab.board.processes = (1, 1), pynvml.NVMLError_NoPermission()
    result = energy.measure(on_board(when_loaded="flag"))
    assert result.energy_j == pytest.approx(LOAD_W * PASS_S / BATCH, rel=1e-3)
    assert result.flags == ("MIG has split the board", "NVML refuses the list of processes: Insufficient Permissions")


def test_windows_and_their_spread(lab: Lab) -> None:
    for step in range(60):
        lab.after_load(0.5 * step, lambda step=step: setattr(lab, "load_w", LOAD_W + step))  # type: ignore[misc]
    result = energy.measure(on_board(energy_windows=3, energy_window_seconds=8.0))
    energies_j = [window.energy_j for window in result.windows]
    assert len(energies_j) == 3
    assert result.energy_j == pytest.approx(np.mean(energies_j))
    assert result.energy_sd_j == pytest.approx(np.std(energies_j, ddof=1))
    assert result.energy_uncertainty_j == pytest.approx(np.std(energies_j, ddof=1) / 3**0.5)
    assert result.energy_net_j == pytest.approx(np.mean(energies_j) - result.idle_power_w * PASS_S / BATCH, rel=1e-6)
    assert result.power_w == pytest.approx(
        np.average([w.power_w for w in result.windows], weights=[w.seconds for w in result.windows])
    )
    assert result.flags == ("windows differ by 5.0 % (standard deviation), more than 1 %",)
    assert round_trip(result) == result


def test_uncertainty_of_steady_windows_is_the_sensors(lab: Lab) -> None:
    result = energy.measure(on_board(energy_windows=3))
    assert result.energy_sd_j is not None and result.energy_sd_j < 1e-3 * LOAD_W * PASS_S / BATCH
    assert result.energy_uncertainty_j == pytest.approx(np.mean([window.energy_uncertainty_j for window in result.windows]))
    assert result.flags == ()


class Passes(nn.Module):
    """Each pass takes 2 ms at 50 W by a clock of its own, on which a RAPL counter is kept that wraps around at 30 J."""

    def __init__(self, powercap: PowercapTree, range_uj: int = 30_000_000) -> None:
        super().__init__()
        self.zone, self.range_uj = powercap.zone("intel-rapl:0", "package-0", 29_000_000, range_uj), range_uj
        self.now_s, self.used_uj, self.images = 50.0, 29_000_000, 0

    def clock(self) -> float:
        return self.now_s

    def draw(self, seconds: float, watts: float = 10.0) -> None:
        self.now_s += seconds
        self.used_uj += round(1e6 * watts * seconds)
        (self.zone / "energy_uj").write_text(str(self.used_uj % self.range_uj))

    def forward(self, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.images += len(x)
        self.draw(0.002, 50.0)
        return x


def on_cpu(model: nn.Module, **settings: Any) -> Subject:
    held = subject.make(nn.Identity(), (1, 4, 4), device="cpu", batch_size=4, threads=1, **settings).conditions
    return Subject(model, torch.zeros(4, 1, 4, 4), held)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch, powercap: PowercapTree) -> Passes:
    model = Passes(powercap)
    clock = SimpleNamespace(perf_counter=model.clock, monotonic=model.clock, sleep=model.draw)
    for module in (energy, idle, workload):
        monkeypatch.setattr(module, "time", clock)
    # Nothing draws power while the counter is only read, so that its tick cannot be found there.
    monkeypatch.setattr(windows, "_tick_alone", lambda read_j, clock: 0.001)
    monkeypatch.setattr(idle, "_known", {})
    monkeypatch.setattr(idle, "SPAN_SECONDS", 0.2)
    monkeypatch.setattr(energy, "WARM_UP_SECONDS", 0.1)
    monkeypatch.setattr(watch.CpuLoad, "others_cpus", lambda *_: 0.0)
    return model


def test_cpu_is_measured_by_rapl_across_a_wrap_around(passes: Passes) -> None:
    result = energy.measure(on_cpu(passes))
    assert (result.method, result.reason, result.flags) == ("rapl", None, ())
    assert result.power_w == pytest.approx(50)
    assert result.energy_j == pytest.approx(50 * 0.002 / 4)
    assert result.energy_net_j == pytest.approx(40 * 0.002 / 4)
    assert (result.check_method, result.counter_over_power) == (None, None)
    assert result.energy_uncertainty_j == pytest.approx(result.energy_j * 0.001 / result.windows[0].seconds)
    assert result.windows[0].seconds == pytest.approx(1.0, abs=0.01)
    assert passes.used_uj > 2 * passes.range_uj
    assert round_trip(result) == result
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("when_loaded", "others", "flagged"),
    [("auto", 0.3, True), ("flag", 0.3, True), ("refuse", 0.3, None), ("refuse", 0.05, False)],
)
def test_others_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, passes: Passes, when_loaded: str, others: float, flagged: bool | None
) -> None:
    monkeypatch.setattr(watch.CpuLoad, "others_cpus", lambda *_: others)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # it would be set back to the pretended number
    result = energy.measure(on_cpu(passes, when_loaded=when_loaded))
    phrase = "others kept 0.3 CPUs busy beside the 2 used"
    if flagged is None:
        assert (result.energy_j, result.reason) == (None, f"RAPL measures the whole package and {phrase}")
    else:
        assert result.energy_j == pytest.approx(50 * 0.002 / 4)
        assert result.flags == ((phrase,) if flagged else ())


def test_no_sensor_is_a_reason_and_not_a_number(powercap: PowercapTree) -> None:
    net = subject.make(nn.Conv2d(1, 1, 1), (1, 4, 4), device="cpu", batch_size=1)
    result = energy.measure(net)
    assert result.reason is not None and "no RAPL counter" in result.reason
    assert {result.energy_j, result.method, result.power_w, result.energy_uncertainty_j, result.energy_net_j} == {None}
    assert round_trip(result) == result


def test_rapl_that_stands_still_is_a_reason(monkeypatch: pytest.MonkeyPatch, powercap: PowercapTree) -> None:
    """In real time, on a real network."""
    monkeypatch.setattr(energy, "WARM_UP_SECONDS", 0.02)
    monkeypatch.setattr(windows, "STUCK_SECONDS", 0.05)
    monkeypatch.setattr(idle, "_known", {})
    powercap.zone("intel-rapl:0", "package-0", 5)
    result = energy.measure(subject.make(nn.Conv2d(1, 1, 1), (1, 4, 4), device="cpu", batch_size=1))
    assert (result.energy_j, result.reason) == (None, "the energy counter stood still for 0.02 s under load")
