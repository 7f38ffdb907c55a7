"""All meters, one after the other, on one network: what they found as one record, and as the flat figures that tables hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from nas.measure import complexity, energy, latency, memory, subject
from nas.measure.complexity import Complexity
from nas.measure.energy import Energy
from nas.measure.fingerprint import DeviceFingerprint, fingerprint
from nas.measure.latency import Latency
from nas.measure.lock import exclusive
from nas.measure.memory import Memory
from nas.measure.record import Record, SensorError
from nas.measure.settings import MeasureConditions

OnStage = Callable[[str], None]

WAITING = "waiting for the device"
"""The stage in which others measure on the device, or trainings on it come to the ends of their epochs."""


@dataclass(frozen=True)
class Measurement(Record):
    """What was found out about one network on one device; ``None`` where the way ended before that meter.

    Attributes:
        input_shape: One image: (channels, height, width).
        conditions: What held while it was measured.
        device: Where.
        refusals: Meters that refused, each with the reason.
        started_at: When, by UTC and ISO 8601.
        seconds: Wall time of counting and measuring, without waiting for the device.
    """

    input_shape: tuple[int, int, int]
    conditions: MeasureConditions
    device: DeviceFingerprint
    complexity: Complexity | None
    latency: Latency | None
    memory: Memory | None
    energy: Energy | None
    refusals: tuple[tuple[str, str], ...]
    started_at: str
    seconds: float

    def figures(self) -> dict[str, Any]:
        """Return what was measured under the names that trials and tables use; a name whose value is ``None`` has a reason."""
        return {
            **_counted(self.complexity),
            **_timed(self.latency, self.complexity, self.conditions.batch_size),
            **_held(self.memory),
            **_spent(self.energy),
            "measure_flags": tuple(flag for part in (self.latency, self.energy) if part for flag in part.flags),
            "measure_seconds": self.seconds,
        }

    def reasons(self) -> dict[str, str]:
        """Return why figures are missing, by their names."""
        reasons = dict(self.refusals)
        if self.latency:
            reasons |= {f"latency_{variant}_ms": reason for variant, reason in self.latency.reasons}
        if self.memory:
            reasons |= _given(peak_memory_mb=self.memory.reason, process_memory_mb=self.memory.process_reason)
        if self.energy:
            reasons |= _given(energy_j=self.energy.reason, energy_net_j=self.energy.idle_reason)
        # What is derived from a figure is missing for that figure's reason.
        variants = [f"latency_{variant}_ms" for variant in self.conditions.variants]
        for figure, derived in (
            ("latency_ms", ("latency_iqr_ms", "images_per_s", "flops_per_s", *variants)),
            ("energy_j", ("energy_net_j", "power_w")),
            ("peak_memory_mb", ("process_memory_mb", *(() if self.memory else ("parameters_mb", "model_file_mb")))),
        ):
            if figure in reasons:
                reasons = dict.fromkeys(derived, reasons[figure]) | reasons
        return reasons


def _given(**reasons: str | None) -> dict[str, str]:
    return {name: reason for name, reason in reasons.items() if reason}


def _counted(cost: Complexity | None) -> dict[str, Any]:
    if cost is None:
        return {}
    return {
        "params": cost.params,
        "mult_adds": cost.mult_adds,
        "flops": cost.flops,
        "mem_access": cost.mem_access,
        "mem_access_bound": cost.mem_access_bound,
    }


def _timed(found: Latency | None, cost: Complexity | None, batch_size: int) -> dict[str, Any]:
    if found is None:
        return {}
    eager = found.eager
    images_per_s = 1e3 * batch_size / eager.median_ms
    figures: dict[str, Any] = {
        "latency_ms": eager.median_ms,
        "latency_iqr_ms": eager.iqr_ms,
        "latency_noise": eager.noise,
        "latency_stop_reason": eager.stop_reason,
        "latency_warm": eager.warm,
        "images_per_s": images_per_s,
        "compile_seconds": found.compile_seconds,
    }
    if cost is not None:
        figures["flops_per_s"] = cost.flops * images_per_s
    variants = {"graph": found.graph, "compiled": found.compiled, "enqueue": found.enqueue, "cold": found.cold}
    return figures | {f"latency_{name}_ms": timing.median_ms if timing else None for name, timing in variants.items()}


def _held(found: Memory | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "parameters_mb": found.parameters_mb,
        "model_file_mb": found.model_file_mb,
        "peak_memory_mb": found.peak_memory_mb,
        "reserved_memory_mb": found.reserved_mb,
        "process_memory_mb": found.process_mb,
    }


def _spent(found: Energy | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "energy_j": found.energy_j,
        "energy_uncertainty_j": found.energy_uncertainty_j,
        "energy_net_j": found.energy_net_j,
        "energy_method": found.method,
        "power_w": found.power_w,
        "idle_power_w": found.idle_power_w,
    }


class Measuring:
    """One network's way past the meters; what was found before it broke off is kept.

    Args:
        input_shape: One image: (channels, height, width).
        conditions: What shall hold.
        on_stage: Called with the name of each meter as it begins.
        counted: The network's complexity, if it is known already.
        known: What an earlier measurement of the network found: all of it holds but for the latency, which is taken anew.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        conditions: MeasureConditions,
        on_stage: OnStage = lambda stage: None,
        counted: Complexity | None = None,
        known: Measurement | None = None,
    ) -> None:
        self._input_shape, self._conditions, self._on_stage = input_shape, conditions, on_stage
        self._device = torch.device(conditions.device)
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._began_s = time.perf_counter()
        self._waited_s = 0.0
        self._ended_s: float | None = None
        self._found: dict[str, Any] = dict.fromkeys(("complexity", "latency", "memory", "energy"))
        self._found["complexity"] = counted
        if known is not None:
            self._found |= {"complexity": known.complexity, "memory": known.memory, "energy": known.energy}
        self._refusals: dict[str, str] = {}

    def count(self, model: nn.Module) -> None:
        """Count ``model``, which is left as it is, unless its complexity is known."""
        if self._found["complexity"] is not None:
            return
        self._on_stage("complexity")
        self._found["complexity"] = complexity.count(model, self._input_shape)

    def measure(self, model: nn.Module, enough: Callable[[], str | None] = lambda: None) -> None:
        """Take latency, memory and energy of a copy of ``model``, alone on the device among this machine's measurements.

        Args:
            model: The network.
            enough: Asked before each meter, cheapest first; a reason ends it, and is that of all that was not measured.
        """
        if (reason := enough()) is not None:
            self._refusals |= dict.fromkeys(("latency_ms", "peak_memory_mb", "energy_j"), reason)
            self._ended_s = time.perf_counter()
            return
        waiting_s = time.perf_counter()
        self._on_stage(WAITING)
        try:
            with exclusive(self._device, self._conditions.lock_seconds):
                self._waited_s = time.perf_counter() - waiting_s
                self._measure(model, enough)
        except SensorError as refusal:
            self._waited_s = time.perf_counter() - waiting_s
            self._refusals |= dict.fromkeys(("latency_ms", "peak_memory_mb", "energy_j"), str(refusal))
        finally:
            self._ended_s = time.perf_counter()

    def _measure(self, model: nn.Module, enough: Callable[[], str | None]) -> None:
        self._on_stage("latency")
        net = subject.of(model, self._input_shape, self._conditions)
        try:
            self._found["latency"] = latency.measure(net)
        except SensorError as refusal:
            self._refusals["latency_ms"] = str(refusal)
        if (reason := enough()) is not None:
            self._refusals |= dict.fromkeys(("peak_memory_mb", "energy_j"), reason)
            return
        if self._found["memory"] is None:
            self._on_stage("memory")
            self._found["memory"] = memory.measure(net)
        if self._found["energy"] is not None:
            return
        if not self._conditions.energy:
            self._refusals["energy_j"] = "measure.energy is false"
            return
        if (reason := enough()) is not None:
            self._refusals["energy_j"] = reason
            return
        self._on_stage("energy")
        self._found["energy"] = energy.measure(net)

    def result(self) -> Measurement:
        """Return what was found so far."""
        ended_s = self._ended_s or time.perf_counter()
        return Measurement(
            input_shape=self._input_shape,
            conditions=self._conditions,
            device=fingerprint(self._device, self._conditions.threads),
            **self._found,
            refusals=tuple(self._refusals.items()),
            started_at=self._started_at,
            seconds=ended_s - self._began_s - self._waited_s,
        )
