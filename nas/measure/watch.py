"""What a device and those who share it do while something is measured on it: clocks, heat, throttling, other load.

It sees and sums up; whether a block or a whole measurement is believed is the meters' to say.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from nas.measure.load import CpuLoad
from nas.measure.nvml import Gpu, open_gpu
from nas.measure.record import Record, SensorError

T = TypeVar("T")

Range = tuple[float, float, float]
"""Least, median and greatest of what was seen."""


@dataclass(frozen=True)
class Look:
    """A device at one instant; ``None`` and empty are also what it does not tell.

    Attributes:
        sm_clock_mhz: Clock of the GPU's multiprocessors.
        memory_clock_mhz: Clock of the GPU's memory.
        temperature_c: Temperature of the GPU die.
        clock_reasons: What holds the clock where it is, by the names of ``nvml.CLOCK_REASONS``.
        foreign_processes: Other processes that compute on the board.
    """

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    clock_reasons: tuple[str, ...] = ()
    foreign_processes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Watched(Record):
    """A device over a time.

    Attributes:
        sm_clock_mhz: Least, median and greatest clock of the GPU's multiprocessors; ``None`` if never told.
        memory_clock_mhz: The same of its memory.
        temperature_c: Highest temperature of the GPU die; ``None`` if never told.
        clock_reasons: Everything seen to hold the clock where it was, sorted.
        others_cpus: CPUs that others kept busy on average (``load.CpuLoad``); ``None`` where the system does not tell.
        foreign_processes: Every other process seen to compute on the board, sorted.
        reason: Why something was not told by the device; ``None`` if it told everything, and on a CPU, of which only
            ``others_cpus`` is asked.
    """

    sm_clock_mhz: Range | None
    memory_clock_mhz: Range | None
    temperature_c: int | None
    clock_reasons: tuple[str, ...]
    others_cpus: float | None
    foreign_processes: tuple[int, ...]
    reason: str | None


class Watch:
    """Looks at a device from time to time: ``with Watch.open(device) as watch: ...; watch.look(); ...; watch.summary()``."""

    def __init__(self, gpu: Gpu | None, reason: str | None = None, everywhere: bool = False) -> None:
        self._gpu, self._everywhere = gpu, everywhere
        self._reasons = [reason] if reason else []
        self._looks: list[Look] = []
        self._since_s = time.monotonic()
        self._load = CpuLoad.now(everywhere)

    @classmethod
    @contextmanager
    def open(cls, device: torch.device, everywhere: bool = False) -> Iterator[Watch]:
        """Watch ``device`` for the block: a CPU for others' load alone; without NVML a GPU blindly, and the summary says why.

        Args:
            device: Which.
            everywhere: Of CPUs, whether all are watched or those that this process may use: RAPL counts all of a package.
        """
        if device.type == "cpu":
            yield cls(None, everywhere=everywhere)
            return
        with _opened(device) as gpu:
            yield cls(None, str(gpu)) if isinstance(gpu, SensorError) else cls(gpu)

    def look(self) -> Look:
        """Look now. On a GPU, look while work is still queued: an idle board lowers its clocks. Never raises for a sensor."""
        if self._gpu is None:
            return Look()
        gpu = self._gpu
        look = Look(
            sm_clock_mhz=self._told(lambda: gpu.clock_mhz("SM")),
            memory_clock_mhz=self._told(lambda: gpu.clock_mhz("MEM")),
            temperature_c=self._told(gpu.temperature_c),
            clock_reasons=self._told(gpu.clock_reasons) or (),
            foreign_processes=self._told(gpu.foreign_processes) or (),
        )
        self._looks.append(look)
        return look

    def summary(self) -> Watched:
        """Sum up everything seen since the watch was opened."""
        looks = self._looks
        return Watched(
            sm_clock_mhz=_range([look.sm_clock_mhz for look in looks if look.sm_clock_mhz is not None]),
            memory_clock_mhz=_range([look.memory_clock_mhz for look in looks if look.memory_clock_mhz is not None]),
            temperature_c=max((look.temperature_c for look in looks if look.temperature_c is not None), default=None),
            clock_reasons=tuple(sorted({reason for look in looks for reason in look.clock_reasons})),
            others_cpus=self._load.others_cpus(CpuLoad.now(self._everywhere), time.monotonic() - self._since_s),
            foreign_processes=tuple(sorted({pid for look in looks for pid in look.foreign_processes})),
            reason="; ".join(self._reasons) or None,
        )

    def _told(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except SensorError as refusal:
            if str(refusal) not in self._reasons:
                self._reasons.append(str(refusal))
            return None


@contextmanager
def _opened(device: torch.device) -> Iterator[Gpu | SensorError]:
    """Open the board, or give the reason why not; an error raised within the block stays the block's."""
    opening = open_gpu(device)
    try:
        gpu = opening.__enter__()
    except SensorError as reason:
        yield reason
        return
    try:
        yield gpu
    finally:
        opening.__exit__(None, None, None)


def _range(values: Sequence[float]) -> Range | None:
    return (min(values), statistics.median(values), max(values)) if values else None
