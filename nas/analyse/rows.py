"""Rows of a benchmark, one per model, precision and batch size: reading a value, picking rows, saying why a value is not there.

What the values mean for a figure or a claim is left to ``figures``, ``claims`` and ``findings``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

_PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
_SOURCES = ("preset", "torchvision", "timm")
_QUANTITIES = ("latency", "energy", "memory", "complexity")


def named(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with a ``name`` each: the model's, and the source beside it where two sources share a model's name."""
    rows = list(rows)
    sources: dict[str, set[str]] = {}
    for row in rows:
        sources.setdefault(str(row["model"]), set()).add(str(row.get("source")))
    return [dict(row) | {"name": _name(str(row["model"]), row.get("source"), len(sources[str(row["model"])]))} for row in rows]


def _name(model: str, source: Any, sources: int) -> str:
    return f"{model} ({source})" if sources > 1 else model


def number(row: Row | None, column: str) -> float | None:
    """Return the value as a finite number, ``None`` where it is missing (a table on disk gives NaN for it)."""
    value = None if row is None else row.get(column)
    if value is None or isinstance(value, (bool, str)) or not math.isfinite(value):
        return None
    return float(value)


def batch_size(row: Row) -> int | None:
    """Return the row's batch size, ``None`` for a model that was never reached."""
    value = number(row, "batch_size")
    return None if value is None else int(value)


def measured(rows: Iterable[Row]) -> list[Row]:
    """Return the rows whose model was measured, with or without every quantity."""
    return [row for row in rows if row.get("status") == "measured"]


def precisions(rows: Iterable[Row]) -> list[str]:
    """Return the precisions of the measured rows, fp32 first."""
    seen = {str(row["precision"]) for row in measured(rows) if row.get("precision")}
    return sorted(seen, key=lambda name: (_PRECISIONS.index(name) if name in _PRECISIONS else len(_PRECISIONS), name))


def batch_sizes(rows: Iterable[Row]) -> list[int]:
    """Return the batch sizes of the measured rows in ascending order."""
    return sorted({size for row in measured(rows) if (size := batch_size(row)) is not None})


def at(rows: Iterable[Row], precision: str, size: int | None = None) -> list[Row]:
    """Return the measured rows of one precision, and of one batch size if it is given."""
    return [row for row in measured(rows) if row.get("precision") == precision and (size is None or batch_size(row) == size)]


def find(rows: Iterable[Row], names: Sequence[str], precision: str, size: int) -> Row | None:
    """Return the row of a known network, whatever its status: the first of its ``names`` that is there, presets first.

    A found network may carry any name, so only networks from presets and libraries count.
    """
    candidates = [
        row
        for row in rows
        if plain(row["model"]) in names
        and row.get("source") in (*_SOURCES, None)
        and row.get("precision") in (precision, None)
        and batch_size(row) in (size, None)
    ]
    return min(candidates, key=lambda row: _preference(row, names), default=None)


def _preference(row: Row, names: Sequence[str]) -> tuple[bool, int, int]:
    source = row.get("source")
    rank = _SOURCES.index(source) if source in _SOURCES else len(_SOURCES)
    return row.get("status") != "measured", names.index(plain(row["model"])), rank


def plain(model: Any) -> str:
    """Return a model's name without the library that may stand before it (``timm:resnet18``)."""
    return str(model).rpartition(":")[2]


def having(rows: Iterable[Row], columns: Iterable[str]) -> list[Row]:
    """Return the rows that have a number in every one of ``columns``."""
    columns = tuple(columns)
    return [row for row in rows if all(number(row, column) is not None for column in columns)]


def known(row: Row, column: str) -> float:
    """Return a value that ``having`` has made sure of."""
    value = number(row, column)
    if value is None:
        raise KeyError(f"{row['name']} has no {column}")
    return value


def why_missing(rows: Iterable[Row], column: str) -> str:
    """Return in one sentence why no row has a value of ``column``: the rows' own reasons, the most frequent first.

    A reason is read from ``<column>_reason``; or from the part of ``reason`` that opens with the column's or its quantity's
    name and a colon, as in ``energy: no counter; memory: not on a CPU``, for energy and memory also another of their columns'
    (``energy_j: …`` says why there is no power); or it is all of a ``reason`` that has no such parts.
    """
    reasons = Counter(reason for row in rows if (reason := _reason(row, column)))
    if not reasons:
        return "no row has this figure, and none says why"
    told = [f"{reason} ({count} rows)" if len(reasons) > 1 else reason for reason, count in reasons.most_common(2)]
    return "; ".join(told)


def _reason(row: Row, column: str) -> str | None:
    if own := row.get(f"{column}_reason"):
        return str(own)
    text = row.get("reason")
    if not isinstance(text, str) or not text:
        return None
    parts: dict[str, list[str]] = {}
    subject = ""
    for part in text.replace("\n", "; ").split("; "):
        opening, colon, rest = part.partition(":")
        if colon and (opening.strip() in row or opening.strip() in _QUANTITIES):
            subject, part = opening.strip(), rest
        parts.setdefault(subject, []).append(part.strip())
    # Energy and memory have reasons that hold for all of their columns; of the latencies each has its own.
    quantity = "memory" if "memory" in column else "energy" if "power" in column else column.partition("_")[0]
    near = [opening for opening in parts if quantity in ("energy", "memory") and quantity in opening]
    told = parts.get(column) or parts.get(quantity) or (parts[near[0]] if near else parts.get("") if len(parts) == 1 else None)
    return "; ".join(told) if told else None
