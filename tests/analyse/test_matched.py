"""Matched differences: against Welch's interval, SciPy's bootstrap, every permutation, and how often the interval holds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nas.analyse.matched import LEAST, difference, imbalance, near


def drawn(seed: int, counts: tuple[int, int], sds: tuple[float, float] = (1.0, 1.0), off: float = 0.0) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    return generator.normal(off, sds[0], counts[0]), generator.normal(0.0, sds[1], counts[1])


def flat(values: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return np.ones(len(values[0])), np.ones(len(values[1]))


@pytest.mark.parametrize(("counts", "sds"), [((24, 24), (1, 1)), ((8, 8), (1, 1)), ((10, 30), (3, 1)), ((6, 40), (0.2, 2))])
def test_without_levels_it_is_welchs_interval(counts: tuple[int, int], sds: tuple[float, float]) -> None:
    for seed in range(5):
        values = drawn(seed, counts, sds, 0.5)
        found = difference(values, flat(values), 0.1)
        assert found is not None and found.members == counts
        test = stats.ttest_ind(*values, equal_var=False)
        wanted = test.confidence_interval(0.95)
        assert found.value == pytest.approx(values[0].mean() - values[1].mean())
        # The draws of few members are a little lumpy, and 10,000 of them scatter.
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.07 * (wanted.high - wanted.low))
        one_sided = test.pvalue / 2
        assert found.positive == pytest.approx(1 - one_sided if found.value > 0 else one_sided, abs=0.02)


def test_its_draws_are_scipys_bootstrap_stretched() -> None:
    values = drawn(3, (20, 20))
    found = difference(values, flat(values), 0.1)
    plain = stats.bootstrap(
        values,
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    wanted = np.sqrt(20 / 19) * stats.t.ppf(0.975, 38) / stats.norm.ppf(0.975)
    assert found is not None
    assert (found.high - found.low) / (plain.high - plain.low) == pytest.approx(wanted, rel=0.03)


def test_it_agrees_with_every_permutation() -> None:
    first, second = drawn(5, (7, 7), off=0.9)
    pooled = np.concatenate([first, second])
    sums = np.array([pooled[list(chosen)].sum() for chosen in combinations(range(14), 7)])  # all 3,432
    share = float((sums >= first.sum() - 1e-12).mean())
    found = difference((first, second), (np.ones(7), np.ones(7)), 0.1)
    assert found is not None and 1 - found.positive == pytest.approx(share, abs=0.02)


def stratified(seed: int, counts: tuple[int, int], jitter: float) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Three levels of work that matter far more than the groups do, whose true difference is 0.3."""
    generator = np.random.default_rng(seed)
    levels = [generator.integers(0, 3, count) for count in counts]
    noise = [generator.normal(0, 1.0, count) for count in counts]
    values = tuple(5.0 * level + off + scatter for level, off, scatter in zip(levels, (0.3, 0.0), noise, strict=True))
    return values, tuple(2.0**level * np.exp(generator.normal(0, jitter, len(level))) for level in levels)


@pytest.mark.parametrize("counts", [(24, 24), (12, 30)])
def test_the_interval_holds_the_truth_as_often_as_it_says(counts: tuple[int, int]) -> None:
    held = []
    for seed in range(200):
        values, levels = stratified(seed, counts, 0.01)
        found = difference(values, levels, 0.1, draws=500, seed=seed)
        if found is not None:
            held.append(found.low <= 0.3 <= found.high)
    # Three standard errors of a share of 200 around 95 %, and a little more above: the stretch is for the smallest levels.
    assert len(held) > 195 and 0.904 < np.mean(held) < 0.995


def test_at_equal_levels_it_is_the_stratified_mean() -> None:
    values, levels = stratified(1, (15, 15), 0.0)
    means, weights = [], []
    for level in (1.0, 2.0, 4.0):
        parts = [value[where == level] for value, where in zip(values, levels, strict=True)]
        if min(map(len, parts)):
            means.append(parts[0].mean() - parts[1].mean())
            weights.append(sum(map(len, parts)))
    found = difference(values, levels, 0.1)
    assert found is not None and found.value == pytest.approx(np.average(means, weights=weights))


def test_who_has_nobody_near_takes_no_part() -> None:
    values, levels = drawn(0, (9, 9)), (np.array([1.0] * 8 + [100.0]), np.array([1.05] * 8 + [50.0]))
    kept = difference((values[0][:8], values[1][:8]), (levels[0][:8], levels[1][:8]), 0.1)
    found = difference(values, levels, 0.1)
    assert found == kept and found is not None and found.members == (8, 8)
    assert difference(values, levels, 0.04) is None


def test_the_imbalance_is_that_of_those_that_are_compared() -> None:
    # Most of the first group are large and most of the second small, and those near one another differ by 5 % all the same.
    levels = np.array([1.05] * 2 + [105.0] * 8 + [7.0]), np.array([1.0] * 8 + [100.0] * 2)
    assert imbalance(levels, 0.1) == pytest.approx(0.05)
    assert imbalance((levels[0][-1:], levels[1]), 0.1) is None


def test_too_few_tell_nothing() -> None:
    values = drawn(0, (LEAST - 1, 30))
    assert difference(values, flat(values), 0.1) is None
    assert difference((np.zeros(0), values[1]), (np.zeros(0), np.ones(30)), 0.1) is None
    # Each alone at its level: nothing says how much such members scatter.
    lone = 2.0 ** np.arange(6)
    assert difference((np.arange(6.0), np.arange(6.0)), (lone, lone), 0.1) is None


def test_equal_groups_do_not_differ() -> None:
    found = difference((np.full(6, 2.0), np.full(7, 2.0)), (np.ones(6), np.ones(7)), 0.1)
    assert found is not None and (found.value, found.low, found.high, found.positive) == (0.0, 0.0, 0.0, 0.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 0.6))
def test_turning_the_groups_turns_the_sign(seed: int, within: float) -> None:
    values, levels = stratified(seed, (12, 15), 0.2)
    assert (near(*levels, within) == near(*levels[::-1], within).T).all()
    found, turned = difference(values, levels, within, 500), difference(values[::-1], levels[::-1], within, 500)
    assert (found is None) == (turned is None)
    if found is not None and turned is not None:
        assert found.value == pytest.approx(-turned.value) and found.members == turned.members[::-1]
        assert found.low <= found.value <= found.high
