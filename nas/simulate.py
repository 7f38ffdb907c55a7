"""Searching without building anything: an engine that answers from a table of really evaluated networks, in virtual time.

What is evaluated for real is ``nas.evaluate``'s.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import statistics
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from nas.analyse.tradeoffs import violations
from nas.engine import OnStage, Unattended
from nas.errors import InputError
from nas.evaluate import NOT_SCORED, Evaluation, EvaluationRequest, Metrics, is_close_to_a_bound, mean_of_last_third
from nas.lookup import COUNTED, TIMED, Costs, Row, Table

SIMULATED = "SIMULATED from a table of"
"""Begins the name of a simulated study's device, so that its figures are never taken for this machine's."""

Way = Literal["ours", "naive"]

_TRAINED = ("top1", "top1_mean", "train_loss_area", "train_seconds")
_KNOWN = frozenset((*COUNTED, *TIMED, *_TRAINED, "measure_seconds"))
_UNKNOWN = ("top5", "peak_memory_mb", "energy_j")
_STATE_FORMAT = 1


class SimulatedEngine(Unattended):
    """Answers requests from a table; an ``Engine``. Evaluations end in the order of a virtual clock, and nobody waits.

    When all workers are busy the clock moves on to the first end, within ``submit``. What is then still under way when
    nothing more is submitted ends by ``advance``, or when its result is asked for.

    Args:
        table: What is known.
        workers: Evaluations at once, each at the speed of one alone.
        way: Whose costs the clock counts. ``naive`` trains first and measures last, so that no gate saves anything.
        first_seed: The request's seed that stands for the table's first training, the following ones for its further
            seeds; ``None`` answers every seed by the first training.
    """

    def __init__(self, table: Table, workers: int = 1, way: Way = "ours", first_seed: int | None = None) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers} is not 1 or more")
        self._table, self._workers, self._way, self._first_seed = table, workers, way, first_seed
        self._running: list[tuple[float, int, _Promise, Evaluation]] = []
        self._submitted = 0
        self._now_s = 0.0
        self._spent_s = 0.0

    @property
    def capacity(self) -> int:
        """How many evaluations may be under way at once."""
        return self._workers

    @property
    def now_s(self) -> float:
        """Virtual seconds so far: the end of the evaluation that ended last."""
        return self._now_s

    @property
    def spent_s(self) -> float:
        """Virtual seconds of all workers together, of what was submitted."""
        return self._spent_s

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        """Begin an evaluation at this moment of the clock; see ``Engine``.

        Raises:
            InputError: If the table cannot answer the request.
        """
        on_stage(number, "simulating")
        evaluation, seconds = self._answer(request)
        future = _Promise(self.advance)
        heapq.heappush(self._running, (self._now_s + seconds, self._submitted, future, evaluation))
        self._submitted += 1
        self._spent_s += seconds
        if len(self._running) == self._workers:
            self.advance()
        return future

    def advance(self) -> None:
        """Move the clock on to the end of the evaluation that ends next; do nothing if none is under way."""
        if self._running:
            self._now_s, _, future, evaluation = heapq.heappop(self._running)
            future.set_result(evaluation)

    def _answer(self, request: EvaluationRequest) -> tuple[Evaluation, float]:
        """Return what an evaluation comes to, and its virtual duration."""
        self._table.check_recipe(request.train)
        if unknown := [name for name in request.required if name not in _KNOWN]:
            raise InputError(
                f"table={self._table.path} knows no {unknown[0]}: take it out of objectives, constraints and measure.require."
            )
        row = self._table.row(request.architecture)
        answer = _Answer(row, row.ours if self._way == "ours" else row.naive, request)
        if request.times_briefly:
            assert request.first_latency_seconds is not None
            self._table.check_brief(request.first_latency_seconds)
        if request.begun is None:
            answer.measure(gated=self._way == "ours")
        elif request.measures:
            answer.time_in_full()
        if not (answer.gated_by or request.only_measure):
            answer.train(self._table.recipe.epochs, request.seed - self._first_seed if self._first_seed is not None else 0)
        return answer.evaluation(), answer.seconds


class _Promise(Future[Evaluation]):
    """A future for which nobody need wait: asked for its result, it lets the clock move on until there is one."""

    def __init__(self, advance: Callable[[], None]) -> None:
        super().__init__()
        self._advance = advance

    def result(self, timeout: float | None = None) -> Evaluation:
        while not self.done():
            self._advance()
        return super().result()


class _Answer:
    """One candidate's way as ``nas.evaluate`` goes it, with a row in the place of meters and training."""

    def __init__(self, row: Row, costs: Costs, request: EvaluationRequest) -> None:
        self._row, self._costs, self._request = row, costs, request
        self.seconds = 0.0
        self.gated_by: tuple[str, ...] = ()
        self._state: bytes | None = None
        self._found: dict[str, Any] = {"architecture_id": row.architecture_id}
        self._reasons = dict.fromkeys(_UNKNOWN, "the table does not have it")
        if request.begun is not None:
            self._found = {f.name: getattr(request.begun.metrics, f.name) for f in dataclasses.fields(Metrics)}
            self._reasons = dict(request.begun.reasons)

    def measure(self, gated: bool) -> None:
        row, request = self._row, self._request
        self._found |= {name: row.figures[name] for name in COUNTED} | {"measure_seconds": row.count_seconds}
        self.seconds += row.count_seconds
        if gated and self._misses():
            reason = f"the network misses the bound of {' and '.join(self.gated_by)}"
            missing = ("latency_ms", "latency_iqr_ms", "images_per_s", "flops_per_s", "peak_memory_mb", "energy_j")
            self._reasons |= dict.fromkeys(missing, reason)
            return
        if request.times_briefly:
            self._time_briefly()
            if gated and is_close_to_a_bound(self._found, request.gate):
                self.time_in_full()
        else:
            self.time_in_full()
        if gated:
            self._misses()

    def _time_briefly(self) -> None:
        figures = self._row.figures
        latency_ms = figures["brief_latency_ms"]
        faster = figures["latency_ms"] / latency_ms
        self._found |= {"latency_ms": latency_ms, "latency_iqr_ms": figures["brief_latency_iqr_ms"], "latency_brief": True}
        self._found |= {name: figures[name] * faster for name in ("images_per_s", "flops_per_s")}
        self._spend(self._row.brief_measure_seconds)

    def time_in_full(self) -> None:
        self._found |= {name: self._row.figures[name] for name in TIMED} | {"latency_brief": False}
        self._spend(self._costs.measure_seconds - self._row.count_seconds)

    def _spend(self, seconds: float) -> None:
        self._found["measure_seconds"] += seconds
        self.seconds += seconds

    def _misses(self) -> bool:
        known = violations(self._found, self._request.gate)
        self.gated_by = tuple(name for name, miss in known.items() if miss > 0)
        return bool(self.gated_by)

    def train(self, epochs: int, seed: int) -> None:
        """Train until the epoch that was asked for; ``seed`` is 0 for the table's first training."""
        row, costs, request = self._row, self._costs, self._request
        state = _read_state(request.begun.state, row, epochs) if request.begun and request.begun.state else _State(row)
        until = epochs if request.until_epoch is None else request.until_epoch
        if not max(1, state.epochs) <= until <= epochs:
            raise ValueError(f"until_epoch={until} is not between the {state.epochs} epochs done and {epochs}")
        scored = sorted({epoch for epoch in request.scored if state.epochs < epoch < until} | {until})
        seconds = costs.setup_seconds + (until - state.epochs) * costs.epoch_seconds + len(scored) * costs.score_seconds
        top1, train_loss = self._course(seed)
        curve = dict(state.curve) | {epoch: top1[epoch - 1] for epoch in scored}
        state = _State(row, until, tuple(sorted(curve.items())), state.train_seconds + seconds)
        self._reasons["top1_mean"] = NOT_SCORED
        self._found |= {
            "top1": top1[until - 1],
            "top1_mean": mean_of_last_third(state.curve, until),
            "epochs": until,
            "train_loss": train_loss[:until],
            "train_loss_area": statistics.mean(train_loss[:until]),
            "curve": state.curve,
            "train_seconds": state.train_seconds,
        }
        self.seconds += seconds
        if request.keep_state:
            self._state = state.written()

    def _course(self, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        row = self._row
        if seed == 0:
            return row.top1, row.train_loss
        further = list(zip(row.top1_seeds, row.train_loss_seeds, strict=False))
        if not 0 < seed <= len(further):
            known = 1 + len(further)
            raise InputError(
                f"simulated: its table knows {known} seed{'s' * (known > 1)} of the network {row.architecture_id}, not number "
                f"{seed + 1}: make it with --seeds {seed + 1}, or confirm with fewer."
            )
        return further[seed - 1]

    def evaluation(self) -> Evaluation:
        reasons = {name: reason for name, reason in self._reasons.items() if self._found.get(name) is None}
        return Evaluation(Metrics(**self._found), reasons, gated_by=self.gated_by, state=self._state)


@dataclass(frozen=True)
class _State:
    """How far a training has come: what stands for its weights."""

    row: Row
    epochs: int = 0
    curve: tuple[tuple[int, float], ...] = ()
    train_seconds: float = 0.0

    def written(self) -> bytes:
        plain = {**vars(self), "format": _STATE_FORMAT, "row": self.row.architecture_id}
        return json.dumps(plain).encode()


def _read_state(state: bytes, row: Row, epochs: int) -> _State:
    """Return how far a training had come: nowhere, if the state is damaged, of another network or in another format."""
    try:
        plain = json.loads(state)
        curve = tuple((int(epoch), float(top1)) for epoch, top1 in plain["curve"])
        found = _State(row, int(plain["epochs"]), curve, float(plain["train_seconds"]))
        fits = (plain["format"], plain["row"]) == (_STATE_FORMAT, row.architecture_id)
    except (ValueError, KeyError, TypeError):
        return _State(row)
    return found if fits and 0 <= found.epochs <= epochs else _State(row)
