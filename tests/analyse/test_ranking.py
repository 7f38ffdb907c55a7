"""Rank correlations against scipy and by hand, the coverage of their intervals, regret, and the verdict's words."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nas.analyse.ranking import (
    AuditResult,
    Proxy,
    _agreeing,
    _kendalls,
    _spearmans,
    audit_figures,
    judge,
    kendall,
    regret,
    spearman,
    verdict,
)

SCORES = st.lists(st.integers(0, 8), min_size=3, max_size=12)


@given(SCORES, st.randoms())
@settings(max_examples=80, deadline=None)
def test_tau_b_is_that_of_its_definition(first: list[int], random: object) -> None:
    second = list(first)
    random.shuffle(second)  # type: ignore[attr-defined]
    agree = disagree = tied_first = tied_second = 0
    for i in range(len(first)):
        for j in range(i):
            a, b = first[i] - first[j], second[i] - second[j]
            agree += a * b > 0
            disagree += a * b < 0
            tied_first += a == 0
            tied_second += b == 0
    pairs = len(first) * (len(first) - 1) / 2
    below = math.sqrt((pairs - tied_first) * (pairs - tied_second))
    if below == 0:
        assert math.isnan(kendall(first, second)) and math.isnan(spearman(first, second))
        return
    assert kendall(first, second) == pytest.approx((agree - disagree) / below)
    ranks = [stats.rankdata(values) for values in (first, second)]
    assert spearman(first, second) == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_regret_is_what_the_best_scored_loses() -> None:
    assert regret([3, 2, 1], [0.9, 0.95, 0.8]) == pytest.approx(0.05)
    assert regret([1, 2, 1], [0.9, 0.95, 0.8]) == 0
    assert regret([2, 2, 1], [0.9, 0.95, 0.8]) == pytest.approx(0.025)  # either could have been taken


def test_resampled_correlations_are_scipys() -> None:
    random = np.random.default_rng(5)
    draws = random.integers(0, 9, size=(60, 9))
    x, y = random.integers(0, 4, 9).astype(float), random.integers(0, 4, 9).astype(float)  # with ties
    for draw, tau, rho in zip(draws, _kendalls(x, y, draws), _spearmans(x, y, draws), strict=True):
        assert tau == pytest.approx(kendall(x[draw], y[draw]), nan_ok=True)
        assert rho == pytest.approx(spearman(x[draw].tolist(), y[draw].tolist()), nan_ok=True)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    truth = 2 / math.pi * math.asin(0.7)  # tau of a bivariate normal with correlation 0.7 (Kruskal 1958)
    inside = 0
    for trial in range(60):
        x, y = random.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], size=30).T
        (judged,) = judge([Proxy("x", 1, 1.0, tuple(x))], tuple(y), seed=trial)
        assert judged.kendall is not None
        inside += judged.kendall.low <= truth <= judged.kendall.high
    assert inside >= 50  # 57 expected; 50 or fewer has a probability below 0.005 at 95 % coverage


def result(full: tuple[float, ...], **scores: tuple[float, ...]) -> AuditResult:
    proxies = [Proxy(name, {"brief": 1.0, "seeds": 3.0}.get(name, 1.0), 2.0, values) for name, values in scores.items()]
    judged = judge(proxies, full)
    names = tuple(str(number) for number in range(len(full)))
    return AuditResult(
        names, full, tuple(0.01 for _ in full), judged, (("9", "diverged"),), verdict(judged, full), (("device", "cpu"),)
    )


FULL = (0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97)


def test_a_perfect_order_and_a_reversed_one() -> None:
    found = result(FULL, brief=FULL, seeds=tuple(-value for value in FULL))
    first, second = found.judged
    assert first.kendall is not None and second.kendall is not None
    assert (first.kendall.value, first.regret, second.kendall.value) == (pytest.approx(1), 0, pytest.approx(-1))
    assert second.regret == pytest.approx(0.07) and second.better == pytest.approx(0)
    assert "τ 1.00" in found.told[0] and "At a higher cost nothing else that was tried ranks better." in found.told


def test_what_ranks_better_is_said_with_its_cost_and_how_sure_it_is() -> None:
    noise = (0.5, 0.4, 0.9, 0.2, 0.8, 0.3, 0.6, 0.7)
    told = " ".join(result(FULL, brief=noise, seeds=FULL).told)
    assert "“seeds” ranks best, 3 times the epochs: τ 1.00, better by more than chance." in told
    same = " ".join(result(FULL, brief=noise, area=noise).told)
    assert "At equal cost nothing else that was tried ranks better." in same


def test_it_comes_back_from_json() -> None:
    found = result(FULL, brief=FULL, seeds=FULL[::-1])
    assert AuditResult.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_too_few_networks_are_said() -> None:
    few = result((0.9, 0.91), brief=(0.1, 0.2))
    assert few.judged[0].kendall is None and "Too few networks" in few.told[0]
    assert [figure.plot is None for figure in audit_figures(few)] == [False, True]
    assert all(figure.plot is not None for figure in audit_figures(result(FULL, brief=FULL)))


def test_a_loss_is_drawn_as_one() -> None:
    for scores, title, drawn in (
        (FULL, "brief training: brief (%)", 97.0),
        (tuple(-v for v in FULL), "brief training: brief", -0.90),
    ):
        scatter = audit_figures(result(FULL, brief=scores))[0].plot
        assert scatter is not None and scatter.layout.xaxis.title.text == title
        assert max(scatter.data[0].x) == pytest.approx(drawn) and ("brief %{x:.2f} %" in scatter.data[0].hovertemplate) == (
            drawn > 1
        )


def test_ties_are_no_pairs_that_differ() -> None:
    # Of three pairs one is tied in the brief order; of the two others one is ordered alike.
    assert _agreeing((1.0, 1.0, 2.0), (0.1, 0.3, 0.2)) == 0.5
    assert _agreeing((1.0, 1.0), (0.1, 0.3)) == 0.0
