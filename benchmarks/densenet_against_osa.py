"""DenseNet-40 against its OSA variant, trained in full by one recipe: the VoVNet paper's CIFAR comparison, on this device.

``densenet40`` (growth 12) and ``osa_densenet40`` (each dense block replaced by one module of 5 layers of 43 channels) are
trained on the training and validation images by ``conf/train/full.yaml``, tested once per seed, and measured. On a GPU the
defaults are the comparison; ``--image-size``, ``--images-per-class`` and ``--epochs`` make it one that a CPU can bear, and
the table says so. The trained networks wait in ``--folder`` between the two halves, ``--only train`` and ``--only measure``,
so that figures can be taken on a machine at rest; a training that was stopped goes on. Raw results go to ``$OUT``, if set.

    python benchmarks/densenet_against_osa.py --images FOLDER [--device cuda] [--seeds 3] [--epochs 100] [--image-size 32]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from closing import keep, show
from rich.table import Table
from torch import nn

from nas import catalogue
from nas.errors import InputError
from nas.files import write_json
from nas.measure.device import resolve_conditions, resolve_device
from nas.measure.measurement import Measuring
from nas.measure.settings import MeasureSettings
from nas.train.data import DataRequest, load_bundle
from nas.train.folder import ImageFolder
from nas.train.full import fit_full
from nas.train.recipe import ieee_fp32, place, score
from nas.train.settings import DataSettings, FullSettings, NumericFormat

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ("densenet40", "osa_densenet40")
PAPER_TOP1 = {"densenet40": 0.9476, "osa_densenet40": 0.9456}
"""CIFAR-10 in full, by their recipe of 300 epochs (arXiv 1904.09730): errors of 5.24 % and 5.44 %."""


def subset(images: Path, into: Path, per_class: int) -> Path:
    """Link ``per_class`` images of each class and half as many test images into a folder, always the same ones."""
    for part, count in (("train", per_class), ("test", per_class // 2)):
        for folder in sorted(path for path in (images / part).iterdir() if path.is_dir()):
            target = into / part / folder.name
            target.mkdir(parents=True)
            for image in random.Random(0).sample(sorted(folder.iterdir()), count):
                (target / image.name).symlink_to(image.resolve())
    return into


def build(name: str, seed: int, classes: int) -> nn.Module:
    """Return a network with the seed's initial weights."""
    torch.manual_seed(seed)
    return catalogue.find(name).build(num_classes=classes)


def train(name: str, seed: int, request: DataRequest, settings: FullSettings, device: torch.device, folder: Path) -> None:
    """Train and test one network with one seed, unless its result is there."""
    path = folder / f"{name}-{seed}.json"
    if path.exists():
        return
    bundle = load_bundle(request, device)
    model = build(name, seed, bundle.num_classes)
    numeric = NumericFormat(
        "bf16" if device.type == "cuda" else "fp32", "channels_last" if device.type == "cuda" else "contiguous"
    )

    def told(done: int, total: int, loss: float) -> None:
        print(f"{name} seed {seed}: epoch {done} of {total}, loss {loss:.3f}", flush=True)

    trained = fit_full(
        model, request, settings, numeric, device, seed, on="train+validation", checkpoints=folder / path.stem, on_epoch=told
    )
    place(model, numeric, device)
    with ieee_fp32():
        tested = score(model, bundle.test_batches(256), numeric)
    result = {"network": name, "seed": seed, "test_top1": tested.top1, "train_seconds": trained.train_seconds}
    write_json(path, {**result, "test_images": bundle.sizes["test"], "recipe": dataclasses.asdict(settings)})


def measure(name: str, input_shape: tuple[int, int, int], settings: MeasureSettings, device: torch.device) -> dict[str, Any]:
    """Return what the meters say of a network."""
    measuring = Measuring(input_shape, resolve_conditions(settings, device))
    model = build(name, 0, 10)
    measuring.count(model)
    measuring.measure(model)
    found = measuring.result()
    return {**found.figures(), "reasons": found.reasons()}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="train/<class>/* and test/<class>/*")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="those of the recipe, if not given")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images-per-class", type=int, help="all, if not given")
    parser.add_argument("--train-batch-size", type=int, default=128)
    parser.add_argument("--peak-lr", type=float, default=0.2)
    parser.add_argument("--batch-sizes", default="1,64", help="while measuring")
    parser.add_argument("--folder", type=Path, help="where results wait; a temporary one, if not given")
    parser.add_argument("--only", choices=("train", "measure"))
    options = parser.parse_args()
    device = resolve_device(options.device)
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load((ROOT / "conf" / "train" / "full.yaml").read_text(encoding="utf-8"))
    recipe |= {"batch_size": options.train_batch_size, "peak_lr": options.peak_lr}
    settings = FullSettings(**(recipe | ({"epochs": options.epochs} if options.epochs else {})))
    if options.only != "measure":
        images = options.images
        if options.images_per_class and not (folder / "images").exists():
            subset(images, folder / "images", options.images_per_class)
        root = folder / "images" if options.images_per_class else images
        source = ImageFolder(root=str(root), image_size=options.image_size)
        data = DataSettings(validation_fraction=0.1, crop_padding=4 * options.image_size // 32, flip=True)
        request = DataRequest(source, data, seed=0)
        for seed in range(options.seeds):
            for name in NETWORKS:
                train(name, seed, request, settings, device, folder)
    if options.only == "train":
        return
    input_shape = (3, options.image_size, options.image_size)
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    found = {
        (name, size): measure(name, input_shape, MeasureSettings(batch_size=size), device) for size in sizes for name in NETWORKS
    }
    results = {name: [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-*.json"))] for name in NETWORKS}
    raw = {f"{name} at batch {size}": value for (name, size), value in found.items()}
    keep("densenet_against_osa.json", {"trained": results, "measured": raw})
    table = Table("network", "params", "mult-adds", "mem_access", "test top-1", "mean", "the paper's", "training", box=None)
    for size in sizes:
        table.add_column(f"latency, batch {size}")
        table.add_column(f"energy, batch {size}")
    for name in NETWORKS:
        first, runs = found[name, sizes[0]], results[name]
        scores = [run["test_top1"] for run in runs]
        row = [
            name,
            f"{first['params']:,}",
            f"{first['mult_adds'] / 1e6:.1f} M",
            f"{first['mem_access'] / 1e6:.2f} M",
            ", ".join(f"{top1:.4f}" for top1 in scores),
            f"{statistics.mean(scores):.4f}" if scores else "–",
            f"{PAPER_TOP1[name]:.4f}",
            f"{statistics.median(run['train_seconds'] for run in runs):.0f} s" if runs else "–",
        ]
        for size in sizes:
            figures = found[name, size]
            row.append(f"{figures['latency_ms']:.3f} ms ± {figures['latency_iqr_ms'] / 2:.3f}")
            joules = figures.get("energy_j")
            row.append(f"{1e3 * joules:.3f} mJ/image" if joules else str(figures["reasons"].get("energy_j", "–")))
        table.add_row(*row)
    trained_on = f"{options.images_per_class} images per class" if options.images_per_class else "all images"
    whole = not options.images_per_class and options.image_size == 32 and settings.epochs >= FullSettings().epochs
    told = f"{settings.epochs} epochs on {trained_on} at {options.image_size}x{options.image_size}, {options.seeds} seeds; " + (
        "the paper trained 300 epochs by another recipe"
        if whole
        else "the paper's is CIFAR-10 in full: NOT comparable with this size"
    )
    show(device, told, table, width=220)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
