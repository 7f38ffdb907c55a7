r"""How much more a search evaluates with several workers: on CPUs each on its own ones, on one GPU side by side (packing).

The same candidates are trained (not measured: a measurement is alone on its device) by 1, 2, ... workers in turn, several rounds
of each in an order that changes, all workers warm. Printed are candidates per minute, and the ratio to one worker's in the same
round: its median and quartiles. On CPUs linear is the number of workers; one worker has as many CPUs as each of several has.

    python benchmarks/workers.py [--device cpu] [--workers 1,2] [--candidates 12] [--rounds 5] [--epochs 20]
    python benchmarks/workers.py --device cuda --workers 1,2,4,8 --images FOLDER --batch-size 512 --epochs 10 \
        # what train.packing is worth; candidates of conf/space/osa_cifar.yaml
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from closing import keep, show
from gpu_check import osa_cifar
from rich.table import Table

from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest, Metrics
from nas.local import LocalEngine, Place
from nas.measure.device import resolve_conditions, resolve_device
from nas.measure.settings import MeasureSettings
from nas.train.data import DataRequest
from nas.train.datasets import Digits
from nas.train.folder import ImageFolder
from nas.train.settings import DataSettings, NumericFormat, TrainSettings
from search_spaces.base import RandomTrial
from search_spaces.osa import OSASpace

SMALL = OSASpace(stages=3, layers=[2, 3, 4], conv_channels=[16, 24, 32], concat_channels=[32, 48], stem={"width": 16})


def requests(device: torch.device, options: argparse.Namespace) -> list[EvaluationRequest]:
    """Return trainings of so many candidates."""
    numeric = NumericFormat("bf16", "channels_last") if device.type == "cuda" else NumericFormat("fp32", "channels_last")
    measure = resolve_conditions(MeasureSettings(threads=1 if device.type == "cpu" else None), device)
    if options.images:
        source: Digits | ImageFolder = ImageFolder(root=str(options.images), image_size=32)
        settings, space = DataSettings(validation_fraction=0.1, crop_padding=4, flip=True), osa_cifar()
    else:
        source, settings, space = Digits(image_size=options.image_size), DataSettings(), SMALL
    return [
        EvaluationRequest(
            space=space,
            architecture=(architecture := space.suggest(RandomTrial(seed))),
            data=DataRequest(source, settings, 0),
            train=TrainSettings(epochs=options.epochs, batch_size=options.batch_size, peak_lr=0.1),
            numeric=numeric,
            measure=measure,
            device=str(device),
            seed=0,
            begun=Evaluation(Metrics(architecture.id)),  # as if measured: it is only trained
        )
        for seed in range(options.candidates)
    ]


def places(device: torch.device, workers: int, most: int) -> list[Place]:
    """Return where so many workers work, each as if there were ``most`` of them."""
    if device.type == "cuda":
        return [Place(str(device))] * workers
    cpus = sorted(os.sched_getaffinity(0))
    each = max(1, len(cpus) // most)
    return [Place("cpu", tuple(cpus[index * each : (index + 1) * each])) for index in range(workers)]


def spend(engine: LocalEngine, work: list[EvaluationRequest]) -> float:
    """Return the seconds that an engine takes for all of it."""
    began_s = time.perf_counter()
    for promise in [engine.submit(number, request, lambda number, stage: None) for number, request in enumerate(work)]:
        found = promise.result()
        if found.failure:
            raise SystemExit(f"a candidate failed: {found.failure_reason}")
    return time.perf_counter() - began_s


def main() -> None:
    """Print one table, and the ratios as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--image-size", type=int, default=8, help="of the digits: the larger, the less a training waits for launches"
    )
    parser.add_argument("--images", type=Path, help="folder of class folders, at 32x32, instead of the digits")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    device = resolve_device(options.device)
    counts = [int(count) for count in options.workers.split(",")]
    if device.type == "cpu" and max(counts) > len(os.sched_getaffinity(0)):
        raise InputError(f"--workers={options.workers}: there are {len(os.sched_getaffinity(0))} CPUs.")
    work = requests(device, options)
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    with contextlib.ExitStack() as stack:
        engines = {
            count: stack.enter_context(LocalEngine(places(device, count, max(counts)), Path(tempfile.mkdtemp())))
            for count in counts
        }
        for count in counts:
            spend(engines[count], work[: 2 * count])  # warm: libraries, data
        for round_ in range(options.rounds):
            turn = round_ % len(counts)
            for count in (*counts[turn:], *counts[:turn]):
                seconds[count].append(spend(engines[count], work))
    keep("workers.json", seconds)
    table = Table("workers", "candidates per minute", "× one worker", "quartiles", "of linear", box=None)
    ratios: dict[int, float] = {}
    for count in counts:
        against = [one / many for one, many in zip(seconds[counts[0]], seconds[count], strict=True)]
        low, middle, high = np.quantile(against, [0.25, 0.5, 0.75]).tolist()
        ratios[count] = middle
        rate = 60 * len(work) / statistics.median(seconds[count])
        table.add_row(str(count), f"{rate:.1f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{middle * counts[0] / count:.2f}")
    images = options.images or f"the digits at {options.image_size}x{options.image_size}"
    told = (
        f"{len(work)} candidates, {options.epochs} epochs of {images} each in batches of {options.batch_size}, "
        f"{options.rounds} rounds"
    )
    show(device, told, table, 110)
    print(json.dumps({str(count): round(ratio, 3) for count, ratio in ratios.items()}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
