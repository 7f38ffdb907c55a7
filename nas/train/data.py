"""The three parts of an image set, where their pixels live, and the batches that training and scoring draw from them.

Knows nothing of models. A search reads the training and the validation part only.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nas.errors import InputError
from nas.train.augment import EpochPlan, plan_epoch, step_shape, take
from nas.train.datasets import Dataset, ImagePool, Source
from nas.train.settings import DataSettings

TEST_FRACTION = 0.2
"""Share of a set without a test part of its own that is held out for good."""

_STATISTICS_IMAGES = 16384
_STATISTICS_CHUNK = 256
_PLACE_CHUNK = 4096

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DataRequest:
    """What to load and how to split it; plain data, picklable."""

    source: Source
    settings: DataSettings
    seed: int


@dataclass(frozen=True, eq=False)
class Split:
    """Indices, ascending int64; ``test`` points into the set's own test part if it has one, all others into ``Dataset.train``."""

    train: Tensor
    validation: Tensor
    test: Tensor

    @property
    def digest(self) -> str:
        """A digest of the three index lists."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.train, self.validation, self.test):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.numpy().astype("<i8").tobytes())
        return digest.hexdigest()


def split_dataset(dataset: Dataset, validation_fraction: float, seed: int) -> Split:
    """Split a set into train, validation and test, each class in proportion and in every part.

    The test part is the set's own, or else a stratified ``TEST_FRACTION`` that does not depend on ``seed``.

    Raises:
        InputError: If a class has fewer images than there are parts to fill, or if labels are not what they should be.
    """
    labels = _checked_labels(dataset, dataset.train)
    rest = np.arange(len(labels))
    counts = np.bincount(labels, minlength=len(dataset.classes))
    parts = ["train", "validation"] if dataset.test is not None else ["train", "validation", "test"]
    for name, count in zip(dataset.classes, counts.tolist(), strict=True):
        if count < len(parts):
            raise InputError(
                f"class {name!r} of data set {dataset.name!r} has {count} image(s) for {len(parts)} parts ({', '.join(parts)}): "
                "add images or remove the class."
            )
    if dataset.test is not None:
        test = np.arange(len(_checked_labels(dataset, dataset.test)))
    else:
        rest, test = _stratified(rest, labels, TEST_FRACTION, seed=0)
    train, validation = _stratified(rest, labels, validation_fraction, seed)
    return Split(*(torch.from_numpy(part) for part in (train, validation, test)))


def _checked_labels(dataset: Dataset, pool: ImagePool) -> np.ndarray[Any, np.dtype[np.int64]]:
    labels = pool.labels
    if labels.dtype != torch.int64 or labels.shape != (len(pool),):
        raise InputError(
            f"data set {dataset.name!r}: labels are {labels.dtype} {tuple(labels.shape)}, "
            f"they must be torch.int64 ({len(pool)},)."
        )
    if len(dataset.classes) < 2:
        raise InputError(f"data set {dataset.name!r} has {len(dataset.classes)} class(es): there must be two or more.")
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(dataset.classes)):
        raise InputError(
            f"data set {dataset.name!r}: labels go from {int(labels.min())} to {int(labels.max())}, "
            f"with {len(dataset.classes)} classes they must go from 0 to {len(dataset.classes) - 1}."
        )
    if tuple(pool.shape) != tuple(dataset.train.shape):
        raise InputError(f"data set {dataset.name!r}: test images are {pool.shape} and training images {dataset.train.shape}.")
    return labels.cpu().numpy()


def _stratified(
    indices: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], fraction: float, seed: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return (rest, taken): ``fraction`` of each class is taken, but at least one image of it and never all.

    scikit-learn's splitter would leave classes of few images out of a part altogether.
    """
    # RandomState's streams are frozen for good (NEP 19), so a split does not change with a library's version.
    random = np.random.RandomState(seed)
    taken: list[np.ndarray[Any, Any]] = []
    for label in np.unique(labels[indices]):
        members = indices[labels[indices] == label]
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        taken.append(random.permutation(members)[:count])
    chosen = np.sort(np.concatenate(taken))
    return np.setdiff1d(indices, chosen), chosen


class _Store(Protocol):
    """The training images (first) and the validation images (after them) behind one interface, wherever they live."""

    def training(self, plan: EpochPlan) -> Iterator[Tensor]:
        """Yield uint8 ``[n, H, W, C]`` on the device, augmented, step by step."""

    def plain(self, rows: Sequence[slice]) -> Iterator[Tensor]:
        """Yield uint8 ``[n, H, W, C]`` on the device for each span of rows."""


@dataclass(frozen=True, eq=False)
class _Resident:
    images: Tensor  # uint8 [N, H, W, C] on the device

    def training(self, plan: EpochPlan) -> Iterator[Tensor]:
        plan = plan.to(self.images.device)
        for step, rows in enumerate(plan.order):
            yield take(self.images, rows, *plan.moves(step))

    def plain(self, rows: Sequence[slice]) -> Iterator[Tensor]:
        for span in rows:
            yield self.images[span]


@dataclass(frozen=True, eq=False)
class _Streamed:
    pool: ImagePool
    indices: Tensor  # row -> index into the pool
    workers: int
    device: torch.device

    def training(self, plan: EpochPlan) -> Iterator[Tensor]:
        here = plan.to(self.device)
        everyone = torch.arange(plan.order.shape[1], device=self.device)
        for step, images in enumerate(self._read([self.indices[rows] for rows in plan.order])):
            yield take(images, everyone, *here.moves(step))

    def plain(self, rows: Sequence[slice]) -> Iterator[Tensor]:
        return self._read([self.indices[span] for span in rows])

    def _read(self, batches: list[Tensor]) -> Iterator[Tensor]:
        from torch.utils.data import DataLoader

        loader = DataLoader(
            _Reader(self.pool),
            sampler=batches,
            batch_size=None,
            num_workers=min(self.workers, len(batches)),
            pin_memory=self.device.type == "cuda",
            # Without one of its own the loader draws from torch's global stream, and a model's dropout would change with it.
            generator=torch.Generator(),
        )
        for images in loader:
            if isinstance(images, InputError):
                raise images
            yield images.to(self.device, non_blocking=True).permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True, eq=False)
class _Reader(torch.utils.data.Dataset[Any]):
    pool: ImagePool

    def __getitem__(self, indices: Tensor) -> Tensor | InputError:
        try:
            return self.pool.read(indices)
        except InputError as error:
            # Raised here it would arrive wrapped in the worker's traceback.
            return error


@dataclass(frozen=True, eq=False)
class TrainBatches:
    """One epoch's batches: every pass over it yields the same ones. ``len()`` is the number of steps."""

    bundle: DataBundle
    batch_size: int
    epoch: int
    seed: int
    labels: Tensor
    rank: int = 0
    of: int = 1

    @property
    def images(self) -> int:
        """Images that one pass shows."""
        steps, size = step_shape(len(self.labels), self.batch_size)
        return steps * (size // self.of)

    def __len__(self) -> int:
        return step_shape(len(self.labels), self.batch_size)[0]

    def __iter__(self) -> Iterator[Batch]:
        bundle, settings = self.bundle, self.bundle.settings
        plan = plan_epoch(len(self.labels), self.batch_size, self.epoch, self.seed, settings.crop_padding, settings.flip)
        plan = plan.share(self.rank, self.of)
        labels = self.labels[plan.order.to(bundle.device, non_blocking=True)]
        for step, images in enumerate(bundle.store.training(plan)):
            yield bundle.normalised(images), labels[step]


@dataclass(frozen=True, eq=False)
class EvalBatches:
    """All images of a part in their order, none left out and none augmented."""

    bundle: DataBundle
    store: _Store
    first: int
    labels: Tensor
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        spans = _spans(self.first, self.first + len(self.labels), self.batch_size)
        for images, labels in zip(self.store.plain(spans), torch.split(self.labels, self.batch_size), strict=True):
            yield self.bundle.normalised(images), labels


@dataclass(frozen=True, eq=False)
class DataBundle:
    """A split set, ready to be drawn from on one device.

    Attributes:
        name: The set's name.
        classes: Class names.
        input_shape: Channels, height and width.
        settings: How it was split and is augmented.
        split: The three index lists.
        fingerprint: The set's digest.
        mean: Per channel, of pixels scaled to 0..1, over the training part (at most 16,384 images of it, evenly spaced).
        std: As ``mean``; never below one grey level, so that a constant channel does not divide by zero.
        resident: Whether the training and validation images live on the device.
        device: Where batches come out.
        store: The training images (rows 0 to n - 1) and the validation images (the rows after them).
        train_labels: int64 on the device, by row of the training part.
        validation_labels: As ``train_labels``.
    """

    name: str
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    settings: DataSettings
    split: Split
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resident: bool
    device: torch.device
    store: _Store
    train_labels: Tensor
    validation_labels: Tensor
    _scale: Tensor
    _offset: Tensor
    _test_pool: ImagePool
    _has_own_test: bool
    _preparation: str
    _skipped: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def sizes(self) -> dict[str, int]:
        """Images in each part."""
        return {part: len(getattr(self.split, part)) for part in ("train", "validation", "test")}

    @property
    def split_digest(self) -> str:
        """Digest of the three index lists."""
        return self.split.digest

    def train_batches(self, batch_size: int, epoch: int, seed: int, rank: int = 0, of: int = 1) -> TrainBatches:
        """Return the epoch's batches ``(x, y)``: float32 ``[n, C, H, W]`` (channels_last strides), int64 ``[n]``.

        Of several processes each takes its share of every batch.
        """
        return TrainBatches(self, batch_size, epoch, seed, self.train_labels, rank, of)

    def all_batches(self, batch_size: int, epoch: int, seed: int, rank: int = 0, of: int = 1) -> TrainBatches:
        """Return an epoch's batches of the training and the validation part together: of each, one process's share."""
        return TrainBatches(self, batch_size, epoch, seed, torch.cat([self.train_labels, self.validation_labels]), rank, of)

    def validation_batches(self, batch_size: int) -> EvalBatches:
        """Return the validation part's batches; the last one may be smaller."""
        return EvalBatches(self, self.store, self.sizes["train"], self.validation_labels, batch_size)

    def test_batches(self, batch_size: int) -> EvalBatches:
        """Return the test part's batches, read from where the set lies; a search never calls this."""
        store = _Streamed(self._test_pool, self.split.test, self.settings.workers, self.device)
        labels = self._test_pool.labels[self.split.test].to(self.device)
        return EvalBatches(self, store, 0, labels, batch_size)

    def normalised(self, images: Tensor) -> Tensor:
        """Turn uint8 ``[n, H, W, C]`` into float32 ``[n, C, H, W]`` of mean 0 and deviation 1, in channels_last strides."""
        n, H, W, C = images.shape
        # Broadcast over whole rows: over C alone the inner loop would be three elements long.
        rows = images.reshape(n, H, W * C).to(torch.float32).mul_(self._scale).add_(self._offset)
        return rows.reshape(n, H, W, C).permute(0, 3, 1, 2)

    def facts(self) -> dict[str, Any]:
        """Return what a study records of its data, as plain data."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
            "classes": list(self.classes),
            "sizes": self.sizes,
            "test_part": "own" if self._has_own_test else f"fixed stratified {TEST_FRACTION:.0%}",
            "split_digest": self.split_digest,
            "mean": list(self.mean),
            "std": list(self.std),
            "preparation": self._preparation,
            "skipped": list(self._skipped),
            "resident": self.resident,
        }


_LOCK = threading.Lock()
_last: list[tuple[DataRequest, bytes | None, torch.device, DataBundle]] = []


def load_bundle(request: DataRequest, device: torch.device | str) -> DataBundle:
    """Load, split and place a set. The last one is kept, so that all candidates of a study share it.

    Raises:
        InputError: If the set cannot be used, or does not fit where ``data.resident_budget_mb`` puts it.
    """
    place = indexed(device)
    with _LOCK:
        for known, pickled, where, bundle in _last:
            # A user's plain class has no equality of its own, and comes to a worker as a new object each time.
            if where == place and (known == request or (pickled is not None and pickled == _pickled(request))):
                return bundle
        _last.clear()  # two sets at once may be more than the device holds
        pickled = _pickled(request)  # before it is loaded, by which it may change
        bundle = _load(request, place)
        _last.append((request, pickled, place, bundle))
        return bundle


def _pickled(request: DataRequest) -> bytes | None:
    """Return a digest of what it pickles to, ``None`` where it cannot be pickled."""
    try:
        return hashlib.blake2b(pickle.dumps(request)).digest()
    except Exception:  # noqa: BLE001 - whatever a user's class does
        return None


def indexed(device: torch.device | str) -> torch.device:
    """Return the device with its number: ``cuda`` is the current one."""
    found = torch.device(device)
    if str(found) == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return found


def _load(request: DataRequest, device: torch.device) -> DataBundle:
    settings = request.settings
    dataset = request.source.load()
    C, H, W = dataset.train.shape
    if settings.crop_padding >= min(H, W):
        raise InputError(
            f"data.crop_padding={settings.crop_padding} cannot be used with images of {H}x{W} pixels: "
            f"it must be smaller than their side, so set it to {min(H, W) - 1} or less."
        )
    split = split_dataset(dataset, settings.validation_fraction, request.seed)
    indices = torch.cat([split.train, split.validation])
    nbytes = len(indices) * C * H * W
    resident = nbytes <= settings.resident_budget_mb * 1e6
    store: _Store
    if resident:
        store = _Resident(_place(dataset.train, indices, nbytes, device))
    else:
        store = _Streamed(dataset.train, indices, settings.workers, device)
    mean, std = _statistics(store, len(split.train))
    scale = 1 / (255 * std)
    labels = dataset.train.labels
    return DataBundle(
        name=dataset.name,
        classes=tuple(dataset.classes),
        input_shape=(C, H, W),
        settings=settings,
        split=split,
        fingerprint=dataset.fingerprint,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        resident=resident,
        device=device,
        store=store,
        train_labels=labels[split.train].to(device),
        validation_labels=labels[split.validation].to(device),
        _scale=scale.to(torch.float32).repeat(W).to(device),
        _offset=(-mean / std).to(torch.float32).repeat(W).to(device),
        _test_pool=dataset.train if dataset.test is None else dataset.test,
        _has_own_test=dataset.test is not None,
        _preparation=dataset.preparation,
        _skipped=tuple(dataset.skipped),
    )


def _place(pool: ImagePool, indices: Tensor, nbytes: int, device: torch.device) -> Tensor:
    C, H, W = pool.shape
    try:
        out = torch.empty((len(indices), H, W, C), dtype=torch.uint8, device=device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InputError(
            f"data.resident_budget_mb lets {nbytes / 1e6:.0f} MB of images onto {device}, which has no room for them: lower it."
        ) from error
    for start in range(0, len(indices), _PLACE_CHUNK):
        images = pool.read(indices[start : start + _PLACE_CHUNK])
        out[start : start + len(images)] = images.permute(0, 2, 3, 1).to(device)
    return out


def _statistics(store: _Store, train: int) -> tuple[Tensor, Tensor]:
    """Return mean and deviation per channel of pixels scaled to 0..1, float64 on the CPU, exact over the images read."""
    stride = -(-train // _STATISTICS_IMAGES)
    # Whole histograms of integers: the same figures on every device and whichever way the images come.
    counted = [_histogram(images) for images in store.plain(_spans(0, train, _STATISTICS_CHUNK * stride, stride))]
    histogram = torch.stack(counted).sum(0)
    share = histogram.to(torch.float64) / histogram[0].sum()
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ level
    std = (share @ level.square() - mean.square()).clamp_min(0).sqrt().clamp_min(1 / 255)
    return mean, std


def _histogram(images: Tensor) -> Tensor:
    channels = images.reshape(-1, images.shape[-1]).unbind(-1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels]).cpu()


def _spans(first: int, last: int, size: int, stride: int = 1) -> list[slice]:
    return [slice(start, min(start + size, last), stride) for start in range(first, last, size)]
