"""The figures of the representative-architecture study (Bianco et al. 2018, arXiv 1810.00736), from rows measured here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from nas.analyse.columns import COLUMNS, digits
from nas.analyse.plots import Axis, Mark, axis_of, bars, hover, lines, points
from nas.analyse.rows import Row, batch_size, batch_sizes, having, known, number
from nas.analyse.scene import (
    Figure,
    Scene,
    Sign,
    drawn,
    lacking,
    latency_spread,
    mark_of,
    per_model,
    shown_value,
    undrawn,
)

_BIGGEST_BALL, _LEAST_BALL = 50.0, 6.0  # pixels
_DENSITY = "published top-1 accuracy per million parameters (%/M)"


def accuracy_against_flops(scene: Scene) -> Figure:
    """Published top-1 against FLOPs per image; the area of a ball is the number of parameters."""
    title = "Accuracy against operations"
    need = ("flops", "top1_published", "params")
    rows = having(scene.of(scene.small), need)
    if not rows:
        return undrawn(title, scene, need)
    most = max(known(row, "params") for row in rows)
    marks = [
        replace(
            mark_of(row, "flops", "top1_published", ("params", "latency_ms")),
            diameter=_diameter(known(row, "params"), most),
        )
        for row in rows
    ]
    balls = tuple(Sign(f"{digits(size / 1e6)} M parameters", diameter=_diameter(size, most)) for size in _ball_sizes(most))
    plot = points(marks, axis_of("flops"), axis_of("top1_published"))
    note = f"The area of a ball is the number of parameters. {lacking(scene, rows)}"
    return drawn(title, plot, marks, note, balls, symbols=False)


def accuracy_density(scene: Scene) -> Figure:
    """Published top-1 in percent per million parameters, as bars."""
    title = "Accuracy density"
    need = ("top1_published", "params")
    rows = sorted(having(scene.of(scene.small), need), key=_density, reverse=True)
    if not rows:
        return undrawn(title, scene, need)
    marks = [Mark(row, _density(row), 0, _density_hover(row)) for row in rows]
    return per_model(title, bars(marks, Axis(_DENSITY), [mark.name for mark in marks]), lacking(scene, rows))


def accuracy_against_density(scene: Scene) -> Figure:
    """Published top-1 against accuracy density."""
    title = "Accuracy against accuracy density"
    need = ("top1_published", "params")
    rows = having(scene.of(scene.small), need)
    if not rows:
        return undrawn(title, scene, need)
    marks = [Mark(row, _density(row), 100 * known(row, "top1_published"), _density_hover(row)) for row in rows]
    plot = points(marks, Axis(_DENSITY), axis_of("top1_published"))
    return drawn(title, plot, marks, lacking(scene, rows), wide=False)


def accuracy_against_throughput(scene: Scene) -> Figure:
    """Published top-1 against images per second at the least batch size, where images come one by one."""
    title = f"Accuracy against throughput at batch {scene.small}"
    need = ("images_per_s", "top1_published")
    rows = having(scene.of(scene.small), need)
    if not rows:
        return undrawn(title, scene, need)
    marks = [
        replace(
            mark_of(row, "images_per_s", "top1_published", ("latency_ms", "flops", "params")),
            error_x=known(row, "images_per_s") * latency_spread(row),
        )
        for row in rows
    ]
    note = "The dashed stair joins the networks that no other beats in both. Error bars: the interquartile range."
    plot = points(marks, axis_of("images_per_s"), axis_of("top1_published"), frontier=True)
    return drawn(title, plot, marks, f"{note} {lacking(scene, rows)}")


def process_memory_by_batch(scene: Scene) -> Figure:
    """All memory that the process holds on the device, against batch size."""
    column = "process_memory_mb"
    note = "All that the process holds on the device, CUDA context included: the study's total memory."
    return _by_batch(scene, "Memory of the process by batch size", column, lambda row: shown_value(row, column), note)


def peak_memory_by_batch(scene: Scene) -> Figure:
    """Memory asked for by the network, its input and its activations, against batch size."""
    column = "peak_memory_mb"
    note = "What the network, its input and its activations ask for; neither CUDA context nor the allocator's reserve."
    return _by_batch(scene, "Peak memory of the network by batch size", column, lambda row: shown_value(row, column), note)


def memory_against_parameters(scene: Scene) -> Figure:
    """Memory of the process and peak memory of the network against the size of the parameters, at the least batch size."""
    title = f"Memory against the size of the parameters at batch {scene.small}"
    kinds = (("process_memory_mb", "square", "process, context included"), ("peak_memory_mb", "circle", "peak of the network"))
    both = [column for column, *_ in kinds]
    marks = [
        replace(mark_of(row, "parameters_mb", column, both), symbol=symbol)
        for column, symbol, _ in kinds
        for row in having(scene.of(scene.small), ("parameters_mb", column))
    ]
    if not marks:
        return undrawn(title, scene, ("parameters_mb", "peak_memory_mb"))
    seen = {mark.symbol for mark in marks}
    plot = points(marks, axis_of("parameters_mb"), Axis("memory (MB)"))
    signs = tuple(Sign(label, symbol) for _, symbol, label in kinds if symbol in seen)
    return drawn(title, plot, marks, lacking(scene, [mark.row for mark in marks]), signs, symbols=False)


def time_by_batch(scene: Scene) -> Figure:
    """Time per image against batch size."""

    def per_image_ms(row: Row) -> tuple[float, float] | None:
        latency_ms, size = number(row, "latency_ms"), batch_size(row)
        if latency_ms is None or not size:
            return None
        return latency_ms / size, latency_ms / size * latency_spread(row)

    note = "Error bars: the interquartile range."
    return _by_batch(scene, "Time per image by batch size", "latency_ms", per_image_ms, note, "time per image (ms)")


FIGURES: tuple[Callable[[Scene], Figure], ...] = (
    accuracy_against_flops,
    accuracy_density,
    accuracy_against_density,
    accuracy_against_throughput,
    process_memory_by_batch,
    peak_memory_by_batch,
    memory_against_parameters,
    time_by_batch,
)


def _by_batch(
    scene: Scene,
    title: str,
    column: str,
    read: Callable[[Row], tuple[float, float | None] | None],
    note: str,
    axis_title: str | None = None,
) -> Figure:
    axis_title = axis_title or COLUMNS[column].title
    quantity, _, unit = axis_title.rstrip(")").rpartition(" (")
    series: dict[str, list[Mark]] = {}
    for row in sorted(scene.rows, key=lambda row: batch_size(row) or 0):
        size, found = batch_size(row), read(row)
        if size and found:
            y, error = found
            text = hover(row, (), f"batch {size}: {digits(y, 4)} {unit} {quantity}")
            series.setdefault(str(row["name"]), []).append(Mark(row, float(size), y, text, error_y=error))
    if not series:
        return undrawn(title, scene, (column,))
    marks = [mark for line in series.values() for mark in line]
    plot = lines(series, Axis("batch size", log=True, values=tuple(batch_sizes(scene.rows))), Axis(axis_title))
    return drawn(title, plot, marks, f"{note} {lacking(scene, [mark.row for mark in marks])}")


def _density(row: Row) -> float:
    return 100 * known(row, "top1_published") / (known(row, "params") / 1e6)


def _density_hover(row: Row) -> str:
    return hover(row, ("top1_published", "params"), f"{_density(row):.2f} % per million parameters")


def _diameter(params: float, most: float) -> float:
    return round(max(_LEAST_BALL, _BIGGEST_BALL * math.sqrt(params / most)), 1)


def _ball_sizes(most: float) -> list[float]:
    """Return up to three round numbers of parameters for the key, a decade apart, none too small to be drawn to scale."""
    least = most * (_LEAST_BALL / _BIGGEST_BALL) ** 2
    round_numbers = [float(first * 10**power) for power in range(12) for first in (1, 2, 5)]
    return [size for size in [size for size in round_numbers if size <= most][:-10:-3] if size >= least][::-1]
