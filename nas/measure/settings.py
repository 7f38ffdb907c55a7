"""How networks are measured, as a user sets it and as it was resolved for one device; free of torch, so cheap to import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from nas.measure.record import Record

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
MemoryFormat = Literal["contiguous", "channels_last"]
Variant = Literal["graph", "compiled", "enqueue", "cold"]
WhenLoaded = Literal["auto", "refuse", "flag"]
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
        latency_max_seconds: Time for one latency, warm-up included, after which a measurement that has not settled stops and
            says so; ``None`` is 1.5 on a GPU and 2 on a CPU. Each variant has that time again. Where cuDNN searches long for
            the fastest algorithms, most of the search comes on top.
        variants: What is timed beside the eager network: ``graph`` (replay of a CUDA graph), ``compiled`` (``torch.compile``),
            ``enqueue`` (the host's share: time to queue a pass), ``cold`` (caches flushed before each pass).
        energy: Whether to take the energy at all; it costs its windows per candidate.
        energy_windows: Windows per energy; from two on their spread is known.
        energy_window_seconds: Length of one energy window; ``None`` is 5 on a GPU, whose counter ticks every 20 to 100 ms, and
            1 on a CPU, whose counter ticks every ms.
        when_loaded: What to do when something else loads the device: ``refuse`` to measure, ``flag`` what was measured, or
            ``auto``: refuse an energy whose sensor others draw on, flag a latency.
        lock_seconds: How long to wait for other processes of ours on the same device: for those that measure, and for those
            that train, which let a measurement in at the end of an epoch.
        require: Metrics without which the search must not start.
    """

    batch_size: Annotated[int, Ge(1)] = 64
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    threads: Annotated[int, Ge(1)] | None = None
    latency_max_seconds: Seconds | None = None
    variants: tuple[Variant, ...] = ()
    energy: bool = True
    energy_windows: Annotated[int, Ge(1)] = 1
    energy_window_seconds: Seconds | None = None
    when_loaded: WhenLoaded = "auto"
    lock_seconds: Seconds = 600.0
    require: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasureConditions(Record):
    """The settings as they hold on one device: nothing that decides a figure is open any more. Recorded with it.

    Attributes:
        device: torch's name of the device, such as ``cpu`` or ``cuda:0``.
        tf32: Whether convolutions and matrix products of fp32 run in TF32.
        cudnn_benchmark: Whether cuDNN picks its algorithms by trying them.
        threads: CPU threads while timing on a CPU, ``None`` on a GPU.
    """

    device: str
    batch_size: int
    precision: Precision
    memory_format: MemoryFormat
    tf32: bool
    cudnn_benchmark: bool
    threads: int | None
    latency_max_seconds: float
    variants: tuple[Variant, ...]
    energy: bool
    energy_windows: int
    energy_window_seconds: float
    when_loaded: WhenLoaded
    lock_seconds: float
