"""The analysis of a study against brute force, closed forms and libraries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from nas.analyse.spread import spread
from nas.analyse.study.choices import Importance, choices, effect_figure, importance, importance_figure
from nas.analyse.study.course import course, course_figures
from nas.analyse.study.distribution import distribution, distribution_figure, good_values, good_values_table
from nas.analyse.study.fronts import front_figures
from nas.analyse.study.parallel import Lines, parallel_lines
from nas.analyse.study.population import BEATEN, FRONT, INFEASIBLE, TIED, Population
from nas.analyse.study.spending import spending, spending_figure
from nas.metrics import METRICS
from nas.outcomes import Outcome

OBJECTIVES = (METRICS["top1"], METRICS["latency_ms"])


def outcome(number: int, top1: float, latency_ms: float, state: str = "complete", **more: Any) -> Outcome:
    params = more.pop("params_asked", {"depth": number % 3, "ese": bool(number % 2)})
    attributes = {
        "top1": top1,
        "latency_ms": latency_ms,
        "latency_iqr_ms": 0.02 * latency_ms,
        "params": 1000 + number,
        "architecture_id": f"a{number}",
        "train_seconds": 2.0,
        "measure_seconds": 1.0,
        **more,
    }
    return Outcome(str(number), number, state, attributes, params, 10.0 * number, 10.0 * number + 4)  # type: ignore[arg-type]


def population(outcomes: list[Outcome], constraints: dict[str, float] | None = None, images: int | None = 400) -> Population:
    return Population(tuple(outcomes), (), OBJECTIVES, constraints or {}, images)


VALUES = st.lists(st.tuples(st.integers(1, 99), st.integers(1, 40)), min_size=1, max_size=25)


@given(VALUES)
@settings(max_examples=80, deadline=None)
def test_ties_are_those_that_nobody_beats_beyond_noise(values: list[tuple[int, int]]) -> None:
    found = population([outcome(i, a / 100, float(b)) for i, (a, b) in enumerate(values)])
    expected = set()
    front = {o.name for o in found.front}
    for mine in found.complete:
        beaten = False
        for other in found.complete:
            gains = (
                other.attributes["top1"] - mine.attributes["top1"],
                mine.attributes["latency_ms"] - other.attributes["latency_ms"],
            )
            noises = [
                math.hypot(spread(mine.attributes, m.name, 400) or 0, spread(other.attributes, m.name, 400) or 0)
                for m in OBJECTIVES
            ]
            clear = any(gain > 2 * noise for gain, noise in zip(gains, noises, strict=True))
            beaten = beaten or (min(gains) >= 0 and max(gains) > 0 and clear)
        if not beaten and mine.name not in front:
            expected.add(mine.name)
    assert {o.name for o in found.tied} == expected
    assert set(found.kinds) == {o.name for o in found.complete}


def test_spreads_are_in_the_metrics_unit() -> None:
    attributes = {
        "top1": 0.9,
        "latency_ms": 4.0,
        "latency_iqr_ms": 0.4,
        "flops_per_s": 1e9,
        "energy_j": 2e-3,
        "energy_uncertainty_j": 1e-5,
        "params": 7,
    }
    assert spread(attributes, "top1", 100) == pytest.approx(0.03) and spread(attributes, "top1", None) is None
    assert spread(attributes, "latency_ms", None) == pytest.approx(0.2)
    assert spread(attributes, "flops_per_s", None) == pytest.approx(5e7)
    assert spread(attributes, "energy_j", None) == 1e-5
    assert spread(attributes, "params", None) is None and spread({}, "top1", 10) is None


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_the_course_is_the_hypervolume_after_each_trial(values: list[tuple[int, int]]) -> None:
    outcomes = [outcome(i, a / 100, float(b)) for i, (a, b) in enumerate(values)]
    found = course(population(outcomes))
    points = np.array([[-o.attributes["top1"], o.attributes["latency_ms"]] for o in outcomes])
    if len(outcomes) < 2 or (np.ptp(points, axis=0) == 0).any():
        assert found is None
        return
    assert found is not None
    scaled = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    for count, share in zip(found.trials, found.shares, strict=True):
        assert share == pytest.approx(compute_hypervolume(scaled[: int(count)], np.ones(2)), abs=1e-9)
    assert found.trials[-1] == len(outcomes) and (np.diff(found.shares) >= -1e-12).all()


def test_pauses_are_no_wall_time() -> None:
    outcomes = [outcome(0, 0.5, 5.0), outcome(1, 0.6, 4.0)]
    late = outcome(2, 0.7, 3.0)
    late = Outcome(late.name, 2, "complete", late.attributes, late.params, 100_000.0, 100_004.0)
    found = course(population([*outcomes, late]))
    assert found is not None and found.pauses == 1 and found.seconds[-1] == pytest.approx(14 + 4)


def test_the_distribution_is_the_share_below() -> None:
    x, y = distribution(np.array([0.3, 0.1, 0.2, 0.2]))
    assert x.tolist() == [0.1, 0.2, 0.2, 0.3] and y.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_good_values_follow_the_choice_that_decides() -> None:
    random = np.random.default_rng(0)
    params = [
        {"width": int(w), "kind": k} for w, k in zip(random.integers(1, 65, 400), random.choice(["a", "b"], 400), strict=True)
    ]
    error = np.array([abs(p["width"] - 40) / 100 + (0.3 if p["kind"] == "b" else 0.0) for p in params])
    width, kind = good_values(params, error, repeats=2000)
    # Best of 100 draws of 200 good ones: within a few of 40, and never of the worse kind.
    assert width.low is not None and width.high is not None and 36 <= width.low <= 40 <= width.high <= 44
    assert kind.shares == {"a": 1.0, "b": 0.0}


def test_importance_finds_the_choice_that_decides_and_its_direction() -> None:
    random = np.random.default_rng(1)
    outcomes = []
    for number in range(150):
        width, idle = int(random.integers(1, 9)), int(random.integers(1, 9))
        asked = {"width": width, "idle": idle, **({"late": 1} if number % 2 else {})}
        outcomes.append(outcome(number, 0.5 + width / 20 + random.normal(0, 0.01), 1.0 + width, params_asked=asked))
    found = importance(population(outcomes), METRICS["top1"])
    assert isinstance(found, Importance)
    assert found.explained > 0.9 and found.shares["width"] > 0.9 and sum(found.shares.values()) == pytest.approx(1)
    adjusted = [effect.adjusted for effect in found.effects["width"]]
    assert adjusted == sorted(adjusted) and adjusted[-1] - adjusted[0] == pytest.approx(7 / 20, rel=0.25)
    assert [effect.value for effect in found.effects["late"]] == [1, "–"]
    assert sum(effect.count for effect in found.effects["width"]) == 150
    for figure in (importance_figure(found, METRICS["top1"]), effect_figure(found, METRICS["top1"])):
        assert figure.plot is not None


def test_choices_are_what_differs() -> None:
    found = choices([{"a": 1, "b": "x", "c": True}, {"a": 10, "b": "x", "c": False}, {"a": 2, "b": "x"}])
    assert [(c.name, c.ordered) for c in found] == [("a", (1, 2, 10)), ("c", (False, True, "–"))]
    assert found[0].codes.tolist() == [0, 2, 1]


def test_all_time_is_accounted_for() -> None:
    outcomes = [
        outcome(0, 0.9, 1.0),
        outcome(1, 0.8, 2.0),
        outcome(2, 0.95, 9.0),
        outcome(3, 0.1, 0.5, "failed"),
        outcome(4, 0.9, 1.0, architecture_id="a0"),
        outcome(5, 0.9, 1.0, "repeated", architecture_id="a2"),
        outcome(6, 0.0, 1.0, "pruned", gated_by=["params"]),
        outcome(7, 0.2, 1.0, "pruned", stopped_at=1),
        outcome(8, 0.3, 9.5, train_seconds=99.0),  # it went on with another trial's training
    ]
    found = spending(population(outcomes, {"latency_ms": 5.0}))
    assert found.counts == {
        "failed": 1,
        "repeats of a network": 2,
        "gated before training": 1,
        "stopped early": 1,
        "miss a constraint": 2,
        "dominated or tied": 1,
        "on the front": 1,
    }
    assert sum(sum(parts.values()) for parts in found.seconds.values()) == pytest.approx(4 * 9)
    assert found.seconds["on the front"] == {"training": 2.0, "counting and measuring": 1.0, "building, waiting, recording": 1.0}


def test_kinds_and_figures() -> None:
    found = population(
        [outcome(0, 0.9, 2.0), outcome(1, 0.5, 4.0), outcome(2, 0.9, 2.01), outcome(3, 0.99, 90.0)], {"latency_ms": 50.0}
    )
    assert [found.kinds[str(n)] for n in range(4)] == [FRONT, BEATEN, TIED, INFEASIBLE]
    (figure,) = front_figures(found)
    assert figure.plot is not None and {family.name for family in figure.families} == {k.name for k in found.kinds.values()}
    lines = parallel_lines(found, ["depth"])
    assert (
        isinstance(lines, Lines)
        and lines.names[-1] == "0"
        and {axis.label for axis in lines.axes} >= {"top1 (%)", "depth", "ese"}
    )
    assert all(place is None or 0 <= place <= 1 for axis in lines.axes for place in axis.places)


@pytest.mark.parametrize("count", [0, 1])
def test_too_little_is_said_and_not_drawn(count: int) -> None:
    found = population([outcome(0, 0.9, 2.0)][:count])
    figures = [*course_figures(found), distribution_figure(found), *(front_figures(found)[:1] if not count else ())]
    figures += [spending_figure(found)] if not count else []
    assert all(figure.plot is None and figure.reason for figure in figures)
    assert isinstance(good_values_table(found), str) and isinstance(parallel_lines(found, []), str)
    assert isinstance(importance(found, METRICS["top1"]), str)
