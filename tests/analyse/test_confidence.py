"""Confidence in a front, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from nas.analyse.confidence import front_probabilities
from nas.analyse.front import non_dominated

values_ = st.integers(1, 3).flatmap(
    lambda m: st.integers(1, 8).flatmap(lambda n: arrays(np.float64, (n, m), elements=st.integers(0, 4).map(float)))
)


@settings(deadline=None)
@given(values_)
def test_without_noise_it_is_the_front(values: np.ndarray) -> None:
    assert front_probabilities(values, np.zeros_like(values)).tolist() == non_dominated(values).astype(float).tolist()


def test_two_networks_and_one_objective() -> None:
    values, noise = np.array([[1.0], [1.3]]), np.array([[0.3], [0.4]])
    wanted = norm.cdf(0.3 / 0.5)
    assert front_probabilities(values, noise, draws=20_000) == pytest.approx([wanted, 1 - wanted], abs=0.012)


def test_two_networks_and_two_objectives() -> None:
    values, noise = np.array([[1.0, 2.0], [1.2, 1.9]]), np.array([[0.1, 0.3], [0.2, 0.1]])
    better = (values[1] - values[0]) / np.hypot(noise[0], noise[1])
    wins, loses = (float(np.prod(norm.cdf(sign * better))) for sign in (1, -1))
    assert front_probabilities(values, noise, draws=20_000) == pytest.approx([1 - loses, 1 - wins], abs=0.012)


def test_objectives_of_one_source_are_off_together() -> None:
    """Of two networks the first is clearly more accurate; both are equally fast, by latency and by images per second."""
    values = np.array([[-0.9, 2.0, -50.0], [-0.5, 2.0, -50.0]])
    noise = np.array([[0.001, 0.1, 2.5], [0.001, 0.1, 2.5]])
    sources = ["top1", "latency_ms", "latency_ms"]
    assert front_probabilities(values, noise, sources, draws=20_000) == pytest.approx([1.0, 0.5], abs=0.012)
    assert front_probabilities(values, noise, draws=20_000) == pytest.approx([1.0, 0.75], abs=0.012)  # were there two clocks


def test_a_tie_is_called_one_and_a_clear_loser_is_none() -> None:
    values = np.array([[1.0, 1.0], [1.01, 1.01], [9.0, 9.0]])
    noise = np.full_like(values, 0.1)
    found = front_probabilities(values, noise)
    assert 0.6 < found[1] <= found[0] < 0.9 and found[2] == 0.0
    assert found.tolist() == front_probabilities(values, noise).tolist()  # the same draws each time


def test_nothing_has_no_front() -> None:
    assert front_probabilities(np.zeros((0, 2)), np.zeros((0, 2))).shape == (0,)
