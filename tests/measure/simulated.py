"""Stand-ins for the machines that tests do not have: NVIDIA's driver and Linux's powercap tree."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

UUID = "GPU-2d6a1c5e-0000-4000-8000-000000000001"


@dataclass
class SimulatedBoard:
    """What NVML would say of one board; a function in place of a value is asked for it, and an exception is what it raises."""

    energy_mj: Any = 1_000_000
    instant_power_mw: Any = 200_000
    power_mw: Any = 190_000
    power_limit_mw: Any = 700_000
    mig: Any = (0, 0)
    processes: Any = field(default_factory=lambda: [(os.getpid(), 600_000_000)])
    clocks_mhz: Any = 1980
    temperature_c: Any = 41
    clock_reasons: Any = 0
    throttle_reasons: Any = 0


@dataclass
class SimulatedNvml:
    """Stands in for the driver: replaces functions of the real module, so that a name that it does not have fails here too."""

    boards: dict[str, SimulatedBoard]
    start_error: Exception | None = None
    open_count: int = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, function in {
            "nvmlInit": self._start,
            "nvmlShutdown": self._stop,
            "nvmlSystemGetDriverVersion": lambda: "575.57",
            "nvmlDeviceGetHandleByUUID": self._handle,
            "nvmlDeviceGetTotalEnergyConsumption": lambda board: _value(board.energy_mj),
            "nvmlDeviceGetFieldValues": self._fields,
            "nvmlDeviceGetPowerUsage": lambda board: _value(board.power_mw),
            "nvmlDeviceGetPowerManagementLimit": lambda board: _value(board.power_limit_mw),
            "nvmlDeviceGetMigMode": lambda board: _value(board.mig),
            "nvmlDeviceGetClockInfo": lambda board, domain: _value(board.clocks_mhz),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda board: _value(board.clock_reasons),
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda board: _value(board.throttle_reasons),
            "nvmlDeviceGetTemperature": lambda board, sensor: _value(board.temperature_c),
            "nvmlDeviceGetComputeRunningProcesses": self._processes,
        }.items():
            monkeypatch.setattr(pynvml, name, function)

    def _start(self) -> None:
        if self.start_error is not None:
            raise self.start_error
        self.open_count += 1

    def _stop(self) -> None:
        self.open_count -= 1

    def _handle(self, uuid: str) -> SimulatedBoard:
        if uuid not in self.boards:
            raise pynvml.NVMLError_NotFound()
        return self.boards[uuid]

    def _fields(self, board: SimulatedBoard, fields: list[int]) -> list[SimpleNamespace]:
        assert fields == [pynvml.NVML_FI_DEV_POWER_INSTANT]
        try:
            value = SimpleNamespace(uiVal=_value(board.instant_power_mw))
        except pynvml.NVMLError as error:
            return [SimpleNamespace(nvmlReturn=error.value, value=None)]
        return [SimpleNamespace(nvmlReturn=pynvml.NVML_SUCCESS, value=value)]

    def _processes(self, board: SimulatedBoard) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in _value(board.processes)]


def _value(value: Any) -> Any:
    if callable(value):
        value = value()
    if isinstance(value, Exception):
        raise value
    return value


@dataclass
class PowercapTree:
    """A tree like ``/sys/class/powercap``."""

    root: Path

    def zone(self, path: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
        zone = self.root / path
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"{name}\n")
        (zone / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (zone / "energy_uj").write_text(f"{energy_uj}\n")
        return zone


class SimulatedStream:
    """A GPU and its host: passes are queued in ``enqueue_s`` and done in ``pass_s`` each, in order."""

    def __init__(self, pass_s: float, enqueue_s: float = 0.0) -> None:
        self.pass_s = pass_s
        self.enqueue_s = enqueue_s
        self.now_s = 0.0
        self.busy_until_s = 0.0
        self.idle_s = 0.0
        self.passes = 0
        self.events = 0

    def install(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        stream = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                self.enable_timing = enable_timing
                stream.events += 1

            def record(self) -> None:
                self.at_s = max(stream.busy_until_s, stream.now_s)

            def query(self) -> bool:
                return stream.now_s >= self.at_s

            def elapsed_time(self, end: Event) -> float:
                assert self.enable_timing and end.enable_timing and end.query()
                return 1e3 * (end.at_s - self.at_s)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", self._synchronize)
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=self.clock, sleep=self._sleep))

    def model(self, x: torch.Tensor) -> torch.Tensor:
        self.now_s += self.enqueue_s
        self.work(self.pass_s)
        self.passes += 1
        return x

    def work(self, seconds: float) -> None:
        """Queue other work."""
        start_s = max(self.busy_until_s, self.now_s)
        self.idle_s += start_s - self.busy_until_s
        self.busy_until_s = start_s + seconds

    def clock(self) -> float:
        return self.now_s

    def _synchronize(self) -> None:
        self.now_s = max(self.now_s, self.busy_until_s)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds
