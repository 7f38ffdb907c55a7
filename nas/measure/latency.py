"""How long one forward pass of a batch takes: CUDA events on a GPU, ``torch.utils.benchmark`` on a CPU.

Warming up and stopping are rules of their own, free of clocks and devices. Conditions are ``device``'s.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from nas.measure.device import no_garbage_collection, numeric_context, settle_norms
from nas.measure.record import Record
from nas.measure.settings import MeasureConditions

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

EventPair = tuple[torch.cuda.Event, torch.cuda.Event]
StopReason = Literal["converged", "stabilised", "time_limit"]

_CPU_SPREAD = 0.02
"""Relative interquartile range at which a CPU timing has converged."""
_CPU_MIN_SAMPLES = 4
"""``Timer.adaptive_autorange`` judges the spread from the fourth sample on."""
_GPU_BLOCK_SECONDS = 0.05
"""Time between two syncs: long beside a sync's microseconds, short beside the time limit."""


@dataclass(frozen=True)
class Latency(Record):
    """Time of one forward pass of a whole batch, in ms.

    Attributes:
        median_ms: Median of the samples.
        iqr_ms: Interquartile range of the samples.
        p5_ms: 5th percentile.
        p95_ms: 95th percentile.
        samples_ms: Every sample, in order of time.
        passes_per_sample: Forward passes that a sample is the mean of; 1 on a GPU.
        warm: Whether times had stopped drifting when sampling began.
        stop_reason: ``converged`` (the spread is below the goal), ``stabilised`` (it has settled above the goal, GPU only) or
            ``time_limit``.
    """

    median_ms: float
    iqr_ms: float
    p5_ms: float
    p95_ms: float
    samples_ms: tuple[float, ...]
    passes_per_sample: int
    warm: bool
    stop_reason: StopReason


def measure(model: nn.Module, example: Tensor, conditions: MeasureConditions) -> Latency:
    """Time ``model(example)``, both made by ``device.prepare`` and ``device.example_input``.

    A network too slow for the time limit is still sampled 4 times on a CPU and 10 times on a GPU.
    """
    settle_norms(model, example)
    with numeric_context(conditions), no_garbage_collection():
        if example.device.type == "cpu":
            return _measure_cpu(model, example, conditions)
        return _measure_gpu(model, example, conditions.latency_max_seconds)


@dataclass(frozen=True)
class WarmUp:
    """When timing may begin: after a time, a number of passes, and once the medians of the last blocks agree.

    Attributes:
        min_passes: Forward passes at least.
        min_seconds: Time at least.
        max_seconds: Time after which it ends, drifting or not.
        tolerance: Largest relative difference between the last three medians.
    """

    min_passes: int = 10
    min_seconds: float = 0.5
    max_seconds: float = 2.0
    tolerance: float = 0.01

    def settled(self, medians_ms: Sequence[float], passes: int, elapsed_s: float) -> bool:
        """Whether the device is warm, given the median time of each block so far."""
        last = medians_ms[-3:]
        enough = passes >= self.min_passes and elapsed_s >= self.min_seconds and len(last) == 3
        return enough and max(last) - min(last) <= self.tolerance * min(last)

    def run(self, block: Callable[[], Sequence[float]], clock: Callable[[], float]) -> bool:
        """Run blocks of passes, each returning its times in ms, until the device is warm or time is up; say which."""
        start, passes = clock(), 0
        medians_ms: list[float] = []
        while not self.settled(medians_ms, passes, elapsed_s := clock() - start):
            if elapsed_s >= self.max_seconds and medians_ms:
                return False
            times_ms = block()
            passes += len(times_ms)
            medians_ms.append(statistics.median(times_ms))
        return True


@dataclass(frozen=True)
class StoppingRule:
    """When enough has been sampled, judged by blocks of samples (after nvbench's ``stdrel`` criterion).

    Noise is the standard deviation of the blocks' means over their mean.

    Attributes:
        max_seconds: Time after which sampling stops in any case, as soon as there are ``min_samples``.
        min_seconds: Measured time at least.
        min_samples: Samples at least.
        noise: Noise at which a measurement has converged.
        window: Blocks over which noise above that goal must hold still to count as stabilised.
        drift: Largest change of the noise within the window, relative to its mean.
    """

    max_seconds: float = 15.0
    min_seconds: float = 0.5
    min_samples: int = 10
    noise: float = 0.005
    window: int = 10
    drift: float = 0.05

    def verdict(self, blocks_ms: Sequence[Sequence[float]], elapsed_s: float) -> StopReason | None:
        """Return why to stop after these blocks, ``None`` to go on. ``elapsed_s`` is wall time since the first block."""
        if sum(map(len, blocks_ms)) < self.min_samples:
            return None
        if sum(map(math.fsum, blocks_ms)) >= 1e3 * self.min_seconds and len(blocks_ms) > 1:
            means_ms = [statistics.fmean(block) for block in blocks_ms]
            if _noise(means_ms) < self.noise:
                return "converged"
            counts = range(max(2, len(means_ms) - self.window + 1), len(means_ms) + 1)
            recent = [_noise(means_ms[:count]) for count in counts]
            if len(recent) == self.window and max(recent) - min(recent) <= self.drift * statistics.fmean(recent):
                return "stabilised"
        return "time_limit" if elapsed_s >= self.max_seconds else None


def _noise(means_ms: Sequence[float]) -> float:
    return statistics.stdev(means_ms) / statistics.fmean(means_ms)


def _measure_gpu(model: nn.Module, example: Tensor, max_seconds: float) -> Latency:
    model(example)  # the first pass picks algorithms and fills caches, which tells nothing of the next ones
    first_ms = statistics.median(_gpu_times_ms(model, example, _event_pairs(3)))
    pairs = _event_pairs(max(1, min(1000, round(1e3 * _GPU_BLOCK_SECONDS / first_ms))))
    warm = WarmUp(max_seconds=max_seconds).run(lambda: _gpu_times_ms(model, example, pairs), time.perf_counter)
    rule = StoppingRule(max_seconds=max_seconds)
    blocks_ms: list[list[float]] = []
    start = time.perf_counter()
    while (reason := rule.verdict(blocks_ms, time.perf_counter() - start)) is None:
        blocks_ms.append(_gpu_times_ms(model, example, pairs))
    return _summary([sample for block in blocks_ms for sample in block], 1, warm, reason)


def _event_pairs(count: int) -> list[EventPair]:
    """Make pairs of events, to be recorded anew in each block: making one costs the host as much as a small kernel's launch."""
    return [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]  # type: ignore[no-untyped-call]


def _gpu_times_ms(model: nn.Module, example: Tensor, pairs: Sequence[EventPair]) -> list[float]:
    """Time one forward pass with each pair of events, with one sync at the end."""
    for start, end in pairs:
        start.record()
        model(example)
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


def _measure_cpu(model: nn.Module, example: Tensor, conditions: MeasureConditions) -> Latency:
    assert conditions.threads is not None
    limit_s = conditions.latency_max_seconds

    def one_pass_ms() -> list[float]:
        start = time.perf_counter()
        model(example)
        return [1e3 * (time.perf_counter() - start)]

    # A CPU needs its clock up and its weights repacked, not minutes of heat; on a busy machine it never stops drifting.
    rule = WarmUp(min_passes=3, min_seconds=min(0.1, limit_s / 10), max_seconds=limit_s / 4, tolerance=0.05)
    warm = rule.run(one_pass_ms, time.perf_counter)
    timer = _timer_class()(
        "model(example)",
        globals={"model": model, "example": example},
        timer=time.perf_counter,  # torch's own would sync every GPU that there is
        num_threads=conditions.threads,
    )
    timing = timer.adaptive_autorange(
        threshold=_CPU_SPREAD,
        min_run_time=min(1.0, limit_s / 2),
        max_run_time=limit_s,
    )
    samples_ms = [1e3 * seconds for seconds in timing.times]
    converged = len(samples_ms) >= _CPU_MIN_SAMPLES and timing.meets_confidence(_CPU_SPREAD)
    passes = timing.number_per_run
    while len(samples_ms) < _CPU_MIN_SAMPLES:
        samples_ms.append(statistics.fmean(one_pass_ms()[0] for _ in range(passes)))
    return _summary(samples_ms, passes, warm, "converged" if converged else "time_limit")


def _timer_class() -> type[Timer]:
    # Its import looks for a CUDA toolkit and warns where there is one and no GPU.
    log = logging.getLogger("torch.utils.cpp_extension")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from torch.utils.benchmark import Timer
    finally:
        log.setLevel(level)
    return Timer


def _summary(samples_ms: Sequence[float], passes_per_sample: int, warm: bool, stop_reason: StopReason) -> Latency:
    at = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    p5, p25, p50, p75, p95 = torch.tensor(samples_ms, dtype=torch.float64).quantile(at).tolist()
    return Latency(p50, p75 - p25, p5, p95, tuple(samples_ms), passes_per_sample, warm, stop_reason)
