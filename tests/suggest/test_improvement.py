"""What a candidate is expected to add, against drawing it many times and measuring what the front gains by it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from nas.analyse.front import non_dominated
from nas.analyse.hypervolume import hypervolume
from nas.suggest.improvement import POINTS, expected_improvement, free_points

Array = NDArray[np.float64]


def front_of(objectives: int, count: int = 30) -> Array:
    values = np.random.default_rng(objectives).random((count, objectives))
    return values[non_dominated(values)]


def box(front: Array, reference: Array) -> tuple[Array, float]:
    """Return the lower corner of what is looked at, and its volume."""
    low = front.min(axis=0) - 0.1 * (reference - front.min(axis=0))
    return low, float(np.prod(reference - low))


def gained(front: Array, reference: Array, samples: Array) -> Array:
    """Return by how much each sample grows the front's hypervolume; what lies beyond the box counts as its edge."""
    before, (low, _) = hypervolume(front, reference), box(front, reference)
    return np.array([hypervolume(np.vstack([front, sample]), reference) - before for sample in np.maximum(samples, low)])


def expected(front: Array, reference: Array, means: Array, deviations: Array, count: int = 2**14) -> Array:
    free = free_points(front, reference, seed=0, count=count)
    return expected_improvement(means, deviations, free) * box(front, reference)[1] * len(free) / count


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_it_is_the_mean_gain_of_many_draws(objectives: int) -> None:
    front, reference = front_of(objectives), np.full(objectives, 1.2)
    generator = np.random.default_rng(5)
    means = front.min(axis=0) + 0.5 * generator.random((4, objectives)) - 0.05
    deviations = 0.05 + 0.3 * generator.random((4, objectives))
    normal = stats.norm.ppf(stats.qmc.Sobol(objectives, seed=6).random(2048))
    wanted = [
        gained(front, reference, mean + deviation * normal).mean() for mean, deviation in zip(means, deviations, strict=True)
    ]
    assert expected(front, reference, means, deviations) == pytest.approx(np.array(wanted), rel=0.03, abs=1e-4)
    assert max(wanted) > 0.005, "something is gained at all"


@pytest.mark.parametrize("objectives", [2, 3])
def test_without_doubt_candidates_stand_as_they_would_gain(objectives: int) -> None:
    front, reference = front_of(objectives), np.full(objectives, 1.2)
    means = np.random.default_rng(9).random((60, objectives)) - 0.1
    found = expected(front, reference, means, np.full_like(means, 1e-9), count=POINTS)
    wanted = gained(front, reference, means)
    close = 0.01 * box(front, reference)[1]
    assert found == pytest.approx(wanted, abs=close)
    better = wanted[:, None] > wanted[None, :] + close
    assert better.sum() > 300 and (found[:, None] > found[None, :])[better].all()


def test_what_is_dominated_beyond_doubt_is_worth_nothing() -> None:
    front, reference = front_of(2), np.full(2, 1.2)
    worth = expected_improvement(np.array([[1.1, 1.1], [0.5, 0.0]]), np.full((2, 2), 0.01), free_points(front, reference, 0))
    assert worth[0] < 1e-6 < worth[1]


numbers = st.floats(-0.5, 1.5)


@given(
    means=st.lists(numbers, min_size=3, max_size=3),
    deviations=st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=3),
    objective=st.integers(0, 2),
    less=st.floats(0.0, 1.0),
)
def test_a_lower_mean_is_never_worth_less(means: list[float], deviations: list[float], objective: int, less: float) -> None:
    free = free_points(front_of(3), np.full(3, 1.2), seed=3, count=64)
    both = np.array([means, means])
    both[1, objective] -= less
    one, lower = expected_improvement(both, np.array([deviations, deviations]), free)
    assert 0.0 <= one <= lower <= 1.0


@given(objectives=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_free_points_are_in_the_box_and_dominated_by_nobody(objectives: int, seed: int) -> None:
    front, reference = front_of(objectives), np.full(objectives, 1.2)
    free = free_points(front, reference, seed, count=128)
    assert len(free) and not any((member <= point).all() for member in front for point in free)
    assert (free >= box(front, reference)[0]).all() and (free <= reference).all()
    assert (free == free_points(front, reference, seed, count=128)).all()


def test_other_seeds_spread_other_points() -> None:
    front, reference = front_of(2), np.full(2, 1.2)
    one, other = (free_points(front, reference, seed) for seed in (1, 2))
    assert not np.isin(one, other).any()


def test_the_share_of_free_points_is_the_share_of_the_volume() -> None:
    front, reference = front_of(2), np.full(2, 1.2)
    _, whole = box(front, reference)
    assert len(free_points(front, reference, 0)) / POINTS == pytest.approx(1 - hypervolume(front, reference) / whole, abs=0.005)
