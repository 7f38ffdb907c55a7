"""All objectives, sizes and choices of every network side by side, one line per network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nas.analyse.study.choices import choices
from nas.analyse.study.layout import factor, title
from nas.analyse.study.population import BEATEN, FRONT, INFEASIBLE, TIED, Population
from nas.metrics import METRICS, Metric

_MOST_AXES = 11
_MOST_WORDS = 12
"""Values of a choice that are written out one by one, evenly spaced; more numbers than these stand at their places on a scale."""
_COLOURS = {FRONT: "#d55e00", TIED: "#f0a35e", BEATEN: "#7fa9ca", INFEASIBLE: "#b5b5b5"}


@dataclass(frozen=True)
class Axis:
    """One axis: each network's place from 0 to 1, ``None`` without a value, and where its numbers or words stand."""

    label: str
    places: tuple[float | None, ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Lines:
    """Networks as lines over axes; later ones lie above.

    Attributes:
        names: Of the networks.
        colours: By their kind.
    """

    names: tuple[str, ...]
    colours: tuple[str, ...]
    axes: tuple[Axis, ...]


def parallel_lines(population: Population, important: Sequence[str]) -> Lines | str:
    """Return the complete trials over the objectives, the parameters and the choices, the ``important`` ones first.

    A sentence instead if there is nothing to compare.
    """
    trials = sorted(population.complete, key=lambda outcome: -list(_COLOURS).index(population.kinds[outcome.name]))
    if len(trials) < 2:
        return "fewer than two trials are complete"
    metrics = list(
        dict.fromkeys([*population.objectives, *(METRICS[name] for name in population.constraints), METRICS["params"]])
    )
    axes = []
    for metric in metrics:
        values = [outcome.attributes.get(metric.name) for outcome in trials]
        if any(value is not None for value in values):
            axes.append(_measured(metric, [None if value is None else float(value) for value in values]))
    found = {choice.name: choice for choice in choices([outcome.params for outcome in trials])}
    for name in [*(name for name in important if name in found), *(name for name in found if name not in important)]:
        if len(axes) == _MOST_AXES:
            break
        choice = found[name]
        if len(choice.ordered) > _MOST_WORDS and all(isinstance(value, int | float) for value in choice.ordered):
            axes.append(_numeric(name, [float(value) for value in choice.values], True))
            continue
        last = len(choice.ordered) - 1
        words = [("on" if value else "off") if isinstance(value, bool) else str(value) for value in choice.ordered]
        places = tuple(round(code / last, 4) for code in choice.codes.tolist())
        axes.append(Axis(name, places, tuple((index / last, word) for index, word in enumerate(words))))
    colours = tuple(_COLOURS[population.kinds[outcome.name]] for outcome in trials)
    return Lines(tuple(outcome.name for outcome in trials), colours, tuple(axes))


def _measured(metric: Metric, values: Sequence[float | None]) -> Axis:
    drawn = [None if value is None else value * factor(metric) for value in values]
    return _numeric(title(metric), drawn, metric.unit != "fraction")


def _numeric(label: str, drawn: Sequence[float | None], may_be_logged: bool) -> Axis:
    known = [value for value in drawn if value is not None]
    low, high = min(known), max(known)
    logged = may_be_logged and low > 0 and high / low >= 8
    transform = math.log10 if logged else float
    start, span = transform(low), (transform(high) - transform(low)) or 1.0
    places = tuple(None if value is None else round((transform(value) - start) / span, 4) for value in drawn)
    ticks = [tick for tick in (_decades(low, high) if logged else _steps(low, high)) if low <= tick <= high]
    return Axis(label, places, tuple(((transform(tick) - start) / span, f"{tick:g}") for tick in ticks))


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [digit * 10.0**power for power in powers for digit in ((1, 2, 5) if high / low < 300 else (1,))]


def _steps(low: float, high: float) -> list[float]:
    if high == low:
        return [low]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)
    return [round(step * count, 10) for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
