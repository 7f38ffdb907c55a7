"""The words for an answer: a sentence for each metric, with its figures and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from nas.analyse.matched import DRAWS
from nas.analyse.question import TIE_POINTS, Answer, Comparison, Difference, Fronts, Question, called
from nas.metrics import METRICS

ABOUT = (
    f"sure, and the intervals, come from {DRAWS:,} resamples of the networks; they hold for networks, images, recipe and device "
    "like these, and each for itself: of twenty intervals about one misses"
)
"""What the figures mean, for whoever shows them."""

_CALLED = {
    "flops": "FLOPs",
    "mult_adds": "multiply-adds",
    "params": "parameters",
    "mem_access": "memory access",
    "latency_ms": "latency",
    "energy_j": "energy",
}
_BETTER = {
    "top1": "is more accurate than",
    "top1_mean": "is more accurate than",
    "top5": "is more accurate than",
    "latency_ms": "is faster than",
    "energy_j": "takes less energy than",
    "flops_per_s": "does more FLOP/s than",
    "mem_access": "moves less memory than",
    "params": "has fewer parameters than",
    "flops": "has fewer FLOPs than",
}


def answer_lines(answer: Answer) -> Iterator[str]:
    """Yield an answer as sentences."""
    for comparison in answer.comparisons:
        yield told_networks(comparison, answer.question)
        yield from (told_difference(found, comparison, answer.question) for found in comparison.differences)
        if comparison.fronts is not None:
            yield told_fronts(comparison.fronts, comparison)
    for name, reason in answer.unmeasured.items():
        yield f"not measured: {name} ({reason})"
    yield from (f"beware: {doubt}" for doubt in answer.doubts)


def answer_data(answer: Answer) -> dict[str, Any]:
    """Return an answer as plain data, its sentences under ``told``."""
    found = asdict(answer)
    found["question"]["equal"] = None if answer.question.equal is None else answer.question.equal.name
    return {**found, "told": list(answer_lines(answer))}


def asked(question: Question) -> str:
    """Return the question, in its own words if it has some."""
    names = " or ".join(called(question.factor, value) for value in question.values)
    return question.asks or f"{names}{at_equal(question)}?"


def told_networks(comparison: Comparison, question: Question) -> str:
    """Return which networks of two values were compared with which, or why none were."""
    first, second = comparison.first, comparison.second
    if comparison.untold:
        return f"no answer for {first} against {second}: {comparison.untold}"
    if question.equal is None:
        counts = comparison.networks
        return f"compared: {counts[0]} networks of {first} with {counts[1]} of {second}, whatever their size"
    parts = [
        f"{part} of {whole}" if part < whole else f"{whole}"
        for part, whole in zip(comparison.compared, comparison.networks, strict=True)
    ]
    off = comparison.imbalance or 0.0
    mean = "the same" if abs(off) < 0.0005 else f"{100 * abs(off):.1f} % {'more' if off > 0 else 'less'}"
    return (
        f"compared: {parts[0]} networks of {first} with {parts[1]} of {second}, each with those whose "
        f"{_called(question.equal.name)} differ by {100 * question.within:g} % at most ({first} has {mean} in the mean)"
    )


def told_difference(found: Difference, comparison: Comparison, question: Question) -> str:
    """Return one metric's verdict with its interval and how sure it is."""
    at = at_equal(question)
    first, second = comparison.first, comparison.second
    if found.verdict in ("first", "second"):
        turned = found.verdict == "second"
        winner, loser = (second, first) if turned else (first, second)
        sure = shown_probability(leading(found, comparison)[1])
        return f"{winner} {better(found.metric)} {loser}{at}: {shown_difference(found, turned)}, sure {sure}"
    told = f"{first} against {second}, {shown_difference(found)}"
    if found.verdict == "tie":
        counted = METRICS[found.metric].stage == "complexity"  # what is counted comes out the same in every run
        margin = "too little to matter" if counted else "within what two runs of one network may differ by"
        return f"a tie: {told}, which is {f'within {100 * TIE_POINTS:g} points' if found.scale == 'points' else margin}"
    ahead, chance = leading(found, comparison)
    return f"open: {told}; {ahead} is ahead with {shown_probability(chance)}, {more_needed(found)}"


def leading(found: Difference, comparison: Comparison) -> tuple[str, float]:
    """Return which value is more probably the better one in a metric, and that probability."""
    larger = METRICS[found.metric].direction == "maximize"
    first = found.probability if larger else 1 - found.probability
    return (comparison.first, first) if first >= 0.5 else (comparison.second, 1 - first)


def more_needed(found: Difference) -> str:
    """Return what an open difference needs."""
    if found.more_trials is None:
        return "far more trials than these would be needed"
    return f"about {_rounded(found.more_trials)} more trials would tell, if it stays so"


def told_fronts(fronts: Fronts, comparison: Comparison) -> str:
    """Return how the fronts of two values compare."""
    shares = [f"{100 * share:.0f} %" for share in fronts.shares]
    chance = max(fronts.probability, 1 - fronts.probability)
    winner = comparison.first if fronts.probability >= 0.5 else comparison.second
    return (
        f"fronts ({', '.join(fronts.objectives)}): alone, {comparison.first} reaches {shares[0]} of the hypervolume of both "
        f"together, {comparison.second} {shares[1]}; {winner}'s is the larger in {shown_probability(chance)} of random halves"
    )


def at_equal(question: Question) -> str:
    """Return what must be equal, with a space before it, such as `` at equal FLOPs``; nothing where nothing must be."""
    return "" if question.equal is None else f" at equal {_called(question.equal.name)}"


def better(metric: str) -> str:
    """Return the words for being better in a metric, such as ``is faster than``."""
    return _BETTER.get(metric, f"has {'more' if METRICS[metric].direction == 'maximize' else 'less'} {metric} than")


def shown_difference(found: Difference, turned: bool = False) -> str:
    """Return a difference with its interval; ``turned`` is that of the second value to the first."""
    value, low, high = found.value, found.low, found.high
    if found.scale == "points":
        value, low, high = (-value, -high, -low) if turned else (value, low, high)
        return f"{found.metric} {100 * value:+.2f} points (95 %: {100 * low:+.2f} to {100 * high:+.2f})"
    value, low, high = (1 / value, 1 / high, 1 / low) if turned else (value, low, high)
    return f"{found.metric} {_ratio(value)}x (95 %: {_ratio(low)} to {_ratio(high)})"


def shown_probability(chance: float) -> str:
    """Return a probability in per cent, as far as the draws can tell."""
    if chance > 0.999:
        return "over 99.9 %"
    return f"{100 * chance:.1f} %" if chance > 0.99 else f"{100 * chance:.0f} %"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _rounded(count: int) -> int:
    """Return a rough number as one: two digits of it."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return math.ceil(count / step) * step


def _called(metric: str) -> str:
    return _CALLED.get(metric, metric)
