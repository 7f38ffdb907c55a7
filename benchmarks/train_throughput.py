"""Images per second of the brief Lightning path, against three loops that train the same model on the same images.

- bare: a plain PyTorch loop over the same batches, with the same optimiser, schedule and arithmetic. Target: ours / bare >= 0.95.
- first: what a user would write first, at its best: Lightning in the same arithmetic, a torchvision dataset of images in memory
  with its transforms on PIL images, DataLoader workers. Its progress bar, logger and checkpoints are off and its loader keeps
  its workers, which favours it.
- naive: the training of ``naive.py``, the baseline that searches are compared with: Lightning as it comes (fp32), and of a
  folder torchvision's ``ImageFolder``, which decodes a file whenever it is asked for. Target on a GPU, below 50 MFLOPs:
  ours / naive >= 10.

They run in turn in one process, in another order each time. Images are generated (CIFAR's shape, uint8, in memory),
scikit-learn's digits, or the files of a folder; nothing is downloaded.

Of which the share of the device's peak, counting a step as three forward passes (the backward pass is two: Kaplan et al. 2020,
arXiv 2001.08361) and taking a large bf16 matrix product, or fp32 on a CPU, for the peak.

    python benchmarks/train_throughput.py --model small --batch-size 128 --repeats 7
    python benchmarks/train_throughput.py --model small --folder FOLDER --batch-size 512 --workers 8 --paths ours,naive
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.datasets import VisionDataset

from nas.errors import InputError
from nas.measure import complexity
from nas.train.augment import generator
from nas.train.data import DataBundle, DataRequest, load_bundle
from nas.train.datasets import Dataset, Digits, MemoryPool
from nas.train.fit import fit
from nas.train.folder import ImageFolder
from nas.train.module import quiet
from nas.train.probe import choose_format, name_format
from nas.train.recipe import place, score
from nas.train.settings import DataSettings, NumericFormat, TrainSettings
from search_spaces import osa

if TYPE_CHECKING:
    import naive

Loader = torch.utils.data.DataLoader[tuple[Tensor, Tensor]]

SMALL = osa.Architecture(
    stem=osa.Stem(kind="cifar", width=16),
    stages=tuple(
        osa.Stage(layers=3, conv_channels=c, concat_channels=2 * c, downsample="maxpool" if i else "none")
        for i, c in enumerate((16, 24, 32))
    ),
)
CIFAR_STEM = osa.Stem(kind="cifar", width=64)
NETWORKS = {
    "small": SMALL,
    **{f"{name}_cifar": dataclasses.replace(osa.preset(name), stem=CIFAR_STEM) for name in ("vovnet27_slim", "vovnet57")},
}
"""Some more than the presets; VoVNet's modules at the resolutions of 32x32 images among them."""


@dataclass(frozen=True)
class Generated:
    """Random images of CIFAR's shape."""

    images: int

    def load(self) -> Dataset:
        draws = generator("benchmark", self.images)
        images = torch.randint(0, 256, (self.images, 3, 32, 32), dtype=torch.uint8, generator=draws)
        labels = torch.arange(self.images) % 10
        return Dataset("generated", tuple("0123456789"), MemoryPool(images, labels), None, f"generated-{self.images}")


@dataclass(frozen=True)
class Setting:
    """What every path is given.

    Attributes:
        pool: The images that are neither validated nor tested on.
        workers: Of a loader.
        folder: Of the files, where there are any.
    """

    build: Callable[[], nn.Module]
    bundle: DataBundle
    pool: Any
    settings: TrainSettings
    numeric: NumericFormat
    device: torch.device
    workers: int
    folder: str | None

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ours(s: Setting) -> tuple[float, float]:
    """Returns images/s within epochs, and with the call's fixed cost."""
    model = s.model()
    began = time.perf_counter()
    result = fit(model, s.bundle, s.settings, s.numeric, s.device, 0)
    whole = time.perf_counter() - began
    began = time.perf_counter()
    score(model, s.bundle.validation_batches(s.settings.batch_size), s.numeric)
    whole -= time.perf_counter() - began
    images = s.settings.epochs * s.bundle.train_batches(s.settings.batch_size, 0, 0).images
    assert result.images_per_s is not None
    return result.images_per_s, images / whole


def bare(s: Setting) -> tuple[float, float]:
    """The same, written out with torch alone."""
    model = s.model()
    began = time.perf_counter()
    place(model, s.numeric, s.device)
    model.train()
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": s.settings.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=s.settings.peak_lr, momentum=s.settings.momentum, nesterov=True, fused=True)
    total = s.settings.epochs * len(s.bundle.train_batches(s.settings.batch_size, 0, 0))
    layout = torch.channels_last if s.numeric.memory_format == "channels_last" else torch.contiguous_format
    step = images = 0
    started = time.perf_counter()
    for epoch in range(s.settings.epochs):
        for x, y in s.bundle.train_batches(s.settings.batch_size, epoch, 0):
            at = (step + 0.5) / total
            up = s.settings.warmup_fraction
            for group in optimizer.param_groups:
                group["lr"] = s.settings.peak_lr * (at / up if at < up else (1 - at) / (1 - up))
            with torch.autocast(s.device.type, dtype=torch.bfloat16, enabled=s.numeric.precision == "bf16"):
                logits = model(x.contiguous(memory_format=layout))
            loss = nn.functional.cross_entropy(logits.float(), y, label_smoothing=s.settings.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step, images = step + 1, images + len(y)
    synchronize(s.device)
    ended = time.perf_counter()
    return images / (ended - started), images / (ended - began)


class InMemory(VisionDataset):
    """torchvision's way: a PIL image per item, transformed one by one."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Any) -> None:
        super().__init__("", transform=transform)
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = self.images[index]
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        assert self.transform is not None
        return self.transform(image), self.labels[index]


class First(pl.LightningModule):
    def __init__(self, model: nn.Module, settings: TrainSettings, steps: int) -> None:
        super().__init__()
        self.model, self.settings, self.steps = model, settings, steps
        self.seconds = 0.0

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.model(x), y, label_smoothing=self.settings.label_smoothing)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.SGD(
            self.parameters(), lr=s.peak_lr, momentum=s.momentum, nesterov=True, weight_decay=s.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, s.peak_lr, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        synchronize(self.device)
        self.started = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        synchronize(self.device)
        self.seconds += time.perf_counter() - self.started


def in_memory(s: Setting) -> InMemory:
    """Return the training images, augmented as ours are."""
    _, H, _ = s.bundle.input_shape
    augment: list[Any] = []
    if s.bundle.settings.crop_padding:
        augment.append(transforms.RandomCrop(H, padding=s.bundle.settings.crop_padding, padding_mode="reflect"))
    if s.bundle.settings.flip:
        augment.append(transforms.RandomHorizontalFlip())
    transform = transforms.Compose([*augment, transforms.ToTensor(), transforms.Normalize(s.bundle.mean, s.bundle.std)])
    train = s.bundle.split.train
    return InMemory(s.pool.read(train), s.pool.labels[train], transform)


def first_loader(s: Setting) -> Loader:
    dataset = in_memory(s)
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=min(s.settings.batch_size, len(dataset)),
        shuffle=True,
        drop_last=True,
        num_workers=s.workers,
        persistent_workers=s.workers > 0,
        pin_memory=s.device.type == "cuda",
    )


def first(s: Setting) -> tuple[float, float]:
    """What a user would write first."""
    loader = first_loader(s)
    began = time.perf_counter()
    module = First(s.model(), s.settings, s.settings.epochs * len(loader))
    trainer = pl.Trainer(
        max_epochs=s.settings.epochs,
        accelerator="gpu" if s.device.type == "cuda" else "cpu",
        devices=1 if s.device.index is None else [s.device.index],
        precision="bf16-mixed" if s.numeric.precision == "bf16" else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    images = s.settings.epochs * len(loader) * (loader.batch_size or 0)
    return images / module.seconds, images / (time.perf_counter() - began)


def naive_images(s: Setting) -> naive.Images:
    import naive  # which takes Optuna and scikit-learn: the other paths do without

    data, (_, side, _) = s.bundle.settings, s.bundle.input_shape
    if s.folder is not None:
        return naive.folder(Path(s.folder), side, s.workers, data.crop_padding, data.validation_fraction)
    dataset = in_memory(s)
    return naive.Images(dataset, dataset, s.bundle.input_shape, s.bundle.num_classes, s.workers)


def as_naive(s: Setting) -> tuple[float, float]:
    """The training of ``naive.py``."""
    import naive

    images, r = naive_images(s), s.settings
    taken = r.epochs * (len(images.train) // r.batch_size) * r.batch_size  # type: ignore[arg-type]
    began = time.perf_counter()
    _, candidate = naive.train(s.model(), images, naive.Recipe(r.epochs, r.batch_size, r.peak_lr))
    return taken / sum(candidate.epoch_seconds), taken / (time.perf_counter() - began)


def loading(s: Setting, batches: Callable[[int], Iterable[Any]]) -> tuple[float, float]:
    """Return the images per second of which a path's batches come, if nobody trains on them; with their start, too."""
    began = time.perf_counter()
    images = first_batch = 0
    for epoch in range(s.settings.epochs):
        for x, _ in batches(epoch):
            images += len(x)
            if not first_batch:
                first_batch, started = len(x), time.perf_counter()
    synchronize(s.device)
    ended = time.perf_counter()
    return (images - first_batch) / (ended - started), images / (ended - began)


def first_loading(s: Setting) -> tuple[float, float]:
    loader = first_loader(s)
    return loading(s, lambda epoch: loader)


def naive_loading(s: Setting) -> tuple[float, float]:
    images = naive_images(s)
    loader = images.loader(images.train, s.settings.batch_size, training=True)
    return loading(s, lambda epoch: loader)


def peak_flops_per_s(device: torch.device, precision: str) -> float:
    """Return what the device does in one large matrix product in an arithmetic: the peak that can be had."""
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def seconds() -> float:
        synchronize(device)
        began_s = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        return time.perf_counter() - began_s

    return 2 * side**3 / min(seconds() for _ in range(10))


def spread(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(values):.3f} ({ordered[0]:.3f} to {ordered[-1]:.3f})"


PATHS = {"ours": ours, "bare": bare, "first": first, "naive": as_naive}
LOADING = {
    "ours": lambda s: loading(s, lambda epoch: s.bundle.train_batches(s.settings.batch_size, epoch, 0)),
    "first": first_loading,
    "naive": naive_loading,
}
"""What each trains on, alone; the bare loop's batches are ours."""

RATIOS = {
    "ours_over_bare": ("bare", 0, "within epochs", "   target 0.95 or more"),
    "ours_over_bare_with_setup": ("bare", 1, "with a call's fixed cost", ""),
    "ours_over_first": ("first", 0, "within epochs", ""),
    "ours_over_naive": ("naive", 0, "within epochs", "   target on a GPU, below 50 MFLOPs: 10 or more"),
    "ours_over_naive_with_setup": ("naive", 1, "with a call's fixed cost", ""),
}
"""Of each ratio: whose speed is below the line, which of the two that a path returns, how that is called, what is aimed at."""


def main() -> None:
    """Print a row per repeat, the ratios, and all of it as one JSON object in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=[*NETWORKS, *osa.PRESETS])
    parser.add_argument("--data", default="generated", choices=["generated", "digits"])
    parser.add_argument("--folder", help="train/<class>/*, used at 32x32 in place of --data")
    parser.add_argument("--images", type=int, default=2560, help="generated images; three fifths of them train")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="of the loaders of first and naive")
    parser.add_argument("--paths", default=",".join(PATHS), help="which of them run; ours always does")
    parser.add_argument("--load-only", action="store_true", help="fetch the batches, and train on none")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--memory-format", default="auto", choices=["auto", "contiguous", "channels_last"])
    options = parser.parse_args()
    wanted = options.paths.split(",")
    if unknown := [name for name in wanted if name not in PATHS]:
        raise InputError(f"--paths={unknown[0]} is none of them: {', '.join(PATHS)}.")
    paths = {name: path for name, path in (LOADING if options.load_only else PATHS).items() if name in ("ours", *wanted)}

    device = torch.device(options.device)
    if "naive" in paths and torch.cuda.is_available() != (device.type == "cuda"):
        raise InputError(f"--paths=naive takes a GPU where there is one: leave it out with --device={device}.")
    padded = options.folder or options.data == "generated"
    data = DataSettings(validation_fraction=0.25, crop_padding=4 if padded else 1, flip=True)
    source: Any = Generated(options.images) if options.data == "generated" else Digits()
    if options.folder:
        source = ImageFolder(root=options.folder, image_size=32)
    bundle = load_bundle(DataRequest(source, data, 0), device)
    architecture = NETWORKS.get(options.model) or osa.preset(options.model)

    def build() -> nn.Module:
        return osa.build(architecture, bundle.input_shape[0], bundle.num_classes)

    settings = TrainSettings(
        epochs=options.epochs,
        batch_size=options.batch_size,
        peak_lr=0.05,
        precision=options.precision,
        memory_format=options.memory_format,
    )
    choice = choose_format([build], bundle, settings, device)
    pool = source.load().train
    setting = Setting(build, bundle, pool, settings, choice.numeric, device, options.workers, options.folder)
    print(
        f"{options.model} on {device}, {name_format(choice.numeric)}, torch {torch.__version__}, {torch.get_num_threads()} thr."
    )
    print(
        f"{bundle.sizes['train']} training images of {bundle.input_shape} ({'files' if options.folder else options.data}), "
        f"batch {settings.batch_size}, {settings.epochs} epoch(s)"
    )
    print(f"{'repeat':>6} " + " ".join(f"{name + ' images/s':>16}" for name in paths))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for repeat in range(-1, options.repeats):  # the first round warms everything up
            names = list(paths)
            turn = repeat % len(names)
            row = {name: paths[name](setting) for name in (*names[turn:], *names[:turn])}
            if repeat >= 0:
                for name, value in row.items():
                    found[name].append(value)
                print(f"{repeat:>6} " + " ".join(f"{row[name][0]:>16.0f}" for name in paths), flush=True)
    print("median (least to most) of the ratios within each repeat:")
    medians: dict[str, float] = {}
    for key, (other, which, how, target) in RATIOS.items():
        if other in paths:
            ratios = [mine[which] / theirs[which] for mine, theirs in zip(found["ours"], found[other], strict=True)]
            medians[key] = statistics.median(ratios)
            print(f"  ours / {other}, {how + ':':<25} {spread(ratios)}{target}")
    speeds = {name: statistics.median(value[0] for value in values) for name, values in found.items()}
    if options.load_only:
        print(json.dumps({"loaded_images_per_s": speeds, **medians}))
        return
    flops = complexity.count(build(), bundle.input_shape).flops
    peak = peak_flops_per_s(device, choice.numeric.precision)
    of_peak = 3 * flops * speeds["ours"] / peak
    print(f"{flops / 1e6:.1f} MFLOPs; {of_peak:.2%} of a peak of {peak / 1e12:.1f} TFLOP/s")
    print(json.dumps({"images_per_s": speeds, "of_peak": of_peak, **medians}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
