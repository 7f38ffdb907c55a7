"""Joules per image from the device's own sensor, over windows of back-to-back forward passes.

Which sensor, and whether it may be believed, is ``sensor``'s. Latency is timed apart: a long load lowers clocks.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from nas.measure.device import no_garbage_collection, numeric_context
from nas.measure.idle import Idle, idle_power
from nas.measure.nvml import THROTTLING
from nas.measure.record import Record, SensorError
from nas.measure.sensor import Method, Sensor, Sensors, open_sensors
from nas.measure.settings import MeasureConditions
from nas.measure.subject import Subject
from nas.measure.watch import Watch, Watched
from nas.measure.windows import Done, EnergyWindow, Output, counter_span, power_span
from nas.measure.workload import Poll, busy

WARM_UP_SECONDS = 1.0
"""Load before a window: NVML's power usage is a mean over up to a second, and a counter that stands still so long is broken."""
LOOK_SECONDS = 0.5
"""Clocks and other processes are looked at so often during a window."""
AGREEMENT = 0.02
"""Counter and integrated power that differ by more are flagged."""
REPEATABILITY = 0.01
"""A standard deviation over windows above this share is flagged."""


@dataclass(frozen=True)
class Energy(Record):
    """Gross energy of one image: idle power included, as the device spends it while it works.

    The board's sensor is off by some per cent (5 to 10 on GPUs): compare figures of one board rather than trust their absolute
    value. RAPL covers CPU packages without memory modules, NVML the whole board.

    Attributes:
        energy_j: Joules per image, the mean over ``windows``, or ``None``.
        reason: Why ``energy_j`` is ``None``; ``None`` if it was measured.
        method: The sensor used.
        fallback_reason: Why no better sensor was; ``None`` if there is none.
        power_w: Mean power under load.
        energy_uncertainty_j: How far ``energy_j`` may be off because of the sensor's granularity, the mean over windows: for a
            counter energy x tick / window (``windows.counter_span``), for power the spread of its readings
            (``windows.power_span``). With several windows it is no less than their standard error. The sensor's
            calibration is no part of it: see above.
        energy_sd_j: Standard deviation over windows; ``None`` with one.
        energy_net_j: Joules per image beyond idle power.
        idle_power_w: What the device draws with nothing to do (``idle``).
        idle_reason: Why ``energy_net_j`` is ``None``, and the idle power if that is.
        idle_age_s: Time between taking the idle power and the end of this measurement.
        windows: The raw figures.
        counter_over_power: Energy by the counter over the same from a power sensor read beside it; ``None`` if there is none.
        check_method: That power sensor.
        watched: The device meanwhile.
        flags: What casts doubt on the figures, one phrase each.
        seconds: Wall time of the measurement.
    """

    energy_j: float | None
    reason: str | None
    method: Method | None = None
    fallback_reason: str | None = None
    power_w: float | None = None
    energy_uncertainty_j: float | None = None
    energy_sd_j: float | None = None
    energy_net_j: float | None = None
    idle_power_w: float | None = None
    idle_reason: str | None = None
    idle_age_s: float | None = None
    windows: tuple[EnergyWindow, ...] = ()
    counter_over_power: float | None = None
    check_method: Method | None = None
    watched: Watched | None = None
    flags: tuple[str, ...] = ()
    seconds: float = 0.0


def measure(subject: Subject) -> Energy:
    """Take the windows that the subject's conditions ask for: ``energy.measure(subject.make(model, (3, 224, 224)))``.

    Tries the device's sensors from the best on. Whatever keeps it from measuring becomes the reason in the result. It takes
    little more than a second beside its windows, but the first measurement on a device in a process, and one every ten
    minutes, takes the idle power before (``idle.idle_power``) and so 3 to 12 s longer. Where other processes may measure
    too, hold ``lock.exclusive`` around it. A GPU that waits for launches waits while the host reads sensors as well: the
    joules are then for the rate in the windows, a little lower than latency's.
    """
    began_s = time.perf_counter()
    conditions = subject.conditions
    try:
        with open_sensors(subject.device, conditions.when_loaded) as sensors, numeric_context(conditions):
            idle = idle_power(subject.device, sensors)
            with Watch.open(subject.device, everywhere=True) as watch, no_garbage_collection(), busy(subject) as poll:
                taken = _take(sensors, poll, conditions, watch)
                watched = watch.summary()
            shared = sensors.check(watched)
    except SensorError as refusal:
        return Energy(None, str(refusal), idle_reason=str(refusal), seconds=time.perf_counter() - began_s)
    return _summary(taken, idle, watched, shared, time.perf_counter() - began_s)


@dataclass(frozen=True)
class _Taken:
    sensor: Sensor
    check: Sensor | None
    windows: tuple[EnergyWindow, ...]
    refusals: tuple[str, ...]


def _take(sensors: Sensors, poll: Poll, conditions: MeasureConditions, watch: Watch) -> _Taken:
    """Take all windows with one sensor, the best that does not fail meanwhile."""
    broken = _warm_up(sensors.working, poll)
    poll = _looking(poll, watch)
    refusals = [*sensors.refusals, *broken.values()]
    for sensor in sensors.working:
        if sensor.method in broken:
            continue
        check = next((other for other in sensors.working if other.kind == "power"), None) if sensor.kind == "counter" else None
        try:
            windows = tuple(
                _window(sensor, check, poll, conditions.energy_window_seconds) for _ in range(conditions.energy_windows)
            )
        except SensorError as refusal:
            refusals.append(str(refusal))
        else:
            return _Taken(sensor, check, windows, tuple(refusals))
    raise SensorError("; ".join(refusals))


def _warm_up(sensors: tuple[Sensor, ...], poll: Poll) -> dict[Method, str]:
    """Load the device for a while; return the counters that stand still under it, with the reason."""
    counters = {sensor.method: _or_nan(sensor.read) for sensor in sensors if sensor.kind == "counter"}
    before_j = {method: read() for method, read in counters.items()}
    _keep_busy(poll, WARM_UP_SECONDS)
    stuck = [method for method, read in counters.items() if read() == before_j[method]]
    return dict.fromkeys(stuck, f"the energy counter stood still for {WARM_UP_SECONDS:g} s under load")


def _keep_busy(poll: Poll, seconds: float) -> None:
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        poll()


def _looking(poll: Poll, watch: Watch) -> Poll:
    """Look at the device from time to time, while work is queued on it."""
    due_s = -math.inf

    def look_and_poll() -> Done | None:
        nonlocal due_s
        if time.perf_counter() >= due_s:
            watch.look()
            due_s = time.perf_counter() + LOOK_SECONDS
        return poll()

    return look_and_poll


def _window(sensor: Sensor, check: Sensor | None, poll: Poll, window_s: float) -> EnergyWindow:
    output = Output(poll, time.perf_counter)
    if sensor.kind == "counter":
        check_w = _or_nan(check.read) if check else None
        return EnergyWindow.of(counter_span(sensor.read, output, window_s, time.perf_counter, check_w), output)
    return EnergyWindow.of(power_span(sensor.read, output, window_s, time.perf_counter), output)


def _or_nan(read: Callable[[], float]) -> Callable[[], float]:
    def read_or_nan() -> float:
        try:
            return read()
        except SensorError:
            return math.nan

    return read_or_nan


def _summary(taken: _Taken, idle: Idle, watched: Watched, shared: tuple[str, ...], seconds: float) -> Energy:
    windows = taken.windows
    energies_j = [window.energy_j for window in windows]
    energy_j = statistics.fmean(energies_j)
    sd_j = statistics.stdev(energies_j) if len(windows) > 1 else None
    granularity_j = statistics.fmean(window.energy_uncertainty_j for window in windows)
    idle_w, idle_reason = idle.power_w, idle.reason
    if idle_w is not None and idle.method != taken.sensor.method:
        idle_w, idle_reason = None, f"idle power was taken by {idle.method} and energy by {taken.sensor.method}"
    power_w = sum(window.joules for window in windows) / sum(window.seconds for window in windows)
    net_j = None if idle_w is None else _net_j(windows, idle_w)
    if idle_w is not None and idle_w >= power_w:
        net_j, idle_reason = None, f"idle power {idle_w:.3g} W is not below the load's {power_w:.3g} W"
    ratio = _counter_over_power(windows)
    return Energy(
        energy_j=energy_j,
        reason=None,
        method=taken.sensor.method,
        fallback_reason="; ".join(taken.refusals) or None,
        power_w=power_w,
        energy_uncertainty_j=max(granularity_j, (sd_j or 0.0) / math.sqrt(len(windows))),
        energy_sd_j=sd_j,
        energy_net_j=net_j,
        idle_power_w=idle_w,
        idle_reason=idle_reason,
        idle_age_s=idle.age_s,
        windows=windows,
        counter_over_power=ratio,
        check_method=taken.check.method if taken.check else None,
        watched=watched,
        flags=(*shared, *_doubts(taken, watched, ratio, None if sd_j is None else sd_j / energy_j)),
        seconds=seconds,
    )


def _net_j(windows: tuple[EnergyWindow, ...], idle_w: float) -> float:
    return statistics.fmean((window.power_w - idle_w) * window.seconds_per_image for window in windows)


def _counter_over_power(windows: tuple[EnergyWindow, ...]) -> float | None:
    checks_j = [window.check_joules for window in windows if window.check_joules is not None]
    return sum(window.joules for window in windows) / sum(checks_j) if len(checks_j) == len(windows) else None


def _doubts(taken: _Taken, watched: Watched, ratio: float | None, spread: float | None) -> tuple[str, ...]:
    doubts = []
    if throttled := sorted(THROTTLING & set(watched.clock_reasons)):
        doubts.append(f"clocks held down: {', '.join(throttled)}")
    if taken.check and ratio is None:
        doubts.append(f"{taken.check.method} failed to check the counter")
    if ratio is not None and abs(ratio - 1) > AGREEMENT:
        doubts.append(f"counter and integrated power differ by {100 * abs(ratio - 1):.1f} %, more than {100 * AGREEMENT:g} %")
    if spread is not None and spread > REPEATABILITY:
        doubts.append(f"windows differ by {100 * spread:.1f} % (standard deviation), more than {100 * REPEATABILITY:g} %")
    return tuple(doubts)
