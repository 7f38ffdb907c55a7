"""The part of a search's wall time that is neither training nor measuring.

Runs ``python -m nas.search conf=osa_digits`` as a user would, as a process of its own, and compares its wall time with
the seconds that its trials say they trained and measured, and that its probe of number formats measured. Starting up
(importing and preparing) counts as overhead.

    python benchmarks/overhead.py --runs 3 [train.epochs=30 ...]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna


def one_run(overrides: list[str], folder: Path) -> tuple[float, float, float, int]:
    """Returns wall seconds, trained and measured seconds, the shortest trial's such seconds, and the number of trials."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "nas.search", "conf=osa_digits", f"run_dir={folder}", *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    study = optuna.load_study(study_name="osa_digits", storage=f"sqlite:///{folder}/study.db")
    probe = study.user_attrs["numeric_format"]["probe_seconds"]
    busy = [trial.user_attrs["train_seconds"] + trial.user_attrs["measure_seconds"] for trial in study.trials]
    return wall, sum(busy) + probe, min(busy), len(busy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="passed on to nas.search")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    shares = []
    print(f"{'run':>3} {'trials':>6} {'wall s':>8} {'busy s':>8} {'shortest trial s':>17} {'overhead':>9} {'per trial ms':>13}")
    for run in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            wall, busy, shortest, trials = one_run(options.overrides, Path(folder) / "run")
        shares.append(1 - busy / wall)
        each = 1000 * (wall - busy) / trials
        print(f"{run:>3} {trials:>6} {wall:>8.1f} {busy:>8.1f} {shortest:>17.2f} {shares[-1]:>9.2%} {each:>13.0f}", flush=True)
    spread = f"{min(shares):.2%} to {max(shares):.2%}"
    print(f"overhead: median {statistics.median(shares):.2%} ({spread}, {options.runs} runs; target: at most 5%)")


if __name__ == "__main__":
    main()
