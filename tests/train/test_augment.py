from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional as tv

from nas.train.augment import derive_seed, plan_epoch, step_shape, take


@settings(max_examples=200, deadline=None)
@given(images=st.integers(2, 5000), batch_size=st.integers(2, 600))
def test_step_shape(images: int, batch_size: int) -> None:
    steps, size = step_shape(images, batch_size)
    assert 2 <= size <= batch_size and steps >= 1
    assert images - steps * size < size


def test_step_shape_examples() -> None:
    assert step_shape(40_000, 512) == (79, 506)
    assert step_shape(1024, 512) == (2, 512)
    assert step_shape(1150, 512) == (3, 383)
    assert step_shape(100, 512) == (1, 100)


@settings(max_examples=40, deadline=None)
@given(
    H=st.integers(3, 12),
    W=st.integers(3, 12),
    C=st.sampled_from([1, 3]),
    padding=st.integers(0, 2),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_take_is_pad_crop_flip(H: int, W: int, C: int, padding: int, flip: bool, seed: int) -> None:
    images = torch.randint(0, 256, (9, H, W, C), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    plan = plan_epoch(9, 4, seed, seed, padding, flip)
    for step, rows in enumerate(plan.order):
        shift, mirrored = plan.moves(step)
        found = take(images, rows, shift, mirrored)
        for i, row in enumerate(rows):
            image = (
                tv.pad(images[row].permute(2, 0, 1), [padding] * 4, padding_mode="reflect")
                if padding
                else images[row].permute(2, 0, 1)
            )
            top, left = (0, 0) if shift is None else (padding + shift[i]).tolist()
            image = tv.crop(image, top, left, H, W)
            if mirrored is not None and mirrored[i]:
                image = tv.hflip(image)
            assert torch.equal(found[i].permute(2, 0, 1), image)


def test_flip_alternates() -> None:
    def mirrored(epoch: int, seed: int = 0) -> Tensor:
        plan = plan_epoch(1000, 100, epoch, seed, 0, True)
        assert plan.mirrored is not None
        by_image = torch.empty(1000, dtype=torch.bool)
        by_image[plan.order.reshape(-1)] = plan.mirrored.reshape(-1)
        return by_image

    assert torch.equal(mirrored(0), ~mirrored(1)) and torch.equal(mirrored(0), mirrored(2))
    assert 400 < int(mirrored(0).sum()) < 600
    assert not torch.equal(mirrored(0), mirrored(0, seed=1))


def test_crops_are_uniform() -> None:
    plan = plan_epoch(20_000, 500, 0, 0, 2, False)
    assert plan.shift is not None and plan.mirrored is None
    for axis in (0, 1):
        counts = torch.bincount(plan.shift[:, :, axis].reshape(-1) + 2, minlength=5)
        assert len(counts) == 5 and counts.min() > 3700 and counts.max() < 4300  # 5 standard deviations


def test_seeds_of_near_parts_are_unrelated() -> None:
    seeds = {derive_seed(seed, word, epoch) for seed in range(20) for word in ("order", "crop") for epoch in range(20)}
    assert len(seeds) == 800 and all(0 <= seed < 2**63 for seed in seeds)
