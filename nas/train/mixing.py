"""What the full recipe does to a batch of images on the device: RandAugment, CutMix, MixUp, erasing.

Everything random is drawn on the CPU from generators that the caller makes of (seed, epoch, step, process), so that training
can stop after any epoch and go on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nas.train.augment import derive_seed
from nas.train.settings import FullSettings

_MOST_DEGREES = 30.0
_MOST_SHEAR = 0.3
_MOST_SHIFT = 0.3
_MOST_CHANGE = 0.9
"""RandAugment's ranges at magnitude 1 (there: 10 of 10); a shift is a fraction of the side."""


@dataclass(frozen=True)
class Mixed:
    """A batch whose images are partly another's.

    Attributes:
        x: Images.
        y: Their own labels.
        other: The labels of what was mixed in.
        share: Of each image's own label, 0 to 1.
    """

    x: Tensor
    y: Tensor
    other: Tensor
    share: float


def augmented(x: Tensor, y: Tensor, settings: FullSettings, *place: int) -> Mixed:
    """Apply the recipe to a batch of normalised images, float32 ``[n, C, H, W]``.

    Args:
        x: Images.
        y: Labels.
        settings: The recipe.
        place: What all draws depend on: seed, epoch, step and process.
    """
    draw = torch.Generator().manual_seed(derive_seed("augment", *place))
    if settings.randaugment_ops and settings.randaugment_magnitude:
        x = randaugment(x, settings.randaugment_ops, settings.randaugment_magnitude, draw)
    if settings.erase_probability:
        x = erased(x, settings.erase_probability, draw)
    ways = [
        way
        for way, alpha in ((cutmix, settings.cutmix_alpha), (mixup, settings.mixup_alpha))
        if alpha and settings.mix_probability
    ]
    numbers = np.random.Generator(np.random.PCG64(derive_seed("mix", *place)))
    if ways and numbers.random() < settings.mix_probability:
        way = ways[int(numbers.integers(len(ways)))]
        alpha = settings.cutmix_alpha if way is cutmix else settings.mixup_alpha
        order = torch.randperm(len(x), generator=draw).to(x.device)
        return way(x, y, order, float(numbers.beta(alpha, alpha)), numbers)
    return Mixed(x, y, y, 1.0)


def mixed_loss(logits: Tensor, mixed: Mixed, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy against both labels, each by its share."""
    loss = nn.functional.cross_entropy(logits, mixed.y, label_smoothing=label_smoothing)
    if mixed.share == 1:
        return loss
    other = nn.functional.cross_entropy(logits, mixed.other, label_smoothing=label_smoothing)
    return mixed.share * loss + (1 - mixed.share) * other


def mixup(x: Tensor, y: Tensor, order: Tensor, share: float, numbers: np.random.Generator) -> Mixed:
    """Lay another image over each, with the weight ``1 - share``."""
    return Mixed(share * x + (1 - share) * x[order], y, y[order], share)


def cutmix(x: Tensor, y: Tensor, order: Tensor, share: float, numbers: np.random.Generator) -> Mixed:
    """Replace a rectangle of each image by another's; the label's share is that of the pixels that stay."""
    height, width = x.shape[-2:]
    top, bottom, left, right = _box(height, width, math.sqrt(1 - share), numbers)
    x = x.clone()
    x[:, :, top:bottom, left:right] = x[order][:, :, top:bottom, left:right]
    return Mixed(x, y, y[order], 1 - (bottom - top) * (right - left) / (height * width))


def _box(height: int, width: int, side: float, numbers: np.random.Generator) -> tuple[int, int, int, int]:
    """Return a rectangle around a random centre, of ``side`` times the image's sides, cut off at the border."""
    row, column = int(numbers.integers(height)), int(numbers.integers(width))
    down, across = round(height * side / 2), round(width * side / 2)
    return max(0, row - down), min(height, row + down), max(0, column - across), min(width, column + across)


def erased(x: Tensor, probability: float, draw: torch.Generator) -> Tensor:
    """Set a rectangle of 2 to 33 % of the area, of an aspect from 0.3 to 3.3, to the mean colour, in a share of the images."""
    n, _, height, width = x.shape
    chosen = torch.rand(n, generator=draw) < probability
    area = (0.02 + 0.31 * torch.rand(n, generator=draw)) * height * width
    aspect = torch.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * torch.rand(n, generator=draw))
    tall, wide = (area * aspect).sqrt().clamp(1, height), (area / aspect).sqrt().clamp(1, width)
    top = torch.rand(n, generator=draw) * (height - tall)
    left = torch.rand(n, generator=draw) * (width - wide)
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    inside = ((rows >= top[:, None]) & (rows < (top + tall)[:, None]))[:, :, None]
    inside = inside & ((columns >= left[:, None]) & (columns < (left + wide)[:, None]))[:, None, :]
    mask = (inside & chosen[:, None, None])[:, None].to(x.device)
    return x.masked_fill(mask, 0.0)  # normalised: the mean colour is 0


def randaugment(x: Tensor, ops: int, magnitude: float, draw: torch.Generator) -> Tensor:
    """Apply ``ops`` transformations, drawn for each image by itself, each of the strength ``magnitude`` in a random direction.

    Of RandAugment's list those that mean something for normalised images of any number of channels: rotation, both shears,
    both shifts, brightness, contrast, colour (of several channels) and sharpness; and leaving the image alone. All geometric
    ones of an image are one resampling, over a reflected border.
    """
    n = len(x)
    names = ["identity", *_GEOMETRIC, *_PHOTOMETRIC]
    if x.shape[1] == 1:
        names.remove("colour")
    chosen = torch.randint(len(names), (ops, n), generator=draw)
    signs = torch.randint(2, (ops, n), generator=draw) * 2.0 - 1
    matrices = torch.eye(3).repeat(n, 1, 1)
    for op in range(ops):
        for index, name in enumerate(names):
            if name in _GEOMETRIC:
                which = chosen[op] == index
                matrices[which] = matrices[which] @ _GEOMETRIC[name](magnitude * signs[op][which])
    x = _resampled(x, matrices)
    for op in range(ops):
        for index, name in enumerate(names):
            if name in _PHOTOMETRIC:
                which = (chosen[op] == index).nonzero()[:, 0].to(x.device)
                if len(which):
                    strength = (magnitude * signs[op])[chosen[op] == index].to(x.device)[:, None, None, None]
                    x = x.index_copy(0, which, _PHOTOMETRIC[name](x[which], _MOST_CHANGE * strength))
    return x


def _resampled(x: Tensor, matrices: Tensor) -> Tensor:
    moved = (matrices != torch.eye(3)).flatten(1).any(1).nonzero()[:, 0]
    if not len(moved):
        return x
    where = moved.to(x.device)
    images = x[where]
    grid = nn.functional.affine_grid(matrices[moved, :2].to(x.device), list(images.shape), align_corners=False)
    found = nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return x.index_copy(0, where, found)


def _matrix(n: int, **entries: Tensor) -> Tensor:
    matrix = torch.eye(3).repeat(n, 1, 1)
    for place, value in entries.items():
        matrix[:, int(place[1]), int(place[2])] = value
    return matrix


def _rotation(strength: Tensor) -> Tensor:
    angle = strength * math.radians(_MOST_DEGREES)
    return _matrix(len(strength), m00=angle.cos(), m01=-angle.sin(), m10=angle.sin(), m11=angle.cos())


_GEOMETRIC: dict[str, Callable[[Tensor], Tensor]] = {
    "rotation": _rotation,
    "shear x": lambda strength: _matrix(len(strength), m01=strength * _MOST_SHEAR),
    "shear y": lambda strength: _matrix(len(strength), m10=strength * _MOST_SHEAR),
    # Coordinates run from -1 to 1, so a side is 2 long.
    "shift x": lambda strength: _matrix(len(strength), m02=strength * 2 * _MOST_SHIFT),
    "shift y": lambda strength: _matrix(len(strength), m12=strength * 2 * _MOST_SHIFT),
}
"""Matrices ``[n, 3, 3]`` from the place in the result to the place in the image, for strengths from -1 to 1."""


def _sharpened(x: Tensor, change: Tensor) -> Tensor:
    blurred = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return x + change * (x - blurred)


_PHOTOMETRIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda x, change: x + change,  # in standard deviations of the set
    "contrast": lambda x, change: x + change * (x - x.mean(dim=(1, 2, 3), keepdim=True)),
    "colour": lambda x, change: x + change * (x - x.mean(dim=1, keepdim=True)),
    "sharpness": _sharpened,
}
"""Images changed by ``change``, ``[n, 1, 1, 1]``, from -1 to 1."""
