"""One HTML page that opens anywhere without a network: text, cards, charts and tables in sections, everything inlined.

What stands on a page is its caller's; how it looks and behaves is in ``page.css`` and ``page.js``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeAlias

from nas.files import write_text

Tone = Literal["good", "even", "bad", "unknown"]

# The browser itself refuses whatever would leave the page, so a page can be opened where nothing may be fetched.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

_SIGNS = {
    "circle": "●",
    "circle-open": "○",
    "square": "■",
    "square-open": "□",
    "diamond": "◆",
    "diamond-open": "◇",
    "triangle-up": "▲",
    "triangle-up-open": "△",
    "triangle-down": "▼",
    "star": "★",
    "triangle-left": "◀",
    "line-ns-open": "❘",
    "patch": "▬",
}


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text; ``small`` for remarks."""

    text: str
    small: bool = False


@dataclass(frozen=True)
class Code:
    """Lines to be copied as they stand: a file's content, a command."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of plain sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Terms with what they are, such as a device's name and memory; ``half`` stands beside a narrow figure."""

    facts: tuple[tuple[str, str], ...]
    half: bool = False


@dataclass(frozen=True)
class Card:
    """A finding: a headline, a badge with its tone, lines of text with their labels, and a strip of small values."""

    title: str
    badge: str
    tone: Tone
    lines: tuple[tuple[str, str], ...] = ()
    strip_label: str = ""
    strip: tuple[tuple[str, Tone], ...] = ()


@dataclass(frozen=True)
class Cards:
    """Cards side by side under a heading."""

    title: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Key:
    """An entry of a chart's key.

    Attributes:
        symbol: A Plotly marker, or ``patch`` for the colour alone.
        diameter: Shown as a ball of that many pixels instead.
        group: The ``legendgroup`` that a click on the entry hides and shows in every chart of the page.
    """

    label: str
    colour: str = "#555555"
    symbol: str = "circle"
    diameter: float | None = None
    group: str | None = None


@dataclass(frozen=True)
class Chart:
    """A Plotly figure as plain data (``data`` and ``layout``) with its title, its key and a note under it.

    A trace with ``meta.labels`` of ``around`` or ``end`` gets the names in its ``customdata`` written beside its points
    wherever there is room, the least ``meta.priority`` first; ``meta.link`` ties its points to a `Parallel`.
    """

    title: str
    figure: Mapping[str, Any]
    key: tuple[Key, ...] = ()
    note: str = ""
    wide: bool = True


@dataclass(frozen=True)
class ParallelAxis:
    """One axis of parallel coordinates.

    Attributes:
        places: Of each line, 0 (foot) to 1 (top); ``None`` leaves a gap.
        ticks: Places with what is written there.
    """

    label: str
    places: tuple[float | None, ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates, one line per name; a range kept on an axis by brushing keeps the same names elsewhere on the page.

    Attributes:
        link: Points whose trace has this ``meta.link`` follow by their ``customdata``, rows of a table with it by its ``keys``.
    """

    title: str
    names: tuple[str, ...]
    colours: tuple[str, ...]
    axes: tuple[ParallelAxis, ...]
    link: str
    note: str = ""


@dataclass(frozen=True)
class Drawing:
    """A drawing as SVG text, which our own code made."""

    title: str
    svg: str


@dataclass(frozen=True)
class Absent:
    """A chart that could not be drawn, and why."""

    title: str
    reason: str


@dataclass(frozen=True)
class Column:
    """A column of a table: ``pick`` offers its values for choosing rows."""

    title: str
    numeric: bool = False
    pick: bool = False


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is shown and, for a number, the value to sort by."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by each column and searched; rows in ``faint`` are those that hold no result.

    Attributes:
        link: Rows follow a brush over a `Parallel` of the same link.
        keys: With ``link``: each row's name there.
        compact: As wide as its content, without search.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    faint: frozenset[int] = frozenset()
    link: str | None = None
    keys: tuple[str, ...] = ()
    compact: bool = False


@dataclass(frozen=True)
class Choice:
    """Blocks of which one option at a time is shown; the page has one switch for all choices of the same name.

    Attributes:
        inline: The switch stands above the blocks, not in the menu.
    """

    name: str
    options: Mapping[str, tuple[Block, ...]]
    inline: bool = False


Block: TypeAlias = Text | Code | Items | Facts | Cards | Chart | Parallel | Drawing | Absent | Table | Choice


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in its menu; ``anchor`` is its id."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A whole page; ``lead`` is the sentence under its title."""

    title: str
    lead: str
    sections: tuple[Section, ...]


def write_page(path: Path, page: Page) -> None:
    """Write the page as one HTML file, whole or not at all."""
    write_text(path, render(page))


def render(page: Page) -> str:
    """Return the page as HTML; Plotly is inlined if there is a chart, and its size (5 MB) is then the page's."""
    sections = [section for section in page.sections if section.blocks]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Without an icon of its own a page makes the browser ask for one.
        f'<link rel="icon" href="data:,"><title>{escape(page.title)}</title>',
        f"<style>{_asset('page.css')}</style></head><body>",
        f"<header><h1>{escape(page.title)}</h1><p>{escape(page.lead)}</p></header>",
        _menu(sections),
        "<main>",
        *(_section(section) for section in sections),
        "</main>",
        "<noscript><p>The charts and the sorting of tables need JavaScript.</p></noscript>",
    ]
    if any(isinstance(block, Chart) for section in sections for block in _flat(section.blocks)):
        from plotly.offline import get_plotlyjs

        parts.append(f"<script>{get_plotlyjs()}</script>")
    parts.append(f"<script>{_asset('page.js')}</script></body></html>")
    return "\n".join(parts)


def _flat(blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        if isinstance(block, Choice):
            for option in block.options.values():
                yield from _flat(option)
        else:
            yield block


def _menu(sections: Sequence[Section]) -> str:
    links = "".join(f'<a href="#{escape(section.anchor)}">{escape(section.title)}</a>' for section in sections)
    choices: dict[str, list[str]] = {}
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Choice) and not block.inline:
                known = choices.setdefault(block.name, [])
                known += [option for option in block.options if option not in known]
    switches = "".join(_switch(name, options) for name, options in choices.items() if len(options) > 1)
    return f"<nav><div class=links>{links}</div>{switches}</nav>"


def _switch(name: str, options: Sequence[str]) -> str:
    buttons = "".join(
        f'<button type=button data-choice="{escape(name)}" data-option="{escape(option)}" aria-pressed={pressed}>'
        f"{escape(option)}</button>"
        for option, pressed in zip(options, ["true", *["false"] * len(options)], strict=False)
    )
    return f'<div class=switch role=group aria-label="{escape(name)}"><span>{escape(name)}</span>{buttons}</div>'


def _section(section: Section) -> str:
    return f'<section id="{escape(section.anchor)}"><h2>{escape(section.title)}</h2>{_blocks(section.blocks)}</section>'


def _blocks(blocks: Sequence[Block]) -> str:
    return f"<div class=blocks>{''.join(_html(block) for block in blocks)}</div>"


@singledispatch
def _html(block: Any) -> str:
    raise TypeError(f"{type(block).__name__} is no block of a page")


@_html.register
def _(block: Text) -> str:
    return f"<p{' class=small' if block.small else ''}>{escape(block.text)}</p>"


@_html.register
def _(block: Code) -> str:
    return f"<pre class=code tabindex=0>{escape(block.text)}</pre>"


@_html.register
def _(block: Items) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in block.items)}</ul>"


@_html.register
def _(block: Facts) -> str:
    kind = " class=half" if block.half else ""
    return f"<dl{kind}>{''.join(f'<div><dt>{escape(term)}</dt><dd>{escape(told)}</dd></div>' for term, told in block.facts)}</dl>"


@_html.register
def _(block: Cards) -> str:
    return f"<div><h3>{escape(block.title)}</h3><div class=cards>{''.join(_card(card) for card in block.cards)}</div></div>"


def _card(card: Card) -> str:
    lines = "".join(f"<p><b>{escape(label)}</b> {escape(told)}</p>" for label, told in card.lines)
    strip = "".join(f'<span class="tone {tone}">{escape(text)}</span>' for text, tone in card.strip)
    if strip:
        strip = f"<p class=strip><b>{escape(card.strip_label)}</b> {strip}</p>"
    badge = f'<span class="badge {card.tone}">{escape(card.badge)}</span>'
    return f'<article class="card {card.tone}"><h4>{badge}{escape(card.title)}</h4>{lines}{strip}</article>'


@_html.register
def _(block: Chart) -> str:
    key = "".join(_key(entry) for entry in block.key)
    note = f"<p class=small>{escape(block.note)}</p>" if block.note else ""
    return (
        f'<figure class="{"wide" if block.wide else "half"}"><h3>{escape(block.title)}</h3>'
        f"{f'<div class=key>{key}</div>' if key else ''}"
        f"<div class=plot><script type=application/json>{_json(block.figure)}</script></div>{note}</figure>"
    )


def _key(entry: Key) -> str:
    colour = escape(entry.colour)
    if entry.diameter is None:
        sign = f'<i style="color:{colour}">{_SIGNS.get(entry.symbol, "●")}</i>'
    else:
        sign = f'<i class=ball style="width:{entry.diameter}px;height:{entry.diameter}px"></i>'
    if entry.group is None:
        return f"<span>{sign}{escape(entry.label)}</span>"
    return f'<button type=button data-group="{escape(entry.group)}" aria-pressed=true>{sign}{escape(entry.label)}</button>'


@_html.register
def _(block: Parallel) -> str:
    axes = [{"label": axis.label, "places": axis.places, "ticks": axis.ticks} for axis in block.axes]
    data = {"link": block.link, "names": block.names, "colours": block.colours, "axes": axes}
    return (
        f"<figure><h3>{escape(block.title)}</h3>"
        f"<div class=parallel><script type=application/json>{_json(data)}</script></div>"
        f"<p class=small>{escape(block.note)}</p></figure>"
    )


@_html.register
def _(block: Drawing) -> str:
    return f"<figure class='half drawing'><h3>{escape(block.title)}</h3>{block.svg}</figure>"


@_html.register
def _(block: Absent) -> str:
    return f"<p class=absent><b>{escape(block.title)}</b> is not drawn: {escape(block.reason.rstrip('.'))}.</p>"


@_html.register
def _(block: Table) -> str:
    heads = "".join(
        f"<th scope=col{' class=number' if column.numeric else ''}{' data-pick' if column.pick else ''}>"
        f"<button type=button>{escape(column.title)}</button></th>"
        for column in block.columns
    )
    body = "".join(
        f"<tr{' class=faint' if index in block.faint else ''}{_key_of(block, index)}>{_cells(row, block.columns)}</tr>"
        for index, row in enumerate(block.rows)
    )
    link = f' data-link="{escape(block.link)}"' if block.link else ""
    return (
        f"<div class='table{' compact' if block.compact else ''}'{link}><div class=tools></div>"
        f"<div class=scroll tabindex=0><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _key_of(table: Table, row: int) -> str:
    return f' data-key="{escape(table.keys[row])}"' if table.keys else ""


def _cells(cells: Sequence[Cell], columns: Sequence[Column]) -> str:
    return "".join(
        f"<td{' class=number' if column.numeric else ''}{'' if cell.value is None else f' data-value={cell.value!r}'}>"
        f"{escape(cell.text)}</td>"
        for cell, column in zip(cells, columns, strict=True)
    )


@_html.register
def _(block: Choice) -> str:
    options = "".join(
        f'<div class=option data-choice="{escape(block.name)}" data-option="{escape(option)}"{" hidden" if index else ""}>'
        f"{_blocks(blocks)}</div>"
        for index, (option, blocks) in enumerate(block.options.items())
    )
    switch = _switch(block.name, list(block.options)) if block.inline and len(block.options) > 1 else ""
    return f"<div class=choice>{switch}{options}</div>"


def _json(data: Mapping[str, Any]) -> str:
    # Inside a script element only these could end it or open a comment.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
