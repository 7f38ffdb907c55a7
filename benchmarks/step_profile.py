"""What a candidate's training step spends its time on, by kind of operation, in each number format and layout.

Of each network and format: the time of a step, replayed from a CUDA graph where there is a GPU, and torch's profiler's account of
eager steps: self time on the device, of all operators together. Real steps: forward, loss, backward, update.

    python benchmarks/step_profile.py [--device cuda] [--models small,vovnet27_slim_cifar] [--batch-size 512] [--steps 20]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from itertools import product

import numpy as np
import torch
from closing import keep, show
from compile_or_not import Step, Way, ways
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from nas.errors import InputError
from nas.measure.device import resolve_device
from nas.train.settings import NumericFormat

KINDS = {
    "batch norm": ("batch_norm",),
    "max-pool": ("max_pool",),
    "convolution": ("conv",),
    "concatenation": ("cat", "slice", "narrow"),
    "ReLU": ("relu", "threshold", "clamp"),
    "update": ("sgd", "foreach", "zero_"),
    "casts and copies": ("copy_", "_to_copy"),
    "sums": ("add", "sum", "mean"),
}
"""By what an operator's name holds; the first that fits."""

_REPEATS = 7


def kind_of(operator: str) -> str:
    """Return the kind of one of torch's operators."""
    return next((kind for kind, parts in KINDS.items() if any(part in operator for part in parts)), "rest")


def account(step: Step, device: torch.device, steps: int) -> dict[str, float]:
    """Return each kind's share of the time on the device, greatest first."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        for _ in range(steps):
            step()
        if on_gpu:
            torch.cuda.synchronize(device)
    spent: dict[str, float] = {}
    for event in seen.key_averages():
        if event.key.startswith("aten::"):
            kind = kind_of(event.key)
            spent[kind] = spent.get(kind, 0.0) + (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
    whole = sum(spent.values())
    return {kind: time / whole for kind, time in sorted(spent.items(), key=lambda item: -item[1])}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", default="small,vovnet27_slim_cifar")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precisions", default="bf16,fp32")
    parser.add_argument("--memory-formats", default="channels_last,contiguous")
    options = parser.parse_args()
    device = resolve_device(options.device)
    table = Table("network", "format", "ms per step", "quartiles", "of which", box=None)
    found: dict[str, dict[str, object]] = {}
    formats = [
        NumericFormat(precision, layout)
        for precision, layout in product(options.precisions.split(","), options.memory_formats.split(","))
    ]
    for name, numeric in product(options.models.split(","), formats):
        made = ways(name, device, options.batch_size, options.side, numeric)
        shares = account(made["eager"](), device, options.steps)
        timed = Way(made["graph" if "graph" in made else "eager"], device)
        for _ in range(_REPEATS):
            timed.block(options.steps)
        low, middle, high = (1e3 * seconds for seconds in np.quantile(timed.steps_s, [0.25, 0.5, 0.75]))
        told = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if share >= 0.02)
        layout = f"{numeric.precision}, {numeric.memory_format}"
        table.add_row(name, layout, f"{middle:.2f}", f"{low:.2f} to {high:.2f}", told)
        found[f"{name}, {layout}"] = {"step_ms": round(middle, 3), "shares": {k: round(v, 4) for k, v in shares.items()}}
    keep("step_profile.json", found)
    show(device, f"batches of {options.batch_size} at {options.side}x{options.side}, {options.steps} steps", table, 200)
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
