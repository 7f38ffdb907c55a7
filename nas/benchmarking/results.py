"""The results of a benchmark: one file per measurement, found again by what it depends on, and the table made of them all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nas import catalogue
from nas.catalogue import Published
from nas.errors import InputError
from nas.files import write_bytes, write_csv, write_json
from nas.measure.measurement import Measurement

Status = Literal["measured", "out_of_memory", "failed", "missing"]

COLUMNS: dict[str, str] = {
    **dict.fromkeys(("model", "source", "precision"), "string"),
    **dict.fromkeys(("batch_size", "input_size"), "int64"),
    **dict.fromkeys(("params", "mult_adds", "flops", "mem_access"), "int64"),
    **dict.fromkeys(("mem_access_bound", "latency_ms", "latency_iqr_ms", "latency_noise"), "float64"),
    "latency_stop_reason": "string",
    **dict.fromkeys(("latency_graph_ms", "latency_compiled_ms", "latency_enqueue_ms", "latency_cold_ms"), "float64"),
    **dict.fromkeys(("compile_seconds", "images_per_s", "flops_per_s"), "float64"),
    **dict.fromkeys(("energy_j", "energy_uncertainty_j", "energy_net_j", "power_w", "idle_power_w"), "float64"),
    "energy_method": "string",
    **dict.fromkeys(("parameters_mb", "model_file_mb"), "float64"),
    **dict.fromkeys(("peak_memory_mb", "reserved_memory_mb", "process_memory_mb"), "float64"),
    **dict.fromkeys(("top1_published", "top5_published"), "float64"),
    "published_source": "string",
    "top1_validation": "float64",
    **dict.fromkeys(("status", "reason", "flags", "device", "measured_at"), "string"),
}
"""The table's columns and their types in Parquet; every value may be missing."""


@dataclass(frozen=True)
class Key:
    """What a result is of; ``architecture_id`` tells apart what the same file name or trial may stand for."""

    model: str
    source: str
    architecture_id: str
    input_shape: tuple[int, int, int]
    num_classes: int
    precision: str
    batch_size: int

    @property
    def file_name(self) -> str:
        """A file name of its own: readable, and with a digest for what a file name cannot hold."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        readable = f"{self.model[:100]}-{self.precision}-b{self.batch_size}"
        return f"{re.sub(r'[^A-Za-z0-9._-]', '_', readable)}-{digest}.json"


@dataclass(frozen=True)
class Result:
    """One network at one batch size in one precision; or why there is no measurement of it."""

    key: Key
    status: Status
    reason: str | None
    measurement: Measurement | None
    top1_validation: float | None = None

    def write(self, folder: Path) -> None:
        """Write it under its key's name."""
        key = {**vars(self.key), "input_shape": list(self.key.input_shape)}
        measurement = self.measurement.to_dict() if self.measurement else None
        write_json(folder / self.key.file_name, {**vars(self), "key": key, "measurement": measurement})


def read(path: Path) -> Result:
    """Read a result.

    Raises:
        InputError: The file is damaged, or from another version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        key = Key(**{**data["key"], "input_shape": tuple(data["key"]["input_shape"])})
        measurement = Measurement.from_dict(data["measurement"]) if data["measurement"] else None
        return Result(key, data["status"], data["reason"], measurement, data["top1_validation"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no result of this benchmark ({str(error).splitlines()[0]}): remove it.") from None


def row(result: Result) -> dict[str, Any]:
    """Return a result as a row of the table: ``COLUMNS`` by name."""
    key = result.key
    published = catalogue.published(key.model) if key.source in ("torchvision", "timm", "preset") else None
    cells: dict[str, Any] = {
        "model": key.model,
        "source": key.source,
        "precision": key.precision,
        "batch_size": key.batch_size,
        "input_size": key.input_shape[-1],
        "status": result.status,
        "reason": result.reason,
        "top1_validation": result.top1_validation,
    }
    # An accuracy belongs to the form in which it was scored.
    if published is not None and key.num_classes == 1000 and key.input_shape[-1] == published.input_size:
        cells |= _published_cells(published)
    if result.measurement is not None:
        figures, reasons = result.measurement.figures(), result.measurement.reasons()
        missing = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if name in COLUMNS)
        agreed = result.measurement.device.agreed
        cells |= {name: value for name, value in figures.items() if name in COLUMNS} | {
            "reason": result.reason or missing or None,
            "flags": "; ".join(figures["measure_flags"]) or None,
            "device": agreed.name,
            "measured_at": result.measurement.started_at,
        }
    return {name: cells.get(name) for name in COLUMNS}


def missing_row(model: str, reason: str) -> dict[str, Any]:
    """Return the row of a network that no library has, with what was published about it."""
    published = catalogue.published(model)
    cells = {"model": model, "status": "missing", "reason": reason, **(_published_cells(published) if published else {})}
    return dict.fromkeys(COLUMNS) | cells


def _published_cells(published: Published) -> dict[str, Any]:
    return {"top1_published": published.top1, "top5_published": published.top5, "published_source": published.source}


def write_table(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``results.parquet`` and ``results.csv``, each whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])
    table = pyarrow.Table.from_pylist([dict(row) for row in rows], schema=schema)
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer)
    write_bytes(run_dir / "results.parquet", buffer.getvalue().to_pybytes())
    write_csv(run_dir / "results.csv", list(COLUMNS), rows)
