"""What the pages of benchmarks and studies share: a finished figure as a chart with its key, and plain data as facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nas.analyse.scene import Figure
from nas.page import Absent, Block, Chart, Key


def chart(figure: Figure) -> Block:
    """Return a figure as a block of a page, or why there is none."""
    if figure.plot is None:
        return Absent(figure.title, figure.reason or "no data")
    families = [
        Key(family.name, family.colour, family.symbol if figure.symbols else "patch", group=family.name)
        for family in figure.families
    ]
    signs = [Key(sign.label, symbol=sign.symbol, diameter=sign.diameter) for sign in figure.signs]
    return Chart(figure.title, figure.plot.to_plotly_json(), (*families, *signs), figure.note, figure.wide)


def facts(data: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Flatten plain data of any depth to terms and values, without what is not known."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from facts(value)
        elif isinstance(value, (list, tuple)):
            if value:
                yield key, ", ".join(map(str, value))
        elif value is not None:
            yield key, str(value)


def word(key: str) -> str:
    """Return a field's name as a term: ``memory_mb`` as ``memory (MB)``."""
    name, _, unit = key.rpartition("_")
    units = {"mb": "MB", "w": "W", "mhz": "MHz", "c": "°C", "ms": "ms", "s": "s", "j": "J"}
    return f"{name.replace('_', ' ')} ({units[unit]})" if name and unit in units else key.replace("_", " ")
