"""Whether a second measurement ranks candidates as the first did: Kendall's tau over candidates of the CIFAR-10 space.

Candidates are measured twice, as a search measures them, in two fresh processes and in different order. Prints tau for
latency and energy with the greatest difference of a candidate, and what a candidate cost. Raw results go to ``$OUT``.

    python benchmarks/rank_twice.py [--device cuda] [--candidates 30] [--batch-size 64] [--no-energy]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from closing import keep, show
from rich.table import Table
from scipy.stats import kendalltau

from nas.errors import InputError
from nas.measure import energy, latency, subject
from nas.measure.device import resolve_device
from nas.processes import fresh_process
from search_spaces import osa
from search_spaces.base import RandomTrial

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (3, 32, 32)


def measure(device: str, seeds: list[int], batch_size: int, with_energy: bool) -> dict[int, dict[str, Any]]:
    """Run in a fresh process: measure the candidates of ``seeds`` in that order."""
    values = yaml.safe_load((ROOT / "conf" / "space" / "osa_cifar.yaml").read_text(encoding="utf-8"))
    space = osa.OSASpace(**{key: value for key, value in values.items() if key != "_target_"})
    found: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        torch.manual_seed(0)
        model = space.build(space.suggest(RandomTrial(seed)), SHAPE[0], 10)
        net = subject.make(model, SHAPE, device, batch_size=batch_size)
        timed = latency.measure(net)
        spent = energy.measure(net) if with_energy else None
        found[seed] = {
            "latency_ms": timed.eager.median_ms,
            "latency_seconds": timed.eager.seconds,
            "energy_j": spent.energy_j if spent else None,
            "energy_seconds": spent.seconds if spent else None,
            "reason": spent.reason if spent else "not asked for",
            "flags": [*timed.flags, *(spent.flags if spent else ())],
        }
        print(f"candidate {seed}: {timed.eager.median_ms:.4g} ms", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--no-energy", action="store_true")
    options = parser.parse_args()
    seeds = list(range(options.candidates))
    runs = []
    for order_seed in (1, 2):
        order = random.Random(order_seed).sample(seeds, len(seeds))
        with fresh_process() as pool:
            runs.append(pool.submit(measure, options.device, order, options.batch_size, not options.no_energy).result())
    keep("rank_twice.json", runs)
    table = Table(
        "metric",
        "candidates",
        "Kendall's tau",
        "least … greatest",
        "median difference",
        "greatest",
        "took, median",
        "greatest",
        box=None,
    )
    for metric, took in (("latency_ms", "latency_seconds"), ("energy_j", "energy_seconds")):
        pairs = [(runs[0][seed][metric], runs[1][seed][metric]) for seed in seeds]
        if any(value is None for pair in pairs for value in pair):
            table.add_row(metric, "–", "–", next(str(found["reason"]) for found in runs[0].values() if found[metric] is None))
            continue
        differences = [abs(two - one) / one for one, two in pairs]
        seconds = [found[took] for run in runs for found in run.values()]
        table.add_row(
            metric,
            str(len(pairs)),
            f"{kendalltau(*zip(*pairs, strict=True)).statistic:.4f}",
            f"{min(one for one, _ in pairs):.4g} … {max(one for one, _ in pairs):.4g}",
            f"{statistics.median(differences):.2%}",
            f"{max(differences):.2%}",
            f"{statistics.median(seconds):.2f} s",
            f"{max(seconds):.2f} s",
        )
    flagged = sum(bool(found["flags"]) for run in runs for found in run.values())
    told = (
        f"candidates of conf/space/osa_cifar.yaml at 3x32x32, batch {options.batch_size}, as a search measures them, twice in "
        f"different order and fresh processes; {flagged} of {2 * len(seeds)} measurements carry a doubt"
    )
    show(resolve_device(options.device), told, table, width=170)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
