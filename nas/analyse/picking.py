"""``knee`` and ``max top1 where latency_ms<=1.5``: the small language in which a network of a study is asked for.

Reading it, and finding the network that it means among outcomes; which study is meant is ``nas.choosing``'s.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nas.analyse.front import Array, non_dominated
from nas.analyse.tradeoffs import minimised
from nas.errors import InputError, suggestion
from nas.metrics import METRICS, Metric
from nas.outcomes import Outcome

EXAMPLE = 'pick="max top1 where latency_ms<=1.5 and energy_j<=0.02"'

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_MULTIPLES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "m": 1e-3, "u": 1e-6, "%": 1e-2}
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?P<multiple>[kMGTmu%]?)(?![\w.])
    | (?P<word>[A-Za-z_]\w*)
    | (?P<sign><=|>=|==|<|>))""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Condition:
    """A bound on a metric, in its unit; a network without a value does not keep it."""

    metric: Metric
    comparison: str
    bound: float

    def kept_by(self, outcome: Outcome) -> bool:
        """Whether an outcome keeps it."""
        value = _value(outcome, self.metric)
        return value is not None and _COMPARISONS[self.comparison](value, self.bound)

    def __str__(self) -> str:
        return f"{self.metric.name}{self.comparison}{self.bound:.6g}"


@dataclass(frozen=True)
class Knee:
    """The network at the knee of the front."""


@dataclass(frozen=True)
class Best:
    """The network with the greatest or the least value of a metric among those that keep all conditions."""

    aim: Literal["max", "min"]
    metric: Metric
    conditions: tuple[Condition, ...] = ()

    def __str__(self) -> str:
        where = f" where {' and '.join(map(str, self.conditions))}" if self.conditions else ""
        return f"{self.aim} {self.metric.name}{where}"


def parse_pick(text: str) -> Knee | Best:
    """Read an expression: ``knee``, or ``max|min <metric> [where <metric><=|<|>=|>|==<number> [and …]]``.

    A number may end in k, M, G, T, m, u or %: ``params<=5M``, ``top1>=95%``, ``energy_j<=20m``.

    Raises:
        InputError: It cannot be read, or names what is no metric; the sentence shows where.
    """
    tokens = _Tokens(text)
    word = tokens.word("knee, max or min")
    if word == "knee":
        tokens.end()
        return Knee()
    if word not in ("max", "min"):
        raise InputError(f"pick={text!r} begins with {word!r}: begin with knee, max or min, as in {EXAMPLE}.")
    metric = tokens.metric()
    conditions: list[Condition] = []
    joint = "where"
    while not tokens.at_end:
        if (found := tokens.word(joint)) != joint:
            raise tokens.error(f"{found!r} stands where {joint!r} was expected")
        conditions.append(Condition(tokens.metric(), tokens.comparison(), tokens.number()))
        joint = "and"
    return Best("max" if word == "max" else "min", metric, tuple(conditions))


class _Tokens:
    """The expression's words, signs and numbers, taken one by one."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    @property
    def at_end(self) -> bool:
        return not self._text[self._at :].strip()

    def error(self, what: str) -> InputError:
        return InputError(f"pick={self._text!r} cannot be read ({what}): write it as {EXAMPLE}, or pick=knee.")

    def _next(self, kind: str, wanted: str) -> re.Match[str]:
        if self.at_end:
            raise self.error(f"it ends where {wanted} was expected")
        match = _TOKEN.match(self._text, self._at)
        if match is None or match[kind] is None:
            rest = self._text[self._at :].split()[0]
            raise self.error(f"{rest[:30]!r} stands where {wanted} was expected")
        self._at = match.end()
        return match

    def word(self, wanted: str) -> str:
        return self._next("word", wanted)["word"]

    def metric(self) -> Metric:
        name = self.word("a metric")
        if name not in METRICS:
            raise InputError(f"pick={self._text!r}: {name!r} is not a metric{suggestion(name, METRICS, 'metrics')}")
        return METRICS[name]

    def comparison(self) -> str:
        return self._next("sign", "<=, <, >=, > or ==")["sign"]

    def number(self) -> float:
        match = self._next("number", "a number")
        return float(match["number"]) * _MULTIPLES[match["multiple"]]

    def end(self) -> None:
        if not self.at_end:
            raise self.error(f"{self._text[self._at :].split()[0]!r} stands after 'knee'")


def best(pick: Best, outcomes: Sequence[Outcome], objectives: Sequence[Metric]) -> Outcome | None:
    """Return the network that ``pick`` means, ``None`` if none keeps its conditions and has the metric.

    Among equals one that no other of them beats in the study's objectives, then the earliest.
    """
    kept = [o for o in outcomes if _value(o, pick.metric) is not None and all(c.kept_by(o) for c in pick.conditions)]
    if not kept:
        return None
    extreme = (max if pick.aim == "max" else min)(_known(outcome, pick.metric) for outcome in kept)
    equals = [outcome for outcome in kept if _known(outcome, pick.metric) == extreme]
    if len(equals) > 1 and objectives:
        undominated = non_dominated(minimised(equals, objectives))
        equals = [outcome for outcome, free in zip(equals, undominated, strict=True) if free]
    return min(equals, key=lambda outcome: (outcome.number is None, outcome.number))


def nearest(pick: Best, outcomes: Sequence[Outcome]) -> tuple[Outcome, str] | None:
    """Return the network that misses the conditions of ``pick`` by the least, and by how much in words.

    Misses are compared relative to their bounds and added up; ``None`` if no network has all the metrics.
    """
    misses: list[tuple[float, int, Outcome, str]] = []
    for outcome in outcomes:
        values = [(condition, _value(outcome, condition.metric)) for condition in pick.conditions]
        if any(value is None for _, value in values):
            continue
        missed = [(c, float(v)) for c, v in values if v is not None and not c.kept_by(outcome)]
        total = sum(abs(value - c.bound) / (abs(c.bound) or 1.0) for c, value in missed)
        told = ", ".join(f"{c.metric.name}={value:.6g} is not {c.comparison}{c.bound:.6g}" for c, value in missed)
        misses.append((total, len(misses), outcome, told))
    if not misses:
        return None
    _, _, outcome, told = min(misses, key=lambda miss: miss[:2])
    return outcome, told


def knee(front: Sequence[Outcome], objectives: Sequence[Metric]) -> Outcome:
    """Return the network of a front that bulges farthest beyond the plane through the front's extremes.

    The knee of Das (1999, *On characterizing the "knee" of the Pareto curve*): each objective is brought to 0 (best of the
    front) … 1 (worst), ratios such as latency on a logarithmic scale, and the point is taken whose sum of objectives is least:
    that of the greatest distance, towards the ideal point, from the plane on which the extremes of m objectives lie.
    The scales' units do not matter. Of one or two networks, or of equals, the best by the first objective.
    """
    if not front:
        raise ValueError("a front without networks has no knee")
    return front[int(np.argmin(normalised(front, objectives).sum(axis=1)))]


def normalised(front: Sequence[Outcome], objectives: Sequence[Metric]) -> Array:
    """Return the objectives of a front, shape (n, m), each from 0 (best of the front) to 1 (worst); 0 where all are equal."""
    values = minimised(front, objectives)
    for index, metric in enumerate(objectives):
        column = values[:, index]
        # A ratio scale: twice as fast is as much whether from 2 ms to 1 or from 20 to 10. Fractions have an end at 1.
        if metric.unit != "fraction" and (np.all(column > 0) or np.all(column < 0)):
            values[:, index] = np.sign(column) * np.log(np.abs(column))
    low, high = values.min(axis=0), values.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    scaled: Array = (values - low) / span
    return scaled


def _value(outcome: Outcome, metric: Metric) -> float | None:
    value = outcome.attributes.get(metric.name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _known(outcome: Outcome, metric: Metric) -> float:
    value = _value(outcome, metric)
    assert value is not None
    return value
