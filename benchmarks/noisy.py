"""An engine that answers from a table as a machine would on which latencies scatter from one timing to the next."""

from __future__ import annotations

import dataclasses

import numpy as np

from nas.evaluate import Evaluation, EvaluationRequest
from nas.lookup import Table
from nas.simulate import SimulatedEngine, Way


class NoisyEngine(SimulatedEngine):
    """See ``nas.simulate.SimulatedEngine``.

    Args:
        table: What is known.
        way: Whose costs the clock counts.
        noise: Standard deviation of the logarithm by which each timing is off, independent of all others, as one of a slow or
            fast moment that lasts for longer than a timing.
        seed: Of the noise.
    """

    def __init__(self, table: Table, way: Way, noise: float, seed: int) -> None:
        super().__init__(table, way=way)
        self._noise, self._random = noise, np.random.default_rng(seed)

    def _answer(self, request: EvaluationRequest) -> tuple[Evaluation, float]:
        found, seconds = super()._answer(request)
        metrics = found.metrics
        before_ms = None if request.begun is None else request.begun.metrics.latency_ms
        if not self._noise or metrics.latency_ms is None or metrics.latency_ms == before_ms:
            return found, seconds  # it was not timed now
        off = float(np.exp(self._random.normal(0.0, self._noise)))
        changed = {"latency_ms": metrics.latency_ms * off}
        for name in ("images_per_s", "flops_per_s"):
            if (rate := getattr(metrics, name)) is not None:
                changed[name] = rate / off
        return dataclasses.replace(found, metrics=dataclasses.replace(metrics, **changed)), seconds
