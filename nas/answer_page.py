"""A search's answer as blocks of a page: for every two values a card per metric, then what is missing and what to beware of."""

from __future__ import annotations

from nas.analyse.question import Answer, Comparison, Difference
from nas.analyse.telling import (
    ABOUT,
    asked,
    at_equal,
    better,
    leading,
    more_needed,
    shown_difference,
    shown_probability,
    told_fronts,
    told_networks,
)
from nas.page import Block, Card, Cards, Items, Text, Tone


def answer_blocks(answer: Answer) -> tuple[Block, ...]:
    """Return the blocks."""
    asks = asked(answer.question)
    blocks: list[Block] = [Text(asks[0].upper() + asks[1:])]
    for comparison in answer.comparisons:
        told = told_networks(comparison, answer.question)
        if not comparison.differences:
            blocks.append(Text(_sentence(told)))
            continue
        cards = tuple(_card(found, comparison) for found in comparison.differences)
        at = at_equal(answer.question)
        blocks.append(Cards(f"{comparison.first} against {comparison.second}{at and ','}{at}", cards))
        blocks.append(Text(_sentence(told), small=True))
        if comparison.fronts is not None:
            blocks.append(Text(_sentence(told_fronts(comparison.fronts, comparison)), small=True))
    if any(comparison.differences for comparison in answer.comparisons):
        blocks.append(Text(_sentence(ABOUT), small=True))
    left = [f"{name} was not measured: {reason}." for name, reason in answer.unmeasured.items()]
    left += [f"Beware: {doubt}." for doubt in answer.doubts]
    return (*blocks, Items(tuple(left))) if left else tuple(blocks)


def _sentence(told: str) -> str:
    return f"{told[0].upper()}{told[1:]}."


def _card(found: Difference, comparison: Comparison) -> Card:
    first, second = comparison.first, comparison.second
    turned = found.verdict == "second"
    winner, loser = (second, first) if turned else (first, second)
    figures = shown_difference(found, turned).removeprefix(f"{found.metric} ")
    lines = [(f"{winner} to {loser}", figures)]
    if found.verdict in ("first", "second"):
        _, chance = leading(found, comparison)
        tone: Tone = "bad" if turned else "good"
        return Card(f"{winner} {better(found.metric)} {loser}", f"sure {shown_probability(chance)}", tone, tuple(lines))
    if found.verdict == "tie":
        return Card(found.metric, "a tie", "even", tuple(lines))
    ahead, chance = leading(found, comparison)
    lines += [("ahead", f"{ahead}, {shown_probability(chance)}"), ("to tell", more_needed(found))]
    return Card(found.metric, "open", "unknown", tuple(lines))
