"""What finished networks answer to a question: how far those with one value of a choice differ from those with another.

The comparison itself is ``matched``'s, and the words for it are ``telling``'s.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from nas.analyse.front import Array
from nas.analyse.hypervolume import hypervolume
from nas.analyse.matched import LEAST, Estimate, difference, imbalance, near
from nas.analyse.tradeoffs import minimised
from nas.metrics import Metric
from nas.outcomes import Outcome

Value = bool | int | float | str
Verdict = Literal["first", "second", "tie", "open"]

TIE_POINTS = 0.005
"""Fractions that lie no further apart are a tie, however sure their difference is."""

_MANY_FLAGGED = 0.1
_HALVES, _THINNINGS = 400, 100
_TOO_MANY = 20
"""Open questions that need this many times the trials so far are not told how many."""


@dataclass(frozen=True)
class Question:
    """A question to a search.

    Attributes:
        asks: As a person would put it; may be empty.
        factor: The parameter of the space whose values are compared.
        values: Which of them, two or more.
        equal: What must be equal; ``None`` compares all networks with one another.
        within: The relative difference up to which it is.
    """

    asks: str
    factor: str
    values: tuple[Value, ...]
    equal: Metric | None
    within: float


@dataclass(frozen=True)
class Difference:
    """How two values of the factor differ in one metric.

    Attributes:
        metric: Its name.
        scale: ``points``, a difference of fractions, or ``ratio``, of geometric means: the first value's over the second's.
        value: The difference or the ratio.
        low: Lower end of its 95 % interval.
        high: Its upper end.
        probability: That the first value's is the larger one.
        verdict: Which value is better; ``tie`` if the whole interval is too near to equality to matter, ``open`` if it holds
            equality.
        networks: How many networks of each value were compared.
        more_trials: Of an open one, about how many more trials would tell, if the difference stays what it is; ``None`` if
            far too many.
    """

    metric: str
    scale: Literal["points", "ratio"]
    value: float
    low: float
    high: float
    probability: float
    verdict: Verdict
    networks: tuple[int, int]
    more_trials: int | None = None


@dataclass(frozen=True)
class Fronts:
    """How good the trade-offs of either value are by themselves.

    Attributes:
        objectives: Their names.
        shares: Hypervolume of the value's own front over that of both together, with equally many networks of each.
        probability: That the first value's is the larger one: its share of random halves of both.
    """

    objectives: tuple[str, ...]
    shares: tuple[float, float]
    probability: float


@dataclass(frozen=True)
class Comparison:
    """Two values of the factor.

    Attributes:
        first: How the first value is called.
        second: How the second one is called.
        networks: Complete networks of each.
        compared: Those of them with one of the other value near them.
        imbalance: By how much what must be equal is larger in the first value's, relative, among those that were compared.
        differences: By metric, in the order of the answer; empty with the reason in ``untold``.
        fronts: ``None`` if there is one objective alone, or there are too few networks.
    """

    first: str
    second: str
    networks: tuple[int, int]
    compared: tuple[int, int]
    imbalance: float | None
    differences: tuple[Difference, ...]
    fronts: Fronts | None
    untold: str = ""


@dataclass(frozen=True)
class Answer:
    """What a search answers.

    Attributes:
        question: What was asked.
        comparisons: For every two values.
        unmeasured: Metrics without a value, with the reason.
        doubts: What speaks against taking the networks for a fair sample.
    """

    question: Question
    comparisons: tuple[Comparison, ...]
    unmeasured: Mapping[str, str]
    doubts: tuple[str, ...]


def answer(
    question: Question,
    outcomes: Sequence[Outcome],
    objectives: Sequence[Metric],
    metrics: Sequence[Metric],
    tie: float,
    doubts: Sequence[str] = (),
) -> Answer:
    """Answer a question from finished trials.

    Args:
        question: What is asked.
        outcomes: The trials that ended.
        objectives: Of the search.
        metrics: What is compared.
        tie: Relative difference up to which two times, energies or counts are a tie.
        doubts: What is known to spoil the sample.
    """
    complete: dict[object, Outcome] = {}
    for outcome in outcomes:
        if outcome.state == "complete":
            complete.setdefault(outcome.attributes.get("architecture_id"), outcome)
    groups = {called(question.factor, value): _with(list(complete.values()), question, value) for value in question.values}
    measured = [metric for metric in metrics if any(_known(outcome, metric) for outcome in complete.values())]
    unmeasured = {metric.name: _reason(complete.values(), metric) for metric in metrics if metric not in measured}
    failed = Counter(
        called(question.factor, value) for value in question.values for _ in _with(_failed(outcomes), question, value)
    )
    found = [*doubts, *(f"{count} networks of {name} failed and are missing" for name, count in failed.items())]
    found += _flagged(list(complete.values()))
    trials = sum(outcome.counts for outcome in outcomes)
    comparisons = [
        _comparison(question, (first, second), (groups[first], groups[second]), objectives, measured, tie, trials)
        for first, second in combinations(groups, 2)
    ]
    return Answer(question, tuple(comparisons), unmeasured if complete else {}, tuple(found))


def called(factor: str, value: Value) -> str:
    """Return how a value of a factor is called: a word stands for itself."""
    if isinstance(value, str):
        return value
    return f"{factor}={str(value).lower() if isinstance(value, bool) else value}"


def _with(outcomes: Sequence[Outcome], question: Question, value: Value) -> list[Outcome]:
    def has(given: Any) -> bool:
        return given == value and isinstance(given, bool) == isinstance(value, bool)  # 1 and true are equal, and are not the same

    return [outcome for outcome in outcomes if has(outcome.params.get(question.factor))]


def _failed(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.state == "failed"]


def _known(outcome: Outcome, metric: Metric) -> bool:
    value = outcome.attributes.get(metric.name)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return metric.unit == "fraction" or value > 0


def _reason(outcomes: Iterable[Outcome], metric: Metric) -> str:
    found = (outcome.attributes.get(f"{metric.name}_reason") for outcome in outcomes)
    return next((str(reason) for reason in found if reason), "no network has it")


def _comparison(
    question: Question,
    names: tuple[str, str],
    groups: tuple[list[Outcome], list[Outcome]],
    objectives: Sequence[Metric],
    metrics: Sequence[Metric],
    tie: float,
    trials: int,
) -> Comparison:
    equal = question.equal
    counts = len(groups[0]), len(groups[1])
    if equal is not None:
        groups = [o for o in groups[0] if _positive(o, equal)], [o for o in groups[1] if _positive(o, equal)]
    levels = _levels(groups[0], equal), _levels(groups[1], equal)
    pairs = near(*levels, question.within)
    taking_part = pairs.any(axis=1), pairs.any(axis=0)
    compared = int(taking_part[0].sum()), int(taking_part[1].sum())
    differences = []
    for metric in metrics:
        kept = [[outcome for outcome in group if _known(outcome, metric)] for group in groups]
        estimate = difference(
            (_values(kept[0], metric), _values(kept[1], metric)),
            (_levels(kept[0], equal), _levels(kept[1], equal)),
            question.within,
        )
        if estimate is not None:
            differences.append(_judged(metric, estimate, tie, trials))
    return Comparison(
        first=names[0],
        second=names[1],
        networks=counts,
        compared=compared,
        imbalance=None if equal is None else imbalance(levels, question.within),
        differences=tuple(differences),
        fronts=_fronts(groups, objectives) if differences else None,
        untold="" if differences else _why_untold(question, names, levels, counts, compared, trials),
    )


def _flagged(outcomes: Sequence[Outcome]) -> list[str]:
    flags = [flag for outcome in outcomes for flag in set(outcome.attributes.get("measure_flags") or ())]
    count = sum(bool(outcome.attributes.get("measure_flags")) for outcome in outcomes)
    if count <= _MANY_FLAGGED * len(outcomes):
        return []
    (usual, _), *_ = Counter(re.sub(r"\d+(\.\d+)?", "…", flag) for flag in flags).most_common(1)
    doubt = f"{count} of {len(outcomes)} networks were measured with a doubt (most often “{usual}”)"
    return [f"{doubt}: their times scatter, and the intervals of times are the wider for it"]


def _positive(outcome: Outcome, metric: Metric) -> bool:
    return _known(outcome, metric) and float(outcome.attributes[metric.name]) > 0


def _levels(outcomes: Sequence[Outcome], equal: Metric | None) -> Array:
    return np.array([1.0 if equal is None else float(outcome.attributes[equal.name]) for outcome in outcomes])


def _values(outcomes: Sequence[Outcome], metric: Metric) -> Array:
    found = np.array([float(outcome.attributes[metric.name]) for outcome in outcomes])
    return found if metric.unit == "fraction" else np.log(found)


def _judged(metric: Metric, estimate: Estimate, tie: float, trials: int) -> Difference:
    points = metric.unit == "fraction"
    margin = TIE_POINTS if points else math.log1p(tie)
    verdict: Verdict = "open"
    if -margin <= estimate.low and estimate.high <= margin:
        verdict = "tie"
    elif estimate.low > 0 or estimate.high < 0:
        verdict = "first" if (estimate.low > 0) == (metric.direction == "maximize") else "second"
    shown = (estimate.value, estimate.low, estimate.high)
    value, low, high = shown if points else map(math.exp, shown)
    more = _more_trials(estimate, margin, trials) if verdict == "open" else None
    scale: Literal["points", "ratio"] = "points" if points else "ratio"
    return Difference(metric.name, scale, value, low, high, estimate.positive, verdict, estimate.members, more)


def _more_trials(estimate: Estimate, margin: float, trials: int) -> int | None:
    """Return how many until the interval, which shrinks as the root of their number, is off 0 or within the margin of a tie."""
    half, off = (estimate.high - estimate.low) / 2, abs(estimate.value)
    factors = [half / off] if off else []
    factors += [half / (margin - off)] if off < margin else []
    factor = min(factors, default=math.inf) ** 2
    # An interval that is not the same to either side can hold 0 though its half is smaller than the estimate.
    return None if factor > _TOO_MANY else max(math.ceil(trials * (factor - 1)), math.ceil(trials / 10))


def _why_untold(
    question: Question,
    names: tuple[str, str],
    levels: tuple[Array, Array],
    counts: tuple[int, int],
    compared: tuple[int, int],
    trials: int,
) -> str:
    if not min(counts):
        return f"there is no network of {names[counts.index(0)]} yet; go on with more trials"
    if not min(len(level) for level in levels):
        return f"no network has a value for what must be equal, question.equal={question.equal and question.equal.name}"
    if not min(compared):
        apart = float(np.abs(np.log(levels[0])[:, None] - np.log(levels[1])[None, :]).min())
        assert question.equal is not None
        return (
            f"no two networks of {names[0]} and {names[1]} have equal {question.equal.name}: the nearest two differ by "
            f"{100 * math.expm1(apart):.0f} %; raise question.within, or let the space give both the same"
        )
    fewest = names[compared.index(min(compared))]
    rate = min(compared) / max(trials, 1)
    more = max(1, math.ceil(LEAST / rate) - trials)
    few = f"{min(compared)} network{'s' * (min(compared) != 1)} of {fewest}"
    return f"{few} can be compared, {LEAST} are needed at the least; about {more} more trials would give them"


def _fronts(groups: tuple[list[Outcome], list[Outcome]], objectives: Sequence[Metric], seed: int = 0) -> Fronts | None:
    """Compare the fronts of equally many networks of both; a larger group would reach further by its number alone."""
    whole = [[o for o in group if all(_finite(o, metric) for metric in objectives)] for group in groups]
    count = min(map(len, whole))
    if len(objectives) < 2 or count < 2 * LEAST:
        return None
    values = [minimised(group, objectives) for group in whole]
    everything = np.concatenate(values)
    best, worst = everything.min(axis=0), everything.max(axis=0)
    if (worst <= best).any():
        return None
    scaled = [(part - best) / (worst - best) for part in values]
    edge = np.ones(len(objectives))
    generator = np.random.default_rng(seed)

    def thinned(size: int) -> list[Array]:
        return [part[generator.permutation(len(part))[:size]] for part in scaled]

    shares = np.zeros(2)
    # Where both groups are equally large every thinning is the same one.
    thinnings = 1 if len(scaled[0]) == len(scaled[1]) else _THINNINGS
    for _ in range(thinnings):
        parts = thinned(count)
        joint = hypervolume(np.concatenate(parts), edge)
        shares += [hypervolume(part, edge) / joint / thinnings for part in parts] if joint else 0.0
    wins = 0.0
    for _ in range(_HALVES):
        first, second = (hypervolume(part, edge) for part in thinned(count // 2))
        wins += 1.0 if first > second else 0.5 if first == second else 0.0
    names = tuple(metric.name for metric in objectives)
    return Fronts(names, (float(shares[0]), float(shares[1])), wins / _HALVES)


def _finite(outcome: Outcome, metric: Metric) -> bool:
    value = outcome.attributes.get(metric.name)
    return isinstance(value, int | float) and math.isfinite(value)
