"""How far a latency repeats: within a run, over fresh processes, and against PyTorch's and Triton's own timers.

Six networks from 0.1 to 18 GFLOPs at two batch sizes. Every process measures all of them; in the last one the same networks
are also timed by ``torch.utils.benchmark`` and, on a GPU, ``triton.testing.do_bench``. A line whose pass is bound by the
host's launches says so: there the timers measure different things. Raw results go to ``$OUT``, if that is set.

    python benchmarks/repeat_latency.py [--device cuda] [--input-size 224] [--batch-sizes 1,16] [--processes 5] [--precision auto]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import torch
from closing import keep, show
from rich.table import Table

from nas import catalogue
from nas.errors import InputError
from nas.measure import complexity, latency, subject
from nas.measure.device import numeric_context, resolve_device
from nas.measure.subject import Subject
from nas.processes import fresh_process

NETWORKS = ("shufflenet_v2_x0_5", "mobilenet_v2", "resnet18", "vovnet27_slim", "resnet50", "vovnet57")


def measure(device: str, input_size: int, batch_sizes: list[int], precision: str, compare: bool) -> list[dict[str, Any]]:
    """Run in a fresh process: time every network once."""
    rows = []
    for name in NETWORKS:
        torch.manual_seed(0)
        shape = (3, input_size, input_size)
        model = catalogue.find(name).build()
        flops = complexity.count(model, shape).flops
        for batch_size in batch_sizes:
            variants = ("enqueue",) if device != "cpu" else ()
            net = subject.make(model, shape, device, batch_size=batch_size, precision=precision, variants=variants)
            began_s = time.perf_counter()
            found = latency.measure(net)
            rows.append(
                {
                    "network": name,
                    "batch_size": batch_size,
                    "gflops": flops * batch_size / 1e9,
                    "median_ms": found.eager.median_ms,
                    "iqr_ms": found.eager.iqr_ms,
                    "noise": found.eager.noise,
                    "stop_reason": found.eager.stop_reason,
                    "flags": list(found.flags),
                    "enqueue_ms": found.enqueue.median_ms if found.enqueue else None,
                    "eager_seconds": found.eager.seconds,
                    "seconds": time.perf_counter() - began_s,
                    **(others(net) if compare else {}),
                }
            )
    return rows


def others(net: Subject) -> dict[str, float | None]:
    """Time the same network by the timers of others, in ms."""
    from torch.utils.benchmark import Timer

    with numeric_context(net.conditions):
        timer = Timer("run()", globals={"run": net.run}, num_threads=net.conditions.threads or 1)
        by_torch_ms = 1e3 * timer.blocked_autorange(min_run_time=1.0).median
        by_triton_ms = None
        if net.device.type == "cuda":
            from triton.testing import do_bench

            by_triton_ms = float(do_bench(net.run, warmup=200, rep=500, return_mode="median"))
    return {"torch_ms": by_torch_ms, "triton_ms": by_triton_ms}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--batch-sizes", default="1,16")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    batch_sizes = [int(size) for size in options.batch_sizes.split(",")]
    began_s = time.perf_counter()
    runs = []
    for run in range(options.processes):
        with fresh_process() as pool:
            last = run == options.processes - 1
            arguments = (options.device, options.input_size, batch_sizes, options.precision, last)
            runs.append(pool.submit(measure, *arguments).result())
        print(f"process {run + 1} of {options.processes}: {time.perf_counter() - began_s:.0f} s", file=sys.stderr, flush=True)
    keep("repeat_latency.json", runs)
    columns = (
        "network",
        "batch",
        "GFLOPs",
        "median",
        "noise within",
        "over processes",
        "ours/torch",
        "ours/triton",
        "enqueue",
        "took",
        "doubts",
    )
    table = Table(*columns, box=None)
    for rows in zip(*runs, strict=True):
        medians = [row["median_ms"] for row in rows]
        last_row = rows[-1]
        bound = last_row["enqueue_ms"] is not None and last_row["enqueue_ms"] > 0.9 * last_row["median_ms"]
        noises = [row["noise"] for row in rows if row["noise"] is not None]
        table.add_row(
            last_row["network"],
            str(last_row["batch_size"]),
            f"{last_row['gflops']:.2f}",
            f"{statistics.median(medians):.4g} ms",
            f"{max(noises):.2%}" if noises else "–",
            f"{(max(medians) - min(medians)) / statistics.median(medians):.2%}",
            f"{last_row['median_ms'] / last_row['torch_ms']:.3f}",
            f"{last_row['median_ms'] / last_row['triton_ms']:.3f}" if last_row["triton_ms"] else "–",
            ("bound by launches" if bound else f"{last_row['enqueue_ms']:.3g} ms") if last_row["enqueue_ms"] else "–",
            f"{max(row['eager_seconds'] for row in rows):.2f} s",
            "; ".join(dict.fromkeys(flag for row in rows for flag in row["flags"])),
        )
    device = resolve_device(options.device)
    told = (
        f"{options.processes} fresh processes, input {options.input_size}, precision {options.precision}; noise within: "
        f"greatest; over processes: (greatest - least median) / median; {time.perf_counter() - began_s:.0f} s in all"
    )
    show(device, told, table, width=190)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
