"""Batched random crop and alternating flip on the device: one gather per batch, straight from the uint8 images.

Everything random is a pure function of (seed, epoch), so that training can stop after any epoch and go on exactly.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """What one epoch shows, in which order and how.

    Attributes:
        order: int64 ``[steps, n]``: which image of the training part stands where.
        shift: int64 ``[steps, n, 2]``: rows and columns by which each crop is moved; ``None`` without cropping.
        mirrored: bool ``[steps, n]``: which images are mirrored left-right; ``None`` without flipping.
    """

    order: Tensor
    shift: Tensor | None
    mirrored: Tensor | None

    def moves(self, step: int) -> tuple[Tensor | None, Tensor | None]:
        """Return one step's ``shift`` and ``mirrored``."""
        return (
            None if self.shift is None else self.shift[step],
            None if self.mirrored is None else self.mirrored[step],
        )

    def to(self, device: torch.device) -> Self:
        """Return the plan on ``device``; a GPU's copy is queued and not waited for."""
        shift = None if self.shift is None else self.shift.to(device, non_blocking=True)
        mirrored = None if self.mirrored is None else self.mirrored.to(device, non_blocking=True)
        return type(self)(self.order.to(device, non_blocking=True), shift, mirrored)

    def share(self, rank: int, of: int) -> Self:
        """Return what one of several processes takes of every step; all take equally many images."""
        if of == 1:
            return self
        most = self.order.shape[1] // of * of
        return type(self)(
            self.order[:, rank:most:of],
            None if self.shift is None else self.shift[:, rank:most:of],
            None if self.mirrored is None else self.mirrored[:, rank:most:of],
        )


def step_shape(images: int, batch_size: int) -> tuple[int, int]:
    """Return (steps per epoch, images per step), so that all steps are alike and none is left with a single image.

    An epoch takes as few steps as ``batch_size`` allows and shares the images evenly among them; the fewer-than-one-step
    images that are left over are others in every epoch. Batch norm cannot train on one image, hence never fewer than two.
    """
    size = max(2, images // -(-images // batch_size))
    return images // size, size


def plan_epoch(images: int, batch_size: int, epoch: int, seed: int, crop_padding: int, flip: bool) -> EpochPlan:
    """Draw an epoch: a fresh shuffle, a crop per image, and the flip that alternates.

    Each image is mirrored in every other epoch, rather than with probability one half: two epochs in a row then show both
    its sides (Jordan 2024, arXiv 2404.00498, section 3.6). Which half starts mirrored depends on ``seed`` alone.

    Args:
        images: Size of the training part, 2 or more.
        batch_size: Most images per step.
        epoch: Counted from 0.
        seed: Origin of all draws.
        crop_padding: Largest shift of the crop, in pixels.
        flip: Whether to mirror.
    """
    steps, size = step_shape(images, batch_size)
    used = steps * size
    order = torch.randperm(images, generator=generator(seed, "order", epoch))[:used]
    shift = mirrored = None
    if crop_padding:
        draws = generator(seed, "crop", epoch)
        shift = torch.randint(-crop_padding, crop_padding + 1, (steps, size, 2), generator=draws)
    if flip:
        first = torch.randint(0, 2, (images,), generator=generator(seed, "flip"))
        mirrored = ((first[order] + epoch) % 2).bool().reshape(steps, size)
    return EpochPlan(order.reshape(steps, size), shift, mirrored)


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator whose stream depends on all ``parts``; near seeds give unrelated streams."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def derive_seed(*parts: int | str) -> int:
    """Return a seed, 0 to 2^63 - 1, that depends on all ``parts``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def take(images: Tensor, rows: Tensor, shift: Tensor | None, mirrored: Tensor | None) -> Tensor:
    """Return the images at ``rows``, moved by ``shift`` over a reflected border and then mirrored where ``mirrored``.

    Args:
        images: uint8 ``[N, H, W, C]``.
        rows: int64 ``[n]``.
        shift: int64 ``[n, 2]``, smaller in size than H and W, or ``None``.
        mirrored: bool ``[n]`` or ``None``.

    Returns:
        uint8 ``[n, H, W, C]``.
    """
    _, H, W, C = images.shape
    if shift is None and mirrored is None:
        return images.index_select(0, rows)
    row, column = torch.arange(H, device=rows.device), torch.arange(W, device=rows.device)
    down = row.expand(len(rows), H) if shift is None else _reflect(row + shift[:, :1], H)
    across = column.expand(len(rows), W)
    if mirrored is not None:
        across = torch.where(mirrored[:, None], W - 1 - across, across)
    if shift is not None:
        across = _reflect(across + shift[:, 1:], W)
    # One flat index per pixel: a gather along a single dimension, whose C bytes lie together.
    pixel = ((rows[:, None] * H + down)[:, :, None] * W + across[:, None, :]).reshape(-1)
    return images.reshape(-1, C).index_select(0, pixel).reshape(len(rows), H, W, C)


def _reflect(index: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - index.abs()).abs()
