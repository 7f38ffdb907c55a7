"""How long a study's report takes, how large it is, and how soon the dashboard shows its first page; each several times over.

Every report is made by the command itself in a fresh process, layers timed anew. The dashboard is timed by ``nas.dashboard``
(from the printed address on) and as plain ``optuna-dashboard`` on the same files: the list of studies, then the study's page,
which is one answer of its API. Raw results go to ``$OUT``, if that is set.

    python benchmarks/simulated_study.py --trials 1000 --run-dir runs/simulated
    python benchmarks/report_time.py --run-dir runs/simulated [--runs 5]
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from closing import keep, show
from rich.table import Table

from nas.measure.device import resolve_device


def report_seconds(run_dir: Path) -> float:
    """Make the report in a fresh process and return the seconds from its start to its end."""
    for kept in run_dir.glob("trials/*/layers.json"):
        kept.unlink()
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nas.report", f"run_dir={run_dir}"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began_s


def answer_seconds(address: str) -> float:
    """Return how long an address takes to answer in full."""
    began_s = time.perf_counter()
    with urllib.request.urlopen(address, timeout=300) as answer:
        answer.read()
    return time.perf_counter() - began_s


@contextmanager
def ours(run_dir: Path) -> Iterator[str]:
    """Run ``nas.dashboard`` and yield its address."""
    command = [sys.executable, "-m", "nas.dashboard", f"run_dir={run_dir}", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
        finally:
            server.terminate()


@contextmanager
def plain(run_dir: Path, port: int) -> Iterator[str]:
    """Run ``optuna-dashboard`` and yield its address once it answers."""
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [str(program), f"sqlite:///{run_dir}/study.db", "--artifact-dir", str(run_dir / "artifacts"), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{address}/dashboard/", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--port", type=int, default=18088)
    options = parser.parse_args()
    taken: dict[str, list[float]] = {}
    for run in range(options.runs):
        taken.setdefault("report, whole process", []).append(report_seconds(options.run_dir))
        for name, server in (
            ("nas.dashboard", ours(options.run_dir)),
            ("optuna-dashboard", plain(options.run_dir, options.port + run)),
        ):
            began_s = time.perf_counter()
            with server as address:
                taken.setdefault(f"{name}: until it answers", []).append(time.perf_counter() - began_s)
                taken.setdefault(f"{name}: list of studies", []).append(answer_seconds(f"{address}/api/studies"))
                taken.setdefault(f"{name}: the study's page", []).append(answer_seconds(f"{address}/api/studies/1?after=0"))
    keep("report_time.json", taken)
    table = Table("what", "median", "least", "greatest", box=None)
    for name, seconds in taken.items():
        table.add_row(name, *(f"{value:.2f} s" for value in (statistics.median(seconds), min(seconds), max(seconds))))
    size_mb = (options.run_dir / "report.html").stat().st_size / 1e6
    show(resolve_device("auto"), f"{options.runs} runs on {options.run_dir}; the report has {size_mb:.1f} MB", table, width=120)


if __name__ == "__main__":
    main()
