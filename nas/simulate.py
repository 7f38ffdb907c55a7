"""Searching without building anything: an engine that answers from a table of really evaluated networks, in virtual time.

The table is made by ``benchmarks/make_table.py``. What is evaluated for real is ``nas.evaluate``'s.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas.analyse.tradeoffs import violations
from nas.engine import OnStage, Unattended
from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest, Metrics
from nas.train.settings import TrainSettings
from search_spaces.base import Architecture

COUNTED = ("params", "mult_adds", "flops", "mem_access")
"""The figures that are known once a network is counted."""

TIMED = ("latency_ms", "latency_iqr_ms", "images_per_s", "flops_per_s")
"""The figures that are known once its latency is measured."""

BRIEF = ("brief_latency_ms", "brief_latency_iqr_ms")
"""The latency as it is taken first where a training may be stopped early: for ``brief_latency_seconds`` of how it was made."""

COLUMNS: dict[str, str] = {
    **dict.fromkeys(("architecture_id", "params_json", "architecture_json"), "string"),
    **dict.fromkeys(COUNTED, "int64"),
    **dict.fromkeys((*TIMED, *BRIEF), "float64"),
    "top1": "list<float64>",
    "validation_loss": "list<float32>",
    "train_loss": "list<float32>",
    "top1_seeds": "list<list<float64>>",
    "train_loss_seeds": "list<list<float32>>",
    **dict.fromkeys(
        ("count_seconds", "brief_measure_seconds", "measure_seconds", "setup_seconds", "epoch_seconds", "score_seconds"),
        "float32",
    ),
    **dict.fromkeys(("naive_measure_seconds", "naive_setup_seconds", "naive_epoch_seconds", "naive_score_seconds"), "float32"),
}
"""A table's columns and their types in Parquet. ``top1`` and the two losses have an entry per epoch; what ends in ``_seeds`` has
such a list for each further seed, and is all that may be missing in a row."""

SIMULATED = "SIMULATED from a table of"
"""Begins the name of a simulated study's device, so that its figures are never taken for this machine's."""

MADE = b"osa_nas_table"
"""Key of the file's metadata that says, as JSON, how the table was made."""

Way = Literal["ours", "naive"]

_PER_EPOCH = ("top1", "validation_loss", "train_loss")
_PER_SEED = ("top1_seeds", "train_loss_seeds")
_TRAINED = ("top1", "top1_mean", "train_loss_area", "train_seconds")
_KNOWN = frozenset((*COUNTED, *TIMED, *_TRAINED, "measure_seconds"))
_UNKNOWN = ("top5", "peak_memory_mb", "energy_j")
_OPEN = ("precision", "memory_format")
"""Settings of a recipe that decide how fast it is and not, but for rounding, what comes of it."""
_REMAKE = "make it anew with benchmarks/make_table.py"
_STATE_FORMAT = 1


@dataclass(frozen=True)
class Costs:
    """What one network costs, in seconds.

    Attributes:
        measure_seconds: Counting and measuring it.
        setup_seconds: Building it and beginning and ending a training, however long that is.
        epoch_seconds: One epoch, without scoring.
        score_seconds: Scoring it once on the validation part.
    """

    measure_seconds: float
    setup_seconds: float
    epoch_seconds: float
    score_seconds: float


@dataclass(frozen=True)
class Row:
    """One network of a table.

    Attributes:
        params: What a sampler has to suggest for it, by the names under which the space asks.
        architecture: What its ``to_dict`` gives.
        figures: ``COUNTED``, ``TIMED`` and ``BRIEF``, by name.
        top1: After each epoch of the training, as ``validation_loss`` and ``train_loss``.
        top1_seeds: The same of each further training, from another seed.
        train_loss_seeds: Likewise.
        count_seconds: Counting it alone; it is part of measuring it.
        brief_measure_seconds: Taking the brief latency, without counting.
        ours: Costs on this package's way.
        naive: Costs on that of ``benchmarks/naive.py``.
    """

    architecture_id: str
    params: Mapping[str, Any]
    architecture: Mapping[str, Any]
    figures: Mapping[str, float]
    top1: tuple[float, ...]
    validation_loss: tuple[float, ...]
    train_loss: tuple[float, ...]
    top1_seeds: tuple[tuple[float, ...], ...]
    train_loss_seeds: tuple[tuple[float, ...], ...]
    count_seconds: float
    brief_measure_seconds: float
    ours: Costs
    naive: Costs


@dataclass(frozen=True)
class Table:
    """Networks that were really evaluated, all under the same conditions.

    Attributes:
        path: Where it was read from.
        recipe: How each was trained.
        made: How it was made: command, date, device, versions, conditions.
        rows: By the architecture's id.
    """

    path: Path
    recipe: TrainSettings
    made: Mapping[str, Any]
    rows: Mapping[str, Row] = field(repr=False)

    @classmethod
    def read(cls, path: str | Path) -> Table:
        """Read and check a table; a relative path is looked for in the working directory, then beside this package.

        Raises:
            InputError: If it is missing, is no table, or lacks a column, or if a value in it cannot be used.
        """
        return _read(_find(Path(path)))

    def row(self, architecture: Architecture) -> Row:
        """Return the network's row.

        Raises:
            InputError: If it has none.
        """
        try:
            return self.rows[architecture.id]
        except KeyError:
            whole = self.made.get("space_size", len(self.rows))
            part = f", of whose {whole} networks it holds {len(self.rows)}" if whole > len(self.rows) else ""
            raise InputError(
                f"table={self.path} does not hold the network {architecture.id}: "
                f"search the space {self.made.get('space', 'that it was made of')}{part}."
            ) from None

    def check_brief(self, seconds: float) -> None:
        """Refuse a brief latency that was not taken.

        Raises:
            InputError: Names what was.
        """
        taken = self.made.get("brief_latency_seconds")
        if seconds != taken:
            raise InputError(
                f"scheduler.first_latency_seconds={seconds:g} cannot be simulated: the networks of {self.path} were timed for "
                f"{taken} s; set scheduler.first_latency_seconds={taken}."
            )

    def check_recipe(self, train: TrainSettings) -> None:
        """Refuse a recipe that the networks were not trained by.

        Raises:
            InputError: Names the first setting that differs.
        """
        for setting in dataclasses.fields(TrainSettings):
            ours, asked = getattr(self.recipe, setting.name), getattr(train, setting.name)
            if setting.name not in _OPEN and ours != asked:
                raise InputError(
                    f"train.{setting.name}={asked} cannot be simulated: the networks of {self.path} were trained with {ours}; "
                    f"set train.{setting.name}={ours}."
                )


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
        if request.until_epoch is not None and request.first_latency_seconds is not None:
            self._table.check_brief(request.first_latency_seconds)
        if request.begun is None:
            answer.measure(gated=self._way == "ours")
        elif request.until_epoch is None and answer.was_timed_briefly:
            answer.time_in_full()
        if not answer.gated_by:
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
            self._reasons |= dict.fromkeys(("latency_ms", "images_per_s", "flops_per_s", "peak_memory_mb", "energy_j"), reason)
            return
        if request.until_epoch is not None and request.first_latency_seconds is not None:
            self._time_briefly()
        else:
            self.time_in_full()
        if gated:
            self._misses()

    @property
    def was_timed_briefly(self) -> bool:
        return bool(self._found["latency_ms"] != self._row.figures["latency_ms"])

    def _time_briefly(self) -> None:
        figures = self._row.figures
        latency_ms = figures["brief_latency_ms"]
        faster = figures["latency_ms"] / latency_ms
        self._found |= {"latency_ms": latency_ms, "latency_iqr_ms": figures["brief_latency_iqr_ms"]}
        self._found |= {name: figures[name] * faster for name in ("images_per_s", "flops_per_s")}
        self._spend(self._row.brief_measure_seconds)

    def time_in_full(self) -> None:
        self._found |= {name: self._row.figures[name] for name in TIMED}
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
        late = [value for epoch, value in state.curve if epoch > until * 2 / 3]
        self._found |= {
            "top1": top1[until - 1],
            "top1_mean": statistics.mean(late) if late else None,
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
        return Evaluation(Metrics(**self._found), self._reasons, gated_by=self.gated_by, state=self._state)


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
    try:
        plain = json.loads(state)
        if (plain["format"], plain["row"]) != (_STATE_FORMAT, row.architecture_id):
            raise ValueError(f"it is of the network {plain['row']} in format {plain['format']}")
        curve = tuple((int(epoch), float(top1)) for epoch, top1 in plain["curve"])
        found = _State(row, int(plain["epochs"]), curve, float(plain["train_seconds"]))
        if not 0 <= found.epochs <= epochs:
            raise ValueError(f"it has {found.epochs} epochs")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"the simulated training state cannot be used ({error}): train from the start.") from None
    return found


# ---- the file


def schema() -> Any:
    """Return the columns as pyarrow's schema."""
    import pyarrow

    def kind(name: str) -> Any:
        if name.startswith("list<"):
            return pyarrow.list_(kind(name.removeprefix("list<").removesuffix(">")))
        return getattr(pyarrow, name)()

    return pyarrow.schema([(name, kind(text)) for name, text in COLUMNS.items()])


def _find(path: Path) -> Path:
    beside = Path(__file__).resolve().parents[1] / path
    for candidate in (path, beside):
        if os.path.exists(candidate):
            return candidate
    raise InputError(f"table={path} does not exist: name a table that benchmarks/make_table.py wrote.")


def _read(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        stored = pyarrow.parquet.ParquetFile(path).read()  # `read_table` takes any folder for an empty table
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"table={path} is no readable Parquet file ({_line(error)}): {_REMAKE}.") from None
    columns: dict[str, Sequence[Any]] = {}
    for wanted in schema():
        if wanted.name not in stored.column_names:
            raise InputError(f"table={path} has no column {wanted.name}: {_REMAKE}.")
        try:
            columns[wanted.name] = stored.column(wanted.name).cast(wanted.type).to_pylist()
        except pyarrow.ArrowException:
            kind = stored.schema.field(wanted.name).type
            raise InputError(f"table={path} has a column {wanted.name} of {kind}, not {wanted.type}: {_REMAKE}.") from None
    try:
        made = json.loads((stored.schema.metadata or {})[MADE])
        recipe = TrainSettings(**made["recipe"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"table={path} does not say in its metadata how it was made: {_REMAKE}.") from None
    rows: dict[str, Row] = {}
    for values in zip(*columns.values(), strict=True):
        row = _row(path, dict(zip(columns, values, strict=True)), recipe.epochs)
        if row.architecture_id in rows:
            raise InputError(f"table={path} holds the network {row.architecture_id} twice: {_REMAKE}.")
        rows[row.architecture_id] = row
    if not rows:
        raise InputError(f"table={path} holds no network: {_REMAKE}.")
    return Table(path, recipe, made, rows)


def _row(path: Path, cells: Mapping[str, Any], epochs: int) -> Row:
    for name, value in cells.items():
        if not _usable(name, value, epochs):
            raise InputError(
                f"table={path} has in column {name} of network {cells['architecture_id']} {_short(value)}: {_REMAKE}."
            )

    def costs(prefix: str) -> Costs:
        return Costs(**{f.name: cells[f"{prefix}{f.name}"] for f in dataclasses.fields(Costs)})

    return Row(
        architecture_id=cells["architecture_id"],
        params=json.loads(cells["params_json"]),
        architecture=json.loads(cells["architecture_json"]),
        figures={name: cells[name] for name in (*COUNTED, *TIMED, *BRIEF)},
        top1=tuple(cells["top1"]),
        validation_loss=tuple(cells["validation_loss"]),
        train_loss=tuple(cells["train_loss"]),
        top1_seeds=tuple(map(tuple, cells["top1_seeds"] or ())),
        train_loss_seeds=tuple(map(tuple, cells["train_loss_seeds"] or ())),
        count_seconds=cells["count_seconds"],
        brief_measure_seconds=cells["brief_measure_seconds"],
        ours=costs(""),
        naive=costs("naive_"),
    )


def _usable(name: str, value: Any, epochs: int) -> bool:
    if name.endswith("_json"):
        try:
            return isinstance(json.loads(value), dict)
        except (TypeError, ValueError):
            return False
    if COLUMNS[name] == "string":
        return bool(value)
    if name in _PER_SEED:
        return all(_are_numbers(course, epochs) for course in value or [])
    return _are_numbers(value, epochs) if name in _PER_EPOCH else _are_numbers([value], 1)


def _are_numbers(values: Any, count: int) -> bool:
    """Whether these are so many finite numbers, none below 0, as every figure of a table is."""
    if values is None or len(values) != count:
        return False
    return all(value is not None and math.isfinite(value) and value >= 0 for value in values)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
