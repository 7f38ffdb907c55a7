"""Whether compiling a candidate's training step, or replaying it from a CUDA graph, pays for a candidate that lives for seconds.

For each network: seconds until the first step of each way has run, the time of a step from then on (the ways take turns, block by
block), and after how many epochs of the given images the way has paid for itself. Real steps: forward, loss, backward, update.

    python benchmarks/compile_or_not.py [--device cuda] [--models small,vovnet27_slim_cifar] [--batch-size 128] [--images 40000]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from closing import keep, show
from rich.table import Table
from torch import nn
from train_throughput import NETWORKS

from nas.errors import InputError
from nas.measure.device import resolve_device
from nas.train.recipe import make_optimizer, place, train_step
from nas.train.settings import NumericFormat, TrainSettings
from search_spaces import osa

Step = Callable[[], None]


class Way:
    """One way of taking steps of one network.

    Attributes:
        setup_s: Until its first step had run.
        steps_s: Seconds per step, a block each.
    """

    def __init__(self, make: Callable[[], Step], device: torch.device) -> None:
        self._device = device
        began_s = time.perf_counter()
        self._step = make()
        self._step()
        self._wait()
        self.setup_s = time.perf_counter() - began_s
        self.steps_s: list[float] = []

    def block(self, steps: int) -> None:
        """Time so many steps."""
        self._wait()
        began_s = time.perf_counter()
        for _ in range(steps):
            self._step()
        self._wait()
        self.steps_s.append((time.perf_counter() - began_s) / steps)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def usual_format(device: torch.device) -> NumericFormat:
    """Return the format that candidates train in on a device, if it is not settled by a probe."""
    return NumericFormat("bf16" if device.type == "cuda" else "fp32", "channels_last")


def ways(name: str, device: torch.device, batch_size: int, side: int, numeric: NumericFormat) -> dict[str, Callable[[], Step]]:
    """Return how to make each way's step."""
    settings = TrainSettings(batch_size=batch_size)
    x = torch.randn(batch_size, 3, side, side, device=device)
    if numeric.memory_format == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch_size,), device=device)

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = osa.build(NETWORKS.get(name) or osa.preset(name), 3, 10)
        place(model, numeric, device)
        return model.train(), make_optimizer(model, settings)

    def eager() -> Step:
        model, optimizer = fresh()
        return lambda: train_step(model, optimizer, x, y, 1e-4, settings, numeric)

    def compiled() -> Step:
        model, optimizer = fresh()
        network = torch.compile(model)
        return lambda: train_step(network, optimizer, x, y, 1e-4, settings, numeric)

    def graph() -> Step:
        model, optimizer = fresh()
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            for _ in range(3):
                train_step(model, optimizer, x, y, 1e-4, settings, numeric)
        torch.cuda.synchronize(device)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, stream=stream):
            train_step(model, optimizer, x, y, 1e-4, settings, numeric)
        return captured.replay

    return {"eager": eager, "compiled": compiled} | ({"graph": graph} if device.type == "cuda" else {})


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", default="small,vovnet27_slim_cifar")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--images", type=int, default=40000, help="of an epoch")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="of a block")
    options = parser.parse_args()
    device = resolve_device(options.device)
    steps_per_epoch = options.images // options.batch_size
    table = Table("network", "way", "until the first step", "ms per step", "quartiles", "× eager", "pays after", box=None)
    found: dict[str, dict[str, float]] = {}
    for name in options.models.split(","):
        made: dict[str, Way] = {}
        for way, make in ways(name, device, options.batch_size, options.side, usual_format(device)).items():
            torch.compiler.reset()
            try:
                made[way] = Way(make, device)
            except RuntimeError as error:
                table.add_row(name, way, f"cannot be had: {str(error).splitlines()[0][:60]}", "–", "–", "–", "–")
        names = list(made)
        for turn in range(options.blocks):
            for way in (*names[turn % len(names) :], *names[: turn % len(names)]):
                made[way].block(options.steps)
        eager_s = statistics.median(made["eager"].steps_s)
        for way, timed in made.items():
            low, middle, high = np.quantile(timed.steps_s, [0.25, 0.5, 0.75])
            gained_s = eager_s - middle
            epochs = (timed.setup_s - made["eager"].setup_s) / gained_s / steps_per_epoch if gained_s > 0 else math.inf
            pays = "–" if way == "eager" else "never" if math.isinf(epochs) else f"{max(0.0, epochs):.1f} epochs"
            row = (
                f"{timed.setup_s:.2f} s",
                f"{1e3 * middle:.2f}",
                f"{1e3 * low:.2f} to {1e3 * high:.2f}",
                f"{eager_s / middle:.2f}",
            )
            table.add_row(name, way, *row, pays)
            found[f"{name} {way}"] = {"setup_s": timed.setup_s, "step_ms": 1e3 * middle}
    keep("compile_or_not.json", found)
    side = options.side
    told = f"batches of {options.batch_size} at {side}x{side}, {steps_per_epoch} steps per epoch of {options.images} images"
    show(device, told, table, 120)
    print(json.dumps({name: {key: round(value, 3) for key, value in values.items()} for name, values in found.items()}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
