"""Small drawings as SVG text: a network's blocks, a training's curve. They open anywhere and need no library."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nas.measure.complexity import LayerCost

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
_WIDTH = 360
_ROW = 62
# Middle tones and a text that takes the page's colour, so that it can be read on dark and on light.
_COLOURS = {"stem": "#7b8794", "stage": "#2f7fb8", "head": "#b8612f"}


@dataclass(frozen=True)
class BlockCost:
    """A stem, a stage, a head, or whatever stands at the top of a network.

    Attributes:
        name: Such as ``stage 2``.
        output_shape: Of its last layer, without the batch; attention's pooled ones do not count.
        layers: What it consists of, such as ``10 x conv 3x3 (43)``.
        modules: How many modules a stage has, ``None`` where that is not known.
        params: Of its convolutions and linear layers.
        mult_adds: Of one image.
    """

    name: str
    output_shape: tuple[int, ...]
    layers: tuple[str, ...]
    modules: int | None
    params: int
    mult_adds: int


def blocks(layers: Sequence[LayerCost]) -> list[BlockCost]:
    """Return a network's blocks in order, found by the names of its layers."""
    grouped: dict[str, list[LayerCost]] = {}
    for layer in layers:
        parts = layer.name.split(".")
        name = f"stage {int(parts[1]) + 1}" if parts[0] == "stages" and len(parts) > 1 and parts[1].isdigit() else parts[0]
        grouped.setdefault(name, []).append(layer)
    return [_block(name, members) for name, members in grouped.items()]


def _block(name: str, members: Sequence[LayerCost]) -> BlockCost:
    counted = Counter(f"{kind_of(layer)} ({layer.output_shape[0]})" for layer in members)
    # stages.1.2.convs.0 is of module 2; stages.1.0.0, without a name of its own, is a plain layer between the modules.
    paths = [layer.name.split(".") for layer in members if name.startswith("stage ")]
    modules = {path[2] for path in paths if len(path) > 3 and not path[3].isdigit()}
    return BlockCost(
        name=name,
        output_shape=next(
            (m.output_shape for m in reversed(members) if math.prod(m.output_shape[1:]) > 1), members[-1].output_shape
        ),
        layers=tuple(f"{count} × {what}" if count > 1 else what for what, count in counted.items()),
        modules=len(modules) or None,
        params=sum(layer.params for layer in members),
        mult_adds=sum(layer.mult_adds for layer in members),
    )


def kind_of(layer: LayerCost) -> str:
    """Return what a layer is, such as ``depthwise conv 3×3``; where the record does not say the kernel, ``conv``."""
    if layer.kernel_size is None or layer.groups is None:
        return layer.kind
    grouped = "depthwise " if 1 < layer.groups == layer.input_shape[0] else f"{layer.groups} groups, " if layer.groups > 1 else ""
    return f"{grouped}{layer.kind} {'×'.join(map(str, layer.kernel_size))}"


def diagram_svg(layers: Sequence[LayerCost], title: str, paper: bool = False) -> str:
    """Return a drawing of a network's blocks, one below the other, 360 pixels wide; a bar's width is its channels.

    Args:
        layers: ``Complexity.layers``.
        title: What a screen reader says.
        paper: Draw on white, for where the colours around it are not known.
    """
    found = blocks(layers)
    most = max((block.output_shape[0] for block in found), default=1)
    rows = []
    for index, block in enumerate(found):
        top = 8 + index * _ROW
        colour = _COLOURS.get("stage" if block.name.startswith("stage ") else block.name, _COLOURS["stage"])
        bar = 18 + 78 * math.sqrt(block.output_shape[0] / most)
        shape = "×".join(map(str, block.output_shape))
        modules = f" · {block.modules} module{'s' * (block.modules > 1)}" if block.modules else ""
        rows.append(
            f'<rect x="{54 - bar / 2:.1f}" y="{top}" width="{bar:.1f}" height="{_ROW - 22}" rx="4" fill="{colour}"/>'
            f'<text x="112" y="{top + 12}" font-weight="600">{escape(block.name)} → {shape}{modules}</text>'
            f'<text x="112" y="{top + 27}" font-size="11">{escape(_shortened(block.layers))}</text>'
            f'<text x="112" y="{top + 41}" font-size="11" opacity="0.75">'
            f"{short(block.params)} params · {short(block.mult_adds)} mult-adds</text>"
        )
        if index + 1 < len(found):
            rows.append(
                f'<path d="M54 {top + _ROW - 20} v16 m-4 -5 l4 5 l4 -5" fill="none" stroke="#8a8a8a" stroke-width="1.5"/>'
            )
    height = 8 + len(found) * _ROW - 8
    return _svg(title, height, "".join(rows), paper)


def curve_svg(values: Sequence[float], title: str, axis: str, paper: bool = False) -> str:
    """Return a line over epochs 1 to n, 360 pixels wide; values that are not finite are left out."""
    points = [(epoch, value) for epoch, value in enumerate(values, start=1) if math.isfinite(value)]
    if not points:
        return _svg(title, 30, '<text x="8" y="20">no epoch was finished</text>', paper)
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = (high - low) or 1.0
    x = [44 + 300 * (epoch - 1) / max(1, len(values) - 1) for epoch, _ in points]
    y = [140 - 110 * (value - low) / span for _, value in points]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    inner = (
        '<path d="M44 20 V146 H350" fill="none" stroke="#8a8a8a"/>'
        f'<polyline points="{line}" fill="none" stroke="{_COLOURS["stage"]}" stroke-width="2"/>'
        + "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2" fill="{_COLOURS["stage"]}"/>' for a, b in zip(x, y, strict=True))
        + f'<text x="44" y="13" font-weight="600">{escape(axis)}</text>'
        f'<text x="40" y="34" text-anchor="end" font-size="11">{high:.3g}</text>'
        f'<text x="40" y="144" text-anchor="end" font-size="11">{low:.3g}</text>'
        f'<text x="44" y="162" font-size="11">1</text>'
        f'<text x="350" y="162" text-anchor="end" font-size="11">epoch {len(values)}</text>'
    )
    return _svg(title, 170, inner, paper)


def short(count: float) -> str:
    """Return a count as a person says it, such as ``1.2 M``."""
    for factor, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= factor:
            return f"{count / factor:.3g}{name}"
    return f"{count:.3g}"


def _shortened(layers: Sequence[str]) -> str:
    told = ", ".join(layers[:2])
    return told + (f", … ({len(layers) - 2} more kinds)" if len(layers) > 2 else "")


def _svg(title: str, height: float, inner: str, paper: bool) -> str:
    sheet = f'<rect width="{_WIDTH}" height="{height:g}" fill="#fff"/>' if paper else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}" height="{height:g}" '
        f'role="img" font-family="{escape(_FONT)}" font-size="12.5" fill="{"#222" if paper else "currentColor"}">'
        f"<title>{escape(title)}</title>{sheet}{inner}</svg>\n"
    )
