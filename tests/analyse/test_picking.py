"""Asking for a network: the language round-trips, garbage earns one sentence, the network meant is the one brute force finds."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.analyse.picking import Best, Condition, Knee, best, knee, nearest, normalised, parse_pick
from nas.errors import InputError
from nas.metrics import METRICS
from nas.outcomes import Outcome

OBJECTIVES = (METRICS["top1"], METRICS["latency_ms"])
names = st.sampled_from(sorted(METRICS))
conditions = st.builds(
    Condition,
    names.map(METRICS.__getitem__),
    st.sampled_from(["<=", ">=", "==", "<", ">"]),
    st.floats(0, 1e9).map(lambda value: float(f"{value:.6g}")),
)
picks = st.builds(
    Best, st.sampled_from(["max", "min"]), names.map(METRICS.__getitem__), st.lists(conditions, max_size=4).map(tuple)
)


def outcome(number: int, **attributes: float | None) -> Outcome:
    return Outcome(str(number), number, "complete", attributes)


@given(picks)
def test_what_is_written_is_read(pick: Best) -> None:
    assert parse_pick(str(pick)) == pick


WORDS = ["max", "min", "knee", "where", "and", "top1", "latency_ms", "<=", "3", "5M", "1.5.2", "(", "'"]


@settings(max_examples=500)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS)).map(" ".join)))
def test_garbage_earns_one_sentence(text: str) -> None:
    try:
        assert isinstance(parse_pick(text), Knee | Best)
    except InputError as error:
        assert str(error).startswith("pick=") and str(error).endswith((".", "?"))


@pytest.mark.parametrize(
    ("text", "bound"),
    [("params<=5M", 5e6), ("top1 >= 95%", 0.95), ("energy_j<20m", 0.02), ("flops>1.5e9", 1.5e9), ("latency_ms<.5", 0.5)],
)
def test_numbers(text: str, bound: float) -> None:
    pick = parse_pick(f"max top1 where {text}")
    assert isinstance(pick, Best) and pick.conditions[0].bound == pytest.approx(bound, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max latency", "'latency' is not a metric; did you mean 'latency_ms'?"),
        ("best top1", "begins with 'best': begin with knee, max or min"),
        ("max", "it ends where a metric was expected"),
        ("max top1 whre params<3", "'whre' stands where 'where' was expected"),
        ("max top1 where params<3 or params>1", "'or' stands where 'and' was expected"),
        ("max top1 where params 3", "'3' stands where <=, <, >=, > or == was expected"),
        ("max top1 where params<=", "it ends where a number was expected"),
        ("max top1 where params<=3x", "'3x' stands where a number was expected"),
        ("max top1 where __import__('os')", "'__import__' is not a metric"),
        ("knee of it", "'of' stands after 'knee'"),
        ("", "it ends where knee, max or min was expected"),
    ],
)
def test_each_mistake_is_named(text: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        parse_pick(text)
    assert told in str(error.value)


@given(st.integers(0, 10**6))
def test_the_best_is_that_of_brute_force(seed: int) -> None:
    draw = random.Random(seed)
    outcomes = [
        outcome(
            n, top1=draw.choice([None, 0.5, 0.7, 0.9]), latency_ms=draw.choice([None, 1.0, 2.0, 3.0]), params=draw.randrange(5)
        )
        for n in range(draw.randrange(1, 12))
    ]
    outcomes = [o for o in outcomes if None not in o.attributes.values() or not draw.randrange(2)]
    bound = draw.choice([0.5, 1, 2, 3])
    pick = parse_pick(f"max top1 where latency_ms<={bound} and params>1")
    assert isinstance(pick, Best)
    able = [
        o.attributes["top1"]
        for o in outcomes
        if None not in (o.attributes["top1"], o.attributes["latency_ms"])
        and o.attributes["latency_ms"] <= bound
        and o.attributes["params"] > 1
    ]
    found = best(pick, outcomes, ())
    assert (found is None) == (not able)
    if found is not None:
        assert found.attributes["top1"] == max(able)


def test_among_equals_the_one_that_no_other_beats() -> None:
    outcomes = [outcome(0, top1=0.9, latency_ms=3.0), outcome(1, top1=0.9, latency_ms=2.0), outcome(2, top1=0.9, latency_ms=2.0)]
    found = best(Best("max", METRICS["top1"]), outcomes, OBJECTIVES)
    assert found is not None and found.number == 1


def test_the_nearest_says_what_it_misses() -> None:
    outcomes = [outcome(0, top1=0.9, latency_ms=3.0), outcome(1, top1=0.5, latency_ms=1.2)]
    pick = parse_pick("max top1 where latency_ms<=1 and top1>=0.4")
    assert isinstance(pick, Best)
    found = nearest(pick, outcomes)
    assert found is not None and found[0].number == 1 and found[1] == "latency_ms=1.2 is not <=1"
    assert nearest(pick, [outcome(0, top1=0.9, latency_ms=None)]) is None


def test_the_knee_of_a_known_front() -> None:
    # A right angle: the corner is the knee, whatever lies on its arms.
    front = [
        outcome(n, top1=t, latency_ms=ms)
        for n, (t, ms) in enumerate([(0.99, 10.0), (0.985, 4.0), (0.98, 1.0), (0.8, 0.9), (0.5, 0.8)])
    ]
    assert knee(front, OBJECTIVES).number == 2
    assert knee(front[:1], OBJECTIVES).number == 0


@given(st.lists(st.tuples(st.floats(0.1, 1), st.floats(0.1, 100)), min_size=1, max_size=20), st.floats(0.01, 100))
def test_the_knee_does_not_depend_on_units(points: list[tuple[float, float]], factor: float) -> None:
    front = [outcome(n, top1=t, latency_ms=ms) for n, (t, ms) in enumerate(points)]
    scaled = [outcome(n, top1=t, latency_ms=ms * factor) for n, (t, ms) in enumerate(points)]
    here, there = normalised(front, OBJECTIVES), normalised(scaled, OBJECTIVES)
    assert ((here >= 0) & (here <= 1)).all()
    assert np.allclose(here, there, atol=1e-6)
    assert knee(front, OBJECTIVES) in front
