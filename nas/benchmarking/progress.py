"""What a user sees while a benchmark runs, and its table at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from nas.benchmarking.results import Key, Result, row
from nas.console import clock
from nas.metrics import METRICS, show

_SHOWN = ("params", "mult_adds", "latency_ms", "images_per_s", "flops_per_s", "energy_j", "peak_memory_mb")


class Progress:
    """Shows a running benchmark: a bar on a terminal, and a line for each measurement.

    Args:
        keys: Everything that is wanted, measured already or not.
        left: How many of them are not measured yet.
        console: Where to show it.
        ended: Called with each result that is on disk.
    """

    def __init__(self, keys: Sequence[Key], left: int, console: Console, ended: Callable[[Result], None]) -> None:
        self._places = {key: place for place, key in enumerate(keys, start=1)}
        self._left, self._console, self._ended = left, console, ended
        self._took_s: list[float] = []
        self._began_s = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        # Twice a second: the display must not be what disturbs the clock.
        self._bar = Bar(*columns, console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=len(keys), left="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def begins(self, key: Key) -> None:
        """Show what is under way."""
        self._bar.update(self._task, description=_name(key), completed=self._places[key] - 1)

    def ended(self, result: Result) -> None:
        """Show a result and pass it on."""
        self._ended(result)
        now_s = time.monotonic()
        self._took_s.append(now_s - self._began_s)
        self._began_s = now_s
        self._left -= 1
        self._bar.update(self._task, left=f"about {clock(self._left * statistics.fmean(self._took_s))} left")
        self.note(f"{self._places[result.key]}/{len(self._places)}  {_line(result)}")

    def note(self, text: str) -> None:
        """Show a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _name(key: Key) -> str:
    return f"{key.model}  {key.precision}  batch {key.batch_size}"


def _line(result: Result) -> str:
    cells = row(result)
    if result.status != "measured":
        return f"{_name(result.key)}  {_note(cells)}"
    shown = [f"{name} {show(METRICS[name], cells[name])}" for name in _SHOWN[2:] if cells[name] is not None]
    return "  ".join([_name(result.key), *shown, *([f"({cells['flags']})"] if cells["flags"] else [])])


def _note(cells: Mapping[str, Any]) -> str:
    if cells["status"] == "measured":
        return "doubtful" if cells["flags"] else ""
    return f"{cells['status'].replace('_', ' ')}: {cells['reason']}"


def summary(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table that a terminal ends with: each network at its smallest and at its largest measured batch.

    ``spread`` is the interquartile range over the median; the flags of what is doubtful are in the files.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("model", "precision"):
        table.add_column(column)
    for column in ("batch", *_SHOWN, "spread"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("note")
    groups: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for cells in rows:
        groups.setdefault((cells["model"], cells["precision"]), []).append(cells)
    for (model, precision), group in groups.items():
        measured = [cells for cells in group if cells["status"] == "measured"]
        ends = {id(cells): cells for cells in (measured[:1] + measured[-1:])}.values()
        troubles = [cells for cells in group if cells["status"] != "measured"]
        for cells in [*ends, *troubles[:1]]:
            batch = "" if cells["batch_size"] is None else str(cells["batch_size"])
            figures = [show(METRICS[name], cells[name]) for name in _SHOWN]
            figures.append(f"{cells['latency_iqr_ms'] / cells['latency_ms']:.1%}" if cells["latency_ms"] else "–")
            table.add_row(model, precision or "", batch, *figures, _note(cells))
    return table
