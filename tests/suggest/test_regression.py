"""Gaussian process regression against scikit-learn's, and on what is awkward: one point, copies, constants, many points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from nas.suggest.encoding import squared_distances
from nas.suggest.regression import JUDGED_BY, LENGTHS, NOISES, Kernels, Regression

Array = NDArray[np.float64]


def ground(count: int, noise: float, seed: int = 0) -> tuple[Array, Array]:
    """Return points and what was observed there, far from 0 and on a scale of its own."""
    generator = np.random.default_rng(seed)
    points = generator.random((count, 3))
    truth = np.sin(4 * points[:, 0]) + points[:, 1] ** 2
    return points, 50.0 + 7.0 * (truth + noise * generator.standard_normal(count))


def learned(points: Array, observed: Array, further: Array | None = None) -> Regression:
    return Regression.of(Kernels(squared_distances(points, points)), observed, further)


def theirs(points: Array, observed: Array, length: float, noise: float, further: Array | None = None) -> Any:
    """Return scikit-learn's process, which sees the observations standardised."""
    scale = observed.std()
    alpha = noise + (np.zeros(len(observed)) if further is None else further / scale**2)
    process = GaussianProcessRegressor(Matern(length, nu=2.5), alpha=alpha, optimizer=None)
    return process.fit(points, (observed - observed.mean()) / scale)


@pytest.mark.parametrize("unsure", [False, True])
@pytest.mark.parametrize("count", [2, 5, 40, JUDGED_BY, 130])
def test_means_and_deviations_are_those_of_scikit_learn(count: int, unsure: bool) -> None:
    points, observed = ground(count, 0.1)
    further = np.random.default_rng(1).random(count) * 20.0 if unsure else None
    asked = np.random.default_rng(2).random((25, 3)) * 2.0
    ours = learned(points, observed, further)
    means, deviations = ours.at(squared_distances(asked, points))
    wanted, spread = theirs(points, observed, ours.length, ours.noise, further).predict(asked, return_std=True)
    assert means == pytest.approx(observed.mean() + observed.std() * wanted, rel=1e-8)
    assert deviations == pytest.approx(observed.std() * spread, rel=1e-8)


@pytest.mark.parametrize("unsure", [False, True])
@pytest.mark.parametrize(("count", "noise"), [(6, 0.0), (30, 0.02), (60, 0.5), (JUDGED_BY, 0.1), (20, 5.0)])
def test_length_and_noise_are_the_most_probable_of_the_grid(count: int, noise: float, unsure: bool) -> None:
    points, observed = ground(count, noise, seed=count)
    further = np.random.default_rng(1).random(count) * 20.0 if unsure else None
    evidence = {
        (length, tried): theirs(points, observed, length, tried, further).log_marginal_likelihood_value_
        for length in LENGTHS
        for tried in NOISES
    }
    ours = learned(points, observed, further)
    assert (ours.length, ours.noise) == max(evidence, key=lambda pair: evidence[pair])


def test_of_many_observations_some_from_all_over_choose_length_and_noise() -> None:
    points, observed = ground(299, 0.0)
    observed[100:] += np.random.default_rng(3).normal(0.0, 8.0, 199)  # what comes late is not like what came early
    some = np.linspace(0, 298, JUDGED_BY).round().astype(int)
    standard = (observed - observed.mean()) / observed.std()

    def evidence(pair: tuple[float, float]) -> float:
        process = GaussianProcessRegressor(Matern(pair[0], nu=2.5), alpha=pair[1], optimizer=None)
        return float(process.fit(points[some], standard[some]).log_marginal_likelihood_value_)

    ours = learned(points, observed)
    assert (ours.length, ours.noise) == max(((length, noise) for length in LENGTHS for noise in NOISES), key=evidence)


def test_one_observation_is_what_is_foretold_everywhere() -> None:
    means, deviations = learned(np.zeros((1, 2)), np.array([3.0])).at(np.array([[0.0], [100.0]]))
    assert means == pytest.approx([3.0, 3.0])
    assert 0 < deviations[0] < 0.1 < deviations[1], "and the surer the nearer"


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, -3.3, -4.0])
def test_equal_observations_are_foretold_without_certainty(value: float) -> None:
    points, _ = ground(6, 0.0)
    means, deviations = learned(points, np.full(6, value)).at(np.array([[1e6] * 6]))
    assert means == pytest.approx([value]) and deviations == pytest.approx([1.0])


def test_kernels_serve_one_figure_after_the_other() -> None:
    points, observed = ground(40, 0.1)
    shared, further = Kernels(squared_distances(points, points)), np.full(40, 30.0)
    for given, unsure in ((observed, None), (observed, further), (-np.sqrt(observed), None), (observed, None)):
        found, alone = Regression.of(shared, given, unsure), learned(points, given, unsure)
        assert (found.length, found.noise) == (alone.length, alone.noise)
        asked = squared_distances(points[:3] + 0.1, points)
        assert [part.tolist() for part in found.at(asked)] == [part.tolist() for part in alone.at(asked)]


def test_copies_of_a_point_count_by_their_mean() -> None:
    points = np.array([[0.0]] * 4 + [[1.0]] * 4 + [[0.5]])
    observed = np.array([0.0, 0.2, -0.2, 0.0, 1.0, 1.2, 0.8, 1.0, 0.5])
    means, deviations = learned(points, observed).at(squared_distances(np.array([[0.0], [1.0]]), points))
    assert means == pytest.approx([0.0, 1.0], abs=0.1)
    assert (deviations > 0).all() and np.isfinite(deviations).all()


def test_many_points_are_learned_from_though_few_choose_the_kernel() -> None:
    points, observed = ground(300, 0.05)
    ours = learned(points, observed)
    asked, truth = ground(50, 0.0, seed=1)
    means, deviations = ours.at(squared_distances(asked, points))
    assert np.isfinite(means).all() and (deviations > 0).all()
    assert np.abs(means - truth).max() < 0.25 * np.std(truth)
    again, _ = learned(points[::3], observed[::3]).at(squared_distances(asked, points[::3]))
    assert ((means - truth) ** 2).mean() < ((again - truth) ** 2).mean(), "a third of them tells less"


@pytest.mark.parametrize("unsure", [False, True])
def test_what_is_supposed_changes_no_mean_and_makes_it_surer_nearby(unsure: bool) -> None:
    points, observed = ground(30, 0.1)
    further = np.linspace(0.0, 2.0, 30) if unsure else None
    seen = learned(points, observed, further)
    those = points[:2] + 0.3
    asked = np.vstack([those, points[5:9] - 0.2])
    squared, across, within = (squared_distances(*pair) for pair in ((points, points), (those, points), (those, those)))
    supposed = seen.supposing(squared, further, across, within)
    means, deviations = seen.at(squared_distances(asked, points))
    same, fewer = supposed.at(squared_distances(asked, np.vstack([points, those])))
    assert same == pytest.approx(means, abs=1e-8)
    assert (fewer <= deviations + 1e-9).all() and (fewer[:2] < 0.9 * deviations[:2]).all()


def test_noise_is_found_where_there_is_some() -> None:
    noises = [learned(*ground(80, noise)).noise for noise in (0.0, 0.1, 0.4)]
    assert noises == sorted(noises) and noises[0] == NOISES[0] < noises[1] < noises[2]


def test_an_observation_that_is_far_off_by_its_own_account_pulls_less() -> None:
    points = np.linspace(0.0, 1.0, 11)[:, None]
    observed = 2.0 * points[:, 0]
    observed[5] = 4.0
    further = np.zeros(11)
    pulled = []
    for further[5] in (0.0, 1.0, 100.0):
        (mean,), _ = learned(points, observed, further).at(squared_distances(points[5:6], points))
        pulled.append(float(mean))
    assert pulled == sorted(pulled, reverse=True)
    assert pulled[0] > 1.3 and pulled[2] == pytest.approx(1.0, abs=0.05)
