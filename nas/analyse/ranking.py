"""How far a brief training's order of networks agrees with that of a full training: rank correlations, regret, cost.

Statistics alone; who trains what is ``nas.auditing``'s.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy import stats

from nas.analyse.scene import Figure
from nas.analyse.study.fronts import LINK
from nas.analyse.study.layout import PALETTE, finish, rounded
from nas.analyse.study.spending import named_rows

LEAST_NETWORKS = 4
"""Networks below which no correlation is told."""

_RESAMPLES = 2000


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over networks, with the 95 % percentile interval of a bootstrap over them."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Proxy:
    """A cheap score by which networks could be ranked.

    Attributes:
        name: What it is.
        cost: Epochs that it takes, as a multiple of one brief training's; 0 if nothing is trained.
        seconds: The same measured, median over the networks; ``None`` if nothing is trained.
        scores: Of each network, higher is better.
    """

    name: str
    cost: float
    seconds: float | None
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Judged:
    """A proxy against the full training.

    Attributes:
        kendall: Kendall's tau-b; ``None`` for too few networks, or if one side does not differ.
        spearman: Spearman's rho, likewise.
        regret: Full score of the best network less that of the network which the proxy puts first.
        better: Share of bootstrap draws in which its tau is above the first proxy's; ``None`` for the first itself.
    """

    proxy: Proxy
    kendall: Correlation | None
    spearman: Correlation | None
    regret: float
    better: float | None


@dataclass(frozen=True)
class AuditResult:
    """An audit that ended.

    Attributes:
        networks: The trials, or what else names them.
        full: Accuracy of each after the full training, on the validation part.
        full_error: Its binomial standard error.
        judged: Each proxy; the first is what the search ranks by.
        left_out: Networks whose training failed, with the reason.
        told: The verdict, one sentence each.
        conditions: Epochs, seeds, data and device, in words.
    """

    networks: tuple[str, ...]
    full: tuple[float, ...]
    full_error: tuple[float, ...]
    judged: tuple[Judged, ...]
    left_out: tuple[tuple[str, str], ...]
    told: tuple[str, ...]
    conditions: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; ``from_dict`` restores it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AuditResult:
        """Return what ``to_dict`` made plain; raises KeyError or TypeError on anything else."""
        judged = tuple(
            Judged(
                Proxy(**{**found["proxy"], "scores": tuple(found["proxy"]["scores"])}),
                None if found["kendall"] is None else Correlation(**found["kendall"]),
                None if found["spearman"] is None else Correlation(**found["spearman"]),
                found["regret"],
                found["better"],
            )
            for found in data["judged"]
        )
        return cls(
            networks=tuple(data["networks"]),
            full=tuple(data["full"]),
            full_error=tuple(data["full_error"]),
            judged=judged,
            left_out=tuple((str(name), str(reason)) for name, reason in data["left_out"]),
            told=tuple(data["told"]),
            conditions=tuple((str(term), str(what)) for term, what in data["conditions"]),
        )


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's tau-b, which allows for ties; NaN if one side does not differ."""
    return float(stats.kendalltau(first, second).statistic)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rho; NaN if one side does not differ."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return math.nan
    return float(stats.spearmanr(first, second).statistic)


def regret(scores: Sequence[float], full: Sequence[float]) -> float:
    """Return what is lost by taking the network with the best score; the mean over those that share it."""
    best = [value for value, score in zip(full, scores, strict=True) if score == max(scores)]
    return max(full) - sum(best) / len(best)


def judge(proxies: Sequence[Proxy], full: Sequence[float], seed: int = 0) -> tuple[Judged, ...]:
    """Return every proxy against the full scores; draws of networks are shared, so that differences are paired."""
    draws = np.random.default_rng(seed).integers(0, len(full), size=(_RESAMPLES, len(full)))
    taus = {proxy.name: _kendalls(proxy.scores, full, draws) for proxy in proxies}
    found = []
    for place, proxy in enumerate(proxies):
        better = None
        if place:
            mine, first = taus[proxy.name], taus[proxies[0].name]
            both = np.isfinite(mine) & np.isfinite(first)
            wins = (mine > first)[both].mean() + 0.5 * (mine == first)[both].mean() if both.any() else math.nan
            better = None if math.isnan(wins) else float(wins)
        rho = _correlation(spearman(proxy.scores, full), _spearmans(proxy.scores, full, draws), len(full))
        tau = _correlation(kendall(proxy.scores, full), taus[proxy.name], len(full))
        found.append(Judged(proxy, tau, rho, regret(proxy.scores, full), better))
    return tuple(found)


def _kendalls(scores: Sequence[float], full: Sequence[float], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``kendall`` of every draw, shape (draws,), from how often each network was drawn and the signs of all pairs."""
    counts = np.array([np.bincount(draw, minlength=len(full)) for draw in draws], dtype=np.float64)
    first, second = (np.sign(np.subtract.outer(values, values)) for values in (np.asarray(scores), np.asarray(full)))

    def pairs(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        total: NDArray[np.float64] = np.einsum("di,ij,dj->d", counts, weights, counts, optimize=True)
        return total

    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = pairs(first * second) / np.sqrt(pairs(np.abs(first)) * pairs(np.abs(second)))
    return found


def _spearmans(scores: Sequence[float], full: Sequence[float], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``spearman`` of every draw, shape (draws,): the correlation of the ranks in it."""
    first, second = (stats.rankdata(np.asarray(values, dtype=np.float64)[draws], axis=1) for values in (scores, full))
    first, second = first - first.mean(axis=1, keepdims=True), second - second.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = (first * second).sum(axis=1) / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return found


def _correlation(value: float, resampled: Any, networks: int) -> Correlation | None:
    known = resampled[np.isfinite(resampled)]
    if networks < LEAST_NETWORKS or math.isnan(value) or len(known) < len(resampled) / 2:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return Correlation(value, float(low), float(high))


def _agreeing(scores: Sequence[float], full: Sequence[float]) -> float:
    """Return the share of the pairs that differ in both that both order alike."""
    pairs = [(a - b) * (x - y) for (a, x), (b, y) in combinations(zip(scores, full, strict=True), 2)]
    return sum(pair > 0 for pair in pairs) / max(1, sum(pair != 0 for pair in pairs))


def verdict(judged: Sequence[Judged], full: Sequence[float]) -> tuple[str, ...]:
    """Return, one sentence each, how far the search's order holds and what would rank better at which cost."""
    first = judged[0]
    if first.kendall is None:
        return (f"Too few networks that differ ({len(first.proxy.scores)}): audit more of them.",)
    tau = first.kendall
    sentences = [
        f"The brief order agrees with the full one at Kendall τ {tau.value:.2f} (95 % interval {tau.low:.2f} to {tau.high:.2f}): "
        f"of two networks the brief training puts the better one first in {_agreeing(first.proxy.scores, full):.0%} of the pairs "
        "that differ in both; "
        f"taking its first costs {100 * first.regret:.2f} points."
    ]
    for cost, what in ((1.0, "At equal cost"), (None, "At a higher cost")):
        rivals = [j for j in judged[1:] if j.kendall is not None and ((j.proxy.cost <= 1) if cost else (j.proxy.cost > 1))]
        if not rivals:
            continue
        best = max(rivals, key=lambda j: j.kendall.value if j.kendall else -1)
        assert best.kendall is not None
        # The best of several is lucky: each of them has its share of the error (Bonferroni).
        sure = best.better is not None and best.better >= 1 - 0.025 / len(rivals)
        gain = "better by more than chance" if sure else "no better than chance allows"
        if best.kendall.value <= tau.value:
            sentences.append(f"{what} nothing else that was tried ranks better.")
        else:
            times = f", {best.proxy.cost:g} times the epochs" if best.proxy.cost > 1 else ""
            sentences.append(f"{what} “{best.proxy.name}” ranks best{times}: τ {best.kendall.value:.2f}, {gain}.")
    return tuple(sentences)


def audit_figures(result: AuditResult) -> list[Figure]:
    """Return the brief scores against the full ones, and each proxy's correlation at its cost."""
    heading, second = "Brief against full training", "How well each score ranks"
    first = result.judged[0]
    if not result.networks:
        return [Figure(heading, None, "no network was trained in full")]
    # A loss is told as its negative, so that more is better.
    is_fraction = min(first.proxy.scores) >= 0
    per, unit = (100, " %") if is_fraction else (1, "")
    scatter = go.Figure(
        go.Scatter(
            x=rounded([per * score for score in first.proxy.scores]),
            y=rounded([100 * score for score in result.full]),
            error_y={"type": "data", "array": rounded([100 * e for e in result.full_error], 3), "thickness": 1, "width": 0},
            mode="markers+text",
            marker={"size": [9] * len(result.full), "color": PALETTE[0]},
            customdata=list(result.networks),
            textfont={"size": 11, "color": PALETTE[0]},
            hovertemplate="<b>trial %{customdata}</b><br>brief %{x:.2f}" + unit + "<br>full %{y:.2f} %<extra></extra>",
            meta={"labels": "around", "priority": 0, "link": LINK},
        )
    )
    finish(scatter, f"brief training: {first.proxy.name}{' (%)' if is_fraction else ''}", "full training, top1 (%)", 380)
    figures = [
        Figure(heading, scatter, note="Both on the validation part; bars: binomial standard error of the full score.", wide=False)
    ]
    shown = [judged for judged in result.judged if judged.kendall is not None]
    if not shown:
        return [*figures, Figure(second, None, f"{len(result.networks)} networks are too few, or do not differ")]
    bars = go.Figure(
        go.Scatter(
            x=rounded([j.kendall.value for j in shown if j.kendall]),
            y=list(range(len(shown))),
            error_x={
                "type": "data",
                "array": rounded([j.kendall.high - j.kendall.value for j in shown if j.kendall], 3),
                "arrayminus": rounded([j.kendall.value - j.kendall.low for j in shown if j.kendall], 3),
                "thickness": 1.5,
            },
            mode="markers",
            marker={"size": 9, "color": PALETTE[1]},
            hovertext=[
                f"<b>{j.proxy.name}</b><br>τ {j.kendall.value:.2f}<br>regret {100 * j.regret:.2f} points"
                for j in shown
                if j.kendall
            ],
            hoverinfo="text",
        )
    )
    names = [f"{j.proxy.name} ({j.proxy.cost:g}×)" for j in shown]
    finish(bars, "Kendall's τ with the full training", "", 110 + 30 * len(shown), yaxis=named_rows(names))
    note = "Bars: 95 % bootstrap over the networks. In brackets the cost in epochs, as a multiple of one brief training."
    return [*figures, Figure(second, bars, note=note, wide=False)]
