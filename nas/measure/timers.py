"""The ways to run a forward pass again and again and to clock each one. How many, and what they tell, is ``timing``'s."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import torch

from nas.measure.fingerprint import usable_cpus
from nas.measure.record import SensorError
from nas.measure.subject import Subject

Run = Callable[[], Any]

CPUS = Path("/sys/devices/system/cpu")
"""A folder for each CPU, with one for each cache in its ``cache`` (Linux, Documentation/ABI/testing/sysfs-devices-system-cpu)."""

_CAPTURE_WARM_UP = 3
"""Passes before a capture: lazily made handles and workspaces cannot be captured (PyTorch, "CUDA semantics", CUDA graphs)."""


def nothing() -> None:
    """Do nothing."""


class PassTimer(Protocol):
    """Clocks single passes."""

    def __call__(self, passes: int, before_wait: Run = nothing) -> list[float]:
        """Run a block of passes and return the time of each in ms; ``before_wait`` is called while the block still runs."""


class EventTimer:
    """Time on the GPU between two events around each pass, all queued before one sync.

    Args:
        run: Queues one pass.
        flush: Queued before each pass, outside its pair of events.
    """

    def __init__(self, run: Run, flush: Run = nothing) -> None:
        self._run, self._flush = run, flush
        # Recorded anew in each block: making an event costs the host as much as launching a small kernel.
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self, passes: int, before_wait: Run = nothing) -> list[float]:
        """Time a block."""
        while len(self._pairs) < passes:
            self._pairs.append((_event(), _event()))
        pairs = self._pairs[:passes]
        for start, end in pairs:
            self._flush()
            start.record()
            self._run()
            end.record()
        before_wait()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]


class EnqueueTimer:
    """Time that the host takes to queue a pass on an empty GPU: a full launch queue would make the host wait for the GPU."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __call__(self, passes: int, before_wait: Run = nothing) -> list[float]:
        """Time a block."""
        times_ms = []
        for left in reversed(range(passes)):
            start_s = time.perf_counter()
            self._run()
            times_ms.append(1e3 * (time.perf_counter() - start_s))
            if not left:
                before_wait()
            torch.cuda.synchronize()
        return times_ms


class HostTimer:
    """Time of each pass by the host's clock, for passes that are done when they return.

    Args:
        run: Runs one pass.
        flush: Called before each pass, outside its time.
    """

    def __init__(self, run: Run, flush: Run = nothing) -> None:
        self._run, self._flush = run, flush

    def __call__(self, passes: int, before_wait: Run = nothing) -> list[float]:
        """Time a block."""
        times_ms = []
        for _ in range(passes):
            self._flush()
            start_s = time.perf_counter()
            self._run()
            times_ms.append(1e3 * (time.perf_counter() - start_s))
        before_wait()
        return times_ms


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def flusher(device: torch.device) -> Run:
    """Return what overwrites a buffer as large as the device's last cache, and on a GPU several times as large.

    Raises:
        SensorError: The size of the cache is not known.
    """
    # Reading it too: a plain fill of a large buffer on a CPU goes round the caches.
    # A GPU's cache replaces lines by no strict order: once through a buffer of its size leaves some of what was there.
    nbytes = cache_bytes(device) * (4 if device.type == "cuda" else 1)
    return partial(torch.zeros(nbytes // 4, dtype=torch.int32, device=device).add_, 1)


def cache_bytes(device: torch.device) -> int:
    """Return the size of the device's last cache: L2 of a GPU; on a CPU the highest level's, all that this process's CPUs have.

    Raises:
        SensorError: Neither torch nor the system tells.
    """
    if device.type == "cuda":
        size = int(torch.cuda.get_device_properties(device).L2_cache_size)
    else:
        folders = [folder for cpu in usable_cpus() for folder in (CPUS / f"cpu{cpu}" / "cache").glob("index*")]
        # Each once, however many CPUs share it.
        caches = {(level, sharers): nbytes for level, sharers, nbytes in map(_cache, folders)}
        last = max((level for level, _ in caches), default=0)
        size = sum(nbytes for (level, _), nbytes in caches.items() if level == last)
    if not size:
        raise SensorError(f"the size of the last cache of {device} is not known")
    return size


def _cache(folder: Path) -> tuple[int, str, int]:
    """Return a cache's level, the CPUs that share it and its size in bytes."""
    shared = folder / "shared_cpu_list"
    try:
        level, size = int((folder / "level").read_text()), (folder / "size").read_text().strip()
        nbytes = int(size[:-1]) * {"K": 1 << 10, "M": 1 << 20}[size[-1]]
        return level, shared.read_text().strip() if shared.exists() else "", nbytes
    except (OSError, ValueError, LookupError) as error:
        raise SensorError(f"the size of the cache in {folder} cannot be read ({error})") from error


def captured(run: Run) -> Run:
    """Capture one pass as a CUDA graph and return its replay.

    Raises:
        RuntimeError: The pass waits for the GPU or does something else that cannot be captured.
    """
    device = torch.cuda.current_device()
    side = _side_stream(device)
    # Held from outside as well: torch stays on the capturing stream where ending a broken capture raises.
    with torch.cuda.stream(torch.cuda.current_stream()):
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_CAPTURE_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=side):
                run()
        except BaseException:
            # Before its pull request 180395 (2026) torch took a capture whose end failed for one that goes on: from then on its
            # allocator could not be emptied. Where torch has seen to it, it refuses this.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(device, pool)
                torch._C._cuda_releasePool(device, pool)
            raise
    return graph.replay


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    # One for all captures: cuBLAS keeps a workspace of tens of MB for each stream it has seen, and torch's own stream for
    # captures stays on the device where it was first used.
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def compiled(subject: Subject) -> Iterator[tuple[Run, float]]:
    """Compile the subject's network with ``torch.compile`` for the block; the network itself stays as it is.

    Yields:
        What runs a pass, and the seconds that the first one took. torch keeps compiled kernels on disk: having compiled the
        same network before, it takes less.

    Raises:
        SensorError: Nothing of the network was compiled.
        Exception: Whatever the compilers raise.
    """
    import torch._inductor.compile_fx  # seconds that are not this network's
    from torch._dynamo.utils import counters

    try:
        run = partial(torch.compile(subject.model, dynamic=False), subject.example)
        graphs, start_s = counters["stats"]["unique_graphs"], time.perf_counter()
        run()
        if subject.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start_s
        # Switched off, or set to pass over errors, it would run the eager network under another name.
        if counters["stats"]["unique_graphs"] == graphs:
            raise SensorError("torch.compile is switched off here or finds nothing to compile in this network")
        yield run, seconds
    finally:
        torch._dynamo.reset()
