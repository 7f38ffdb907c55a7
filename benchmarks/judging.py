"""By what searches are compared: how long each took to a share of the best known front, and how many times as long as ours."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from yardstick import least_final_ratio, median_interval, speedups, taken, time_to


class Course(Protocol):
    """A search's way to its front."""

    @property
    def steps(self) -> Sequence[tuple[float, float]]:
        """See ``yardstick.Trace``."""
        ...

    @property
    def budget_s(self) -> float:
        """Seconds that it had."""
        ...

    @property
    def final(self) -> float:
        """The share of the best known hypervolume in the end."""
        ...


SHARES = (0.95, 0.99)
RIVALS = ("nsga2", "tpe")
"""Of which ours shall be faster than the best: what a plain user of our way of evaluating would take."""

Figure = float | str | tuple[float, float] | None

Shares = float | Sequence[float]
"""One for all seeds, or one for each."""


def quartiles(values: Sequence[float], digits: int = 0) -> str:
    """Return the median, and between which quartiles it lies, as short text."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def reached(courses: Sequence[Course], shares: Shares, digits: int = 0) -> str:
    """Return when searches were there, and how many never were, as short text."""
    missed = _times(courses, shares).count(None)
    return quartiles(_taken(courses, shares), digits) + (f" {missed} not" if missed else "")


def _times(courses: Sequence[Course], shares: Shares) -> list[float | None]:
    each = [shares] * len(courses) if isinstance(shares, float) else shares
    return [time_to(share, one.steps) for share, one in zip(each, courses, strict=True)]


def _taken(courses: Sequence[Course], shares: Shares = SHARES[-1]) -> list[float]:
    return taken(_times(courses, shares), [one.budget_s for one in courses])


def _ratios(theirs: Sequence[Course], ours: Sequence[Course], shares: Shares = SHARES[-1]) -> list[float]:
    return speedups(_times(theirs, shares), [one.budget_s for one in theirs], _times(ours, shares))


def against(name: str, runs: Sequence[Course], ours: Sequence[Course] | None, our_name: str, share: float = SHARES[-1]) -> str:
    """Return how many times as long as ours a method took, as short text."""
    if ours is None:
        return "–"
    return "1" if name == our_name else quartiles(_ratios(runs, ours, share), 2)


def _final(courses: Sequence[Course]) -> float:
    return statistics.median(one.final for one in courses)


def speedup(name: str, theirs: Sequence[Course], ours: Sequence[Course], shares: Shares = SHARES[-1]) -> dict[str, Figure]:
    """Return the median ratio, and the interval that holds it with 95 %."""
    ratios = _ratios(theirs, ours, shares)
    return {name: statistics.median(ratios), f"{name}_interval": median_interval(ratios)}


def summary(courses: Mapping[str, Sequence[Course]]) -> dict[str, Figure]:
    """Return the figures by which a search is judged; ``None`` where a method that one needs was not run."""
    found: dict[str, Figure] = dict.fromkeys(("speedup_vs_naive_99", "speedup_vs_best_99", "final_hypervolume_ratio_min", "best"))
    if "ours" not in courses:
        return found
    ours = courses["ours"]
    if "naive" in courses:
        found |= speedup("speedup_vs_naive_99", courses["naive"], ours)
    if rivals := [name for name in RIVALS if name in courses]:
        # The one that is faster by itself: taken seed by seed, the best of several draws would stand against one draw.
        # Of two that are not there in the median, the one that has come further.
        best = min(rivals, key=lambda name: (statistics.median(_taken(courses[name])), -_final(courses[name])))
        found |= {"best": best, **speedup("speedup_vs_best_99", courses[best], ours)}
    others = [[one.final for one in courses[name]] for name in ("naive", "random", *RIVALS) if name in courses]
    found["final_hypervolume_ratio_min"] = least_final_ratio([one.final for one in ours], others)
    return found
