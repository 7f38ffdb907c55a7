"""Runs searches for real on scikit-learn's digits, each in a process of its own, and says what came of them and when.

What ``search_efficiency.py`` compares in wall time. The space, the recipe and the conditions are those of
``benchmarks/tables/digits.parquet``.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from methods import METHODS, ROOT, Method
from optuna.trial import TrialState
from playing import counted
from yardstick import Trace, Yardstick, worth_of_own_front

from nas.errors import InputError, RunError
from nas.lookup import Row, Table

TABLE = Path("benchmarks/tables/digits.parquet")
"""Holds every network of the space, under the same conditions."""

_LATENCY_SECONDS = 0.6
_BRIEF_LATENCY_SECONDS = 0.1
_SETTING = (
    *("conf=osa_digits", "space=osa_digits_table", "objectives=[top1,latency_ms]", "study.name=real", "study.trials=1000000"),
    *("measure.energy=false", f"measure.latency_max_seconds={_LATENCY_SECONDS}", "checkpoints=none"),
    *("train.precision=fp32", "train.memory_format=channels_last", "seed=0"),
)
"""As the table was made, so that a training comes to what it came to there; only time ends a search."""

_MOST_SECONDS_TO_END = 120.0

_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
"""Likewise: with more threads latencies scatter more than fronts differ. Loaders and samplers have the other CPUs."""


@dataclass(frozen=True)
class Point:
    """A network that was trained in full, when it was told.

    Attributes:
        seconds: Since the launch of the search's process.
        values: The objectives as that search measured them, minimised.
    """

    seconds: float
    architecture_id: str
    values: tuple[float, float]


@dataclass(frozen=True)
class Searched:
    """A search that was run for real.

    Attributes:
        seconds: That it had.
        points: In the order in which they were told.
        stopped: Networks stopped early for good.
        repeated: Suggestions of what was known, whether evaluated again or not.
    """

    seconds: float
    points: tuple[Point, ...]
    stopped: int
    repeated: int

    @property
    def first(self) -> list[Point]:
        """Each network as it was told first: the luckiest of many timings of one network is no better network."""
        found: dict[str, Point] = {}
        for point in self.points:
            found.setdefault(point.architecture_id, point)
        return list(found.values())


def check(name: str) -> None:
    """Refuse a method that cannot be run for real.

    Raises:
        InputError: Says so.
    """
    if METHODS[name].bounded or not METHODS[name].reuse:
        raise InputError(f"--methods={name} is compared on a table only: give --simulated, or take it out.")


def search(name: str, seed: int, trials: int, seconds: float | None, folder: Path) -> Searched:
    """Run a method.

    Args:
        name: Of ``METHODS``.
        seed: Of the sampler; all trainings but the naive ones have the table's.
        trials: Candidates after which the naive way ends.
        seconds: That every other way has, from the launch of its process.
        folder: A new one, for its files.
    """
    method = METHODS[name]
    if method.way == "naive":
        return _naively(seed, trials, folder)
    assert seconds is not None
    return (_plainly if method.way == "plain" else _ours)(method, seed, seconds, folder)


def read_searched(path: Path) -> dict[str, list[Searched]]:
    """Return the searches that ``search_efficiency.py`` kept, by method and seed; of a run that was cut off, the whole seeds."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    whole = min(len(runs) for runs in kept.values())
    return {
        name: [
            Searched(one["seconds"], tuple(_point(point) for point in one["points"]), one["stopped"], one["repeated"])
            for one in runs[:whole]
        ]
        for name, runs in kept.items()
    }


def _point(kept: Mapping[str, Any]) -> Point:
    top1, latency_ms = kept["values"]
    return Point(kept["seconds"], kept["architecture_id"], (top1, latency_ms))


def _naively(seed: int, trials: int, folder: Path) -> Searched:
    launched_s = _script("naive.py", folder, "--trials", str(trials), "--seed", str(seed))
    path = folder / "naive.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    # The file is written as the search ends; what lies before the search is the start of the process.
    start_s = path.stat().st_mtime - found[-1]["ended_s"] - launched_s
    points = [Point(start_s + one["ended_s"], one["architecture_id"], (-one["top1"], one["latency_ms"])) for one in found]
    return Searched(points[-1].seconds, tuple(points), 0, _repeats(points))


def _plainly(method: Method, seed: int, seconds: float, folder: Path) -> Searched:
    launched_s = _script("plain.py", folder, f"--seconds={seconds}", *_overrides(method, folder), f"sampler.seed={seed}")
    found = json.loads((folder / "plain.json").read_text(encoding="utf-8"))
    points = [Point(one["told_at_s"] - launched_s, one["architecture_id"], (-one["top1"], one["latency_ms"])) for one in found]
    within = tuple(point for point in points if point.seconds <= seconds)
    return Searched(seconds, within, 0, _repeats(within))


def _ours(method: Method, seed: int, seconds: float, folder: Path) -> Searched:
    launched_s = time.time()
    command = [sys.executable, "-m", "nas.search", *_overrides(method, folder), f"sampler.seed={seed}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=_ENVIRONMENT, cwd=ROOT)
    try:
        process.wait(seconds)
        raise InputError(f"nas.search ended before its {seconds:.0f} s were over: run the same command to see why.")
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # what has ended is told, and nothing more is begun
        try:
            process.wait(_MOST_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            raise RunError(f"nas.search did not end within {_MOST_SECONDS_TO_END:g} s of being asked to.") from None
    finally:
        process.kill()
    study = optuna.load_study(study_name="real", storage=f"sqlite:///{folder}/run/study.db")
    trials = [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    points = []
    for trial in trials:
        own = "reused_from" not in trial.user_attrs and not trial.user_attrs.get("latency_brief")
        if trial.state == TrialState.COMPLETE and trial.datetime_complete is not None and own:
            top1, latency_ms = trial.values
            told_s = trial.datetime_complete.timestamp() - launched_s
            points.append(Point(told_s, trial.user_attrs["architecture_id"], (-top1, latency_ms)))
    counts = counted(trials)
    within = tuple(point for point in sorted(points, key=lambda point: point.seconds) if point.seconds <= seconds)
    return Searched(seconds, within, counts["stopped"], counts["repeated"])


def _script(name: str, folder: Path, *arguments: str) -> float:
    """Run a script of this folder, which leaves its results in ``folder``; return when it was launched."""
    launched_s = time.time()
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments]
    folder.mkdir()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**_ENVIRONMENT, "OUT": str(folder)}, cwd=ROOT)
    return launched_s


def _overrides(method: Method, folder: Path) -> list[str]:
    found = [*_SETTING, f"run_dir={folder / 'run'}", f"sampler={method.sampler}"]
    if method.eta is None:
        brief = [f"measure.latency_max_seconds={_BRIEF_LATENCY_SECONDS}"] if method.way == "plain" and method.briefly else []
        return [*found, "scheduler=none", *brief]
    found += ["scheduler=mo_asha", f"scheduler.eta={method.eta}", f"scheduler.score={method.score}"]
    found += [f"engine.workers={method.workers}"] if method.workers else []
    return found if method.briefly else [*found, f"scheduler.first_latency_seconds={_LATENCY_SECONDS}"]


def _repeats(points: Sequence[Point]) -> int:
    return len(points) - len({point.architecture_id for point in points})


# ---- how good it is


@dataclass(frozen=True)
class Traced:
    """A search's way to its front, in the terms of ``search_efficiency.Course``."""

    steps: tuple[tuple[float, float], ...]
    budget_s: float

    @property
    def final(self) -> float:
        """The share of the best known hypervolume in the end."""
        return self.steps[-1][1] if self.steps else 0.0


Value = Callable[[Point], tuple[float, float]]


def as_measured(searched: Iterable[Searched]) -> dict[str, tuple[float, float]]:
    """Return each network's objectives, minimised, as the searches measured them: medians over all that did."""
    found: dict[str, list[tuple[float, float]]] = {}
    for one in searched:
        for point in one.first:
            found.setdefault(point.architecture_id, []).append(point.values)
    return {
        name: (statistics.median(v[0] for v in values), statistics.median(v[1] for v in values)) for name, values in found.items()
    }


def agreement(searched: Iterable[Searched], table: Table) -> float:
    """Return the share of the networks whose accuracy came out as in the table: of one machine's trainings it is all."""
    same = [abs(point.values[0] + table.rows[point.architecture_id].top1[-1]) < 1e-6 for one in searched for point in one.first]
    return sum(same) / max(1, len(same))


def by_table(table: Table, value: Callable[[Row], tuple[float, float]]) -> Value:
    """Return what says what a table has of a network."""
    found = {name: value(row) for name, row in table.rows.items()}
    return lambda point: found[point.architecture_id]


def all_trained(searched: Searched, yardstick: Yardstick, value: Value) -> Traced:
    """Count every network that was trained in full, whatever the search made of it."""
    made = Trace(yardstick)
    for point in searched.first:
        made.add(point.seconds, value(point))
    return Traced(tuple(made.steps), searched.seconds)


def own_front(searched: Searched, yardstick: Yardstick, value: Value) -> Traced:
    """Count, at each moment, the networks that the search itself had on its front: what a user would have taken from it."""
    points = [(point.seconds, point.values, value(point)) for point in searched.first]
    return Traced(worth_of_own_front(points, yardstick), searched.seconds)
