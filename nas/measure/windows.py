"""Windows of energy: a sensor read beside a load, and what follows from the readings, with its uncertainty.

Arithmetic on what it is given to read; which sensor, which load, and whether to believe them is the energy meter's.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from nas.measure.record import Record, SensorError

COUNTER_POLL_SECONDS = 0.005
"""How late a tick may be seen: 0.1 % of a window of 5 s."""
EDGE_SECONDS = 0.3
"""How long a counter is read often at either end of a window: three of the slowest ticks."""
SPARSE_POLL_SECONDS = 0.25
"""How often it is read in between, where only its health is of interest: the host of a small network has no time to spare."""
POWER_POLL_SECONDS = 0.05
"""Instant power is refreshed no faster."""
STUCK_SECONDS = 2.0
"""A counter under load that has not moved for so long is broken: the slowest tick every 100 ms."""
SPIN_SECONDS = 0.25
"""How long to look for the tick of a counter that has moved whenever it was read."""


class Activity(Protocol):
    """What the device does during a window."""

    def step(self) -> float:
        """Let it go on for a moment; return the time in seconds."""

    @property
    def complete(self) -> bool:
        """Whether the window may end."""


class Done(NamedTuple):
    """Images that have come out, and the instant at which the last of them did, in seconds by the load's own clock."""

    images: int
    at_s: float


class Output:
    """A load's output as an activity: counts what comes out after the first completion until the last."""

    def __init__(self, poll: Callable[[], Done | None], clock: Callable[[], float]) -> None:
        self._poll, self._clock = poll, clock
        self._first_s: float | None = None
        self._last_s = 0.0
        self.images = 0

    def step(self) -> float:
        """Let the load go on."""
        if done := self._poll():
            if self._first_s is None:
                self._first_s = done.at_s
            else:
                self.images += done.images
            self._last_s = done.at_s
        return self._clock()

    @property
    def complete(self) -> bool:
        """Whether a rate of output is known."""
        return self.images > 0

    @property
    def seconds(self) -> float:
        """Time in which ``images`` came out."""
        return self._last_s - self._first_s if self._first_s is not None else 0.0


@dataclass(frozen=True)
class Span(Record):
    """Energy between two readings of a sensor.

    Attributes:
        joules: The energy.
        seconds: Time between the readings.
        joules_uncertainty: How far ``joules`` may be off because of the sensor's granularity (``counter_span``, ``power_span``).
        tick_s: Time between two ticks of a counter; ``None`` for a power sensor.
        check_joules: The same energy integrated from a power sensor beside the counter; ``None`` if that gave none.
    """

    joules: float
    seconds: float
    joules_uncertainty: float
    tick_s: float | None
    check_joules: float | None

    @property
    def power_w(self) -> float:
        """Mean power."""
        return self.joules / self.seconds


@dataclass(frozen=True)
class EnergyWindow(Span):
    """A span under a steady load, and the load's output between two edges of its own: raw figures.

    A sensor ticks and images come out at different instants, so energy over images would carry both edges' errors; power and
    output rate do not.

    Attributes:
        images: Images that came out between two instants.
        image_seconds: Time between those instants.
    """

    images: int
    image_seconds: float

    @classmethod
    def of(cls, span: Span, output: Output) -> EnergyWindow:
        """Join a span with the output of the same load."""
        return cls(**span.to_dict(), images=output.images, image_seconds=output.seconds)

    @property
    def seconds_per_image(self) -> float:
        """Time per image while the sensor was read."""
        return self.image_seconds / self.images

    @property
    def energy_j(self) -> float:
        """Joules per image: mean power over output rate."""
        return self.power_w * self.seconds_per_image

    @property
    def energy_uncertainty_j(self) -> float:
        """How far ``energy_j`` may be off because of the sensor's granularity."""
        return self.energy_j * self.joules_uncertainty / self.joules


def counter_span(
    read_j: Callable[[], float],
    activity: Activity,
    window_s: float,
    clock: Callable[[], float],
    check_w: Callable[[], float] | None = None,
) -> Span:
    """Take a span from a tick of a counter of joules to the first tick after ``window_s``.

    A reading is up to one tick old, so that two readings are up to one tick further apart, or less far, than they seem:
    the uncertainty is mean power times the tick. The tick is the median time between movements seen near the ends of the
    span, where the counter is read often; for a counter that has moved at every reading, it is looked for once more, without
    pause, after the span.

    Args:
        read_j: The counter.
        activity: What goes on meanwhile.
        window_s: Length at least.
        clock: Seconds.
        check_w: A power sensor to integrate over the same span, read beside the counter but no faster than every
            ``POWER_POLL_SECONDS``; NaN where it fails.

    Raises:
        SensorError: The counter stands still or runs backwards.
    """
    trace = PowerTrace(check_w, clock) if check_w else None
    start: _Reading | None = None
    moved_s: float | None = None
    ticks_s: list[float] = []
    at_each_reading = True

    def interval_s(now_s: float) -> float:
        between = start is not None and EDGE_SECONDS < now_s - start.at_s < window_s - EDGE_SECONDS
        return SPARSE_POLL_SECONDS if between else COUNTER_POLL_SECONDS

    for reading in _readings(read_j, activity, clock, interval_s):
        if start is None:
            if reading.moved:
                start, moved_s = reading, reading.at_s
                if trace:
                    trace.read()
            continue
        if trace:
            trace.read_if_due(reading.at_s)
        if not reading.often:
            moved_s = None
        else:
            at_each_reading &= reading.moved
        if not reading.moved:
            continue
        if reading.often:
            if moved_s is not None:
                ticks_s.append(reading.at_s - moved_s)
            moved_s = reading.at_s
        seconds = reading.at_s - start.at_s
        if seconds >= window_s and activity.complete:
            break
    assert start is not None
    if trace:
        trace.read()
    # A window shorter than two ticks has seen but one, from its start to its end.
    tick_s = statistics.median(ticks_s) if ticks_s else seconds
    if at_each_reading:
        tick_s = min(tick_s, _tick_alone(read_j, clock))
    joules = reading.joules - start.joules
    check_joules = trace.joules if trace and trace.joules > 0 else None  # NaN is not greater either
    return Span(joules, seconds, joules / seconds * tick_s, tick_s, check_joules)


def power_span(read_w: Callable[[], float], activity: Activity, window_s: float, clock: Callable[[], float]) -> Span:
    """Integrate readings of power by the trapezoidal rule over ``window_s`` at least; arguments as for ``counter_span``.

    The uncertainty is that of the readings' mean, taken as independent samples (standard deviation over the root of their
    number), and at the edges one poll interval times the readings' range, as a reading may be that old.

    Raises:
        SensorError: The sensor reads no power at all, or fails.
    """
    trace = PowerTrace(read_w, clock)
    trace.read()
    while trace.seconds < window_s or not activity.complete:
        trace.read_if_due(activity.step())
    if trace.joules <= 0:
        raise SensorError("the power sensor reads zero under load")
    edges_j = trace.longest_gap_s * (max(trace.watts) - min(trace.watts))
    mean_j = trace.seconds * statistics.stdev(trace.watts) / math.sqrt(len(trace.watts))
    return Span(trace.joules, trace.seconds, edges_j + mean_j, tick_s=None, check_joules=None)


class PowerTrace:
    """Readings of a power sensor, no faster than it is refreshed."""

    def __init__(self, read_w: Callable[[], float], clock: Callable[[], float]) -> None:
        self._read_w, self._clock = read_w, clock
        self.times_s: list[float] = []
        self.watts: list[float] = []

    def read(self) -> None:
        """Read now."""
        self.watts.append(self._read_w())
        self.times_s.append(self._clock())

    def read_if_due(self, now_s: float) -> None:
        """Read if the sensor may have been refreshed since it was read last."""
        if now_s - self.times_s[-1] >= POWER_POLL_SECONDS:
            self.read()

    @property
    def seconds(self) -> float:
        """Time from the first reading to the last."""
        return self.times_s[-1] - self.times_s[0]

    @property
    def longest_gap_s(self) -> float:
        """Longest time between two readings."""
        return max(later - sooner for sooner, later in itertools.pairwise(self.times_s))

    @property
    def joules(self) -> float:
        """The integral of power over time."""
        return trapezoid(self.times_s, self.watts)


def trapezoid(times_s: Sequence[float], watts: Sequence[float]) -> float:
    """Return the integral of readings of power by the trapezoidal rule, in joules."""
    spans = zip(itertools.pairwise(times_s), itertools.pairwise(watts), strict=True)
    return math.fsum((before_w + after_w) / 2 * (later - sooner) for (sooner, later), (before_w, after_w) in spans)


class _Reading(NamedTuple):
    joules: float
    at_s: float
    moved: bool
    often: bool


def _readings(
    read_j: Callable[[], float], activity: Activity, clock: Callable[[], float], interval_s: Callable[[float], float]
) -> Iterator[_Reading]:
    """Read a counter for ever, every ``interval_s(now)`` seconds or once per step of the activity if that is longer."""
    joules, at_s = read_j(), clock()
    moved_s = at_s
    while True:
        often = interval_s(at_s) <= COUNTER_POLL_SECONDS
        if activity.step() - at_s < interval_s(at_s):
            continue
        before_j, joules, at_s = joules, read_j(), clock()
        if joules < before_j:
            raise SensorError("the energy counter ran backwards")
        if joules > before_j:
            moved_s = at_s
        elif at_s - moved_s > STUCK_SECONDS:
            raise SensorError(f"the energy counter stood still for {STUCK_SECONDS:g} s")
        yield _Reading(joules, at_s, joules > before_j, often)


def _tick_alone(read_j: Callable[[], float], clock: Callable[[], float]) -> float:
    """Return the time between two ticks, read without pause; infinite if two do not come soon."""
    began_s = clock()
    moves_s: list[float] = []
    joules = read_j()
    while len(moves_s) < 2:
        before_j, joules = joules, read_j()
        now_s = clock()
        if joules != before_j:
            moves_s.append(now_s)
        elif now_s - began_s > SPIN_SECONDS:
            return math.inf
    return moves_s[1] - moves_s[0]
