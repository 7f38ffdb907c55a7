"""How long one forward pass of a batch takes, eager and in the variants asked for, and whether the figure may be believed.

How a pass is run and clocked is ``timers``'s, when its timing begins and ends ``timing``'s, the network under its conditions
``subject``'s.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from nas.measure.device import NO_CPU_VARIANT, no_garbage_collection, numeric_context
from nas.measure.fingerprint import usable_cpus
from nas.measure.record import Record, SensorError
from nas.measure.settings import Variant
from nas.measure.subject import Subject
from nas.measure.timers import EnqueueTimer, EventTimer, HostTimer, PassTimer, Run, captured, compiled, flusher
from nas.measure.timing import CPU_APART, GPU, GPU_APART, Timing, by_blocks, by_torch
from nas.measure.watch import Watch, Watched

__all__ = ["Latency", "Timing", "measure"]

LOADED_SHARE = 0.1
"""Share of the CPUs that others may keep busy before a time taken on a CPU counts as disturbed."""

_ORDER: tuple[Variant, ...] = ("enqueue", "cold", "graph", "compiled")
"""What may break the device's state comes last."""
_REASON_LENGTH = 200


@dataclass(frozen=True)
class Latency(Record):
    """Time of one forward pass of a whole batch.

    Attributes:
        eager: The network as PyTorch runs it.
        graph: The replay of its CUDA graph: without the host's share.
        compiled: The same under ``torch.compile``, in its default mode.
        enqueue: What the host takes to queue an eager pass on a GPU: no pass can be faster.
        cold: Eager, with the device's last cache overwritten before each pass.
        compile_seconds: Time of the compiled network's first pass; shorter where torch's cache on disk knows the network.
        reasons: Variants that were asked for and are ``None``, each with the reason.
    """

    eager: Timing
    graph: Timing | None = None
    compiled: Timing | None = None
    enqueue: Timing | None = None
    cold: Timing | None = None
    compile_seconds: float | None = None
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def watched(self) -> Watched:
        """The device and its other users while the eager network was timed."""
        return self.eager.watched

    @property
    def flags(self) -> tuple[str, ...]:
        """Why figures deserve less trust, as short phrases that begin with the variant's name."""
        timings = {"eager": self.eager} | {name: getattr(self, name) for name in _ORDER}
        return tuple(f"{name}: {flag}" for name, timing in timings.items() if timing for flag in timing.flags)


def measure(subject: Subject) -> Latency:
    """Time the network, and in the variants that its conditions ask for; each has ``latency_max_seconds``.

    A variant that cannot be had becomes ``None`` with its reason.

    Raises:
        SensorError: Something else loads the device, and the conditions are to refuse then.
        RuntimeError: The eager network does not run, memory included.
    """
    bench = _Bench(subject)
    found: dict[str, Timing] = {}
    reasons: dict[str, str] = {}
    with numeric_context(subject.conditions):
        eager = bench.eager()
        for name in _ORDER:
            if name not in subject.conditions.variants:
                continue
            try:
                found[name] = getattr(bench, name)()
            except Exception as error:  # noqa: BLE001 - compilers and captures fail in any way, and cost their own figure only
                reasons[name] = _phrase(error)
            bench.release_memory()
    return Latency(
        eager,
        graph=found.get("graph"),
        compiled=found.get("compiled"),
        enqueue=found.get("enqueue"),
        cold=found.get("cold"),
        compile_seconds=bench.compile_seconds,
        reasons=tuple(reasons.items()),
    )


class _Bench:
    """One subject's timings; each method raises ``SensorError`` where the device does not have that kind."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._device = torch.device(subject.conditions.device)
        self._on_cpu = self._device.type == "cpu"
        self._budget_s = subject.conditions.latency_max_seconds
        self.compile_seconds: float | None = None

    def eager(self) -> Timing:
        return self._whole(self._subject.run)

    def enqueue(self) -> Timing:
        if self._on_cpu:
            raise SensorError(NO_CPU_VARIANT["enqueue"])
        return self._apart(EnqueueTimer(self._subject.run), on_host=True)

    def cold(self) -> Timing:
        timer = HostTimer if self._on_cpu else EventTimer
        return self._apart(timer(self._subject.run, flush=flusher(self._device)), on_host=self._on_cpu)

    def graph(self) -> Timing:
        if self._on_cpu:
            raise SensorError(NO_CPU_VARIANT["graph"])
        return self._whole(captured(self._subject.run))

    def compiled(self) -> Timing:
        with compiled(self._subject) as (run, self.compile_seconds):
            return self._whole(run)

    def release_memory(self) -> None:
        """Give back what a variant held, its graph's own pool included: the meters after this one look at memory."""
        if not self._on_cpu:
            gc.collect()
            torch.cuda.empty_cache()

    def _whole(self, run: Run) -> Timing:
        """Time passes that follow each other closely."""
        threads = self._subject.conditions.threads
        if threads is not None:
            return self._watched(lambda watch: by_torch(run, threads, watch, self._budget_s), on_host=True)
        return self._watched(lambda watch: by_blocks(EventTimer(run), watch, self._budget_s, GPU), on_host=False)

    def _apart(self, timer: PassTimer, on_host: bool) -> Timing:
        """Time passes with something else between them."""
        recipe = CPU_APART if self._on_cpu else GPU_APART
        return self._watched(lambda watch: by_blocks(timer, watch, self._budget_s, recipe), on_host)

    def _watched(self, take: Callable[[Watch], Timing], on_host: bool) -> Timing:
        with Watch.open(self._device) as watch, no_garbage_collection():
            timing = take(watch)
        disturbances = tuple(_disturbances(timing.watched, on_host))
        if disturbances and self._subject.conditions.when_loaded == "refuse":
            raise SensorError(f"{self._device} was not alone: {', '.join(disturbances)}")
        return replace(timing, flags=(*timing.flags, *disturbances))


def _disturbances(watched: Watched, on_host: bool) -> Iterator[str]:
    """Say what else loaded the device; others on the CPUs matter to a time that the host decides."""
    if watched.foreign_processes:
        yield f"other processes compute on the board ({', '.join(map(str, watched.foreign_processes))})"
    cpus = len(usable_cpus())
    if on_host and watched.others_cpus is not None and watched.others_cpus > LOADED_SHARE * cpus:
        yield f"others kept {watched.others_cpus:.1f} of {cpus} CPUs busy"


def _phrase(error: Exception) -> str:
    text = " ".join(str(error).split())
    if not isinstance(error, SensorError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _REASON_LENGTH else f"{text[:_REASON_LENGTH]}…"
