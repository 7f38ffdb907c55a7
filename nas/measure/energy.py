"""Joules per image from the device's own sensor, over a window of back-to-back forward passes.

Which sensor, and whether it may be believed, is ``sensor``'s. Latency is timed apart: a long load lowers clocks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.measure.device import numeric_context, settle_norms
from nas.measure.record import Record, SensorError
from nas.measure.sensor import Method, Sensor, open_sensors
from nas.measure.settings import MeasureConditions

WARM_UP_SECONDS = 1.0
"""Load before a window: NVML's power usage is a mean over up to a second."""
STUCK_SECONDS = 2.0
"""A counter under load that has not moved for so long is broken: the slowest tick every 100 ms."""
COUNTER_POLL_SECONDS = 0.005
"""How late a tick may be seen: 0.1 % of a window of 5 s."""
POWER_POLL_SECONDS = 0.05
"""Instant power is refreshed no faster."""
_GPU_BLOCK_SECONDS = 0.01


@dataclass(frozen=True)
class Energy(Record):
    """Gross energy of one image: idle power included, as the device spends it while it works.

    The board's sensor is off by some per cent (5 to 10 on GPUs): compare figures of one board rather than trust their absolute
    value. RAPL covers CPU packages without memory modules, NVML the whole board.

    Attributes:
        energy_j: Joules per image, or ``None``.
        reason: Why ``energy_j`` is ``None``; ``None`` if it was measured.
        method: The sensor used.
        window_s: Time over which the sensor was read.
        images: Images that came out in that time.
        power_w: Mean power in that time.
    """

    energy_j: float | None
    reason: str | None
    method: Method | None
    window_s: float | None
    images: int | None
    power_w: float | None


def measure(model: nn.Module, example: Tensor, conditions: MeasureConditions) -> Energy:
    """Take one window of ``model(example)``, both made by ``device.prepare`` and ``device.example_input``.

    Tries the device's sensors from the best on. Whatever keeps it from measuring becomes the reason in the result.
    """
    try:
        with open_sensors(example.device) as sensors, numeric_context(conditions):
            settle_norms(model, example)
            poll = cpu_load(model, example) if example.device.type == "cpu" else gpu_load(model, example)
            _keep_busy(poll, WARM_UP_SECONDS)
            method, window = _first_window(sensors.working, poll, conditions.energy_window_seconds)
            sensors.check()
    except SensorError as reason:
        return Energy(None, str(reason), None, None, None, None)
    return Energy(window.joules_per_image, None, method, window.seconds, window.images, window.power_w)


@dataclass(frozen=True)
class Window:
    """Energy and output of a steady load, each between its own two edges.

    A sensor ticks and images come out at different instants, so energy over images would carry both edges' errors; power and
    output rate do not.

    Attributes:
        joules: Energy between two readings of the sensor.
        seconds: Time between those readings.
        images: Images that came out between two instants.
        image_seconds: Time between those instants.
    """

    joules: float
    seconds: float
    images: int
    image_seconds: float

    @property
    def power_w(self) -> float:
        """Mean power."""
        return self.joules / self.seconds

    @property
    def joules_per_image(self) -> float:
        """Mean power over output rate."""
        return self.power_w * self.image_seconds / self.images


class Output:
    """Counts what a load puts out, from the first completion on."""

    def __init__(self, poll: Callable[[], int], clock: Callable[[], float]) -> None:
        self._poll, self._clock = poll, clock
        self._first_s: float | None = None
        self._last_s = 0.0
        self.images = 0

    def step(self) -> float:
        """Let the load go on; return the time."""
        done = self._poll()
        now_s = self._clock()
        if done:
            if self._first_s is None:
                self._first_s = now_s
            else:
                self.images += done
                self._last_s = now_s
        return now_s

    def window(self, joules: float, seconds: float) -> Window:
        """Join the output so far with energy of the same load."""
        assert self._first_s is not None
        return Window(joules, seconds, self.images, self._last_s - self._first_s)


def counter_window(
    read_j: Callable[[], float],
    poll: Callable[[], int],
    window_s: float,
    clock: Callable[[], float] = time.perf_counter,
    poll_seconds: float = COUNTER_POLL_SECONDS,
) -> Window:
    """Take a window from a tick of a counter of joules to the first tick after ``window_s``.

    Args:
        read_j: The counter.
        poll: Lets the load go on for a moment and returns the images that it has put out since the last call.
        window_s: Length at least.
        clock: Seconds.
        poll_seconds: Time between two readings.

    Raises:
        SensorError: The counter stands still or runs backwards.
    """
    output = Output(poll, clock)
    reading_j, tick_s = read_j(), clock()
    start: tuple[float, float] | None = None
    due_s = tick_s
    while True:
        now_s = output.step()
        if now_s < due_s:
            continue
        due_s = now_s + poll_seconds
        previous_j, reading_j = reading_j, read_j()
        now_s = clock()
        if reading_j < previous_j:
            raise SensorError("the energy counter ran backwards")
        if reading_j == previous_j:
            if now_s - tick_s > STUCK_SECONDS:
                raise SensorError(f"the energy counter stood still for {STUCK_SECONDS:g} s under load")
            continue
        tick_s = now_s
        if start is None:
            start = reading_j, tick_s
        elif tick_s - start[1] >= window_s and output.images:
            return output.window(reading_j - start[0], tick_s - start[1])


def power_window(
    read_w: Callable[[], float],
    poll: Callable[[], int],
    window_s: float,
    clock: Callable[[], float] = time.perf_counter,
    poll_seconds: float = POWER_POLL_SECONDS,
) -> Window:
    """Integrate readings of power by the trapezoidal rule over ``window_s`` at least; arguments as for ``counter_window``.

    Raises:
        SensorError: The sensor reads no power at all.
    """
    output = Output(poll, clock)
    power_w, last_s = read_w(), clock()
    start_s, joules = last_s, 0.0
    while last_s - start_s < window_s or not output.images:
        if output.step() - last_s < poll_seconds:
            continue
        previous_w, power_w, now_s = power_w, read_w(), clock()
        joules += (previous_w + power_w) / 2 * (now_s - last_s)
        last_s = now_s
    if joules <= 0:
        raise SensorError("the power sensor reads zero under load")
    return output.window(joules, last_s - start_s)


def _first_window(sensors: tuple[Sensor, ...], poll: Callable[[], int], window_s: float) -> tuple[Method, Window]:
    refusals = []
    for sensor in sensors:
        take = counter_window if sensor.kind == "counter" else power_window
        try:
            return sensor.method, take(sensor.read, poll, window_s)
        except SensorError as refusal:
            refusals.append(str(refusal))
    raise SensorError("; ".join(refusals))


def _keep_busy(poll: Callable[[], int], seconds: float) -> None:
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        poll()


def cpu_load(model: nn.Module, example: Tensor) -> Callable[[], int]:
    """Return a load that runs one forward pass at each poll."""

    def poll() -> int:
        model(example)
        return len(example)

    return poll


def gpu_load(model: nn.Module, example: Tensor) -> Callable[[], int]:
    """Return a load that keeps two blocks of forward passes queued, so that the GPU never waits for the host."""
    passes = _passes_per_block(model, example)
    queued: deque[torch.cuda.Event] = deque()

    def poll() -> int:
        while len(queued) < 2:
            for _ in range(passes):
                model(example)
            queued.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
            queued[-1].record()
        if not queued[0].query():  # type: ignore[no-untyped-call]
            time.sleep(0.0005)
            return 0
        queued.popleft()
        return passes * len(example)

    return poll


def _passes_per_block(model: nn.Module, example: Tensor) -> int:
    model(example)
    torch.cuda.synchronize()
    start_s = time.perf_counter()
    for _ in range(3):
        model(example)
    torch.cuda.synchronize()
    return max(1, round(3 * _GPU_BLOCK_SECONDS / (time.perf_counter() - start_s)))
