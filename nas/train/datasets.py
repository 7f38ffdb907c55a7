"""Image sets as they come, before any split: uint8 pixels, labels, class names and a digest of the content.

A user's own set plugs in as any class with ``load() -> Dataset``; splitting, augmenting and placing are ``nas.train.data``'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import urllib.error
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nas.errors import InputError

_CONNECT_SECONDS = 30.0


class ImagePool(Protocol):
    """Images of one size that can be read by index, from memory or from disk."""

    @property
    def labels(self) -> Tensor:
        """Class indices, int64 ``[N]``."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""

    @property
    def nbytes(self) -> int:
        """Size of all images as uint8, whether they are in memory or not."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return the images at ``indices``, in that order: uint8 ``[n, C, H, W]`` on the CPU.

        Raises:
            InputError: If an image cannot be read any more.
        """


@dataclass(frozen=True, eq=False)
class Dataset:
    """One image set.

    Attributes:
        name: What tables and records call it.
        classes: Class names; a label is an index into them.
        train: Images from which the training, validation and, without ``test``, the test part are taken.
        test: The set's own test part, or ``None``.
        fingerprint: Digest of the content: pixels, or files and how they are prepared. Where the set lies is not part of it.
        preparation: How pixels came about, in words, for the record.
        skipped: Files left out because they could not be read.
    """

    name: str
    classes: tuple[str, ...]
    train: ImagePool
    test: ImagePool | None
    fingerprint: str
    preparation: str = ""
    skipped: tuple[str, ...] = ()


class Source(Protocol):
    """What ``data._target_`` names. Plain data, picklable; equal settings compare equal, as a frozen dataclass's do."""

    def load(self) -> Dataset:
        """Read the set.

        Raises:
            InputError: If it is missing, damaged or cannot be used.
        """


@dataclass(frozen=True, eq=False)
class MemoryPool:
    """Images held in memory.

    Attributes:
        images: uint8 ``[N, C, H, W]`` on the CPU.
        labels: int64 ``[N]``.
    """

    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, C, H, W = self.images.shape
        return C, H, W

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self.images.numel()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return uint8 ``[n, C, H, W]``."""
        return self.images[torch.as_tensor(indices, dtype=torch.int64)]


@dataclass(frozen=True)
class Digits:
    """scikit-learn's bundled handwritten digits: 1,797 real images of 8×8 pixels, 1 channel, 10 classes, no download.

    From the test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998). Its 17 grey levels
    are spread over 0 to 255. It has no test part of its own.

    Attributes:
        image_size: Side to which images are resized (bilinear); ``None`` leaves them at 8.
    """

    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None:
            check_image_size(self.image_size)

    def load(self) -> Dataset:
        """Return the set."""
        from sklearn.datasets import load_digits

        found = load_digits()
        levels = torch.from_numpy(found.images).unsqueeze(1) * (255 / 16)
        preparation = "grey levels 0..16 spread over 0..255"
        if self.image_size is not None:
            levels = torch.nn.functional.interpolate(levels, size=self.image_size, mode="bilinear", antialias=True)
            preparation += f"; resized to {self.image_size} px, bilinear"
        images = levels.round().clamp(0, 255).to(torch.uint8)
        pool = MemoryPool(images, torch.from_numpy(found.target).to(torch.int64))
        classes = tuple(str(name) for name in found.target_names)
        return Dataset("digits", classes, pool, None, _digest_pools(classes, pool, None), preparation)


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10 (Krizhevsky 2009): 32×32 colour images in 10 classes, 50,000 to train and 10,000 to test, read by torchvision.

    Attributes:
        root: Folder that holds or receives the archive.
        download: Fetch it if it is not there; every file is checked against its known MD5 before it is read.
    """

    root: str = "data"
    download: bool = True

    def load(self) -> Dataset:
        """Return the set.

        Raises:
            InputError: If the files are missing or damaged and may not or cannot be downloaded.
        """
        from torchvision.datasets import CIFAR10

        return _load_cifar("CIFAR-10", CIFAR10, self.root, self.download)


@dataclass(frozen=True)
class Cifar100:
    """CIFAR-100 (Krizhevsky 2009) with its 100 fine classes; otherwise as ``Cifar10``."""

    root: str = "data"
    download: bool = True

    def load(self) -> Dataset:
        """Return the set.

        Raises:
            InputError: If the files are missing or damaged and may not or cannot be downloaded.
        """
        from torchvision.datasets import CIFAR100

        return _load_cifar("CIFAR-100", CIFAR100, self.root, self.download)


def check_image_size(value: Any) -> None:
    """Raise ``InputError`` unless ``value`` can be the side of an image in pixels."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"data.image_size={value!r} cannot be used: set it to a whole number of pixels, 1 or more.")


def _digest_pools(classes: tuple[str, ...], *pools: MemoryPool | None) -> str:
    digest = hashlib.blake2b(json.dumps(classes).encode(), digest_size=16)
    for pool in pools:
        if pool is not None:
            digest.update(json.dumps([len(pool), *pool.shape]).encode())
            digest.update(pool.images.contiguous().numpy().data)
            digest.update(pool.labels.numpy().data)
    return digest.hexdigest()


# ---- torchvision's sets


def _load_cifar(name: str, cls: Any, root: str, download: bool) -> Dataset:
    folder = Path(root).expanduser()
    archive = folder / cls.filename
    try:
        # An archive that lies there intact is only unpacked: no network is used, so `download` is not asked.
        fetch = download or _matches(archive, cls.tgz_md5)
        with _connect_timeout(_CONNECT_SECONDS):
            parts = {part: cls(str(folder), train=part == "train", download=fetch) for part in ("train", "test")}
    except (OSError, RuntimeError, EOFError) as error:
        own = f"put {cls.filename} (MD5 {cls.tgz_md5}) into it yourself"
        reason = str(getattr(error, "reason", error)).rstrip(".")
        if isinstance(error, OSError) and not isinstance(error, urllib.error.URLError | TimeoutError | ConnectionError):
            raise InputError(
                f"data.root={root!r} cannot be used for {name} ({reason}): name a folder that can be written."
            ) from None
        if download:
            raise InputError(
                f"data.root={root!r} holds no intact {name} and {cls.url} could not be downloaded ({reason}): "
                f"check the network, or {own}."
            ) from None
        damaged = _exists(archive) or _exists(folder / cls.base_folder)
        state = f"damaged {name} files" if damaged else f"no {name}"
        raise InputError(f"data.root={root!r} holds {state}: set data.download=true, or {own}.") from None

    def pool(part: str) -> MemoryPool:
        images = torch.from_numpy(parts[part].data).permute(0, 3, 1, 2)
        return MemoryPool(images, torch.tensor(parts[part].targets, dtype=torch.int64))

    classes = tuple(str(c) for c in parts["train"].classes)
    train, test = pool("train"), pool("test")
    return Dataset(name, classes, train, test, _digest_pools(classes, train, test), "as published")


def _exists(path: Path) -> bool:
    # Path.exists and Path.is_dir raise PermissionError before Python 3.14 where a folder above may not be searched.
    return os.path.exists(path)


def _matches(path: Path, md5: str) -> bool:
    from torchvision.datasets.utils import check_integrity

    return bool(check_integrity(str(path), md5))


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    # torchvision's urlopen has no time limit of its own: behind a firewall that drops packets it would hang.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# ---- folders of images
