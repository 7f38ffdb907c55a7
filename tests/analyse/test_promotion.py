"""Standing at a rung, against brute force and by its own properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nas.analyse.promotion import among_best, contributions, non_domination_ranks, places, standings

# Few different values, so that equal coordinates and copies of points are common.
points = st.integers(1, 4).flatmap(
    lambda m: st.integers(1, 12).flatmap(lambda n: arrays(np.float64, (n, m), elements=st.integers(0, 5).map(float)))
)
etas = st.floats(1.01, 8.0)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def depth(values: np.ndarray, index: int) -> int:
    """The longest chain of points that dominate one another and end at this one: its rank by another definition."""
    above = [other for other in range(len(values)) if dominates(values[other], values[index])]
    return 1 + max((depth(values, other) for other in above), default=-1)


@settings(deadline=None)
@given(points)
def test_ranks_are_the_longest_chains_of_domination(values: np.ndarray) -> None:
    assert non_domination_ranks(values).tolist() == [depth(values, index) for index in range(len(values))]


def cells(values: np.ndarray, reference: float) -> float:
    """Hypervolume by counting: the grid that the points' coordinates cut the box into, each cell inside or outside."""
    axes = [np.unique(np.append(values[:, axis], reference)) for axis in range(values.shape[1])]
    total = 0.0
    for corner in itertools.product(*(range(len(axis) - 1) for axis in axes)):
        low = np.array([axes[axis][at] for axis, at in enumerate(corner)])
        if (values <= low).all(axis=1).any():
            total += math.prod(axes[axis][at + 1] - axes[axis][at] for axis, at in enumerate(corner))
    return total


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3).flatmap(lambda m: arrays(np.float64, (6, m), elements=st.integers(0, 4).map(float))))
def test_contributions_are_what_is_lost_without_a_point(values: np.ndarray) -> None:
    found = contributions(values)
    span = np.ptp(values, axis=0)
    if not (span > 0).any():
        assert not found.any()
        return
    scaled = ((values - values.min(axis=0)) / np.where(span > 0, span, 1))[:, span > 0]
    whole = cells(scaled, 1.1)
    wanted = [whole - cells(np.delete(scaled, index, axis=0), 1.1) for index in range(len(scaled))]
    assert found == pytest.approx(wanted, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(points)
def test_standings_agree_with_domination_and_do_not_depend_on_order_or_units(values: np.ndarray) -> None:
    found = standings(values)
    for a, b in itertools.permutations(range(len(values)), 2):
        if dominates(values[a], values[b]):
            assert found[a] < found[b]
        if (values[a] == values[b]).all():
            assert found[a] == found[b]
    order = np.random.default_rng(0).permutation(len(values))
    assert standings(values[order]).tolist() == found[order].tolist()
    assert standings(values * 8.0 + 16.0).tolist() == found.tolist()
    # Ranks and not indices: each place counts who stands before it, so the best is 0 and none is beyond the last.
    assert found.min() == 0 and found.max() < len(values)


@settings(deadline=None, max_examples=50)
@given(points, etas)
def test_the_top_share_goes_on(values: np.ndarray, eta: float) -> None:
    on = among_best(values, places(len(values), eta)).tolist()
    assert any(on)
    wanted = max(1, math.ceil(len(values) / eta - 1e-9))
    assert places(len(values), eta) == wanted
    stood = standings(values)  # among_best takes a shorter way
    assert [bool(s < wanted) for s in stood] == on
    if len(np.unique(stood)) == len(stood):  # no ties
        assert sum(on) == min(wanted, len(values))


def test_one_objective_is_plain_successive_halving() -> None:
    values = np.array([[3.0], [1.0], [2.0], [5.0], [4.0], [6.0]])
    assert standings(values).tolist() == [2, 0, 1, 4, 3, 5]
    assert among_best(values, places(6, 3.0)).tolist() == [False, True, True, False, False, False]


def test_the_ends_and_the_gaps_of_a_front_stand_before_its_crowd() -> None:
    crowd = np.array([[0.0, 1.0], [0.49, 0.5], [0.5, 0.49], [0.51, 0.48], [1.0, 0.0], [1.0, 1.0]])
    found = standings(crowd)
    assert found[5] == 5 and {int(found[0]), int(found[4])} == {0, 1}
