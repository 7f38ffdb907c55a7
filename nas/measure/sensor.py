"""Which energy sensors a device has, best first, and whether others draw on them. Taking a window is the energy meter's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from nas.measure import rapl
from nas.measure.nvml import Gpu, open_gpu
from nas.measure.record import SensorError

Method = Literal["nvml_counter", "nvml_instant_power", "nvml_power", "rapl"]


@dataclass(frozen=True)
class Sensor:
    """One way to energy.

    Attributes:
        method: Its name in results.
        kind: ``counter`` reads joules that only grow; ``power`` reads watts.
        read: Read it now. Raises ``SensorError``.
    """

    method: Method
    kind: Literal["counter", "power"]
    read: Callable[[], float]


@dataclass(frozen=True)
class Sensors:
    """The sensors that answered, best first (never empty), and a check that nothing else draws on them.

    Attributes:
        working: Sensors in the order of preference.
        check: Raises ``SensorError`` if another process shares the board.
    """

    working: tuple[Sensor, ...]
    check: Callable[[], None]


@contextmanager
def open_sensors(device: torch.device) -> Iterator[Sensors]:
    """Probe each energy sensor of ``device`` once and keep those that answer open for the block.

    Raises:
        SensorError: None of them answers, or the board is shared (MIG, other compute processes), with the reason.
    """
    if device.type == "cpu":
        # RAPL sees the whole package; a process that merely runs elsewhere on it cannot be told from the system's own.
        yield Sensors((Sensor("rapl", "counter", rapl.open_packages().read_j),), check=lambda: None)
        return
    with open_gpu(device) as gpu:
        # Without a context NVML does not list this process, and the only one listed could not be told from it.
        _hold_context(device)
        _refuse_shared(gpu)
        candidates = (
            Sensor("nvml_counter", "counter", gpu.energy_j),
            Sensor("nvml_instant_power", "power", gpu.instant_power_w),
            Sensor("nvml_power", "power", gpu.power_w),
        )
        yield Sensors(_answering(candidates), check=lambda: _refuse_shared(gpu))


def _hold_context(device: torch.device) -> None:
    torch.zeros(1, device=device)


def _answering(candidates: tuple[Sensor, ...]) -> tuple[Sensor, ...]:
    working, refusals = [], []
    for sensor in candidates:
        try:
            sensor.read()
        except SensorError as refusal:
            refusals.append(str(refusal))
        else:
            working.append(sensor)
    if not working:
        raise SensorError("; ".join(refusals))
    return tuple(working)


def _refuse_shared(gpu: Gpu) -> None:
    if gpu.mig():
        raise SensorError("NVML measures the whole board and MIG has split it")
    foreign = gpu.foreign_processes()
    if foreign:
        ids = ", ".join(map(str, foreign))
        raise SensorError(f"NVML measures the whole board and other processes compute on it (process {ids})")
