"""What a device draws while it has nothing to do, once per process and device, for energy net of idle."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from nas.measure.record import SensorError
from nas.measure.sensor import UNSEEN, Method, Sensor, Sensors
from nas.measure.watch import Watch
from nas.measure.windows import Span, counter_span, power_span

FRESH_SECONDS = 600.0
"""As long it holds: rooms and fans change more slowly."""
SPAN_SECONDS = 1.5
"""Power is compared between spans of this length."""
STEADY_SHARE = 0.03
"""Two spans in a row that differ by no more have settled."""
REST_SECONDS = 12.0
"""As long a device is given to cool down and lower its clocks after a load."""
REFUSED_SECONDS = 5.0
"""As long it holds that others kept a device from its rest: not so long that a search which needs it would give up meanwhile."""


@dataclass(frozen=True)
class Idle:
    """Idle power, the CUDA context alive and nothing queued.

    Attributes:
        power_w: Mean of two spans of ``SPAN_SECONDS``, or ``None``.
        reason: Why ``power_w`` is ``None``.
        method: The sensor used.
        taken_s: When, in seconds of ``time.monotonic``.
    """

    power_w: float | None
    reason: str | None
    method: Method | None
    taken_s: float

    @property
    def age_s(self) -> float:
        """Time since it was taken."""
        return time.monotonic() - self.taken_s


_known: dict[str, tuple[Idle, float]] = {}
"""By device: what is known, and for how many seconds it holds."""


def idle_power(device: torch.device, sensors: Sensors) -> Idle:
    """Return the idle power of ``device``: what is known and still fresh, or else a new one, taken after a rest.

    A new one takes 3 s if the device is at rest and up to ``REST_SECONDS`` after a load. That it could not be had is known
    for as long; that others loaded a CPU meanwhile for ``REFUSED_SECONDS`` only, as a search that needs it gives up after some.
    Of a GPU that others loaded it is given, for those who want it flagged, and not kept.

    Raises:
        SensorError: Meanwhile another process came to the device.
    """
    known, fresh_s = _known.get(str(device), (None, 0.0))
    if known is not None and known.age_s <= fresh_s:
        return known
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    with Watch.open(device, everywhere=True) as watch:
        found, fresh_s = _first(sensors), FRESH_SECONDS
        shared = [phrase for phrase in sensors.check(watch.summary()) if phrase != UNSEEN]
    if shared and found.power_w is not None:
        if device.type == "cuda":
            return found
        reason = f"while the device was meant to rest, {'; '.join(shared)}"
        found, fresh_s = replace(found, power_w=None, reason=reason), REFUSED_SECONDS
    _known[str(device)] = found, fresh_s
    return found


def _first(sensors: Sensors) -> Idle:
    refusals = []
    for sensor in sensors.working:
        try:
            power_w = _settled_w(sensor)
        except SensorError as refusal:
            refusals.append(str(refusal))
        else:
            return Idle(power_w, None, sensor.method, time.monotonic())
    return Idle(None, "; ".join(refusals), None, time.monotonic())


def _settled_w(sensor: Sensor) -> float:
    began_s = time.monotonic()
    before = _span(sensor)
    while time.monotonic() - began_s + SPAN_SECONDS <= REST_SECONDS:
        now = _span(sensor)
        if abs(now.power_w / before.power_w - 1) <= STEADY_SHARE:
            return (before.joules + now.joules) / (before.seconds + now.seconds)
        before = now
    raise SensorError(f"idle power did not settle to {100 * STEADY_SHARE:g} % within {REST_SECONDS:g} s")


def _span(sensor: Sensor) -> Span:
    take = counter_span if sensor.kind == "counter" else power_span
    return take(sensor.read, _Rest(), SPAN_SECONDS, time.monotonic)


class _Rest:
    """Nothing to do, as an activity."""

    complete = True

    def step(self) -> float:
        time.sleep(0.005)
        return time.monotonic()
