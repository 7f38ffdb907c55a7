"""Where suggestions lie: distances are those of a space, whatever parameters a suggestion has or lacks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.spatial.distance import cdist

from nas.suggest.encoding import Coordinates, coordinates, points, squared_distances
from nas.suggest.regression import LENGTHS, NOISES, matern

DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "whole": IntDistribution(-3, 8),
    "steps": IntDistribution(4, 16, step=4),
    "log": IntDistribution(1, 512, log=True),
    "real": FloatDistribution(-1.0, 2.5),
    "log_real": FloatDistribution(1e-4, 1.0, log=True),
    "one": IntDistribution(5, 5),
    "numbers": CategoricalDistribution([64, 16, 32.5]),
    "flag": CategoricalDistribution([True, False]),
    "name": CategoricalDistribution(["relu", "silu", "gelu"]),
    "mixed": CategoricalDistribution(["none", 2, None, True]),
}


def values(name: str, distribution: BaseDistribution) -> st.SearchStrategy[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return st.sampled_from(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return st.integers(distribution.low, distribution.high).filter(lambda n: (n - distribution.low) % distribution.step == 0)
    assert isinstance(distribution, FloatDistribution)
    # In steps, so that what differs is apart by more than rounding.
    low, high = distribution.low, distribution.high
    shares = st.integers(0, 50).map(lambda step: step / 50)
    return shares.map(lambda share: low * (high / low) ** share if distribution.log else low + share * (high - low))


suggestions = st.lists(
    st.fixed_dictionaries({}, optional={name: values(name, distribution) for name, distribution in DISTRIBUTIONS.items()}),
    min_size=1,
    max_size=14,
).map(lambda found: [coordinates(params, DISTRIBUTIONS) for params in found])


def placed(**params: Any) -> Coordinates:
    return coordinates(params, DISTRIBUTIONS)


def distance(one: Coordinates, other: Coordinates) -> float:
    both = points([one, other])
    return math.sqrt(squared_distances(both[:1], both[1:])[0, 0])


@given(suggestions)
def test_distances_are_those_of_a_metric(found: list[Coordinates]) -> None:
    at = points(found)
    squared = squared_distances(at, at)
    distances = np.sqrt(squared)
    assert squared == pytest.approx(cdist(at, at, "sqeuclidean"), abs=1e-12)
    assert distances == pytest.approx(distances.T, abs=1e-6) and np.diag(distances) == pytest.approx(0.0, abs=1e-6)
    assert (distances[:, None, :] <= distances[:, :, None] + distances[None, :, :] + 1e-6).all(), "no detour is shorter"
    for one in range(len(found)):
        for other in range(one):
            assert (distances[one, other] < 1e-6) == all(
                math.dist(found[one].get(name, ()), found[other].get(name, ())) < 1e-6
                if (name in found[one]) == (name in found[other])
                else False
                for name in {*found[one], *found[other]}
            ), "what differs is apart, and nothing else"


@given(suggestions)
def test_any_kernel_of_any_suggestions_can_be_factored(found: list[Coordinates]) -> None:
    at = points([*found, *found])  # each twice
    for length in LENGTHS:
        np.linalg.cholesky(matern(squared_distances(at, at), length) + min(NOISES) * np.eye(len(at)))


@given(suggestions, st.randoms())
def test_the_order_of_suggestions_changes_nothing(found: list[Coordinates], shuffle: Any) -> None:
    order = list(range(len(found)))
    shuffle.shuffle(order)
    assert (points([found[n] for n in order]) == points(found)[order]).all()


@pytest.mark.parametrize(
    ("name", "ends"),
    [("whole", (-3, 8)), ("log", (1, 512)), ("real", (-1.0, 2.5)), ("log_real", (1e-4, 1.0)), ("numbers", (16, 64))],
)
def test_the_ends_of_a_range_are_at_distance_one(name: str, ends: tuple[Any, Any]) -> None:
    assert distance(*(placed(**{name: end}) for end in ends)) == pytest.approx(1.0)


@pytest.mark.parametrize("pair", [("relu", "silu"), ("relu", "gelu"), ("silu", "gelu")])
def test_two_texts_are_at_distance_one(pair: tuple[str, str]) -> None:
    assert distance(*(placed(name=choice) for choice in pair)) == pytest.approx(1.0)


@pytest.mark.parametrize("pair", [("none", 2), (2, None), (None, True), ("none", True)])
def test_choices_without_an_order_are_at_distance_one(pair: tuple[Any, Any]) -> None:
    assert distance(*(placed(mixed=choice) for choice in pair)) == pytest.approx(1.0)


def test_choices_that_are_numbers_lie_in_their_order() -> None:
    assert [placed(numbers=choice)["numbers"] for choice in (16, 32.5, 64)] == [(0.0,), (0.5,), (1.0,)]
    assert [placed(flag=choice)["flag"] for choice in (False, True)] == [(0.0,), (1.0,)]


def test_equal_ratios_are_equal_steps_on_a_logarithmic_scale() -> None:
    assert [placed(log=n)["log"][0] for n in (1, 8, 64, 512)] == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
    assert placed(one=5)["one"] == (0.0,)


@pytest.mark.parametrize(
    ("name", "choices"), [("name", ("relu", "silu", "gelu")), ("real", (-1.0, 2.5)), ("flag", (True, False))]
)
def test_what_lacks_a_parameter_is_as_far_from_each_of_its_ends(name: str, choices: tuple[Any, ...]) -> None:
    apart = [distance(placed(whole=0), placed(whole=0, **{name: choice})) for choice in choices]
    assert apart == pytest.approx([apart[0]] * len(apart)) and 0.7 < apart[0] <= 1.0 + 1e-9


class _Strange(BaseDistribution):
    def to_internal_repr(self, param_value_in_external_repr: Any) -> float:
        return 0.0

    def single(self) -> bool:
        return False

    def _contains(self, param_value_in_internal_repr: float) -> bool:
        return True


def test_what_is_not_known_is_left_out() -> None:
    found = coordinates({"strange": object(), "whole": 8, "unheard": 3}, {"strange": _Strange(), **DISTRIBUTIONS})
    assert found == {"whole": (1.0,)}


def test_suggestions_without_any_parameter_lie_at_one_point() -> None:
    at = points([{}, {}])
    assert at.shape == (2, 0) and (squared_distances(at, at) == 0).all()
