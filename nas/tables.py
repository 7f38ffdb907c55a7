"""How numbers and fronts look on a terminal and in a CSV file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from nas.files import write_csv
from nas.metrics import METRICS, Metric, show
from nas.outcomes import Domination, Outcome


def show_gain(metric: Metric, domination: Domination) -> str:
    """Return by how much a network beats a reference in one metric: points of a fraction, per cent of anything else."""
    gain, reference = domination.gains[metric.name], float(domination.reference.attributes[metric.name])
    if metric.unit == "fraction":
        return f"{metric.name} {100 * gain:+.2f} points"
    return f"{metric.name} {gain / reference:+.0%}" if reference else f"{metric.name} {gain:+.3g} {metric.unit}"


def show_gains(domination: Domination) -> str:
    """Return ``show_gain`` of every objective in one line."""
    return ", ".join(show_gain(METRICS[name], domination) for name in domination.gains)


def front_columns(objectives: Sequence[str], constraints: Sequence[str], references: bool = False) -> list[str]:
    """Return the columns of ``front.csv``: the trial, the objectives, the constraints' metrics, the architecture's id.

    With references there are two more: which of them the network dominates, and by how much in each objective.
    """
    columns = ["trial", *dict.fromkeys([*objectives, *constraints]), "architecture_id"]
    return [*columns, "dominates", "dominates_by"] if references else columns


def front_row(network: Outcome, dominated: Sequence[Domination] = ()) -> dict[str, Any]:
    """Return a network as a row of ``front.csv``, or of ``references.csv``."""
    mine = [domination for domination in dominated if domination.network.name == network.name]
    return {
        **network.attributes,
        "trial": network.name,
        "reference": network.name,
        "dominates": ";".join(domination.reference.name for domination in mine),
        "dominates_by": "; ".join(f"{domination.reference.name}: {show_gains(domination)}" for domination in mine),
    }


def write_front(
    path: Path,
    front: Sequence[Outcome],
    objectives: Sequence[Metric],
    constraints: Mapping[str, float],
    dominated: Sequence[Domination],
    references: bool,
) -> None:
    """Write ``front.csv``; ``references`` says whether the study has some, even if none is dominated."""
    columns = front_columns([metric.name for metric in objectives], list(constraints), references or bool(dominated))
    write_csv(path, columns, [front_row(network, dominated) for network in front])


def write_references(
    path: Path, references: Sequence[Outcome], objectives: Sequence[Metric], constraints: Mapping[str, float]
) -> None:
    """Write ``references.csv``."""
    columns = reference_columns([metric.name for metric in objectives], list(constraints))
    write_csv(path, columns, [front_row(network) for network in references])


def reference_columns(objectives: Sequence[str], constraints: Sequence[str]) -> list[str]:
    """Return the columns of ``references.csv``."""
    sizes = ("params", "mult_adds", "flops", "mem_access")
    return ["reference", *dict.fromkeys([*objectives, *constraints, *sizes]), "failure", "failure_reason"]


def front_table(
    networks: Sequence[Outcome],
    objectives: Sequence[str],
    constraints: Mapping[str, float],
    limit: int | None = None,
    references: Sequence[Outcome] = (),
    dominated: Sequence[Domination] = (),
    confidence: Mapping[str, float] | None = None,
) -> Table:
    """Return the networks as a table: objectives, constraints' metrics, then size and operations for orientation.

    References that were measured stand below, and each network says which of them it dominates. ``confidence`` is the chance
    of each network that it belongs on the front, by its name.
    """
    names = list(dict.fromkeys([*objectives, *constraints, "params", "mult_adds"]))
    measured = [reference for reference in references if reference.state != "failed"]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("trial", justify="right")
    for name in names:
        metric = METRICS[name]
        arrow = ("↑" if metric.direction == "maximize" else "↓") if name in objectives else ""
        table.add_column(f"{name} {arrow}".strip(), justify="right", no_wrap=True)
    if confidence is not None:
        table.add_column("sure", justify="right")
    table.add_column("architecture")
    if measured:
        table.add_column("dominates")
    shown = list(networks[:limit])
    for network in [*shown, *measured]:
        is_reference = network.number is None
        cells = [show(METRICS[name], network.attributes.get(name)) for name in names]
        architecture = network.name if is_reference else str(network.attributes.get("architecture_id", ""))
        beats = [domination.reference.name for domination in dominated if domination.network.name == network.name]
        table.add_row(
            "ref" if is_reference else network.name,
            *cells,
            *([] if confidence is None else [f"{confidence[network.name]:.0%}" if network.name in confidence else ""]),
            architecture,
            *([", ".join(beats)] if measured else []),
            style="dim" if is_reference else None,
        )
    return table
