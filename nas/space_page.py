"""What a report says of the design space: what each setting does to it, where good values lie, and a narrower one."""

from __future__ import annotations

from collections.abc import Sequence

from nas.analyse.study.choices import value_word
from nas.analyse.study.distribution import Comparison, comparisons, distribution_figure
from nas.analyse.study.good_values import Good, GoodValues, good_in
from nas.page import Absent, Block, Cell, Choice, Code, Column, Table, Text
from nas.page_figures import chart
from nas.proposing import GOOD, is_at_random, samplers_of
from nas.reporting import Report

_MOST_SPLITS = 8
_SURE = 0.05
_OTHERWISE = {
    "front": "the front of all objectives: the least error knows nothing of speed, and may cut off the fast end of the front.",
    "error": "the error alone, which cuts more, and may cut off the fast end of the front.",
}


def space_blocks(report: Report) -> tuple[Block, ...]:
    """Return the section; nothing where there are not two networks to compare."""
    population = report.population
    if len(population.complete) < 2:
        return ()
    compared = comparisons(population)
    splits = {found.choice: (chart(distribution_figure(population, found.choice)),) for found in compared[:_MOST_SPLITS]}
    blocks: list[Block] = [Choice("split by", splits, inline=True)] if splits else [chart(distribution_figure(population))]
    if not is_at_random(report.run):
        blocks.append(
            Text(
                f"{samplers_of(report.run)} drew where good networks were expected: these trials are no random sample of it.",
                True,
            )
        )
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
