"""The page of a benchmark: claims, figures, table, conditions and caveats, composed from its rows.

The figures and verdicts come from ``nas.analyse``, how they look from ``nas.page``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.analyse import claims, findings
from nas.analyse.columns import COLUMNS, digits, scaled
from nas.analyse.figures import by_precision, figures
from nas.analyse.judging import Claim, Verdict
from nas.analyse.rows import Row, batch_size, batch_sizes, measured, named, number, precisions, why_missing
from nas.page import (
    Block,
    Card,
    Cards,
    Cell,
    Choice,
    Column,
    Facts,
    Items,
    Page,
    Section,
    Table,
    Text,
    Tone,
    write_page,
)
from nas.page_figures import chart, facts, word

_TONES: dict[Verdict, Tone] = {"holds": "good", "tie": "even", "does not hold": "bad", "cannot be said": "unknown"}
_TEXTS = {
    "source": "source",
    "precision": "precision",
    "status": "status",
    "reason": "reason",
    "flags": "flags",
    "latency_stop_reason": "timing stopped",
    "energy_method": "energy method",
    "published_source": "published by",
    "measured_at": "measured at",
}
_ORDER = (
    *("source", "precision", "batch_size", "status", "top1_published", "top5_published", "top1_validation", "params", "flops"),
    *("latency_ms", "latency_iqr_ms", "images_per_s", "flops_per_s", "energy_j", "energy_uncertainty_j", "energy_net_j"),
    *("power_w", "idle_power_w", "peak_memory_mb", "process_memory_mb", "reserved_memory_mb", "parameters_mb"),
    *("model_file_mb", "mem_access", "mem_access_bound", "latency_graph_ms", "latency_compiled_ms", "latency_enqueue_ms"),
    *("latency_cold_ms", "mult_adds", "input_size", "reason", "flags", "latency_stop_reason", "energy_method"),
    *("published_source", "measured_at"),
)
_PICKED = ("source", "precision", "batch_size", "status")
_MOST_FAILURES = 20


def write_benchmark_page(
    path: Path, rows: Sequence[Row], device: Mapping[str, Any], title: str, caveats: Sequence[str] = ()
) -> None:
    """Write a benchmark as one HTML file that opens without a network.

    Args:
        path: The file.
        rows: One per model, precision and batch size, of any status (measured, failed, out_of_memory, missing).
        device: What the rows were taken on, as plain data of any depth; ``kind`` and ``name`` are looked for in it.
        title: The page's title.
        caveats: What a reader must know, one sentence each; those that follow from the rows are added.
    """
    write_page(path, benchmark_page(rows, device, title, caveats))


def benchmark_page(rows: Sequence[Row], device: Mapping[str, Any], title: str, caveats: Sequence[str] = ()) -> Page:
    """Return the page that ``write_benchmark_page`` writes."""
    told = list(facts(device))
    values = dict(reversed(told))
    kinds = precisions(rows)
    judged = {kind: [*claims.judge(rows, kind, values.get("kind")), *findings.judge(rows, kind)] for kind in kinds}
    shared = by_precision(rows)
    drawn = {kind: [*figures(rows, kind), *([shared] if shared else [])] for kind in kinds}
    all_figures: tuple[Block, ...] = (Text("Nothing was measured, so there is nothing to draw."),)
    if kinds:
        all_figures = (
            Text("A click on a family hides or shows it in all figures; a point tells its numbers when pointed at or touched."),
            Choice("precision", {kind: tuple(chart(figure) for figure in drawn[kind]) for kind in kinds}),
        )
    return Page(
        title,
        _lead(rows, values.get("name")),
        (
            Section(
                "claims", "Claims", (Choice("precision", {kind: _verdicts(judged[kind]) for kind in kinds}),) if kinds else ()
            ),
            Section("figures", "Figures", all_figures),
            Section("table", "All rows", _table_blocks(rows)),
            Section("conditions", "Conditions", (Facts(tuple((word(key), value) for key, value in told)),)),
            Section("caveats", "Caveats", (Items(tuple(dict.fromkeys([*caveats, *_caveats(rows)]))),)),
        ),
    )


def _lead(rows: Sequence[Row], device: str | None) -> str:
    there = measured(rows)
    sizes = batch_sizes(rows)
    networks = len({row["name"] for row in named(there)})
    parts = [f"{networks} networks on {device or 'an unnamed device'}"]
    if sizes:
        parts.append(f"{', '.join(precisions(rows))}, batch {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else ""))
    others = Counter(str(row.get("status")).replace("_", " ") for row in rows if row.get("status") != "measured")
    parts.append(", ".join([f"{len(there)} rows measured", *(f"{count} {status}" for status, count in others.items())]))
    return "; ".join(parts) + "."


def _verdicts(judged: Sequence[Claim]) -> tuple[Block, ...]:
    counts = Counter(claim.verdict for claim in judged)
    summary = ", ".join(f"{counts[verdict]} × {verdict}" for verdict in _TONES if counts[verdict])
    groups = dict.fromkeys(claim.group for claim in judged)
    return (
        Text(
            f"{len(judged)} claims from the literature: {summary}. A claim is judged at the least batch size that allows it "
            "and shown at every other; a difference within the measurements' spread is a tie."
        ),
        *(Cards(group, tuple(_card(claim) for claim in judged if claim.group == group)) for group in groups),
    )


def _card(claim: Claim) -> Card:
    strip = tuple(
        (f"{part.batch_size}: {'–' if part.ratio is None else f'{part.ratio:.2f}×'}", _TONES[part.verdict])
        for part in claim.by_batch
    )
    lines = (("Here", claim.told), ("Published", claim.paper), ("Judged at", claim.judged_at))
    if claim.verdict == "cannot be said" and all(part.ratio is None for part in claim.by_batch):
        strip = ()
    return Card(claim.statement, claim.verdict, _TONES[claim.verdict], lines, "By batch", strip)


def _table_blocks(rows: Sequence[Row]) -> tuple[Block, ...]:
    if not rows:
        return (Text("There are no rows."),)
    rows = named(rows)
    columns = [column for column in _ORDER if any(_there(row, column) for row in rows)]
    heads = [Column("model"), *(_head(column) for column in columns)]
    cells = tuple((Cell(str(row["name"])), *(_cell(row, column) for column in columns)) for row in rows)
    faint = frozenset(index for index, row in enumerate(rows) if row.get("status") != "measured")
    absent = [column for column in _ORDER if column not in columns and column in COLUMNS]
    blocks: list[Block] = [Table(tuple(heads), cells, faint)]
    if failures := _failures(rows):
        blocks += [Text("Not measured:"), Items(failures)]
    if absent:
        reasons: dict[str, list[str]] = {}
        for column in absent:
            reasons.setdefault(why_missing(measured(rows), column), []).append(COLUMNS[column].label)
        lines = (f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items())
        blocks += [Text("Columns that no row has:"), Items(tuple(lines))]
    return tuple(blocks)


def _there(row: Row, column: str) -> bool:
    return number(row, column) is not None if column in COLUMNS else bool(row.get(column))


def _head(column: str) -> Column:
    known = COLUMNS.get(column)
    return Column(known.title if known else _TEXTS[column], numeric=known is not None, pick=column in _PICKED)


def _cell(row: Row, column: str) -> Cell:
    if column in COLUMNS:
        value = scaled(row, column)
        return Cell("" if value is None else digits(value, 4), value)
    value = row.get(column)
    return Cell("" if value is None else str(value).replace("_", " ") if column == "status" else str(value))


def _failures(rows: Sequence[Row]) -> tuple[str, ...]:
    """Say once per model, precision and reason what was not measured, with the batch sizes."""
    failed: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        if row.get("status") == "measured":
            continue
        what = str(row.get("status")).replace("_", " ")
        why = f"{what}: {row['reason']}" if row.get("reason") else what
        sizes = failed.setdefault((str(row["name"]), str(row.get("precision") or ""), why), [])
        if (size := batch_size(row)) is not None:
            sizes.append(size)
    lines = []
    for (name, precision, why), sizes in failed.items():
        where = " ".join(part for part in (precision, f"batch {', '.join(map(str, sizes))}" if sizes else "") if part)
        lines.append(f"{name}{f' ({where})' if where else ''}: {why}")
    if len(lines) > _MOST_FAILURES:
        lines[_MOST_FAILURES:] = [f"and {len(lines) - _MOST_FAILURES} more, see the rows above"]
    return tuple(lines)


def _caveats(rows: Iterable[Row]) -> list[str]:
    rows = list(rows)
    told = []
    there = measured(rows)
    if doubtful := sum(bool(row.get("flags")) for row in there):
        told.append(
            f"{doubtful} of {len(there)} measured rows carry a doubt, named in their column flags; verdicts rest on them too."
        )
    if any(number(row, "energy_j") is not None for row in rows):
        told.append("Absolute joules carry the sensor's bias of 5 to 10 %; ranking on one board is sound.")
    if any(number(row, "top1_published") is not None for row in rows):
        told.append("Published accuracies are others' measurements, with their weights and training; none was measured here.")
    if any(number(row, "top1_validation") is not None for row in rows):
        told.append(
            "A found network's own accuracy is that of its study's validation split: other data than the published figures."
        )
    if len({number(row, "input_size") for row in rows} - {None}) > 1:
        told.append(
            "Each network takes its own input size, so figures per image are not per equal image; the table names the sizes."
        )
    return told
