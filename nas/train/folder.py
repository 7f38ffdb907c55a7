"""An image set in a folder of class folders: its parts found, its files decoded to squares, bad ones named or left out.

What a set is, and the sets that come with a library, are ``datasets``'s.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from nas.errors import InputError
from nas.train.datasets import Dataset, check_image_size

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

log = logging.getLogger(__name__)

Mode = Literal["RGB", "L"]
OnBadImage = Literal["fail", "skip"]

_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".tga"),
)
# Pillow also opens formats that run other programs (EPS starts Ghostscript): a folder of images never needs those.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
_CHUNK = 64
_SMALL_FILE = 16_000


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images: ``root/train/<class>/…`` with ``root/test/<class>/…``, or ``root/<class>/…`` without a test part.

    Every image is turned upright by its EXIF orientation, converted to ``mode`` (12- and 16-bit grey is scaled to 8 bits,
    transparent pixels are laid over white), cropped to its central square and resized (bicubic). Every file is decoded
    once when the set is loaded, so that a bad one shows before a search starts and not on its second day.

    Attributes:
        root: The folder.
        image_size: Side of the square that every image becomes, in pixels.
        mode: ``RGB`` or ``L`` (grey).
        on_bad_image: ``fail`` stops at an image that cannot be read; ``skip`` leaves it out, warns and records it.
        decoded_budget_mb: Decoded images stay in the host's memory if all of them together are no larger
            (MB = 10^6 bytes); otherwise they are decoded again whenever they are needed.
    """

    root: str
    image_size: int
    mode: Mode = "RGB"
    on_bad_image: OnBadImage = "fail"
    decoded_budget_mb: float = 2048.0

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        for key, value, allowed in (
            ("mode", self.mode, get_args(Mode)),
            ("on_bad_image", self.on_bad_image, get_args(OnBadImage)),
        ):
            if value not in allowed:
                raise InputError(f"data.{key}={value!r} cannot be used: set it to {' or '.join(allowed)}.")
        if not self.decoded_budget_mb >= 0:
            raise InputError(f"data.decoded_budget_mb={self.decoded_budget_mb} cannot be used: set it to 0 or more.")

    def load(self) -> Dataset:
        """Find, check and decode the images.

        Raises:
            InputError: If the folder is missing, holds fewer than two classes or a class without images, if the classes of
                its test part are others, or (``on_bad_image=fail``) if an image cannot be read.
        """
        root = Path(self.root).expanduser()
        parts = _find_parts(root, self.root)
        classes = tuple(parts["train"])
        pools: dict[str, FolderPool] = {}
        skipped: list[str] = []
        digest = hashlib.blake2b(json.dumps([classes, self.image_size, self.mode]).encode(), digest_size=16)
        for part, folders in parts.items():
            pools[part], bad = self._load_part(root, part, folders, digest.update)
            skipped += bad
        if skipped:
            log.warning("%d image(s) of %s cannot be read and are left out, the first is %s", len(skipped), root, skipped[0])
        preparation = (
            f"{self.mode}; EXIF-upright; central square resized to {self.image_size} px, bicubic; "
            "16-bit grey scaled to 8 bits; transparency over white"
        )
        name = root.resolve().name or "images"
        return Dataset(name, classes, pools["train"], pools.get("test"), digest.hexdigest(), preparation, tuple(skipped))

    def _load_part(
        self, root: Path, part: str, folders: dict[str, list[Path]], update: Callable[[bytes], None]
    ) -> tuple[FolderPool, list[str]]:
        files = [(path, label) for label, paths in enumerate(folders.values()) for path in paths]
        channels = 3 if self.mode == "RGB" else 1
        # The test part is checked but not kept: a search does not read it.
        keep = part == "train" and len(files) * channels * self.image_size**2 <= self.decoded_budget_mb * 1e6
        kept = np.empty((len(files), self.image_size, self.image_size, channels), np.uint8) if keep else None
        good: list[int] = []
        skipped: list[str] = []
        for position, found in enumerate(_decoded(files, self.image_size, self.mode)):
            path, label = files[position]
            if isinstance(found, _Bad):
                if self.on_bad_image == "fail":
                    raise InputError(
                        f"{_shown(path)} cannot be read as an image ({found.reason}): repair or remove it, "
                        "or set data.on_bad_image=skip."
                    )
                skipped.append(_shown(path))
                continue
            digest, pixels = found
            if kept is not None:
                kept[len(good)] = pixels
            good.append(position)
            # A name is bytes, which need not be UTF-8.
            update(os.fsencode(f"{part}/{label}/{path.relative_to(root).as_posix()}\0") + digest)
        labels = torch.tensor([files[i][1] for i in good], dtype=torch.int64)
        counts = torch.bincount(labels, minlength=len(folders))
        if empty := [name for name, count in zip(folders, counts.tolist(), strict=True) if count == 0]:
            raise InputError(f"data.root={self.root!r}: no image of class {empty[0]!r} in its {part} part can be read: add some.")
        pool = FolderPool(
            files=tuple(str(files[i][0]) for i in good),
            labels=labels,
            image_size=self.image_size,
            mode=self.mode,
            decoded=None if kept is None else torch.from_numpy(kept[: len(good)]).permute(0, 3, 1, 2),
        )
        return pool, skipped


@dataclass(frozen=True, eq=False)
class FolderPool:
    """Image files, decoded when they are read or kept decoded.

    Attributes:
        files: Paths.
        labels: int64 ``[N]``.
        image_size: Side of the square that every image becomes.
        mode: ``RGB`` or ``L``.
        decoded: uint8 ``[N, C, H, W]``, or ``None`` to decode at every reading.
    """

    files: tuple[str, ...]
    labels: Tensor
    image_size: int
    mode: Mode
    decoded: Tensor | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (3 if self.mode == "RGB" else 1), self.image_size, self.image_size

    @property
    def nbytes(self) -> int:
        """Bytes of all images once decoded."""
        C, H, W = self.shape
        return len(self) * C * H * W

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return uint8 ``[n, C, H, W]``.

        Raises:
            InputError: If a file that could be read when the set was loaded cannot be any more.
        """
        wanted = torch.as_tensor(indices, dtype=torch.int64)
        if self.decoded is not None:
            return self.decoded[wanted]
        C, H, W = self.shape
        out = np.empty((len(wanted), H, W, C), np.uint8)
        files = [(Path(self.files[i]), 0) for i in wanted.tolist()]
        for row, found in enumerate(_decoded(files, self.image_size, self.mode)):
            if isinstance(found, _Bad):
                raise InputError(
                    f"{_shown(files[row][0])} cannot be read any more ({found.reason}): restore it and start the command again."
                )
            out[row] = found[1]
        return torch.from_numpy(out).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Bad:
    reason: str


def _find_parts(root: Path, given: str) -> dict[str, dict[str, list[Path]]]:
    if not os.path.isdir(root):
        raise InputError(
            f"data.root={given!r} is not a folder that can be read: name one that holds <class>/ or train/<class>/ folders "
            "of images."
        )
    folders: dict[str, dict[str, Path]]
    try:
        top = _folders(root)
        if _folders(root / "train"):
            folders = {part: _folders(root / part) for part in ("train", "test") if part in top}
            if others := sorted(set(top) - {"train", "test"}):
                log.warning("%s: %s beside train/ and test/ is not used", root, ", ".join(f"{name}/" for name in others))
        elif set(top) <= {"train", "test"} and top:
            raise InputError(f"data.root={given!r}: train/ has no class folders: put images into train/<class>/.")
        else:
            folders = {"train": top}
        parts = {part: {name: _image_files(path) for name, path in inside.items()} for part, inside in folders.items()}
    except OSError as error:
        raise InputError(
            f"data.root={given!r} cannot be read ({error.strerror}: {error.filename}): check its permissions."
        ) from None
    classes = list(parts["train"])
    if len(classes) < 2:
        holds = f"one class only ({classes[0]!r})" if classes else "no class folders"
        raise InputError(
            f"data.root={given!r} holds {holds}: put the images of each class into a folder of its own, two or more."
        )
    for part, files_of in parts.items():
        if unreadable := [name for name in files_of if not _is_text(name)]:
            raise InputError(
                f"data.root={given!r}: the name of class folder {unreadable[0]!r} of its {part} part is no UTF-8: rename it."
            )
        if empty := [name for name, files in files_of.items() if not files]:
            raise InputError(
                f"data.root={given!r}: class folder {empty[0]!r} of its {part} part holds no image: add some or remove it."
            )
    if "test" in parts and (odd := set(parts["test"]) ^ set(classes)):
        raise InputError(
            f"data.root={given!r}: class {min(odd)!r} is in only one of train/ and test/: both must have the same class folders."
        )
    return parts


def _folders(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        return {}
    return {entry.name: entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")}


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: Path) -> str:
    """Return a path for files and screens, whatever bytes it has."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _image_files(folder: Path) -> list[Path]:
    """Return the images of a class, those in linked folders too; a link that leads nowhere counts as an image, a bad one."""
    found: list[Path] = []
    seen: set[str] = set()
    links: list[Path] = []

    def look(top: Path) -> None:
        for where, inside, names in os.walk(top, onerror=_raise):
            real = os.path.realpath(where)
            if real in seen:
                inside.clear()
                continue
            seen.add(real)
            links.extend(Path(where, name) for name in sorted(inside) if Path(where, name).is_symlink())
            found.extend(path for path in (Path(where, name) for name in names) if _is_image(path))

    look(folder)
    own = os.path.realpath(folder)
    while links:  # what can be reached without them has its own name
        link = links.pop(0)
        # A folder above holds the other classes.
        if not Path(own).is_relative_to(os.path.realpath(link)):
            look(link)
    return sorted(found)


def _is_image(path: Path) -> bool:
    named = path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    return named and (path.is_file() or not path.exists())


def _raise(error: OSError) -> None:
    raise error


def _decoded(files: Sequence[tuple[Path, int]], size: int, mode: Mode) -> Iterator[tuple[bytes, npt.NDArray[np.uint8]] | _Bad]:
    """Yield each file's digest and pixels ``[H, W, C]``, or why it is bad, in the given order."""

    def work(start: int) -> list[tuple[bytes, npt.NDArray[np.uint8]] | _Bad]:
        return [_read_file(path, size, mode) for path, _ in files[start : start + _CHUNK]]

    starts = range(0, len(files), _CHUNK)
    # A loader's worker is one of several already.
    threads = 1 if torch.utils.data.get_worker_info() or _small(files) else min(_cores(), len(starts))
    if threads <= 1:
        for start in starts:
            yield from work(start)
        return
    executor = ThreadPoolExecutor(threads)
    try:
        # No more than a few chunks ahead: a set that does not fit into memory must not be decoded into it.
        pending = [executor.submit(work, start) for start in starts[: 2 * threads]]
        for start in starts:
            yield from pending.pop(0).result()
            if start + 2 * threads * _CHUNK < len(files):
                pending.append(executor.submit(work, start + 2 * threads * _CHUNK))
    finally:
        executor.shutdown(cancel_futures=True)


def _small(files: Sequence[tuple[Path, int]]) -> bool:
    # Opening a small file is Python's work, under its global lock: threads only get in each other's way.
    sizes = [path.stat().st_size for path, _ in files[:_CHUNK] if os.path.exists(path)]
    return sum(sizes) < _SMALL_FILE * len(sizes)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_file(path: Path, size: int, mode: Mode) -> tuple[bytes, npt.NDArray[np.uint8]] | _Bad:
    try:
        data = path.read_bytes()
        return hashlib.blake2b(data, digest_size=16).digest(), decode(data, size, mode)
    # Pillow's decoders raise whatever a damaged file makes them raise; all of it means that this file is bad.
    except Exception as error:  # noqa: BLE001
        reason = getattr(error, "strerror", None) or str(error).replace("\n", " ").rstrip(".") or type(error).__name__
        return _Bad("not an image in a known format" if reason.startswith("cannot identify image file") else reason)


def decode(data: bytes, size: int, mode: Mode) -> npt.NDArray[np.uint8]:
    """Return an image file's pixels: upright, in ``mode``, its central square resized; uint8 ``[size, size, C]``.

    Raises:
        OSError: Or another of Pillow's errors, if the data is damaged or its pixels have no fixed range.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data), formats=_formats()) as opened:
        # A JPEG is decoded at a fraction of its size when that still leaves two pixels for one.
        opened.draft(None, (2 * size, 2 * size))
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        image = _convert(opened, mode)
        W, H = image.size
        side = min(W, H)
        left, top = (W - side) / 2, (H - side) / 2
        if not W == H == size:
            box = (left, top, left + side, top + side)
            image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
        return np.asarray(image, np.uint8).reshape(size, size, -1)


def _convert(image: Image.Image, mode: Mode) -> Image.Image:
    from PIL import Image, TiffImagePlugin

    if image.mode.startswith("I"):
        bits = 16  # what Pillow spreads the values of other formats over
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            if image.mode == "I":
                raise OSError("its pixels are signed or have 32 bits, which has no fixed range")
            bits = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0]
        # Pillow's own conversion cuts values off at 255 instead of scaling them.
        levels = np.clip(np.asarray(image).astype(np.int64), 0, 2**bits - 1) >> (bits - 8)
        image = Image.fromarray(levels.astype(np.uint8))
    elif image.mode == "F":
        raise OSError("its pixels are floating point, which has no fixed range")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return image if image.mode == mode else image.convert(mode)


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
