"""One table of what this device does with the presets and a few sampled candidates: the last part of ``make gpu-check``.

Every network goes the way of a search's candidate: counted, timed, its energy and memory taken, trained briefly. The data
are scikit-learn's digits at 32x32, or a folder of images, trained on as ``conf/osa_cifar.yaml`` says; both need no network. Raw
results go to ``$OUT``, if that is set.
Exits with 1 if a network failed.

The package need not be installed if the checkout is on PYTHONPATH (``make gpu-check`` sees to it), but what it stands on must
be there: torch, numpy, lightning, scikit-learn, pillow, pyyaml, rich, nvidia-ml-py, annotated-types, and thop with setuptools.
The tests take pytest, hypothesis, timm and torchvision too, the other parts timm, torchvision and scipy. Optuna, Hydra and
pydantic are not used.

    PYTHONPATH=. python benchmarks/gpu_check.py [--device cpu] [--images FOLDER] [--candidates 4] [--epochs 8]
        [--presets vovnet39,...]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.table import Table
from train_throughput import NETWORKS, peak_flops_per_s

from nas.errors import InputError, RunError
from nas.evaluate import Evaluation, EvaluationRequest, evaluate
from nas.measure.device import fingerprint, resolve_conditions, resolve_device
from nas.measure.settings import MeasureSettings
from nas.metrics import METRICS, show
from nas.train.data import DataRequest, load_bundle
from nas.train.datasets import Digits
from nas.train.folder import ImageFolder
from nas.train.probe import choose_format
from nas.train.settings import DataSettings, TrainSettings
from search_spaces import dense, osa
from search_spaces.base import Architecture, RandomTrial, SearchSpace

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("params", "flops", "latency_ms", "images_per_s", "flops_per_s", "energy_j", "peak_memory_mb", "top1", "train_seconds")
PRESETS = ["vovnet27_slim_cifar", *osa.PRESETS, "densenet40", "densenet121"]


def osa_cifar() -> osa.OSASpace:
    values = yaml.safe_load((ROOT / "conf" / "space" / "osa_cifar.yaml").read_text(encoding="utf-8"))
    return osa.OSASpace(**{key: value for key, value in values.items() if key != "_target_"})


def networks(presets: list[str], candidates: int) -> list[tuple[str, SearchSpace, Architecture]]:
    own = NETWORKS
    families: list[SearchSpace] = [osa.OSASpace(), dense.DenseSpace()]
    chosen = [
        (name, family := families[name not in osa.PRESETS and name not in own], own.get(name) or family.preset(name))
        for name in presets
    ]
    space = osa_cifar()
    return chosen + [(f"candidate {seed}", space, space.suggest(RandomTrial(seed))) for seed in range(candidates)]


def cell(evaluation: Evaluation, column: str) -> str:
    value = getattr(evaluation.metrics, column)
    if column == "train_seconds":
        return "–" if value is None else f"{value:.2f} s"
    return show(METRICS[column], value)


def row(name: str, evaluation: Evaluation, peak: float, images: int) -> list[str]:
    """Return one network's cells; ``images`` are those of an epoch. A step counts as three passes (``train_throughput``)."""
    cells = [cell(evaluation, column) for column in COLUMNS]
    flops_per_s = evaluation.metrics.flops_per_s
    cells.append("–" if flops_per_s is None else f"{flops_per_s / peak:.1%}")
    trained, flops = evaluation.metrics.train_seconds, evaluation.metrics.flops
    rate = None if not trained else (evaluation.metrics.epochs or 0) * images / trained
    cells += ["–", "–"] if rate is None or flops is None else [f"{rate:,.0f} /s", f"{3 * flops * rate / peak:.1%}"]
    iqr, median = evaluation.metrics.latency_iqr_ms, evaluation.metrics.latency_ms
    spread = f"{iqr / median:.1%}" if iqr is not None and median else "–"
    return [name, *cells, spread, evaluation.failure_reason or evaluation.reasons.get("energy_j", "")]


def main() -> int:
    """Print the table; return the number of networks that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=Path, help="folder of class folders, used at 32x32")
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64, help="while measuring")
    parser.add_argument("--presets", default=",".join(PRESETS))
    options = parser.parse_args()
    device = resolve_device(options.device)
    measure = resolve_conditions(MeasureSettings(batch_size=options.batch_size), device)
    source = ImageFolder(root=str(options.images), image_size=32) if options.images else Digits(image_size=32)
    settings = (
        DataSettings(validation_fraction=0.1, crop_padding=4, flip=True) if options.images else DataSettings(crop_padding=2)
    )
    data = DataRequest(source, settings, seed=0)
    bundle = load_bundle(data, device)
    recipe = {"batch_size": 512, "peak_lr": 0.4} if options.images else {"batch_size": 256, "peak_lr": 0.2}
    train = TrainSettings(epochs=options.epochs, **recipe)
    wanted = networks([name for name in options.presets.split(",") if name], options.candidates)
    smallest = [lambda: wanted[-1][1].build(wanted[-1][2], bundle.input_shape[0], bundle.num_classes)]
    numeric = choose_format(smallest, bundle, train, device).numeric
    out = Path(os.environ["OUT"]) if "OUT" in os.environ else None
    rows, failures, peak = [], 0, peak_flops_per_s(device, "bf16")
    for name, space, architecture in wanted:
        request = EvaluationRequest(space, architecture, data, train, numeric, measure, str(device), seed=0)
        evaluation = evaluate(request)
        failures += evaluation.failure is not None
        rows.append(row(name, evaluation, peak, bundle.train_batches(train.batch_size, 0, 0).images))
        print("  ".join(rows[-1]), flush=True)
        if out:
            with (out / "gpu_check.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, **evaluation.attributes()}) + "\n")
    identity = fingerprint(device, measure.threads).identity()
    if out:
        (out / "device.json").write_text(json.dumps(identity, indent=1), encoding="utf-8")
    console = Console(width=200)
    console.print(f"\n{time.strftime('%Y-%m-%d')}  {json.dumps(identity)}", soft_wrap=True, highlight=False)
    console.print(
        f"timed at batch {measure.batch_size}, {measure.precision}, {measure.memory_format}, {bundle.input_shape}; trained "
        f"{train.epochs} epochs on {bundle.name} in {numeric.precision}, {numeric.memory_format}; "
        f"peak: {peak / 1e12:.1f} TFLOP/s in a bf16 matrix product; torch {torch.__version__}",
        highlight=False,
    )
    table = Table("network", *COLUMNS, "of peak", "trained on", "of peak", "latency IQR", "note", box=None)
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
    return failures


if __name__ == "__main__":
    try:
        raise SystemExit(1 if main() else 0)
    except (InputError, RunError) as error:
        raise SystemExit(f"error: {error}") from None
