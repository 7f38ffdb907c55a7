"""Judging a claim by measured rows: two values with their spreads, a verdict, and what is missing where none can be given.

Which claims there are is left to ``claims`` and ``findings``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from nas.analyse.columns import COLUMNS, digits
from nas.analyse.rows import Row, find, number, plain, why_missing

Verdict = Literal["holds", "tie", "does not hold", "cannot be said"]


@dataclass(frozen=True)
class Judgement:
    """A claim at one batch size.

    Attributes:
        batch_size: ``None`` for a claim about numbers that do not depend on it.
        ratio: By how much the claim's better side is better; below 1 it is worse; ``None`` if that is not one number.
        told: The numbers it rests on, or what is missing.
    """

    batch_size: int | None
    verdict: Verdict
    told: str
    ratio: float | None = None


@dataclass(frozen=True)
class Claim:
    """A claim from the literature beside what this device's rows say about it.

    Attributes:
        group: The heading under which it is shown.
        statement: The claim in one sentence.
        paper: The published numbers and where they were taken.
        verdict: At ``judged_at``; a difference within the measurements' spread is a tie, which neither holds nor fails.
        told: The numbers on this device, or what is missing.
        judged_at: Precision and batch size, or what else the verdict rests on.
        by_batch: The same judgement at every batch size, where the claim has one for each.
    """

    group: str
    statement: str
    paper: str
    verdict: Verdict
    told: str
    judged_at: str
    by_batch: tuple[Judgement, ...] = ()


@dataclass(frozen=True)
class Network:
    """A network that a claim is about: the paper's name for it and the names it has in libraries, the preferred one first."""

    label: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class Quantity:
    """What is compared.

    Attributes:
        column: The rows' column.
        unit: As shown in a verdict; ``scale`` takes the value there.
        more_is_better: Whether the claim's better side has the greater value.
        floor: Relative spread of the value between fresh processes, which a run's own spread does not show.
    """

    column: str
    unit: str
    scale: float = 1.0
    more_is_better: bool = False
    floor: float = 0.0


def repeatability(kind: str | None) -> float:
    """Return how far a latency may differ in a fresh process, relative: the meters' own bounds, 2 % on a GPU, 3 % on a CPU."""
    return 0.02 if kind == "cuda" else 0.03


def spread(row: Row, quantity: Quantity) -> float:
    """Return the relative uncertainty of a value: that of its own run and that between runs, added in quadrature.

    A run's own is half the interquartile range over the median for times and what is derived from them, and the stated
    uncertainty for energy; memory and counts have none.
    """
    own = 0.0
    if quantity.column in ("latency_ms", "flops_per_s", "images_per_s"):
        iqr_ms, latency_ms = number(row, "latency_iqr_ms"), number(row, "latency_ms")
        own = iqr_ms / 2 / latency_ms if iqr_ms and latency_ms else 0.0
    elif quantity.column == "energy_j":
        uncertainty_j, energy_j = number(row, "energy_uncertainty_j"), number(row, "energy_j")
        own = uncertainty_j / energy_j if uncertainty_j and energy_j else 0.0
    return math.hypot(own, quantity.floor)


def compare(better: Row, worse: Row, quantity: Quantity) -> tuple[Verdict, float, float]:
    """Say whether ``better`` is better than ``worse``, both with a positive value.

    Returns:
        The verdict; the ratio, above 1 if it is better; and the ratio's relative spread, within which it is a tie. Without
        any spread (counts) equality alone is a tie.
    """
    mine, other = number(better, quantity.column), number(worse, quantity.column)
    if not mine or not other:
        raise ValueError(f"{quantity.column} must be positive in both rows")
    ratio = mine / other if quantity.more_is_better else other / mine
    within = math.hypot(spread(better, quantity), spread(worse, quantity))
    if abs(math.log(ratio)) <= math.log1p(within):
        return "tie", ratio, within
    return ("holds" if ratio > 1 else "does not hold"), ratio, within


def judge_order(
    rows: Sequence[Row], networks: Sequence[Network], quantity: Quantity, precision: str, batch_size: int
) -> Judgement:
    """Judge that the networks are in the order given, the best first, each against its neighbour.

    A neighbour that contradicts decides; then what is missing; then a tie. The ratio is the least of all neighbours'.
    """
    found: list[Row | None] = []
    missing: dict[str, list[str]] = {}
    for network in networks:
        row = find(rows, network.models, precision, batch_size)
        there = row if number(row, quantity.column) else None
        found.append(there)
        if there is None:
            missing.setdefault(_why_not(row, quantity.column), []).append(network.models[0])
    told = "; ".join(_value(row, network, quantity) for row, network in zip(found, networks, strict=True) if row)
    sizes = {number(row, "input_size") for row in found if row} - {None}
    if len(sizes) > 1:
        return Judgement(batch_size, "cannot be said", f"{told}: the inputs differ in size")
    verdicts: list[Verdict] = []
    ratios: list[float] = []
    shown: list[str] = []
    for first, second in itertools.pairwise(found):
        if first and second:
            verdict, ratio, within = compare(first, second, quantity)
            verdicts.append(verdict)
            ratios.append(ratio)
            shown.append(times(ratio) + (f" (tie: within ±{100 * within:.1f} %)" if verdict == "tie" and within else ""))
    if shown:
        told += f": {', then '.join(shown)}"
    if missing:
        told = "; ".join([*([told] if told else []), *(f"{' and '.join(names)}: {why}" for why, names in missing.items())])
    if missing:
        verdicts.append("cannot be said")
    return Judgement(batch_size, overall(verdicts), told, None if missing else min(ratios))


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict of a claim with several parts: one that fails decides, then a missing one, then a tie."""
    seen = set(verdicts)
    order: tuple[Verdict, ...] = ("does not hold", "cannot be said", "tie", "holds")
    return next((verdict for verdict in order if verdict in seen), "cannot be said")


def at_paper_batch(judgements: Sequence[Judgement]) -> Judgement:
    """Return the judgement at the least batch size that allows one: the papers measured images one by one."""
    return next((judgement for judgement in judgements if judgement.verdict != "cannot be said"), judgements[0])


def times(ratio: float) -> str:
    """Return a ratio as text: ``1.32×``."""
    return f"{ratio:.2f}×"


def _value(row: Row, network: Network, quantity: Quantity) -> str:
    value = (number(row, quantity.column) or 0) * quantity.scale
    model = plain(row["model"])
    alias = f" ({model})" if model != network.models[0] else ""
    return f"{network.label}{alias} {digits(value)} {quantity.unit}".strip()


def _why_not(row: Row | None, column: str) -> str:
    if row is None:
        return "not among the rows"
    if row.get("status") != "measured":
        return f"{str(row.get('status')).replace('_', ' ')}{f' ({reason})' if (reason := row.get('reason')) else ''}"
    return f"no {COLUMNS[column].label} ({why_missing([row], column)})"
