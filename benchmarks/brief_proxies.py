"""Which score of a brief training tells most of a longer one: the last epoch's accuracy, the mean of the last ones, or a loss.

Networks of a table (``make_table.py``), whose brief training is known epoch by epoch, are trained again by the same recipe for
several times as many epochs, from seeds that the brief one did not have; the mean top1 of these is what the proxies shall order.
All of them are of the table's first seed. Intervals are bootstrapped over networks; "above top1" is the share of the draws in
which a proxy orders better than the last epoch's accuracy.

    taskset -c 1 python benchmarks/brief_proxies.py digits [--networks 48] [--longer 5] [--seeds 2]
    taskset -c 1 python benchmarks/brief_proxies.py cifar --images FOLDER     # as make_table.py left them

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import torch
from closing import keep, show
from make_table import DEVICE, Conditions, build, read_conditions
from rich.table import Table as Printed

from nas.analyse.ranking import Proxy, judge
from nas.errors import InputError
from nas.lookup import Row, Table
from nas.train.fit import fit


def proxies(row: Row) -> dict[str, float]:
    """Return each proxy's score of a brief training, higher is better."""
    epochs = len(row.top1)
    late = [top1 for epoch, top1 in enumerate(row.top1, start=1) if epoch > epochs * 2 / 3]
    return {
        "top1": row.top1[-1],
        "top1_mean": statistics.fmean(late),
        "train_loss_area": -statistics.fmean(row.train_loss),
        "train_loss, last epoch": -row.train_loss[-1],
        "validation_loss": -row.validation_loss[-1],
    }


def longer(conditions: Conditions, row: Row, factor: int, seeds: range) -> list[float]:
    """Return the top1 of longer trainings, by seed."""
    settings = dataclasses.replace(conditions.train, epochs=factor * conditions.train.epochs)
    architecture = conditions.space.from_dict(row.architecture)
    return [
        fit(build(conditions, architecture, seed), conditions.bundle, settings, conditions.numeric, DEVICE, seed).top1
        for seed in seeds
    ]


def main() -> None:
    """Print how far each proxy's order agrees with the longer training's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("digits", "cifar"))
    parser.add_argument("--images", type=Path)
    parser.add_argument("--networks", type=int, default=48)
    parser.add_argument("--longer", type=int, default=5, help="times the epochs of the brief training")
    parser.add_argument("--seeds", type=int, default=2, help="longer trainings of each network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table.read(f"benchmarks/tables/{options.name}.parquet")
    conditions = read_conditions(options.name, options.images, 1)
    if (known := table.made["data"]["fingerprint"]) != (found := conditions.bundle.facts()["fingerprint"]):
        raise InputError(f"--images={options.images} holds other images than {table.path} was made of ({found} and not {known}).")
    rows = list(table.rows.values())[: options.networks]  # the table's order is a shuffled one
    seeds = range(10, 10 + options.seeds)
    truth: list[list[float]] = []
    began_s = time.perf_counter()
    for number, row in enumerate(rows, start=1):
        truth.append(longer(conditions, row, options.longer, seeds))
        print(f"{number} of {len(rows)}: {row.architecture_id} {truth[-1]}, {time.perf_counter() - began_s:.0f} s", flush=True)
    keep("brief_proxies.json", {row.architecture_id: top1 for row, top1 in zip(rows, truth, strict=True)})
    scores = [proxies(row) for row in rows]
    candidates = [Proxy(name, 1 / options.longer, None, tuple(score[name] for score in scores)) for name in scores[0]]
    printed = Printed(
        "proxy", "Spearman", "95 % interval", "Kendall", "95 % interval", "above top1", "points lost by its first", box=None
    )
    found: dict[str, float] = {}
    for one in judge(candidates, [statistics.fmean(values) for values in truth]):
        assert one.spearman is not None and one.kendall is not None
        found[one.proxy.name] = one.spearman.value
        printed.add_row(
            one.proxy.name,
            *(f"{one.spearman.value:.3f}", f"{one.spearman.low:.3f} to {one.spearman.high:.3f}"),
            *(f"{one.kendall.value:.3f}", f"{one.kendall.low:.3f} to {one.kendall.high:.3f}"),
            "–" if one.better is None else f"{one.better:.0%} of draws",
            f"{100 * one.regret:.2f}",
        )
    told = (
        f"{table.path}: {len(rows)} networks, {table.recipe.epochs} epochs against {options.longer * table.recipe.epochs}, "
        f"the mean of {options.seeds} seeds"
    )
    show(DEVICE, told, printed, 130)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
