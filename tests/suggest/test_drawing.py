"""Candidates drawn from a space: its own at random, and neighbours that keep what they are told as far as the space allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from nas.suggest.drawing import Candidate, contains, draw
from nas.suggest.encoding import coordinates
from nas.targets import build_target
from search_spaces.base import SearchSpace, SpaceError, Trial

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(60)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    node = yaml.safe_load((ROOT / "conf" / "space" / "osa_digits_table.yaml").read_text(encoding="utf-8"))
    built: SearchSpace = build_target("space", node)
    return built


def drawn(space: SearchSpace, seed: int, parent: dict[str, Any] | None = None) -> Candidate:
    candidate = draw(space, seed, parent)
    assert candidate is not None and candidate.architecture is not None and candidate.stopped is None
    return candidate


def test_what_is_drawn_is_of_the_space(space: SearchSpace) -> None:
    for seed in SEEDS:
        candidate = drawn(space, seed)
        # Optuna checks every value against what the space allows.
        trial = FixedTrial(dict(candidate.params))
        assert space.suggest(trial) == candidate.architecture and trial.params == candidate.params
        assert candidate.coordinates == coordinates(trial.params, trial.distributions), "as those of a study's trial"
        assert all(0.0 <= place <= 1.0 for places in candidate.coordinates.values() for place in places)
    assert len({drawn(space, seed).architecture for seed in SEEDS}) > 0.8 * len(SEEDS)


def test_equal_seeds_draw_equal_candidates(space: SearchSpace) -> None:
    parent = dict(drawn(space, 0).params)
    for seed in SEEDS:
        assert drawn(space, seed) == drawn(space, seed) and drawn(space, seed, parent) == drawn(space, seed, parent)


def test_a_neighbour_differs_in_two_parameters_at_most_and_in_what_they_bring(space: SearchSpace) -> None:
    parent = dict(drawn(space, 0).params)
    changed: list[set[str]] = []
    for seed in range(200):
        found = drawn(space, seed, parent).params
        changed.append({name for name in parent if name in found and found[name] != parent[name]})
        brought = set(found) ^ set(parent)
        assert len(changed[-1]) <= 2 and (not brought or "stages" in changed[-1])
        assert all(name.startswith("stage") for name in brought)
    assert {1, 2} <= {len(names) for names in changed} and set().union(*changed) == set(parent), "each of them in turn"


@pytest.mark.parametrize("value", [99, -1, "wide", None])
def test_what_the_space_no_longer_has_is_drawn_anew(space: SearchSpace, value: Any) -> None:
    parent = {**drawn(space, 0).params, "stem.width": value, "gone": 3}
    found = [drawn(space, seed, parent) for seed in SEEDS]
    assert len({candidate.params["stem.width"] for candidate in found}) > 1
    for candidate in found:
        assert "gone" not in candidate.params
        assert space.suggest(FixedTrial(dict(candidate.params))) == candidate.architecture


class _Refusing:
    """A space that has no network for some of what may be suggested."""

    def suggest(self, trial: Trial) -> Any:
        if trial.suggest_int("n", 0, 9, step=3) > 3:
            raise SpaceError("n is too much.")
        first = trial.suggest_float("x", 1e-3, 1.0, log=True)
        assert trial.suggest_float("x", 1e-3, 1.0, log=True) == first
        return object()


class _Wide:
    """A space with every kind of parameter."""

    def suggest(self, trial: Trial) -> Any:
        trial.suggest_int("log", 1, 1000, log=True)
        trial.suggest_int("steps", 3, 20, step=4)
        trial.suggest_float("real_steps", 0.0, 1.0, step=0.3)
        trial.suggest_float("real", 1e-3, 1.0, log=True)
        trial.suggest_categorical("one_of", ["a", None, 3, True])
        return object()


@pytest.mark.filterwarnings("ignore:.*not divisible")
def test_every_kind_of_parameter_is_drawn_kept_and_placed_as_in_a_study() -> None:
    space: Any = _Wide()
    parent = dict(drawn(space, 1).params)
    for seed in SEEDS:
        for candidate in (drawn(space, seed), drawn(space, seed, parent)):
            trial = FixedTrial(dict(candidate.params))
            space.suggest(trial)
            assert candidate.coordinates == coordinates(trial.params, trial.distributions)
        assert sum(candidate.params[name] != parent[name] for name in parent) <= 2


def test_a_refusal_of_the_space_is_no_candidate() -> None:
    space: Any = _Refusing()
    found = [draw(space, seed) for seed in SEEDS]
    kept = [candidate for candidate in found if candidate is not None]
    assert 0 < len(kept) < len(found) and {candidate.params["n"] for candidate in kept} == {0, 3}
    assert all(set(candidate.params) == {"n", "x"} for candidate in kept)
    # A neighbour of what is allowed may be refused too.
    assert {draw(space, seed, {"n": 0, "x": 0.5}) is None for seed in SEEDS} == {True, False}


@pytest.mark.filterwarnings("ignore:.*not divisible")
def test_values_out_of_range_or_between_steps_are_drawn_anew() -> None:
    space: Any = _Wide()
    parent = {"log": 2000, "steps": 4, "real_steps": 0.25, "real": 2.0, "one_of": "b"}
    for seed in SEEDS:
        params = dict(drawn(space, seed, parent).params)
        assert not {name for name in params if params[name] == parent[name]}
        space.suggest(FixedTrial(params))


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (IntDistribution(2, 8, step=2), (2, 8), (0, 10, 3, "two", None)),
        (FloatDistribution(0.0, 1.0), (0.0, 0.25, 1), (-0.1, 1.5, "half", None)),
        (CategoricalDistribution(["a", None]), ("a", None), ("b", 0)),
    ],
)
def test_a_distribution_contains_what_it_could_have_given(
    distribution: Any, inside: tuple[Any, ...], outside: tuple[Any, ...]
) -> None:
    assert all(contains(distribution, value) for value in inside)
    assert not any(contains(distribution, value) for value in outside)
