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
from nas.analyse.study.distribution import comparisons, distribution, distribution_figure
from nas.analyse.study.fronts import front_figures
from nas.analyse.study.good_values import good_in, good_values, winning
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
    # 92 of 104: two more right, two more wrong.
    assert spread(attributes, "top1", 100) == pytest.approx((92 / 104 * 12 / 104 / 104) ** 0.5)
    assert spread(attributes, "top1", None) is None
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
    width, kind = good_values(params, error[:, None], repeats=2000)
    # Best of 100 draws of 200 good ones: within a few of 40, and never of the worse kind.
    assert width.low is not None and width.high is not None and 36 <= width.low <= 40 <= width.high <= 44
    assert kind.values == ("a", "b") and kind.shares == pytest.approx((1.0, 0.0)) and kind.low is None


def test_good_values_of_a_choice_are_those_of_networks_that_had_it_to_make() -> None:
    # The best networks have one stage and no second one; of those with a second one wide ones are better.
    params = [{"stages": 1 + n % 2, **({"stage2.width": 8 * (1 + n // 2 % 4)} if n % 2 else {})} for n in range(160)]
    error = np.array([1.0 - p["stage2.width"] / 64 if "stage2.width" in p else 0.1 for p in params])
    stages, width = good_values(params, error[:, None], repeats=500)
    assert (stages.choice, stages.networks, stages.low, stages.high) == ("stages", 160, 1, 1)
    assert (width.choice, width.networks, width.values, width.low, width.high) == ("stage2.width", 80, (8, 16, 24, 32), 32, 32)
    assert [found.choice for found in good_values(params, error[:, None], repeats=50, least=81)] == ["stages"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_best_of_a_draw_is_its_front(values: list[tuple[int, int]], seed: int) -> None:
    losses = np.array(values, dtype=float)
    count = len(losses)
    expected = np.zeros(count)
    for row in np.random.default_rng(seed).integers(0, count, size=(40, max(1, round(0.25 * count)))):
        there = set(row.tolist())
        front = [i for i in there if not any((losses[j] <= losses[i]).all() and (losses[j] < losses[i]).any() for j in there)]
        expected[front] += 1 / len(front)
    assert winning(losses, seed, 40) == pytest.approx(expected / 40)
    assert winning(losses[:, :1], seed, 40).sum() == pytest.approx(1)


def test_settings_are_compared_as_populations() -> None:
    random = np.random.default_rng(2)
    outcomes = []
    for number in range(120):
        asked = {
            "bottleneck": bool(random.integers(2)),
            "width": int(random.integers(8, 64)),
            "rare": "x" if number < 3 else "y",
            "idle": str(random.integers(3)),
        }
        outcomes.append(outcome(number, 0.9 - 0.1 * asked["bottleneck"] + random.normal(0, 0.03), 1.0, params_asked=asked))
    found = {one.choice: one for one in comparisons(population(outcomes))}
    assert next(iter(found)) == "bottleneck" and set(found) == {"bottleneck", "width", "idle"}
    bottleneck = found["bottleneck"]
    assert bottleneck.setting == "on" and bottleneck.worse and bottleneck.p < 1e-6 and bottleneck.distance > 0.5
    assert bottleneck.networks + bottleneck.others == 120 and bottleneck.median - bottleneck.median_others == pytest.approx(
        0.1, abs=0.02
    )
    assert "to" in found["width"].setting and found["width"].p > 0.05 < found["idle"].p
    figure = distribution_figure(population(outcomes), "bottleneck")
    assert figure.plot is not None and [trace.name.split(" (")[0] for trace in figure.plot.data] == [
        "all",
        "bottleneck = off",
        "bottleneck = on",
    ]
    gated = [*outcomes, outcome(120, 0.5, 1.0, "pruned", gated_by=["params"])]
    assert "1 trials that were gated" in distribution_figure(population(gated)).note


def test_of_many_settings_that_do_nothing_seldom_one_is_called_different() -> None:
    random = np.random.default_rng(3)
    called = 0
    for _ in range(40):
        outcomes = [
            outcome(n, random.random(), 1.0, params_asked={f"c{k}": int(random.integers(3)) for k in range(8)}) for n in range(40)
        ]
        called += min(one.p for one in comparisons(population(outcomes))) < 0.05
    assert called <= 6  # 2 are expected at most; more than 6 in 40 come by chance once in 300 times


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


def test_what_was_measured_before_a_training_went_on_is_not_counted_twice() -> None:
    outcomes = [
        outcome(0, 0.2, 1.0, "pruned", stopped_at=1, measure_seconds=3.0, train_seconds=1.0),
        outcome(1, 0.9, 1.0, resumed_from=0, measure_seconds=3.5, train_seconds=4.0),
        outcome(2, 0.8, 0.5, reused_from="elsewhere/7", measure_seconds=50.0, train_seconds=0.0),
    ]
    found = spending(population(outcomes))
    whole = {part: sum(parts[part] for parts in found.seconds.values()) for part in found.seconds["stopped early"]}
    assert whole["counting and measuring"] == pytest.approx(3.0 + 0.5)
    assert sum(whole.values()) == pytest.approx(3 * 4)


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
    assert isinstance(good_in(found), str) and isinstance(parallel_lines(found, []), str)
    assert isinstance(importance(found, METRICS["top1"]), str)
