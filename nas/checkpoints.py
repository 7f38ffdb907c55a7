"""What a candidate that was stopped early left in its trial's folder, so that its training can go on later."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

from nas.backup import drop_leftovers
from nas.evaluate import Evaluation, metrics_of
from nas.files import write_bytes
from nas.measure.measurement import Measurement
from nas.outcomes import Outcome

_STATE = "training_state.pt"

_FORMAT = 1
"""How a state is kept: behind a line of JSON that says whose it is."""


def keep(run_dir: Path, number: int, evaluation: Evaluation) -> None:
    """Write the state of a trial that was stopped; the rest of what it takes to go on is in its attributes."""
    assert evaluation.state is not None
    _drop_leftovers(run_dir)
    whose = json.dumps(_whose(evaluation.metrics.architecture_id)).encode()
    write_bytes(run_dir / "trials" / str(number) / _STATE, whose + b"\n" + evaluation.state)


def read(run_dir: Path, stopped: Outcome, measured: bool = True) -> Evaluation | None:
    """Return what a stopped trial had come to, with its state; ``None`` if that cannot be had, and it must begin anew.

    Whether the state is whole is seen where the training goes on from it.

    Args:
        run_dir: Where the search keeps its files.
        stopped: The trial.
        measured: Whether it was measured, and not looked up in a table.
    """
    folder = run_dir / "trials" / stopped.name
    measurement = measurement_of(run_dir, stopped) if measured else None
    try:
        whose, _, state = (folder / _STATE).read_bytes().partition(b"\n")
        if json.loads(whose) != _whose(stopped.attributes["architecture_id"]):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if measured and measurement is None:
        return None
    metrics = metrics_of(stopped.attributes)
    if metrics.latency_brief is None and metrics.latency_ms is not None:  # an earlier version did not say how it was timed
        metrics = dataclasses.replace(metrics, latency_brief=True)
    names = (f.name for f in dataclasses.fields(metrics))
    reasons = {name: str(reason) for name in names if (reason := stopped.attributes.get(f"{name}_reason")) is not None}
    measured_by = stopped.attributes.get("measured_by")
    return Evaluation(metrics, reasons, measurement=measurement, measured_by=measured_by, state=state)


def measurement_of(run_dir: Path, trial: Outcome) -> Measurement | None:
    """Return all that the meters recorded of a trial; ``None`` if that cannot be read."""
    path = run_dir / "trials" / trial.name / "measurement.json"
    try:
        return Measurement.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def drop(run_dir: Path, number: int) -> None:
    """Forget a state that was gone on with."""
    (run_dir / "trials" / str(number) / _STATE).unlink(missing_ok=True)


def _whose(architecture_id: str) -> dict[str, Any]:
    return {"format": _FORMAT, "architecture_id": architecture_id}


@cache
def _drop_leftovers(run_dir: Path) -> None:
    # Once: this process leaves nothing, unless it is killed.
    for folder in (run_dir / "trials").glob("*"):
        drop_leftovers(folder / _STATE)
