"""A found network as the backbone of a detector: RetinaNet on its stages' maps, trained for a few steps, timed and weighed.

The scenes are generated: scikit-learn's digits pasted on a noisy canvas, at most five of them, 16 to 28 pixels wide. Some
steps show that the parts fit together and that the loss falls; they make no good detector. Latency and energy of the whole
detector, decoding and suppression of boxes included, are taken by the same meters as a search's.

    python examples/detector.py                                   # VoVNet-27-slim, untrained
    python examples/detector.py --model runs/osa_digits/retrain/28
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork

from nas import load_model
from nas.errors import InputError
from nas.measure import energy, latency, subject
from nas.measure.record import SensorError
from nas.metrics import METRICS, show
from nas.shipped import read_description
from search_spaces import osa

SIZE = 96
Target = dict[str, Tensor]


class Pyramid(nn.Module):
    """A backbone's stage maps, and a feature pyramid on them, as torchvision's detectors take them."""

    def __init__(self, backbone: nn.Module, channels: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = FeaturePyramidNetwork(backbone.feature_info.channels(), channels)
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the pyramid's maps (N, channels, H / stride, W / stride), the finest first."""
        maps = self.backbone(images)
        return self.pyramid(OrderedDict((str(level), features) for level, features in enumerate(maps)))


class Batched(nn.Module):
    """A detector that takes a batch of equal images, as our meters give it, in place of a list."""

    def __init__(self, detector: RetinaNet) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return boxes, labels and scores of each image."""
        return self.detector(list(images))


def find_backbone(model: str | None) -> tuple[nn.Module, int]:
    """Return a network that yields its stages' maps, and how many channels its images have."""
    if model is None:
        space = osa.OSASpace()
        return osa.build(space.preset("vovnet27_slim"), 3, 10, features=(1, 2, 3)), 3
    description = read_description(model)
    # Of a network from a library the stages are not known: where it has no maps to give, loading says so.
    stages = len(description.architecture.get("stages", range(3)))
    return load_model(model, features=tuple(range(1, stages + 1))).train(), description.input_shape[0]


def build(backbone: nn.Module, channels: int) -> RetinaNet:
    """Return a RetinaNet for ten digits with anchors of 12 to 32 pixels on each level."""
    strides = backbone.feature_info.reduction()
    anchors = AnchorGenerator(sizes=((12.0, 18.0, 26.0),) * len(strides), aspect_ratios=((1.0,),) * len(strides))
    pyramid = Pyramid(backbone)
    # With norms, as in torchvision's second RetinaNet: without, its deep and faintly initialised heads make Adam diverge.
    head = RetinaNetHead(pyramid.out_channels, 3, 10, norm_layer=partial(nn.GroupNorm, 16))
    return RetinaNet(
        pyramid,
        num_classes=10,
        anchor_generator=anchors,
        head=head,
        min_size=SIZE,
        max_size=SIZE,
        image_mean=[0.5] * channels,
        image_std=[0.5] * channels,
        detections_per_img=20,
        topk_candidates=100,
    )


def scenes(count: int, channels: int, random: np.random.Generator) -> tuple[list[Tensor], list[Target]]:
    """Return images (channels, 96, 96) with values 0 to 1, and what is in them: boxes (n, 4) in pixels and labels (n,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, targets = [], []
    for _ in range(count):
        canvas = random.normal(0.1, 0.05, (SIZE, SIZE)).clip(0, 1)
        boxes, labels = [], []
        for _ in range(random.integers(1, 6)):
            width = int(random.integers(16, 29))
            index = int(random.integers(len(digits.images)))
            left, top = (int(at) for at in random.integers(0, SIZE - width, 2))
            if any(left < right and a < left + width and top < bottom and b < top + width for a, b, right, bottom in boxes):
                continue
            glyph = torch.from_numpy(digits.images[index] / 16)[None, None]
            canvas[top : top + width, left : left + width] = nn.functional.interpolate(glyph, size=(width, width))[0, 0].numpy()
            boxes.append((left, top, left + width, top + width))
            labels.append(int(digits.target[index]))
        images.append(torch.from_numpy(canvas).float().expand(channels, -1, -1).clone())
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)})
    return images, targets


def train(detector: RetinaNet, channels: int, steps: int, batch_size: int, device: torch.device, seed: int) -> list[float]:
    """Train in place; returns the loss of each step."""
    random = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-4, weight_decay=1e-4)
    # The heads start from noise: full steps from the first on would throw the backbone off.
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    detector.to(device).train()
    losses = []
    for _ in range(steps):
        images, targets = scenes(batch_size, channels, random)
        found = detector(
            [image.to(device) for image in images], [{key: value.to(device) for key, value in t.items()} for t in targets]
        )
        loss = sum(found.values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
        warmup.step()
        losses.append(float(loss.detach()))
    return losses


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, measure and print a table; returns the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a network that nas.retrain wrote; VoVNet-27-slim if not given")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency-seconds", type=float, default=2.0, help="longest time that timing may take")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    backbone, channels = find_backbone(options.model)
    info = backbone.feature_info
    detector = build(backbone, channels)
    began_s = time.perf_counter()
    losses = train(detector, channels, options.steps, options.batch_size, device, options.seed)
    part = max(1, len(losses) // 4)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    name = options.model or "vovnet27_slim"
    table.add_row("backbone", f"{name}: maps of {info.channels()} channels at strides {info.reduction()}")
    table.add_row("detector", f"RetinaNet, {sum(p.numel() for p in detector.parameters()) / 1e6:.2f} M parameters")
    table.add_row(
        "loss",
        f"{np.mean(losses[:part]):.3f} over the first {part} steps, {np.mean(losses[-part:]):.3f} over the last "
        f"({len(losses)} steps, {time.perf_counter() - began_s:.0f} s)",
    )
    net = subject.make(
        Batched(detector),
        (channels, SIZE, SIZE),
        str(device),
        batch_size=1,
        precision="fp32",
        latency_max_seconds=options.latency_seconds,
    )
    timed = latency.measure(net).eager
    table.add_row("latency", f"{timed.median_ms:.2f} ms per image, quartiles {timed.iqr_ms:.2f} ms apart, {timed.stop_reason}")
    try:
        spent = energy.measure(net)
        joules = "not measured: " + str(spent.reason) if spent.energy_j is None else show(METRICS["energy_j"], spent.energy_j)
    except SensorError as refusal:
        joules = f"not measured: {refusal}"
    table.add_row("energy", joules)
    Console(width=160).print(table)
    return losses


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
