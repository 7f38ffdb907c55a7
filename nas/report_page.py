"""The page of a study, composed from what ``reporting`` gathered; figures come from ``analyse``, the look from ``page``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from nas.analyse.ranking import audit_figures
from nas.analyse.study.choices import Importance, choices, effect_figure, importance_figure
from nas.analyse.study.course import course_figures
from nas.analyse.study.fronts import LINK, front_figures
from nas.analyse.study.parallel import Lines, parallel_lines
from nas.analyse.study.spending import spending_figure
from nas.answer_page import answer_blocks
from nas.caveats import caveats
from nas.config.common import study_key
from nas.metrics import METRICS, Metric, show
from nas.networks_page import figure_cell, network_blocks, shown_metrics
from nas.outcomes import Outcome, dominations
from nas.page import Absent, Block, Cell, Choice, Column, Facts, Items, Page, Parallel, ParallelAxis, Section, Table, Text
from nas.page_figures import chart, facts, word
from nas.reporting import Report
from nas.space_page import space_blocks
from nas.tables import show_gains


def report_page(report: Report) -> Page:
    """Return the page."""
    run = report.run
    parts = (
        Section("glance", "At a glance", _glance(report)),
        Section("answer", "Answer", () if report.answer is None else answer_blocks(report.answer)),
        Section("fronts", "Fronts", _fronts(report)),
        Section("filter", "Filter", _filter(report)),
        Section("choices", "Choices", _choices(report)),
        Section("networks", "Networks", network_blocks(report)),
        Section("space", "Space", space_blocks(report)),
        Section("course", "Course", _course(report)),
        Section("audit", "Audit", _audit(report)),
        Section("conditions", "Conditions", _conditions(report)),
        Section("caveats", "Caveats", (Items(tuple(caveats(report))),)),
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
        heads += [_head(metric, run.objectives) for metric in shown_metrics(run)]
        retrained: dict[str, list[float]] = {}
        for metrics in report.retrained:
            retrained.setdefault(str(metrics.get("trial")), []).append(float(metrics["test_top1"]))
        if retrained:
            heads.append(Column("test top1, trained in full", numeric=True))
        rows = []
        for outcome in population.front:
            row = [Cell(outcome.name, float(outcome.name))]
            row += [figure_cell(report, outcome, metric) for metric in shown_metrics(run)]
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
        blocks.append(Text(f"Next: python -m nas.retrain {study_key(run.name, run.folder)} {pick}", small=True))
    return tuple(blocks)


def _head(metric: Metric, objectives: Sequence[Metric]) -> Column:
    arrow = "\u00a0↑" if metric.direction == "maximize" else "\u00a0↓"
    return Column(f"{metric.name}{arrow if metric in objectives else ''}", numeric=True)


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
    metrics = [*shown_metrics(run), METRICS["train_seconds"], METRICS["measure_seconds"]]
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


def _course(report: Report) -> tuple[Block, ...]:
    if not report.population.outcomes:
        return ()
    return (*(chart(figure) for figure in course_figures(report.population)), chart(spending_figure(report.population)))


def _audit(report: Report) -> tuple[Block, ...]:
    found = report.audit
    if found is None:
        return ()
    told = [*found.told, *(f"Trial {name} is left out: {reason}." for name, reason in found.left_out)]
    return (Items(tuple(told)), *(chart(figure) for figure in audit_figures(found)), Facts(found.conditions))


def _conditions(report: Report) -> tuple[Block, ...]:
    record, plain = report.run.record, report.run.written
    device = record["device"]
    numeric = record["numeric_format"]["numeric"]
    recipe = {
        **plain["train"],
        "trained in": f"{numeric['precision']}, {numeric['memory_format']}",
        "because": record["numeric_format"]["reason"],
    }
    sampler = {"sampler seed" if key == "seed" else key: value for key, value in plain["sampler"].items()}
    # Of a study that an earlier version wrote a key may be missing.
    searched = {key: plain[key] for key in ("scheduler", "gate", "proxy", "confirm") if key in plain}
    parts: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("Device", device),
        ("Measuring", record["conditions"]["measure"]),
        ("Recipe of the brief training", recipe),
        ("Data", {key: value for key, value in record["data"].items() if key not in ("classes", "skipped")}),
        ("Search", {"seed": plain["seed"], "trials": plain["study"]["trials"], **sampler, **searched}),
        ("Versions", record["versions"]),
    )
    blocks: list[Block] = []
    for title, values in parts:
        blocks += [Text(title), Facts(tuple((word(key), value) for key, value in facts(values)))]
    return tuple(blocks)
