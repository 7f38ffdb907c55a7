"""What a report says of single networks: a figure with its spread, and the drawing and the layers of those worth a look."""

from __future__ import annotations

from collections import Counter

from nas.analyse.spread import spread
from nas.analyse.study.population import FRONT, TIED
from nas.drawing import diagram_svg, kind_of
from nas.measure.layers import LayerTimes
from nas.metrics import METRICS, Metric, show
from nas.outcomes import Outcome
from nas.page import Absent, Block, Cell, Choice, Column, Drawing, Facts, Table, Text
from nas.reporting import Report, Sheet
from nas.runs import Run

_SIZES = ("params", "mult_adds", "mem_access")


def shown_metrics(run: Run) -> tuple[Metric, ...]:
    """Return what is shown of every network: the objectives, what is bounded, and the sizes."""
    known = {metric.name for metric in run.objectives}
    return (*run.objectives, *(METRICS[name] for name in dict.fromkeys([*run.constraints, *_SIZES]) if name not in known))


def figure_cell(report: Report, outcome: Outcome, metric: Metric) -> Cell:
    """Return a network's figure with its spread, where that is known."""
    value = outcome.attributes.get(metric.name)
    if value is None:
        return Cell("")
    off = spread(outcome.attributes, metric.name, report.population.validation_images)
    return Cell(f"{show(metric, value)} ± {show(metric, off)}" if off else show(metric, value), float(value))


def network_blocks(report: Report) -> tuple[Block, ...]:
    """Return the section, one network to be chosen at a time; nothing where none has a sheet."""
    if not report.sheets:
        return ()
    options = {f"trial {sheet.outcome.name}": _sheet(report, sheet) for sheet in report.sheets}
    front = len(report.population.front)
    shown = sum(report.population.kinds.get(sheet.outcome.name) == FRONT for sheet in report.sheets)
    others = len(report.sheets) - shown  # the chosen one, where it is not on the front
    left = (
        f"{shown} of the {front} networks on the front, spread over it; networks={front + others} shows all of them."
        if shown < front
        else "Every network on the front."
    )
    return (Text(left), Choice("network", options, inline=True))


def _sheet(report: Report, sheet: Sheet) -> tuple[Block, ...]:
    outcome, run = sheet.outcome, report.run
    figures = [(metric.name, figure_cell(report, outcome, metric).text or "–") for metric in shown_metrics(run)]
    kind = report.population.kinds.get(outcome.name)
    if kind in (FRONT, TIED):
        figures.insert(0, ("place", kind.name))
    elif outcome.state == "pruned":
        figures.insert(0, ("place", outcome.pruned_reason))
    figures.append(("architecture", f"trials/{outcome.name}/architecture.yaml, {outcome.attributes.get('architecture_id')}"))
    if not sheet.layers:
        return (Facts(tuple(figures)), Absent("Its layers", "the record of this trial's measurement is gone"))
    drawing = Drawing(f"Trial {outcome.name}", diagram_svg(sheet.layers, f"The blocks of trial {outcome.name}"))
    return (drawing, Facts(tuple(figures), half=True), *_layer_table(sheet))


def _layer_table(sheet: Sheet) -> tuple[Block, ...]:
    shares = _shares(sheet.times)
    heads = [Column("layer"), Column("kind"), Column("input"), Column("output"), Column("parameters", numeric=True)]
    heads += [Column("mult-adds", numeric=True), Column("mem_access", numeric=True), Column("share of time", numeric=True)]
    rows = []
    seen: Counter[str] = Counter()
    counted = 0.0
    for layer in sheet.layers:
        calls = shares.get(layer.name, [])
        share = calls[seen[layer.name]] if seen[layer.name] < len(calls) else None
        seen[layer.name] += 1
        counted += share or 0.0
        rows.append(
            (
                Cell(layer.name),
                Cell(kind_of(layer)),
                Cell("×".join(map(str, layer.input_shape))),
                Cell("×".join(map(str, layer.output_shape))),
                Cell(f"{layer.params:,}", float(layer.params)),
                Cell(f"{layer.mult_adds:,}", float(layer.mult_adds)),
                Cell("–") if layer.mem_access is None else Cell(f"{layer.mem_access:,}", float(layer.mem_access)),
                Cell("–") if share is None else Cell(f"{share:.1%}", share),
            )
        )
    if sheet.times is None:
        told = f"Shares of time were not taken: {sheet.untimed}."
    else:
        rest = 1.0 - counted - sheet.times.between
        where = f" on {sheet.timed_on}, not on the search's device" if sheet.timed_on else ""
        told = (
            f"Shares are medians of {sheet.times.passes} passes of {sheet.times.batch_size} images{where}. Norms, activations "
            f"and pools take {rest:.1%}, concatenations and all else between layers {sheet.times.between:.1%}."
        )
    return (Text(told, small=True), Table(tuple(heads), tuple(rows)))


def _shares(times: LayerTimes | None) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for layer in times.layers if times is not None else ():
        found.setdefault(layer.name, []).append(layer.share)
    return found
