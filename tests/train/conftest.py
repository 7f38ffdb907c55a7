from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nas.train import data
from nas.train.data import DataBundle, DataRequest, load_bundle
from nas.train.datasets import Dataset, MemoryPool
from nas.train.settings import DataSettings


@pytest.fixture(autouse=True)
def _no_cached_bundle() -> None:
    data._last.clear()


class CountingPool(MemoryPool):
    """A pool that remembers which images were read."""

    read_indices: list[int]

    def read(self, indices: Any) -> Tensor:
        self.__dict__.setdefault("read_indices", []).extend(torch.as_tensor(indices).tolist())
        return super().read(indices)


@dataclass(frozen=True)
class Generated:
    """Images whose class shows in their pixels, so that a model can learn it."""

    images: int = 120
    classes: int = 3
    shape: tuple[int, int, int] = (3, 8, 10)
    test_images: int = 0
    pools: dict[str, CountingPool] = field(default_factory=dict, compare=False)

    def pool(self, count: int, seed: int) -> CountingPool:
        draws = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % self.classes
        noise = torch.randint(0, 120, (count, *self.shape), generator=draws)
        level = (labels * (120 // self.classes)).reshape(-1, 1, 1, 1)
        return CountingPool((noise + level).to(torch.uint8), labels)

    def load(self) -> Dataset:
        self.pools["train"] = self.pool(self.images, 1)
        test = None
        if self.test_images:
            test = self.pools["test"] = self.pool(self.test_images, 2)
        names = tuple(f"class{i}" for i in range(self.classes))
        return Dataset("generated", names, self.pools["train"], test, f"generated-{self.images}-{self.test_images}")


@pytest.fixture
def generated() -> type[Generated]:
    return Generated


@pytest.fixture
def make_bundle() -> Callable[..., DataBundle]:
    def make(source: Any = None, seed: int = 0, device: str = "cpu", **settings: Any) -> DataBundle:
        return load_bundle(DataRequest(source or Generated(), DataSettings(**settings), seed), device)

    return make


class SmallNet(nn.Module):
    """A convolution with norm, a 1×1 convolution, dropout and a linear layer: every kind of parameter and randomness."""

    def __init__(self, channels: int = 3, classes: int = 3, width: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.fixture
def make_model() -> Callable[..., nn.Module]:
    def make(seed: int = 0, **arguments: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SmallNet(**arguments)

    return make


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write class folders of small PNGs; returns their root."""

    def make(layout: dict[str, int], size: tuple[int, int] = (12, 9), root: str = "images") -> Path:
        base = tmp_path / root
        rng = np.random.default_rng(0)
        for folder, count in layout.items():
            (base / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(base / folder / f"{i:03}.png")
        return base

    return make
