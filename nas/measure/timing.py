"""One timing: warming up, sampling until a rule says stop, discarding throttled blocks, under the eyes of a watch.

How a pass is run and clocked is ``timers``'s; which passes a latency is made of, and whether it is believed, is ``latency``'s.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from nas.measure.nvml import THROTTLING
from nas.measure.record import Record
from nas.measure.rules import StoppingRule, StopReason, ThrottleRule, WarmUp, block_noise
from nas.measure.timers import HostTimer, PassTimer, Run
from nas.measure.watch import Look, Watch, Watched

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

FLAGGED_NOISE = 0.02
"""Noise above which a timing is flagged."""

_BLOCK_SECONDS = 0.05
"""Time between two syncs: long beside a sync's microseconds, short beside the time limit."""
_MAX_PASSES = 1000
_CPU_NOISE = 0.02
_CPU_MIN_SAMPLES = 4
"""``Timer.adaptive_autorange`` judges the spread from the fourth sample on."""


@dataclass(frozen=True)
class Timing(Record):
    """Time of one forward pass of a whole batch, in ms.

    Attributes:
        median_ms: Median of the samples.
        iqr_ms: Interquartile range of the samples.
        p5_ms: 5th percentile.
        p95_ms: 95th percentile.
        samples_ms: Every sample that counts, in order of time.
        passes_per_sample: Forward passes that a sample is the mean of; 1 but for ``by_torch``.
        noise: What the stopping rule judged: the standard deviation of the blocks' means over their mean, or, with
            ``by_torch``, the interquartile range over the median. ``None`` where a single block was all the time allowed.
        warm: Whether times had stopped drifting when sampling began.
        stop_reason: ``converged`` (the noise is below the goal), ``stabilised`` (it has settled above the goal; not with
            ``by_torch``) or ``time_limit``.
        discarded_blocks: Blocks measured again because the device was throttled.
        seconds: Wall time of it all, warm-up included.
        flags: Why it deserves less trust, as short phrases.
        watched: The device and its other users meanwhile.
    """

    median_ms: float
    iqr_ms: float
    p5_ms: float
    p95_ms: float
    samples_ms: tuple[float, ...]
    passes_per_sample: int
    noise: float | None
    warm: bool
    stop_reason: StopReason
    discarded_blocks: int
    seconds: float
    flags: tuple[str, ...]
    watched: Watched

    @classmethod
    def of(cls, samples_ms: Sequence[float], flags: tuple[str, ...], **rest: Any) -> Timing:
        """Sum up samples; ``flags`` are joined by those that the other fields call for."""
        p5, p25, p50, p75, p95 = percentiles(samples_ms)
        timing = cls(p50, p75 - p25, p5, p95, tuple(samples_ms), flags=flags, **rest)
        return replace(timing, flags=(*timing._unsettled(), *flags))

    def _unsettled(self) -> Iterator[str]:
        if not self.warm:
            yield "not known to be warm"
        if self.stop_reason == "time_limit":
            yield "time limit"
        if self.noise is not None and self.noise > FLAGGED_NOISE:
            yield f"spread {self.noise:.1%} is above {FLAGGED_NOISE:.0%}".replace("%", " %")

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.samples_ms)


def percentiles(samples_ms: Sequence[float]) -> tuple[float, ...]:
    """Return the 5th, 25th, 50th, 75th and 95th, linear between samples."""
    at = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    return tuple(torch.tensor(samples_ms, dtype=torch.float64).quantile(at).tolist())


@dataclass(frozen=True)
class Recipe:
    """How blocks are warmed up, sampled and stopped.

    Attributes:
        warm_up: When sampling begins; its times are cut to what is allowed.
        stopping: When it ends; its time limit is what is left.
        warm_up_share: Part of the time that warming up may take.
    """

    warm_up: WarmUp
    stopping: StoppingRule
    warm_up_share: float


GPU = Recipe(WarmUp(), StoppingRule(), warm_up_share=0.4)
GPU_APART = Recipe(WarmUp(), StoppingRule(min_seconds=0.0, min_blocks=10), warm_up_share=0.4)
"""For passes with something untimed between them, whose own time adds up slowly: blocks are counted in its stead."""
CPU_APART = Recipe(
    # A CPU needs its clock up and its weights repacked, not minutes of heat; on a busy machine it never stops drifting.
    WarmUp(min_passes=3, min_seconds=0.1, tolerance=0.05),
    StoppingRule(min_seconds=0.0, min_blocks=10, noise=_CPU_NOISE),
    warm_up_share=0.25,
)
"""The same on a CPU."""


def by_blocks(timer: PassTimer, watch: Watch, budget_s: float, recipe: Recipe) -> Timing:
    """Time blocks of passes; a throttled block is discarded and measured again after a pause, a limited number of times.

    A network too slow for ``budget_s`` is still sampled as often as the stopping rule's least, and a long search for
    algorithms comes on top.
    """
    start_s = time.perf_counter()
    timer(1)  # picks algorithms and fills caches, which tells nothing of the next passes
    second_s = time.perf_counter()
    timer(1)
    third_s = time.perf_counter()
    passes = max(1, min(_MAX_PASSES, round(_BLOCK_SECONDS / max(third_s - second_s, 1e-6))))
    # The first passes count as warming up, but half of it at most: depthwise convolutions may be searched for seconds, and
    # networks that have them are not to be timed less carefully than others.
    warm_up_s = recipe.warm_up_share * budget_s
    counted_s = min(third_s - start_s, warm_up_s / 2)
    warm = recipe.warm_up.within(warm_up_s - counted_s).run(lambda: timer(passes), time.perf_counter)
    rule = recipe.stopping.within(budget_s - counted_s - (time.perf_counter() - third_s))
    throttle = ThrottleRule(THROTTLING, pause_seconds=budget_s / 30)  # ten pauses are a third of the time
    sampled = _sample(partial(timer, passes), watch, rule, throttle)
    return Timing.of(
        [sample for block in sampled.blocks_ms for sample in block],
        passes_per_sample=1,
        noise=block_noise(sampled.blocks_ms),
        warm=warm,
        stop_reason=sampled.stop_reason,
        discarded_blocks=sampled.discarded_blocks,
        seconds=time.perf_counter() - start_s,
        flags=sampled.flags(),
        watched=watch.summary(),
    )


@dataclass(frozen=True)
class _Sampled:
    blocks_ms: list[list[float]]
    stop_reason: StopReason
    discarded_blocks: int
    discarded_for: set[str]
    kept_despite: set[str]

    def flags(self) -> tuple[str, ...]:
        flags = []
        if self.discarded_blocks:
            plural = "s" if self.discarded_blocks > 1 else ""
            flags.append(f"{self.discarded_blocks} block{plural} discarded: {', '.join(sorted(self.discarded_for))}")
        if self.kept_despite:
            flags.append(f"throttled blocks kept: {', '.join(sorted(self.kept_despite))}")
        return tuple(flags)


def _sample(block: Callable[[Run], list[float]], watch: Watch, rule: StoppingRule, throttle: ThrottleRule) -> _Sampled:
    blocks_ms: list[list[float]] = []
    clocks_mhz: list[int] = []
    discarded_blocks = 0
    discarded_for: set[str] = set()
    kept_despite: set[str] = set()
    seen = Look()

    def look() -> None:
        nonlocal seen
        seen = watch.look()

    start_s = time.perf_counter()
    while (reason := rule.verdict(blocks_ms, time.perf_counter() - start_s)) is None:
        times_ms = block(look)
        causes = throttle.causes(clocks_mhz, seen.sm_clock_mhz, seen.clock_reasons)
        if causes and discarded_blocks < throttle.max_discards:
            discarded_blocks += 1
            discarded_for.update(causes)
            time.sleep(throttle.pause_seconds)
            continue
        kept_despite.update(causes)
        blocks_ms.append(times_ms)
        if seen.sm_clock_mhz is not None:
            clocks_mhz.append(seen.sm_clock_mhz)
    return _Sampled(blocks_ms, reason, discarded_blocks, discarded_for, kept_despite)


def by_torch(run: Run, threads: int, watch: Watch, budget_s: float) -> Timing:
    """Time passes that are done when they return by ``adaptive_autorange`` of ``torch.utils.benchmark.Timer``.

    A network too slow for ``budget_s`` is still sampled 4 times.
    """
    # torch's own clock would sync every GPU that there is.
    timer = _timer_class()("run()", globals={"run": run}, timer=time.perf_counter, num_threads=threads)
    start_s = time.perf_counter()
    one_pass = HostTimer(run)
    warm_up = CPU_APART.warm_up.within(CPU_APART.warm_up_share * budget_s)
    warm = warm_up.run(lambda: one_pass(1), time.perf_counter)
    left_s = max(1e-3, budget_s - (time.perf_counter() - start_s))
    found = timer.adaptive_autorange(threshold=_CPU_NOISE, min_run_time=min(1.0, left_s / 2), max_run_time=left_s)
    samples_ms = [1e3 * seconds for seconds in found.times]
    converged = len(samples_ms) >= _CPU_MIN_SAMPLES and found.meets_confidence(_CPU_NOISE)
    while len(samples_ms) < _CPU_MIN_SAMPLES:
        samples_ms.append(statistics.fmean(one_pass(found.number_per_run)))
    _, p25, p50, p75, _ = percentiles(samples_ms)
    return Timing.of(
        samples_ms,
        passes_per_sample=found.number_per_run,
        noise=(p75 - p25) / p50,
        warm=warm,
        stop_reason="converged" if converged else "time_limit",
        discarded_blocks=0,
        seconds=time.perf_counter() - start_s,
        flags=(),
        watched=watch.summary(),
    )


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
