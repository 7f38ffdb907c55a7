"""What methods are compared on: a table of really evaluated networks, the hypervolume of its front, and a time to search."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
import torch
from yardstick import Reference, Yardstick

from nas.analyse.front import non_dominated
from nas.evaluate import EvaluationRequest
from nas.lookup import Row, Table
from nas.measure.device import resolve_conditions
from nas.measure.settings import MeasureSettings
from nas.metrics import METRICS
from nas.train.data import DataRequest
from nas.train.datasets import Digits
from nas.train.settings import DataSettings, NumericFormat
from search_spaces.base import SearchSpace

OBJECTIVES = (METRICS["top1"], METRICS["latency_ms"])


@dataclass(frozen=True)
class Ground:
    """What methods are compared on.

    Attributes:
        request: For any network; the architecture is to be set.
        budget_s: Virtual seconds that a method has.
        yardstick: Of all networks.
        bound: The greatest number of parameters, where there is a bound.
        bounded: The yardstick of the networks that keep it; ``None`` if that is too few or all of them.
        unseen: The yardstick by the seeds that no search sees; ``None`` where the table has none.
    """

    table: Table
    space: SearchSpace
    request: EvaluationRequest
    budget_s: float
    yardstick: Yardstick
    bound: float
    bounded: Yardstick | None
    unseen: Yardstick | None


def minimised(row: Row) -> tuple[float, float]:
    """Return a network's objectives as the table's first seed has them."""
    return -row.top1[-1], row.figures["latency_ms"]


def unseen(row: Row) -> tuple[float, float]:
    """Return a network's objectives with the mean accuracy of the further seeds, which no search sees."""
    return -statistics.fmean(course[-1] for course in row.top1_seeds), row.figures["latency_ms"]


def ground_of(table: Table, space: SearchSpace, trials: int, reference: Reference = "table") -> Ground:
    """Return the ground that a table makes."""
    rows = list(table.rows.values())
    values = np.array([minimised(row) for row in rows])
    bound = statistics.median_low([row.figures["params"] for row in rows])
    kept = np.array([row.figures["params"] <= bound for row in rows])
    # A bound that all keep, or of which no trade-off is left, asks for nothing.
    sensible = not kept.all() and non_dominated(values[kept]).sum() > 2
    each_s = statistics.mean(
        row.naive.measure_seconds
        + row.naive.setup_seconds
        + table.recipe.epochs * row.naive.epoch_seconds
        + row.naive.score_seconds
        for row in rows
    )
    timed_s = table.made.get("measure", {}).get("latency_max_seconds")
    request = EvaluationRequest(
        space=space,
        architecture=space.from_dict(rows[0].architecture),
        data=DataRequest(Digits(), DataSettings(), 0),  # not looked at
        train=table.recipe,
        numeric=NumericFormat("fp32", "channels_last"),
        measure=resolve_conditions(MeasureSettings(latency_max_seconds=timed_s), torch.device("cpu")),
        device="cpu",
        seed=0,
        required=tuple(metric.name for metric in OBJECTIVES),
    )
    bounded = Yardstick.of(values, values[kept], reference) if sensible else None
    further = Yardstick.of(np.array([unseen(row) for row in rows]), None, reference) if all(r.top1_seeds for r in rows) else None
    return Ground(table, space, request, trials * each_s, Yardstick.of(values, None, reference), bound, bounded, further)
