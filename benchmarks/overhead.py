"""The part of a search's wall time that is neither training nor measuring.

Runs ``python -m nas.search conf=osa_digits`` as a user would, as a process of its own, and compares its wall time with
the seconds that its trials say they trained and measured, and that its probe of number formats measured. Starting up
(importing and preparing, up to the first trial's start) counts as overhead and is also shown by itself, the probe included.

    python benchmarks/overhead.py --runs 3 [train.epochs=30 ...]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna


@dataclass(frozen=True)
class Run:
    """One search's seconds: in all, trained and measured, those of its shortest trial, and up to the first trial's start."""

    wall: float
    busy: float
    shortest: float
    start_up: float
    trials: int


def one_run(overrides: list[str], folder: Path) -> Run:
    launched, began = datetime.now(), time.perf_counter()  # Optuna's times are local and naive too
    command = [sys.executable, "-m", "nas.search", "conf=osa_digits", f"run_dir={folder}", *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    study = optuna.load_study(study_name="osa_digits", storage=f"sqlite:///{folder}/study.db")
    probe = study.user_attrs["numeric_format"]["probe_seconds"]
    for trial in study.trials:
        if reason := trial.user_attrs.get("failure_reason"):
            raise SystemExit(f"error: trial {trial.number} failed: {reason}")
    # A repeat was not evaluated; what went on from where another trial had been stopped has the seconds of both.
    went_on = {trial.user_attrs.get("resumed_from") for trial in study.trials}
    evaluated = [trial for trial in study.trials if trial.number not in went_on and "reused_from" not in trial.user_attrs]
    busy = [(t.user_attrs.get("train_seconds") or 0.0) + (t.user_attrs.get("measure_seconds") or 0.0) for t in evaluated]
    first = min(trial.datetime_start for trial in study.trials if trial.datetime_start is not None)
    return Run(wall, sum(busy) + probe, min(busy), (first - launched).total_seconds(), len(busy))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="passed on to nas.search")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    shares = []
    print(
        f"{'run':>3} {'trials':>6} {'wall s':>8} {'busy s':>8} {'start-up s':>11} {'shortest trial s':>17} {'overhead':>9} "
        f"{'per trial ms':>13}"
    )
    for number in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            run = one_run(options.overrides, Path(folder) / "run")
        shares.append(1 - run.busy / run.wall)
        each = 1000 * (run.wall - run.busy) / run.trials
        print(
            f"{number:>3} {run.trials:>6} {run.wall:>8.1f} {run.busy:>8.1f} {run.start_up:>11.1f} {run.shortest:>17.2f} "
            f"{shares[-1]:>9.2%} {each:>13.0f}",
            flush=True,
        )
    spread = f"{min(shares):.2%} to {max(shares):.2%}"
    print(f"overhead: median {statistics.median(shares):.2%} ({spread}, {options.runs} runs; target: at most 5%)")


if __name__ == "__main__":
    main()
