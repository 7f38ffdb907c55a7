"""A search as one would write it with Optuna, Lightning and torchvision alone: the baseline of ``search_efficiency.py``.

Every candidate is trained to the end by a ``LightningModule`` under a ``Trainer``, on a torchvision data set whose images are
transformed one by one in ``DataLoader`` workers; then it is scored, and timed by a loop around its forward pass. Optuna gets
(top1, latency_ms). Logger, checkpoints, progress bar and summary are off, the loader keeps its workers, and a candidate is
scored once, at its end: all of which favour it. Nothing of package ``nas`` takes part but the line that names the device.

Its pieces are apart, so that ``make_table.py`` can time each on the same candidates: ``train`` (setting up, and each epoch),
``score``, ``latency_ms``.

    python benchmarks/naive.py [--trials 5] [--epochs 7] [--workers 2]
    python benchmarks/naive.py --images FOLDER --image-size 16 --space conf/space/osa_cifar_table.yaml ...
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import optuna
import torch
import yaml
from closing import keep, show
from PIL import Image
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.vision import VisionDataset

from search_spaces.osa import OSASpace

ROOT = Path(__file__).resolve().parents[1]
WARM_UP, RUNS = 10, 50
"""Forward passes before and while a latency is taken."""


@dataclass(frozen=True)
class Recipe:
    """How every candidate is trained."""

    epochs: int = 7
    batch_size: int = 64
    peak_lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warmup_fraction: float = 0.25


@dataclass(frozen=True)
class Images:
    """What all candidates are trained and scored on, and how it is loaded."""

    train: Dataset[tuple[Tensor, int]]
    validation: Dataset[tuple[Tensor, int]]
    shape: tuple[int, int, int]
    classes: int
    workers: int

    def loader(self, part: Dataset[tuple[Tensor, int]], batch_size: int, training: bool) -> DataLoader[Any]:
        """Return a part's batches."""
        return DataLoader(
            part,
            batch_size=batch_size,
            shuffle=training,
            drop_last=training,
            num_workers=self.workers,
            persistent_workers=training and self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


class Digits(VisionDataset):
    """scikit-learn's digits as torchvision would hand them out: a PIL image per item, transformed when it is asked for."""

    def __init__(self, transform: Any) -> None:
        super().__init__("", transform=transform)
        found = load_digits()
        self.pixels = np.round(found.images * (255 / 16)).astype(np.uint8)
        self.targets = found.target.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        assert self.transform is not None
        return self.transform(Image.fromarray(self.pixels[index])), self.targets[index]


def digits(workers: int, crop_padding: int = 1, validation_fraction: float = 0.2) -> Images:
    """Return the digits; a fifth is kept back as the test part."""
    normalise = [transforms.ToTensor(), transforms.Normalize((0.305,), (0.376,))]
    augmented = Digits(transforms.Compose([transforms.RandomCrop(8, padding=crop_padding, padding_mode="reflect"), *normalise]))
    plain = Digits(transforms.Compose(normalise))
    everything, labels = np.arange(len(plain)), np.array(plain.targets)
    rest, _ = train_test_split(everything, test_size=0.2, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=validation_fraction, stratify=labels[rest], random_state=0)
    return Images(Subset(augmented, train.tolist()), Subset(plain, validation.tolist()), (1, 8, 8), 10, workers)


def folder(root: Path, size: int, workers: int, crop_padding: int, validation_fraction: float) -> Images:
    """Return the images of ``root/train/<class>/*``, decoded and resized whenever they are asked for."""
    normalise = [transforms.ToTensor(), transforms.Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))]
    augment = [transforms.RandomCrop(size, padding=crop_padding, padding_mode="reflect"), transforms.RandomHorizontalFlip()]
    resize = transforms.Resize((size, size))
    augmented = ImageFolder(str(root / "train"), transforms.Compose([resize, *augment, *normalise]))
    plain = ImageFolder(str(root / "train"), transforms.Compose([resize, *normalise]))
    train, validation = train_test_split(
        np.arange(len(plain)), test_size=validation_fraction, stratify=plain.targets, random_state=0
    )
    shape = (3, size, size)
    return Images(Subset(augmented, train.tolist()), Subset(plain, validation.tolist()), shape, len(plain.classes), workers)


class Candidate(pl.LightningModule):
    """One network and its training.

    Attributes:
        epoch_seconds: Of each epoch so far; without the start of the loader's workers, which belongs to setting up.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, steps_per_epoch: int) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.steps = recipe.epochs * steps_per_epoch
        self.epoch_seconds: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y, label_smoothing=self.recipe.label_smoothing)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = batch
        hits = (self(x).argmax(1) == y).float()
        self.log("top1", hits.mean(), on_epoch=True, batch_size=len(y))

    def configure_optimizers(self) -> Any:
        r = self.recipe
        optimizer = torch.optim.SGD(
            self.parameters(), lr=r.peak_lr, momentum=r.momentum, nesterov=True, weight_decay=r.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            r.peak_lr,
            total_steps=self.steps,
            pct_start=r.warmup_fraction,
            anneal_strategy="linear",
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            synchronize()
            self.began_s = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        synchronize()
        self.epoch_seconds.append(time.perf_counter() - self.began_s)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train(model: nn.Module, images: Images, recipe: Recipe, epochs: int | None = None) -> tuple[pl.Trainer, Candidate]:
    """Train a network; ``epochs`` ends it before its schedule does."""
    loader = images.loader(images.train, recipe.batch_size, training=True)
    candidate = Candidate(model, recipe, len(loader))
    trainer = pl.Trainer(
        max_epochs=epochs or recipe.epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(candidate, loader)
    return trainer, candidate


def score(trainer: pl.Trainer, candidate: Candidate, images: Images) -> float:
    """Return the fraction of the validation images whose first guess is right."""
    found = trainer.validate(
        candidate, images.loader(images.validation, candidate.recipe.batch_size, training=False), verbose=False
    )
    return float(found[0]["top1"])


def latency_ms(model: nn.Module, shape: tuple[int, int, int], batch_size: int) -> float:
    """Return the median time of a forward pass of a whole batch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    x = torch.randn(batch_size, *shape, device=device)
    taken_s = []
    with torch.inference_mode():
        for run in range(WARM_UP + RUNS):
            synchronize()
            began_s = time.perf_counter()
            model(x)
            synchronize()
            if run >= WARM_UP:
                taken_s.append(time.perf_counter() - began_s)
    return 1e3 * statistics.median(taken_s)


@contextmanager
def hushed() -> Iterator[None]:
    """Silence Lightning's banners and its advice on loaders for the block."""
    loggers = [logging.getLogger(f"lightning.pytorch{name}") for name in ("", ".utilities.rank_zero", ".accelerators.cuda")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def read_space(path: Path) -> OSASpace:
    """Return the design space of a file of ``conf/space``."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    return OSASpace(**{key: value for key, value in values.items() if key != "_target_"})


def main() -> None:
    """Search, and print the front."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--space", type=Path, default=ROOT / "conf" / "space" / "osa_digits_table.yaml")
    parser.add_argument("--images", type=Path, help="train/<class>/*; scikit-learn's digits, if not given")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--crop-padding", type=int, default=1)
    parser.add_argument("--validation-fraction", type=float, default=0.2)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--peak-lr", type=float, default=0.2)
    parser.add_argument("--measure-batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    space = read_space(options.space)
    if options.images:
        fraction = options.validation_fraction
        images = folder(options.images, options.image_size, options.workers, options.crop_padding, fraction)
    else:
        images = digits(options.workers, options.crop_padding, options.validation_fraction)
    recipe = Recipe(options.epochs, options.batch_size, options.peak_lr)
    began_s = time.perf_counter()

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        architecture = space.suggest(trial)
        pl.seed_everything(options.seed, verbose=False)
        model = space.build(architecture, images.shape[0], images.classes)
        trainer, candidate = train(model, images, recipe)
        top1 = score(trainer, candidate, images)
        took_ms = latency_ms(model, images.shape, options.measure_batch_size)
        trial.set_user_attr("architecture_id", architecture.id)
        trial.set_user_attr("params", sum(parameter.numel() for parameter in model.parameters()))
        trial.set_user_attr("ended_s", time.perf_counter() - began_s)
        return top1, took_ms

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=options.seed)  # what Optuna 5 takes by itself, but repeatable
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    with hushed():
        study.optimize(objective, n_trials=options.trials)
    seconds = time.perf_counter() - began_s
    ended = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])  # an accuracy that is no number is none of them
    found = [{"trial": t.number, "top1": t.values[0], "latency_ms": t.values[1], **t.user_attrs} for t in ended]
    keep("naive.json", found)
    table = Table("trial", "top1", "latency_ms", "params", box=None)
    for trial in sorted(study.best_trials, key=lambda trial: -trial.values[0]):
        table.add_row(str(trial.number), f"{trial.values[0]:.4f}", f"{trial.values[1]:.3f}", f"{trial.user_attrs['params']:,}")
    told = (
        f"{len(found)} candidates of {options.space.name} in {seconds:.1f} s, {seconds / len(found):.2f} s each: "
        f"{recipe.epochs} epochs of {len(images.train)} images, {options.workers} loader workers; the front:"  # type: ignore[arg-type]
    )
    show(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"), told, table, width=120)


if __name__ == "__main__":
    main()
