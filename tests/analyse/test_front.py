"""Dominance against brute force, and hypervolume against Optuna's and against Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nas.analyse.front import Array, non_dominated
from nas.analyse.hypervolume import hypervolume, normalised_hypervolume

# Few distinct values, so that ties and copies are common.
points = st.integers(1, 5).flatmap(
    lambda m: st.integers(0, 14).flatmap(lambda n: arrays(np.float64, (n, m), elements=st.integers(0, 4).map(float)))
)


def dominated_by_anyone(values: Array, i: int) -> bool:
    return any(
        all(a <= b for a, b in zip(values[j], values[i], strict=True))
        and any(a < b for a, b in zip(values[j], values[i], strict=True))
        for j in range(len(values))
    )


@given(points)
def test_front_is_what_brute_force_finds(values: Array) -> None:
    assert non_dominated(values).tolist() == [not dominated_by_anyone(values, i) for i in range(len(values))]


def test_front_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        non_dominated(np.array([[0.0, np.nan]]))


@given(points)
def test_hypervolume_counts_the_cells_that_are_dominated(values: Array) -> None:
    # With whole coordinates the volume is the number of unit cells whose upper corner some point is at or below.
    reference = np.full(values.shape[1], 4.0)
    cells = np.stack(np.meshgrid(*[np.arange(4)] * values.shape[1], indexing="ij"), -1).reshape(-1, values.shape[1])
    covered = sum(any((point <= cell).all() for point in values) for cell in cells)
    assert hypervolume(values, reference) == pytest.approx(covered)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_hypervolume_agrees_with_optuna(objectives: int) -> None:
    from optuna._hypervolume import compute_hypervolume

    generator = np.random.default_rng(objectives)
    values = generator.random((40, objectives))
    reference = np.ones(objectives)
    assert hypervolume(values, reference) == pytest.approx(compute_hypervolume(values, reference), rel=1e-9)


def test_a_point_never_lowers_the_hypervolume() -> None:
    generator = np.random.default_rng(0)
    values = generator.random((30, 3))
    volumes = [hypervolume(values[:n], np.ones(3)) for n in range(1, 31)]
    assert volumes == sorted(volumes)


def test_normalised_hypervolume_is_a_share_of_the_box() -> None:
    assert normalised_hypervolume(np.array([[0.0, 10.0], [5.0, 0.0]])) == 0.0
    assert normalised_hypervolume(np.array([[0.0, 10.0], [5.0, 0.0], [1.0, 2.0]])) == pytest.approx(0.8 * 0.8)
    assert normalised_hypervolume(np.array([[1.0, 2.0]])) == 0.0
    assert normalised_hypervolume(np.array([[1.0, 2.0], [1.0, 3.0]])) == 0.0
