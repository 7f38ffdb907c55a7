"""The findings of the representative-architecture study (Bianco et al. 2018, arXiv 1810.00736), judged by rows measured here.

Accuracies are the published ones, so what is judged is how they go with what was counted and measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.analyse.columns import digits
from nas.analyse.judging import Claim, Verdict
from nas.analyse.rows import Row, at, batch_sizes, having, known, named, number

ENOUGH = 10
"""Fewest networks for which a correlation is given: with fewer, chance alone makes a rank correlation of 0.6 and more."""

_GROUP = "Findings of the representative-architecture study"
_STRONG = 0.8
_LINEAR = 0.5
_CONTEXT_MB = (400.0, 800.0)


def judge(rows: Iterable[Row], precision: str) -> list[Claim]:
    """Judge the study's findings at the least batch size of one precision; none if nothing was measured in it."""
    mine = at(named(rows), precision)
    sizes = batch_sizes(mine)
    if not sizes:
        return []
    here = [row for row in mine if number(row, "batch_size") == sizes[0]]
    where = f"{precision}, batch {sizes[0]}"
    return [_operations(here), _size(here), _throughput(here, where), _process_memory(here, where)]


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank; NaN if one is constant."""
    return pearson(_ranks(x), _ranks(y))


def pearson(x: Sequence[float] | NDArray[np.float64], y: Sequence[float] | NDArray[np.float64]) -> float:
    """Return Pearson's correlation; NaN if one of the two is constant."""
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale else float("nan")


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse.reshape(-1)]
    return mean_ranks


def _operations(rows: Sequence[Row]) -> Claim:
    told = having(rows, ("flops", "top1_published"))
    statement = "More operations do not mean more accuracy."
    paper = "of two networks the one with more operations may well be the less accurate one"
    if len(told) < ENOUGH:
        return _too_few(statement, paper, len(told), "FLOPs and a published accuracy")
    flops, top1 = _columns(told, "flops", "top1_published")
    rho = spearman(flops, top1)
    pairs = [(i, j) for i in range(len(told)) for j in range(len(told)) if flops[i] > flops[j]]
    against = [(i, j) for i, j in pairs if top1[i] < top1[j]]
    text = (
        f"Spearman ρ = {rho:.2f}, n = {len(told)}; in {len(against)} of {len(pairs)} pairs more operations go with less accuracy"
    )
    if against:
        i, j = max(against, key=lambda pair: flops[pair[0]] / flops[pair[1]])
        text += (
            f"; farthest: {told[i]['name']} spends {flops[i] / flops[j]:.1f}× the operations of {told[j]['name']}"
            f" for {100 * (top1[j] - top1[i]):.1f} points less"
        )
    verdict: Verdict = "holds" if rho < _STRONG else "does not hold"
    return Claim(_GROUP, statement, paper, verdict, text, f"counted and published; holds if ρ < {_STRONG}")


def _size(rows: Sequence[Row]) -> Claim:
    told = having(rows, ("params", "top1_published"))
    statement = "Size and accuracy have no linear relation."
    paper = "no linear relation between the number of parameters and top-1"
    if len(told) < ENOUGH:
        return _too_few(statement, paper, len(told), "parameters and a published accuracy")
    params, top1 = _columns(told, "params", "top1_published")
    explained = pearson(params, top1) ** 2
    verdict: Verdict = "holds" if explained < _LINEAR else "does not hold"
    text = f"a straight line explains {100 * explained:.0f} % of the variance of top-1 (R² = {explained:.2f}), n = {len(told)}"
    return Claim(_GROUP, statement, paper, verdict, text, f"counted and published; holds if R² < {_LINEAR}")


def _throughput(rows: Sequence[Row], where: str) -> Claim:
    told = having(rows, ("images_per_s", "top1_published"))
    statement = "Throughput bounds the accuracy that can be had."
    paper = "the best accuracy falls as the images per second that are asked for rise"
    if len(told) < ENOUGH:
        return _too_few(statement, paper, len(told), "a throughput and a published accuracy")
    told.sort(key=lambda row: known(row, "images_per_s"))
    third = len(told) // 3
    slow, fast = told[:third], told[-third:]
    best_slow, best_fast = (max(group, key=lambda row: known(row, "top1_published")) for group in (slow, fast))
    lost = 100 * (known(best_slow, "top1_published") - known(best_fast, "top1_published"))
    verdict: Verdict = "holds" if lost > 0 else "tie" if lost == 0 else "does not hold"
    text = (
        f"best of the slowest third (up to {digits(known(slow[-1], 'images_per_s'))} images/s): {_named_top1(best_slow)}; "
        f"best of the fastest (from {digits(known(fast[0], 'images_per_s'))}): {_named_top1(best_fast)}; n = {len(told)}"
    )
    return Claim(_GROUP, statement, paper, verdict, text, where)


def _process_memory(rows: Sequence[Row], where: str) -> Claim:
    told = having(rows, ("params", "process_memory_mb"))
    statement = "Even a tiny network's process holds about 0.6 GB of GPU memory."
    paper = "about 0.6 GB, CUDA context included"
    if not told:
        return Claim(_GROUP, statement, paper, "cannot be said", "no memory of a process was measured", where)
    row = min(told, key=lambda row: known(row, "params"))
    memory_mb = known(row, "process_memory_mb")
    low, high = _CONTEXT_MB
    verdict: Verdict = "holds" if low <= memory_mb <= high else "does not hold"
    text = f"{row['name']} with {digits(known(row, 'params') / 1e6)} M parameters: {digits(memory_mb)} MB"
    return Claim(_GROUP, statement, paper, verdict, text, f"{where}; holds from {low:.0f} to {high:.0f} MB")


def _columns(rows: Sequence[Row], *columns: str) -> list[list[float]]:
    return [[known(row, column) for row in rows] for column in columns]


def _named_top1(row: Row) -> str:
    return f"{row['name']} {100 * known(row, 'top1_published'):.1f} %"


def _too_few(statement: str, paper: str, count: int, what: str) -> Claim:
    told = f"{count} networks have {what}; {ENOUGH} are needed"
    return Claim(_GROUP, statement, paper, "cannot be said", told, "counted and published")
