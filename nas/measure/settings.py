"""How networks are measured, as a user sets it and as it was resolved for one device; free of torch, so cheap to import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
MemoryFormat = Literal["contiguous", "channels_last"]
Seconds = Annotated[float, Gt(0), Lt(math.inf)]


@dataclass(frozen=True)
class MeasureSettings:
    """The ``measure.*`` keys of a study.

    Attributes:
        batch_size: Images per forward pass while timing; ``latency_ms`` is for the whole batch.
        precision: Arithmetic of the timed network; ``auto`` is bf16 on a GPU that has it and fp32 elsewhere.
        memory_format: Layout of the timed network; ``auto`` is channels_last.
        threads: CPU threads while timing on a CPU; ``None`` takes torch's default, but no more than the cgroup's quota feeds. It
            is part of the device's fingerprint.
        latency_max_seconds: Time after which a latency measurement that has not settled stops and says so.
        energy_window_seconds: Length of one energy window; ``None`` is 5 on a GPU, whose counter ticks every 20 to 100 ms, and
            1 on a CPU, whose counter ticks every ms.
        energy: Whether to take the energy at all; it costs a window per candidate.
        require: Metrics without which the search must not start.
    """

    batch_size: Annotated[int, Ge(1)] = 64
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    threads: Annotated[int, Ge(1)] | None = None
    latency_max_seconds: Seconds = 2.0
    energy_window_seconds: Seconds | None = None
    energy: bool = True
    require: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasureConditions:
    """The settings as they hold on one device: nothing is ``auto`` any more. Recorded with every study.

    Attributes:
        device: torch's name of the device, such as ``cpu`` or ``cuda:0``.
        threads: CPU threads while timing on a CPU, ``None`` on a GPU.
    """

    device: str
    batch_size: int
    precision: Precision
    memory_format: MemoryFormat
    threads: int | None
    latency_max_seconds: float
    energy_window_seconds: float
