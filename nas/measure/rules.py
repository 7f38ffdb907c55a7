"""When timing may begin, when it may end, and which blocks of it do not count: rules free of clocks and devices."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

StopReason = Literal["converged", "stabilised", "time_limit"]


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

    def within(self, seconds: float) -> Self:
        """Return the rule for when only ``seconds`` are allowed."""
        allowed = max(0.0, seconds)
        return replace(self, min_seconds=min(self.min_seconds, allowed), max_seconds=allowed)

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

    Attributes:
        max_seconds: Time after which sampling stops in any case, as soon as there are ``min_samples``.
        min_seconds: Measured time at least: the sum of the samples.
        min_samples: Samples at least.
        min_blocks: Blocks at least, two or more.
        noise: Noise at which a measurement has converged.
        window: Blocks over which noise above that goal must hold still to count as stabilised.
        drift: Largest change of the noise within the window, relative to its mean.
    """

    max_seconds: float = 15.0
    min_seconds: float = 0.5
    min_samples: int = 10
    min_blocks: int = 2
    noise: float = 0.005
    window: int = 10
    drift: float = 0.05

    def within(self, seconds: float) -> Self:
        """Return the rule for when only ``seconds`` are left."""
        return replace(self, max_seconds=max(0.0, seconds))

    def verdict(self, blocks_ms: Sequence[Sequence[float]], elapsed_s: float) -> StopReason | None:
        """Return why to stop after these blocks, ``None`` to go on. ``elapsed_s`` is wall time since the first block."""
        if sum(map(len, blocks_ms)) < self.min_samples:
            return None
        if sum(map(math.fsum, blocks_ms)) >= 1e3 * self.min_seconds and len(blocks_ms) >= self.min_blocks:
            means_ms = [statistics.fmean(block) for block in blocks_ms]
            if spread(means_ms) < self.noise:
                return "converged"
            counts = range(max(2, len(means_ms) - self.window + 1), len(means_ms) + 1)
            recent = [spread(means_ms[:count]) for count in counts]
            if len(recent) == self.window and max(recent) - min(recent) <= self.drift * statistics.fmean(recent):
                return "stabilised"
        return "time_limit" if elapsed_s >= self.max_seconds else None


def block_noise(blocks_ms: Sequence[Sequence[float]]) -> float | None:
    """Return the noise that ``StoppingRule`` judges: the spread of the blocks' means; ``None`` of a single block."""
    return spread([statistics.fmean(block) for block in blocks_ms]) if len(blocks_ms) > 1 else None


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of two values or more over their mean."""
    return statistics.stdev(values) / statistics.fmean(values)


@dataclass(frozen=True)
class ThrottleRule:
    """Which blocks were timed on a device that was held back, and how often such a block is measured again.

    Attributes:
        reasons: Reasons for a clock that mean throttling.
        least_clock: Share of the running median below which a clock counts as throttled.
        max_discards: Blocks discarded at most; later ones are kept, throttled or not.
        pause_seconds: Rest before the next block.
    """

    reasons: frozenset[str]
    least_clock: float = 0.75
    max_discards: int = 10
    pause_seconds: float = 0.05

    def causes(self, clocks_mhz: Sequence[int], clock_mhz: int | None, clock_reasons: Collection[str]) -> tuple[str, ...]:
        """Return why a block does not count, empty if it does.

        Args:
            clocks_mhz: The clock in each block that counted.
            clock_mhz: The clock in this block, ``None`` if unknown.
            clock_reasons: What was said to hold that clock.
        """
        causes = sorted(self.reasons.intersection(clock_reasons))
        if clock_mhz is not None and clocks_mhz and clock_mhz < self.least_clock * statistics.median(clocks_mhz):
            causes.append("low clock")
        return tuple(causes)
