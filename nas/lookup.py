"""A table of really evaluated networks, as ``benchmarks/make_table.py`` writes it: what each came to, and what that cost."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.errors import InputError
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

MADE = b"osa_nas_table"
"""Key of the file's metadata that says, as JSON, how the table was made."""

_PER_EPOCH = ("top1", "validation_loss", "train_loss")
_PER_SEED = ("top1_seeds", "train_loss_seeds")
_OPEN = ("precision", "memory_format")
"""Settings of a recipe that decide how fast it is and not, but for rounding, what comes of it."""
_REMAKE = "make it anew with benchmarks/make_table.py"


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
