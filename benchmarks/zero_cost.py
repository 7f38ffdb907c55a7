"""What scores of an untrained network are worth on a table's space: do they know more of its accuracy than counting does?

For every network of a table: synflow (Tanaka et al. 2020, arXiv 2006.05467), jacob_cov (Mellor et al. 2020, arXiv 2006.04647v1)
and NASWOT (Mellor et al. 2021, arXiv 2006.04647v3), from the first seed's weights and one batch of training images, against the
accuracy after the whole brief training. Beside them what costs nothing more: parameters, multiply-adds and latency. A search
trades accuracy against latency, so what counts is the correlation that is left among networks of equal latency: Spearman's
partial one, given the latency. Intervals are bootstrapped over networks.

    python benchmarks/zero_cost.py [--table benchmarks/tables/digits.parquet] [--images FOLDER] [--batch 64]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from closing import keep, show
from make_table import Conditions, build, read_conditions
from numpy.typing import NDArray
from rich.table import Table as Printed
from scipy.stats import rankdata
from torch import Tensor, nn

from nas.errors import InputError
from nas.lookup import Table

DRAWS = 1000


def synflow(model: nn.Module, x: Tensor) -> float:
    """Return the log of the sum of |weight · gradient| where all weights are positive and the input is ones."""
    model.eval()  # a batch norm with fresh statistics is the identity
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    model.double()
    model(torch.ones_like(x[:1], dtype=torch.float64)).sum().backward()
    flow = sum(float((p.detach() * p.grad).abs().sum()) for p in model.parameters() if p.grad is not None)
    return float(np.log(flow))


def jacob_cov(model: nn.Module, x: Tensor) -> float:
    """Return how little the images' input gradients correlate: minus the divergence of their correlations from the identity."""
    x = x.clone().requires_grad_()
    model.train()
    model(x).sum().backward()
    assert x.grad is not None
    values = np.linalg.eigvalsh(np.corrcoef(x.grad.flatten(1).double().numpy()))
    small = 1e-5
    return -float((np.log(values + small) + 1 / (values + small)).sum())


def naswot(model: nn.Module, x: Tensor) -> float:
    """Return the log-determinant of the kernel of agreements between the images' patterns of active units."""
    kernel = np.zeros((len(x), len(x)))

    def add(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        active = (output.detach() > 0).flatten(1).double().numpy()
        nonlocal kernel
        kernel = kernel + active @ active.T + (1 - active) @ (1 - active).T

    handles = [module.register_forward_hook(add) for module in model.modules() if isinstance(module, nn.ReLU)]
    with torch.no_grad():
        model.train()(x)
    for handle in handles:
        handle.remove()
    return float(np.linalg.slogdet(kernel)[1])


SCORES: dict[str, Callable[[nn.Module, Tensor], float]] = {"synflow": synflow, "jacob_cov": jacob_cov, "naswot": naswot}


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation."""
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def partial(x: NDArray[np.float64], y: NDArray[np.float64], given: NDArray[np.float64]) -> float:
    """Return Spearman's partial rank correlation of x and y, given a third."""
    xy, xg, yg = spearman(x, y), spearman(x, given), spearman(y, given)
    return (xy - xg * yg) / float(np.sqrt((1 - xg**2) * (1 - yg**2)))


def bootstrapped(statistic: Callable[..., float], *columns: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return a statistic of the rows and its 95 % interval."""
    draws = np.random.default_rng(0).integers(0, len(columns[0]), (DRAWS, len(columns[0])))
    low, high = np.quantile([statistic(*(column[draw] for column in columns)) for draw in draws], [0.025, 0.975])
    return statistic(*columns), float(low), float(high)


def scored(table: Table, conditions: Conditions, batch: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return every network's scores, and what each score takes."""
    x, _ = next(iter(conditions.bundle.train_batches(batch, 0, 0)))
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    seconds: dict[str, list[float]] = {name: [] for name in SCORES}
    for row in table.rows.values():
        architecture = conditions.space.from_dict(row.architecture)
        for name, score in SCORES.items():
            model = build(conditions, architecture, 0)
            began_s = time.perf_counter()
            found[name].append(score(model, x))
            seconds[name].append(time.perf_counter() - began_s)
    return found, {name: statistics.median(taken) for name, taken in seconds.items()}


def main() -> None:
    """Print the correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("benchmarks/tables/digits.parquet"))
    parser.add_argument("--images", type=Path, help="for the table cifar: its images, as make_table.py left them")
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table.read(options.table)
    conditions = read_conditions(str(table.made["table"]), options.images, 1)
    rows = list(table.rows.values())
    top1 = np.array([row.top1[-1] for row in rows])
    latency_ms = np.array([row.figures["latency_ms"] for row in rows])
    counted = {name: [row.figures[name] for row in rows] for name in ("params", "mult_adds", "latency_ms")}
    scores, seconds = scored(table, conditions, options.batch)
    keep("zero_cost.json", {"architecture_id": list(table.rows), **scores})
    printed = Printed(
        *("score", "ms each", "Spearman with top1", "95 % interval", "the same at equal latency", "95 % interval"), box=None
    )
    found: dict[str, float] = {}
    for name, values in {**counted, **scores}.items():
        column = np.array(values, dtype=np.float64)
        rho, low, high = bootstrapped(spearman, column, top1)
        row = [name, f"{1e3 * seconds[name]:.1f}" if name in seconds else "–", f"{rho:.3f}", f"{low:.3f} to {high:.3f}"]
        found[name] = rho
        if name != "latency_ms":
            rho, low, high = bootstrapped(partial, column, top1, latency_ms)
            found[f"{name}_at_equal_latency"] = rho
            row += [f"{rho:.3f}", f"{low:.3f} to {high:.3f}"]
        printed.add_row(*row)
    told = f"{table.path}: {len(rows)} networks of {table.made.get('space')}; top1 after {table.recipe.epochs} epochs"
    show(torch.device("cpu"), told, printed, 130)
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
