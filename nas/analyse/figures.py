"""All figures of a benchmark in the page's order: the representative study's, then computation rate, energy, memory access
and launches. Drawing them is left to the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from nas.analyse import representative
from nas.analyse.columns import COLUMNS
from nas.analyse.plots import Axis, Mark, axis_of, dots, hover
from nas.analyse.rows import Row, at, batch_sizes, having, known, measured, named, number, precisions, why_missing
from nas.analyse.scene import Figure, Scene, Sign, lacking, latency_spread, mark_of, per_model, undrawn


def figures(rows: Iterable[Row], precision: str) -> list[Figure]:
    """Return the figures of one precision in the page's order; none if nothing was measured in it.

    Args:
        rows: One per model, precision and batch size, of any status; models that were not measured may lack a precision.
        precision: The one whose rows are drawn.
    """
    every = [row for row in named(rows) if row.get("precision") in (precision, None)]
    mine = at(every, precision)
    sizes = batch_sizes(mine)
    if not sizes:
        return []
    scene = Scene(mine, every, sizes[0], sizes[-1])
    return [make(scene) for make in (*representative.FIGURES, *FIGURES)]


def computation_rate(scene: Scene) -> Figure:
    """FLOPs over measured time per model: how well the network uses the device."""
    note = "FLOPs (two per multiply-add) over measured time. Error bars: the interquartile range."
    return _small_and_large(scene, "Computation rate (FLOP/s)", "flops_per_s", latency_spread, note, most_first=True)


def energy(scene: Scene) -> Figure:
    """Gross energy per image per model."""

    def spread(row: Row) -> float:
        return (number(row, "energy_uncertainty_j") or 0) / known(row, "energy_j")

    methods = sorted({str(row["energy_method"]) for row in scene.rows if row.get("energy_method")})
    method = f" (method: {', '.join(methods)})" if methods else ""
    note = f"Gross energy of the device{method}. Error bars: the stated uncertainty, without the sensor's bias."
    return _small_and_large(scene, "Energy per image", "energy_j", spread, note, most_first=False)


def memory_access(scene: Scene) -> Figure:
    """Memory access cost of the convolutions, and its lower bound at equal work: input and output equally large."""
    title = "Memory access cost and its lower bound"
    rows = sorted(having(scene.of(scene.small), ("mem_access",)), key=lambda row: known(row, "mem_access"))
    if not rows:
        return undrawn(title, scene, ("mem_access",))
    marks = [
        Mark(row, x * COLUMNS[column].scale, 0, hover(row, ("mem_access", "mem_access_bound")), symbol=symbol)
        for row in rows
        for column, symbol in (("mem_access", "circle"), ("mem_access_bound", "line-ns-open"))
        if (x := number(row, column)) is not None
    ]
    note = "Elements that all convolutions read and write, for one image. The bound: equal work, input and output equally large."
    return per_model(
        title,
        dots(marks, axis_of("mem_access"), _order(marks)),
        f"{note} {lacking(scene, rows)}",
        (Sign("cost", "circle"), Sign("lower bound", "line-ns-open")),
    )


def memory_access_ratio(scene: Scene) -> Figure:
    """How far a network is from the least memory access of its work."""
    title = "Memory access cost over its lower bound"
    need = ("mem_access", "mem_access_bound")
    ratios = {
        str(row["name"]): (row, known(row, "mem_access") / known(row, "mem_access_bound"))
        for row in having(scene.of(scene.small), need)
        if number(row, "mem_access_bound")
    }
    if not ratios:
        return undrawn(title, scene, need)
    marks = [Mark(row, ratio, 0, hover(row, need, f"{ratio:.2f} times the bound")) for row, ratio in ratios.values()]
    marks.sort(key=lambda mark: mark.x)
    plot = dots(marks, Axis("memory access cost ÷ lower bound"), _order(marks), joined=False)
    return per_model(title, plot, lacking(scene, [mark.row for mark in marks]))


_WAYS = (
    ("latency_ms", "circle", "eager"),
    ("latency_graph_ms", "diamond", "CUDA graph"),
    ("latency_compiled_ms", "square", "compiled"),
    ("latency_enqueue_ms", "triangle-up-open", "enqueue (host)"),
    ("latency_cold_ms", "circle-open", "cold cache"),
)


def launches(scene: Scene) -> Figure:
    """Eager time beside the variants that were taken: which networks are bound by launches."""
    title = f"Eager, graph and enqueue time at batch {scene.small}"
    variants = [column for column, *_ in _WAYS[1:]]
    rows = [row for row in scene.of(scene.small) if any(number(row, column) is not None for column in variants)]
    if not rows:
        return undrawn(title, scene, ("latency_graph_ms",))
    rows.sort(key=lambda row: number(row, "latency_ms") or 0)
    taken = [way for way in _WAYS if having(rows, (way[0],))]
    marks = [
        Mark(row, time_ms, 0, hover(row, [column for column, *_ in taken]), symbol=symbol)
        for row in rows
        for column, symbol, _ in taken
        if (time_ms := number(row, column)) is not None
    ]
    note = "Where the host's enqueue time is near the eager time, launches are the bound; a CUDA graph takes them away."
    return per_model(
        title,
        dots(marks, Axis("time of the batch (ms)"), _order(marks)),
        f"{note} {lacking(scene, rows)}",
        tuple(Sign(label, symbol) for _, symbol, label in taken),
    )


FIGURES: tuple[Callable[[Scene], Figure], ...] = (computation_rate, energy, memory_access, memory_access_ratio, launches)


def by_precision(rows: Iterable[Row]) -> Figure | None:
    """Return throughput by precision at the greatest batch size that all precisions have; ``None`` with one precision."""
    every = named(rows)
    kinds = precisions(every)
    if len(kinds) < 2:
        return None
    shared = set.intersection(*[set(batch_sizes(at(every, kind))) for kind in kinds])
    if not shared:
        return Figure("Throughput by precision", None, "the precisions were not measured at one common batch size")
    size = max(shared)
    title = f"Throughput by precision at batch {size}"
    symbols = dict(zip(kinds, ("circle-open", "circle", "diamond", "triangle-up-open"), strict=False))
    marks = [
        replace(mark_of(row, "images_per_s", "images_per_s", ("latency_ms",), kind), symbol=symbols.get(kind, "square"))
        for kind in kinds
        for row in having(at(every, kind, size), ("images_per_s",))
    ]
    if not marks:
        return Figure(title, None, f"throughput: {why_missing(measured(every), 'images_per_s')}")
    order = _order(sorted(marks, key=lambda mark: -mark.x))
    signs = tuple(Sign(kind, symbols.get(kind, "square")) for kind in kinds)
    return per_model(title, dots(marks, axis_of("images_per_s"), order), signs=signs)


def _small_and_large(
    scene: Scene, title: str, column: str, spread: Callable[[Row], float], note: str, most_first: bool
) -> Figure:
    """One row per model with its value at the least and at the greatest batch size, the best at the least one on top."""
    sizes = dict(zip(dict.fromkeys((scene.small, scene.large)), ("circle", "circle-open"), strict=False))
    marks = []
    for size, symbol in sizes.items():
        here = []
        for row in having(scene.of(size), (column,)):
            x = known(row, column) * COLUMNS[column].scale
            text = hover(row, (column, "latency_ms", "power_w"), f"batch {size}")
            here.append(Mark(row, x, 0, text, error_x=x * spread(row), symbol=symbol))
        marks += sorted(here, key=lambda mark: mark.x, reverse=most_first)
    if not marks:
        return undrawn(title, scene, (column,))
    return per_model(
        title,
        dots(marks, axis_of(column), _order(marks)),
        f"{note} {lacking(scene, [mark.row for mark in marks])}",
        tuple(Sign(f"batch {size}", symbol) for size, symbol in sizes.items()),
    )


def _order(marks: Iterable[Mark]) -> list[str]:
    """Return the models' names in the order in which they first occur."""
    return list(dict.fromkeys(mark.name for mark in marks))
