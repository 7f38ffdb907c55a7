"""The page of a study, composed from what ``reporting`` gathered; figures come from ``analyse``, the look from ``page``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from nas.analyse.ranking import audit_figures
from nas.analyse.spread import spread
from nas.analyse.study.choices import Importance, choices, effect_figure, importance_figure, value_word
from nas.analyse.study.course import course_figures
from nas.analyse.study.distribution import Comparison, comparisons, distribution_figure
from nas.analyse.study.fronts import LINK, front_figures
from nas.analyse.study.good_values import Good, GoodValues, good_in
from nas.analyse.study.parallel import Lines, parallel_lines
from nas.analyse.study.population import FRONT, TIED
from nas.analyse.study.spending import spending_figure
from nas.answer_page import answer_blocks
from nas.drawing import diagram_svg
from nas.measure.layers import LayerTimes
from nas.metrics import METRICS, Metric, show
from nas.outcomes import Outcome, dominations
from nas.page import (
    Absent,
    Block,
    Cell,
    Choice,
    Code,
    Column,
    Drawing,
    Facts,
    Items,
    Page,
    Parallel,
    ParallelAxis,
    Section,
    Table,
    Text,
)
from nas.page_figures import chart, facts, word
from nas.proposing import AT_RANDOM, GOOD, sampler_of
from nas.reporting import Report, Sheet
from nas.tables import show_gains

_SIZES = ("params", "mult_adds", "mem_access")
_MOST_DOUBTS = 10
_MOST_SPLITS = 8
_SURE = 0.05
_OTHERWISE = {
    "front": "the front of all objectives: the least error knows nothing of speed, and may cut off the fast end of the front.",
    "error": "the error alone, which cuts more, and may cut off the fast end of the front.",
}


def report_page(report: Report) -> Page:
    """Return the page."""
    run = report.run
    parts = (
        Section("glance", "At a glance", _glance(report)),
        Section("answer", "Answer", () if report.answer is None else answer_blocks(report.answer)),
        Section("fronts", "Fronts", _fronts(report)),
        Section("filter", "Filter", _filter(report)),
        Section("choices", "Choices", _choices(report)),
        Section("networks", "Networks", _networks(report)),
        Section("space", "Space", _space(report)),
        Section("course", "Course", _course(report)),
        Section("audit", "Audit", _audit(report)),
        Section("conditions", "Conditions", _conditions(report)),
        Section("caveats", "Caveats", (Items(tuple(_caveats(report))),)),
    )
    return Page(f"Study {run.name}", _lead(report), parts)


def _lead(report: Report) -> str:
    population = report.population
    device = report.run.record["conditions"]["device"]
    counts = [f"{len(population.outcomes)} trials", f"{len(population.front)} networks on the front"]
    if report.run.constraints:
        counts.append(f"{len(population.complete) - len(population.feasible)} miss a constraint")
    failed = sum(outcome.state == "failed" for outcome in population.outcomes)
    if failed:
        counts.append(f"{failed} failed")
    unranked = Counter(_unranked(outcome) for outcome in population.outcomes if outcome.state in ("pruned", "repeated"))
    counts += [f"{count} {kind}" for kind, count in unranked.items()]
    if report.run.running:
        counts.append(f"{report.run.running} under way")
    data = report.run.record["data"]
    return f"{', '.join(counts)}; on {data['name']}, measured on {device.get('name') or device.get('kind')}."


def _glance(report: Report) -> tuple[Block, ...]:
    population, run = report.population, report.run
    blocks: list[Block] = [Text(report.chosen.why if report.chosen is not None else report.unchosen)]
    if not population.complete:
        blocks.append(Text("No trial is complete yet, so there is nothing to compare."))
    if population.front:
        heads = [Column("trial", numeric=True)]
        heads += [_head(metric, run.objectives) for metric in (*run.objectives, *_extra(run.objectives, run.constraints))]
        retrained: dict[str, list[float]] = {}
        for metrics in report.retrained:
            retrained.setdefault(str(metrics.get("trial")), []).append(float(metrics["test_top1"]))
        if retrained:
            heads.append(Column("test top1, trained in full", numeric=True))
        rows = []
        for outcome in population.front:
            row = [Cell(outcome.name, float(outcome.name))]
            row += [_figure(report, outcome, metric) for metric in (*run.objectives, *_extra(run.objectives, run.constraints))]
            if retrained:
                full = retrained.get(outcome.name)
                seeds = f" (mean of {len(full)})" if full and len(full) > 1 else ""
                row.append(Cell(f"{fmean(full):.2%}{seeds}", fmean(full)) if full else Cell(""))
            rows.append(tuple(row))
        keys = tuple(outcome.name for outcome in population.front)
        blocks += [Text("The front: no other network of the search is at least as good in everything and better in something.")]
        blocks.append(Table(tuple(heads), tuple(rows), link=LINK, keys=keys))
    told = [
        f"trial {d.network.name} dominates {d.reference.name}: {show_gains(d)}"
        for d in dominations(population.front, population.measured_references, run.objectives)
    ]
    told += [
        f"{metrics['folder']}: test top1 {metrics['test_top1']:.2%} ± {metrics['test_top1_standard_error']:.2%}, "
        f"{metrics['epochs']} epochs"
        for metrics in report.retrained
    ]
    if told:
        blocks.append(Items(tuple(told)))
    if report.chosen is not None:
        pick = f"trial={report.chosen.outcome.name}" if report.chosen.outcome is not None else "architecture=<file>"
        blocks.append(Text(f"Next: python -m nas.retrain study={run.name} {pick}", small=True))
    return tuple(blocks)


def _extra(objectives: Sequence[Metric], constraints: Mapping[str, float]) -> list[Metric]:
    known = {metric.name for metric in objectives}
    return [METRICS[name] for name in dict.fromkeys([*constraints, *_SIZES]) if name not in known]


def _head(metric: Metric, objectives: Sequence[Metric]) -> Column:
    arrow = "\u00a0↑" if metric.direction == "maximize" else "\u00a0↓"
    return Column(f"{metric.name}{arrow if metric in objectives else ''}", numeric=True)


def _figure(report: Report, outcome: Outcome, metric: Metric) -> Cell:
    value = outcome.attributes.get(metric.name)
    if value is None:
        return Cell("")
    off = spread(outcome.attributes, metric.name, report.population.validation_images)
    return Cell(f"{show(metric, value)} ± {show(metric, off)}" if off else show(metric, value), float(value))


def _fronts(report: Report) -> tuple[Block, ...]:
    population = report.population
    if not population.complete:
        return ()
    tied = len(population.tied)
    about = (
        f"{tied} more trials are tied with the front: those that dominate them do so by no more than twice the combined spread "
        "in any objective. "
        if tied
        else ""
    )
    return (
        Text(f"{about}A click on a kind hides or shows it; a point tells its figures when pointed at or touched."),
        *(chart(figure) for figure in front_figures(population)),
    )


def _filter(report: Report) -> tuple[Block, ...]:
    population = report.population
    if not population.outcomes:
        return ()
    return (_parallel(parallel_lines(population, _ranked(report))), _every_trial(report))


def _parallel(found: Lines | str) -> Block:
    heading = "Every network at a glance"
    if isinstance(found, str):
        return Absent(heading, found)
    axes = tuple(ParallelAxis(axis.label, axis.places, axis.ticks) for axis in found.axes)
    note = (
        "Drag along an axis to keep a range, click on it to let go: the fronts above and the tables show only the networks that "
        "are left. Orange: on the front; light orange: tied with it; blue: dominated; grey: misses a constraint."
    )
    return Parallel(heading, found.names, found.colours, axes, LINK, note)


def _ranked(report: Report) -> list[str]:
    """Return the choices, those first that matter most over all objectives."""
    total: Counter[str] = Counter()
    for found in report.importances.values():
        if isinstance(found, Importance):
            total.update(found.shares)
    return [name for name, _ in total.most_common()]


def _every_trial(report: Report) -> Table:
    population, run = report.population, report.run
    metrics = [*run.objectives, *_extra(run.objectives, run.constraints), METRICS["train_seconds"], METRICS["measure_seconds"]]
    names = [choice.name for choice in choices([outcome.params for outcome in population.outcomes])]
    heads = [Column("trial", numeric=True), Column("kind", pick=True), *(_head(metric, run.objectives) for metric in metrics)]
    heads += [*(Column(name) for name in names), Column("architecture"), Column("reason")]
    rows = []
    for outcome in population.outcomes:
        kind = population.kinds[outcome.name].name if outcome.name in population.kinds else _unranked(outcome)
        row = [Cell(outcome.name, float(outcome.name)), Cell(kind)]
        for metric in metrics:
            value = outcome.attributes.get(metric.name)
            row.append(Cell("") if value is None else Cell(show(metric, value), float(f"{float(value):.6g}")))
        row += [Cell(_shown(outcome.params.get(name))) for name in names]
        row.append(Cell(str(outcome.attributes.get("architecture_id", ""))))
        row.append(Cell(_reason(outcome)))
        rows.append(tuple(row))
    faint = frozenset(index for index, outcome in enumerate(population.outcomes) if outcome.state != "complete")
    return Table(tuple(heads), tuple(rows), faint, LINK, tuple(outcome.name for outcome in population.outcomes))


def _unranked(outcome: Outcome) -> str:
    """Return what a trial is that has no place among the complete ones."""
    if outcome.state == "pruned":
        return "gated" if outcome.attributes.get("gated_by") else "stopped early"
    return outcome.state


def _reason(outcome: Outcome) -> str:
    if outcome.state == "failed":
        return outcome.failure_reason
    if outcome.state == "pruned":
        return outcome.pruned_reason
    return f"builds what trial {outcome.attributes['reused_from']} built" if outcome.state == "repeated" else ""


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _choices(report: Report) -> tuple[Block, ...]:
    if not report.population.complete:
        return ()
    options: dict[str, tuple[Block, ...]] = {}
    for metric in report.run.objectives:
        found = report.importances[metric.name]
        options[metric.name] = (chart(importance_figure(found, metric)), chart(effect_figure(found, metric)))
    return (Choice("objective", options, inline=True),)


def _space(report: Report) -> tuple[Block, ...]:
    population = report.population
    if len(population.complete) < 2:
        return ()
    compared = comparisons(population)
    splits = {found.choice: (chart(distribution_figure(population, found.choice)),) for found in compared[:_MOST_SPLITS]}
    blocks: list[Block] = [Choice("split by", splits, inline=True)] if splits else [chart(distribution_figure(population))]
    sampler = sampler_of(report.run)
    if sampler not in AT_RANDOM:
        blocks.append(Text(f"{sampler} draws where it expects good networks: these trials are no random sample of it.", True))
    if compared:
        blocks += _compared(compared)
    return (*blocks, *_good_values(report), *_narrowed(report))


def _compared(found: Sequence[Comparison]) -> tuple[Block, ...]:
    told = (
        "What a setting does to the space: its networks against all others that had the choice to make, of each choice the "
        "setting that differs most. The distance is Kolmogorov and Smirnov's, the greatest gap between the two lines; p is the "
        "chance of so great a gap if the setting did nothing, corrected for the number of comparisons (Holm)."
    )
    heads = (
        Column("choice"),
        Column("setting"),
        Column("makes the space"),
        Column("median error", numeric=True),
        Column("of the others", numeric=True),
        Column("distance", numeric=True),
        Column("p", numeric=True),
        Column("networks", numeric=True),
    )
    rows = tuple(
        (
            Cell(one.choice),
            Cell(one.setting),
            Cell(("worse" if one.worse else "better") if one.p < _SURE else "no sure difference"),
            Cell(f"{one.median:.2%}", one.median),
            Cell(f"{one.median_others:.2%}", one.median_others),
            Cell(f"{one.distance:.2f}", one.distance),
            Cell(f"{one.p:.2g}" if one.p >= 0.001 else "< 0.001", one.p),
            Cell(f"{one.networks} of {one.networks + one.others}", one.networks),
        )
        for one in found[:_MOST_SPLITS]
    )
    left = f" {len(found) - _MOST_SPLITS} further choices differ less." if len(found) > _MOST_SPLITS else ""
    return (Text(f"{told}{left}"), Table(heads, rows, compact=True))


def _good_values(report: Report) -> tuple[Block, ...]:
    heading = "Where good values of each choice lie"
    good = good_in(report.population)
    if isinstance(good, str):
        return (Absent(heading, good),)
    bounds = " that keep every bound" if report.run.constraints else ""
    told = (
        f"{heading}: the range of the best network's value in 95 % of 10,000 draws of a quarter of the trials{bounds} "
        "(replacing), after RegNet (arXiv 2003.13678); of a choice that is not always there, among the networks that had it. "
        "A range as wide as the space's says that the choice does not decide."
    )
    heads = (
        Column("choice"),
        Column("good values (95 %)"),
        Column("median"),
        Column("searched"),
        Column("networks", numeric=True),
    )
    return (Text(told), Table(heads, tuple(_good(found) for found in good), compact=True))


def _good(found: GoodValues) -> tuple[Cell, ...]:
    networks = Cell(str(found.networks), found.networks)
    words = [value_word(value) for value in found.values]
    if found.low is None or found.median is None or found.high is None:
        likely = sorted(zip(words, found.shares, strict=True), key=lambda item: -item[1])
        good = ", ".join(f"{name} {share:.0%}" for name, share in likely if share >= 0.005)
        return (Cell(found.choice), Cell(good), Cell(likely[0][0]), Cell(", ".join(words)), networks)
    good = f"{found.low:g} to {found.high:g}"
    return (Cell(found.choice), Cell(good), Cell(f"{found.median:g}"), Cell(f"{words[0]} to {words[-1]}"), networks)


def _narrowed(report: Report) -> tuple[Block, ...]:
    heading, proposal = "A narrower space to search next", report.proposal
    if isinstance(proposal, str):
        return (Text(f"{heading}: none, for {proposal}."),)
    other: Good = "error" if report.good == "front" else "front"
    smaller = f"; {proposal.smaller}" if proposal.smaller else ""
    told = (
        f"{heading}, as {proposal.path.name} in the study's folder{smaller}. It keeps what was good: {GOOD[report.good]} "
        "A range is cut to theirs, of a list stay the values that were best in at least 2.5 % of the draws; what too few "
        f"networks had to choose stays as it is. nas.report good={other} narrows by {_OTHERWISE[other]}"
    )
    return (Text(told), Code(proposal.text.rstrip("\n")), Code(proposal.command))


def _course(report: Report) -> tuple[Block, ...]:
    if not report.population.outcomes:
        return ()
    return (*(chart(figure) for figure in course_figures(report.population)), chart(spending_figure(report.population)))


def _networks(report: Report) -> tuple[Block, ...]:
    if not report.sheets:
        return ()
    options = {f"trial {sheet.outcome.name}": _sheet(report, sheet) for sheet in report.sheets}
    front = len(report.population.front)
    shown = sum(report.population.kinds.get(sheet.outcome.name) == FRONT for sheet in report.sheets)
    left = (
        f"{shown} of the {front} networks on the front, spread over it; networks={front} shows all of them."
        if shown < front
        else "Every network on the front."
    )
    return (Text(left), Choice("network", options, inline=True))


def _sheet(report: Report, sheet: Sheet) -> tuple[Block, ...]:
    outcome, run = sheet.outcome, report.run
    figures = [
        (metric.name, _figure(report, outcome, metric).text or "–")
        for metric in (*run.objectives, *_extra(run.objectives, run.constraints))
    ]
    kind = report.population.kinds.get(outcome.name)
    if kind in (FRONT, TIED):
        figures.insert(0, ("place", kind.name))
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
                Cell(layer.kind),
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


def _audit(report: Report) -> tuple[Block, ...]:
    found = report.audit
    if found is None:
        return ()
    told = [*found.told, *(f"Trial {name} is left out: {reason}." for name, reason in found.left_out)]
    return (Items(tuple(told)), *(chart(figure) for figure in audit_figures(found)), Facts(found.conditions))


def _conditions(report: Report) -> tuple[Block, ...]:
    record, plain = report.run.record, report.run.written
    device = record["device"]
    recipe = {**plain["train"], "trained in": record["numeric_format"]["numeric"], "because": record["numeric_format"]["reason"]}
    parts: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("Device", device),
        ("Measuring", record["conditions"]["measure"]),
        ("Recipe of the brief training", recipe),
        ("Data", {key: value for key, value in record["data"].items() if key not in ("classes", "skipped")}),
        ("Search", {"seed": plain["seed"], "trials": plain["study"]["trials"], **plain["sampler"]}),
        ("Versions", record["versions"]),
    )
    blocks: list[Block] = []
    for title, values in parts:
        blocks += [Text(title), Facts(tuple((word(key), value) for key, value in facts(values)))]
    return tuple(blocks)


def _caveats(report: Report) -> Iterable[str]:
    population, run = report.population, report.run
    how_far = "see Audit" if report.audit is not None else f"python -m nas.retrain study={run.name} audit=8 measures it"
    confirmed = sum(len(o.attributes.get("seeds") or ()) > 1 for o in population.complete)
    seeds = f"one seed ({confirmed} networks: means over several)" if confirmed else "one seed"
    yield (
        f"Accuracies are those of a brief training with {seeds}, on the validation part: they order networks, and say little of "
        f"what a full training reaches. How far that order holds: {how_far}."
    )
    for name, reason in (run.record.get("objectives_dropped") or {}).items():
        yield f"The objective {name} was dropped: {reason}."
    outcomes = population.outcomes
    doubts = Counter(re.sub(r"\d+(\.\d+)?", "…", flag) for o in outcomes for flag in set(o.attributes.get("measure_flags") or ()))
    for doubt, count in doubts.most_common(_MOST_DOUBTS):
        yield f"{count} of {len(outcomes)} trials carry the doubt “{doubt}”."
    if len(doubts) > _MOST_DOUBTS:
        yield f"{len(doubts) - _MOST_DOUBTS} rarer doubts are in the trials' measure_flags."
    if run.record["conditions"]["device"].get("kind") == "cuda":
        yield "The GPU's clocks are not locked by a search: what they did while measuring is in each measurement.json."
    missing = Counter(
        (name, str(o.attributes[f"{name}_reason"]))
        for o in outcomes
        for name in ("latency_ms", "energy_j", "peak_memory_mb")
        if o.attributes.get(f"{name}_reason") and name not in (run.record.get("objectives_dropped") or {})
    )
    for (name, reason), count in missing.most_common(_MOST_DOUBTS):
        yield f"{name} is missing in {count} trials: {reason}."
    failures = Counter(o.attributes.get("failure") for o in outcomes if o.state == "failed")
    for failure, count in failures.items():
        first = next(o for o in outcomes if o.state == "failed" and o.attributes.get("failure") == failure)
        kind = str(failure).replace("_", " ")
        yield f"{count} trials failed ({kind}), the first, trial {first.name}, for: {first.failure_reason}"
    distinct = len({o.attributes.get("architecture_id") for o in population.complete})
    if distinct < len(population.complete):
        yield f"{len(population.complete) - distinct} trials built a network that another had built: their differences are noise."
    for reference in run.references:
        if reference.state == "failed":
            yield f"The reference {reference.name} failed: {reference.failure_reason}"
    if any(o.attributes.get("energy_j") is not None for o in outcomes):
        yield "Absolute joules carry the sensor's bias of 5 to 10 %; ranking on one board is sound."
    if skipped := run.record["data"].get("skipped"):
        yield f"{len(skipped)} images could not be read and are left out, the first is {skipped[0]}."
    if run.running:
        yield f"{run.running} trials are under way, or their process died: this is not the last word."
