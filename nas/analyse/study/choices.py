"""What each choice of the design space does to each objective: how much it matters, and which value does what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from nas.analyse.front import Array
from nas.analyse.scene import Figure
from nas.analyse.study.layout import DIM, PALETTE, factor, finish, rounded, title
from nas.analyse.study.population import Population
from nas.analyse.study.spending import named_rows
from nas.metrics import Metric, show

LEAST_TRIALS = 12
"""Complete trials below which nothing is said about choices."""

_ABSENT = "–"
_TREES, _REPEATS, _MOST_VALUES, _MOST_CHOICES = 40, 3, 8, 24


@dataclass(frozen=True)
class Choice:
    """One choice of the space, over the trials that are looked at.

    Attributes:
        name: Under which the space asks for it.
        values: What each trial has; ``–`` where the choice was not there to be made (a module of a stage that is not built).
        ordered: The different values: numbers in their order, then words, then ``–``.
        codes: The place of each trial's value in ``ordered``, shape (n,).
    """

    name: str
    values: tuple[Any, ...]
    ordered: tuple[Any, ...]
    codes: Array


@dataclass(frozen=True)
class Effect:
    """One value of a choice.

    Attributes:
        count: Trials with it.
        quartiles: Of the objective among them: 25 %, median, 75 %.
        adjusted: The mean that the model expects if all trials had this value and were otherwise as they are.
    """

    value: Any
    count: int
    quartiles: tuple[float, float, float]
    adjusted: float


@dataclass(frozen=True)
class Importance:
    """How far the choices explain one objective.

    Attributes:
        explained: Share of the objective's variance that the model predicts on trials it was not fitted to (R², out of bag);
            at most 1, and 0 or less where it predicts nothing.
        shares: By choice: how much worse that gets if the choice's values are shuffled among the trials, as a share of the
            sum over all choices; the permutation importance of Breiman (2001).
        effects: By choice, one effect per value.
    """

    objective: Metric
    explained: float
    shares: Mapping[str, float]
    effects: Mapping[str, tuple[Effect, ...]]


def choices(params: Sequence[Mapping[str, Any]]) -> list[Choice]:
    """Return the choices that differ between trials, from what each trial's sampler suggested."""
    found = []
    for name in dict.fromkeys(name for given in params for name in given):
        values = tuple(given.get(name, _ABSENT) for given in params)
        ordered = tuple(sorted(set(values), key=_rank))
        if len(ordered) > 1:
            places = {value: place for place, value in enumerate(ordered)}
            found.append(Choice(name, values, ordered, np.array([places[value] for value in values], dtype=float)))
    return found


def _rank(value: Any) -> tuple[int, float, str]:
    if value == _ABSENT:
        return (2, 0.0, "")
    if isinstance(value, int | float):  # bools too: off before on
        return (0, float(value), "")
    return (1, 0.0, str(value))


def importance(population: Population, objective: Metric, seed: int = 0) -> Importance | str:
    """Return how the choices explain an objective over the complete trials, or why nothing can be said."""
    from sklearn.ensemble import RandomForestRegressor

    trials = [outcome for outcome in population.complete if outcome.params and outcome.attributes.get(objective.name) is not None]
    if len(trials) < LEAST_TRIALS:
        return f"{len(trials)} complete trials are too few, {LEAST_TRIALS} are needed"
    found = choices([outcome.params for outcome in trials])
    target = np.array([float(outcome.attributes[objective.name]) for outcome in trials])
    if not found or np.ptp(target) == 0:
        return "the trials do not differ"
    # Times and energies span decades: their logarithm is what choices add up to.
    logged = objective.unit != "fraction" and bool((target > 0).all())
    fitted = np.log(target) if logged else target
    inputs = np.stack([choice.codes for choice in found], axis=1)
    forest = RandomForestRegressor(_TREES, min_samples_leaf=2, max_features=0.6, oob_score=True, random_state=seed)
    forest.fit(inputs, fitted)
    drops = _drops(forest, inputs, fitted, np.random.default_rng(seed))
    total = drops.sum()
    shares = {choice.name: float(drop / total) if total > 0 else 0.0 for choice, drop in zip(found, drops, strict=True)}
    effects = {}
    for index, choice in enumerate(found):
        effects[choice.name] = tuple(_effects(forest, inputs, target, choice, index, logged))
    return Importance(objective, float(forest.oob_score_), shares, effects)


def _drops(forest: Any, inputs: Array, target: Array, random: np.random.Generator) -> Array:
    """Return by how much the squared error grows if one choice is shuffled, at least 0, shape (choices,).

    Each tree is asked about the trials that it was not fitted to alone.
    """
    outside = _outside(forest, len(inputs))

    def error(asked: Array) -> float:
        guesses = _guesses(forest, asked)
        seen = outside.sum(axis=0)
        mean = np.where(outside, guesses, 0.0).sum(axis=0)[seen > 0] / seen[seen > 0]
        return float(((mean - target[seen > 0]) ** 2).mean())

    before = error(inputs)
    drops = np.zeros(inputs.shape[1])
    for index in range(inputs.shape[1]):
        for _ in range(_REPEATS):
            shuffled = inputs.copy()
            shuffled[:, index] = random.permutation(shuffled[:, index])
            drops[index] += max(0.0, error(shuffled) - before) / _REPEATS
    return drops


def _guesses(forest: Any, asked: Array) -> Array:
    """Return each tree's guess of each row, shape (trees, rows); the trees themselves, as checking each input costs most."""
    rows = np.ascontiguousarray(asked, dtype=np.float32)
    return np.stack([tree.tree_.predict(rows).reshape(len(rows)) for tree in forest.estimators_])


def _outside(forest: Any, trials: int) -> Array:
    """Return which trials each tree was not fitted to, shape (trees, trials)."""
    rows = []
    for drawn in forest.estimators_samples_:
        row = np.ones(trials, dtype=bool)
        row[drawn] = False
        rows.append(row)
    return np.stack(rows)


def _effects(forest: Any, inputs: Array, target: Array, choice: Choice, index: int, logged: bool) -> list[Effect]:
    found = []
    for place, value in enumerate(choice.ordered):
        mine = target[choice.codes == place]
        asked = inputs.copy()
        asked[:, index] = place
        expected = _guesses(forest, asked).mean(axis=0)
        adjusted = float(np.exp(expected.mean()) if logged else expected.mean())
        low, middle, high = (float(np.quantile(mine, at)) for at in (0.25, 0.5, 0.75))
        found.append(Effect(value, len(mine), (low, middle, high), adjusted))
    return found


def importance_figure(found: Importance | str, objective: Metric) -> Figure:
    """Return one bar per choice, the most important first."""
    heading = f"How much each choice matters for {objective.name}"
    if isinstance(found, str):
        return Figure(heading, None, found)
    ranked = sorted(found.shares, key=lambda name: -found.shares[name])[:_MOST_CHOICES]
    figure = go.Figure(
        go.Bar(
            x=rounded([100 * found.shares[name] for name in ranked], 3),
            y=list(range(len(ranked))),
            orientation="h",
            marker={"color": PALETTE[0]},
            hovertemplate="%{x:.1f} %<extra></extra>",
        )
    )
    figure.update_layout(bargap=0.35)
    finish(figure, "share of all choices' importance (%)", "", 90 + 26 * len(ranked), yaxis=named_rows(ranked))
    weak = " That is little: do not build on the order." if found.explained < 0.3 else ""
    left = len(found.shares) - len(ranked)
    rest = f" {left} less important choices are left out." if left else ""
    note = (
        f"Permutation importance in a random forest over the complete trials, which explains {max(0.0, found.explained):.0%} of "
        f"the variance on trials it was not fitted to (out of bag).{weak}{rest}"
    )
    return Figure(heading, figure, note=note, wide=False)


def effect_figure(found: Importance | str, objective: Metric) -> Figure:
    """Return, for the most important choices, what each of their values does to an objective."""
    heading = f"What each value does to {objective.name}"
    if isinstance(found, str):
        return Figure(heading, None, found)
    ranked = sorted(found.shares, key=lambda name: -found.shares[name])[:_MOST_CHOICES]
    scale = factor(objective)
    names: list[str] = []
    rows: list[tuple[Effect, str]] = []
    for name in ranked:
        for effect in _thinned(found.effects[name]):
            names.append(f"{name} = {value_word(effect.value)}")
            rows.append((effect, name))
    figure = go.Figure()
    xs: list[float | None] = []
    ys: list[float | None] = []
    for place, (effect, _) in enumerate(rows):
        xs += [effect.quartiles[0] * scale, effect.quartiles[2] * scale, None]
        ys += [place, place, None]
    figure.add_trace(
        go.Scatter(x=xs, y=ys, mode="lines", line={"color": "#b8c7d6", "width": 7}, hoverinfo="skip", name="middle half")
    )
    hovers = [
        f"<b>{label}</b>, {effect.count} trials<br>observed median {show(objective, effect.quartiles[1])}"
        f"<br>quartiles {show(objective, effect.quartiles[0])} to {show(objective, effect.quartiles[2])}"
        f"<br>otherwise as they are: {show(objective, effect.adjusted)}"
        for label, (effect, _) in zip(names, rows, strict=True)
    ]
    for values, marker in (
        ([effect.quartiles[1] for effect, _ in rows], {"symbol": "line-ns-open", "size": 10, "color": DIM, "line": {"width": 2}}),
        ([effect.adjusted for effect, _ in rows], {"symbol": "circle", "size": 8, "color": "#d55e00"}),
    ):
        figure.add_trace(
            go.Scatter(
                x=rounded([value * scale for value in values]),
                y=list(range(len(rows))),
                mode="markers",
                marker=marker,
                hovertext=hovers,
                hoverinfo="text",
            )
        )
    for place in range(1, len(rows)):
        if rows[place][1] != rows[place - 1][1]:
            figure.add_hline(y=place - 0.5, line={"color": "#cccccc", "width": 1})
    finish(figure, title(objective), "", 90 + 19 * len(rows), yaxis=named_rows(names))
    note = (
        "Dot: what the forest expects if every trial had this value and were otherwise as it is. Tick and band: median and "
        "middle half of the trials that have it; an adaptive sampler tries good values together, so these mix with other choices."
    )
    return Figure(heading, figure, note=note, wide=False)


def _thinned(effects: Sequence[Effect]) -> Sequence[Effect]:
    """Return at most as many values as a reader compares, spread over all of them."""
    if len(effects) <= _MOST_VALUES:
        return effects
    return [effects[place] for place in np.unique(np.linspace(0, len(effects) - 1, _MOST_VALUES).round().astype(int))]


def value_word(value: Any) -> str:
    """Return a choice's value as a person reads it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
