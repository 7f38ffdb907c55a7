from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import shutil
import struct
import tarfile
import threading
import urllib.error
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from nas.errors import InputError
from nas.train import folder
from nas.train.datasets import Cifar10, Cifar100, Digits
from nas.train.folder import ImageFolder, decode


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ---- digits


def test_digits_are_scikit_learns() -> None:
    dataset = Digits().load()
    found = load_digits()
    assert dataset.train.shape == (1, 8, 8) and len(dataset.train) == 1797 and dataset.test is None
    images = dataset.train.read(range(1797))
    assert images.dtype == torch.uint8
    np.testing.assert_array_equal(images[:, 0].numpy(), np.rint(found.images * 255 / 16).astype(np.uint8))
    np.testing.assert_array_equal(dataset.train.labels.numpy(), found.target)
    assert dataset.classes == tuple("0123456789")


def test_digits_resized() -> None:
    small, large = Digits().load(), Digits(image_size=16).load()
    assert large.train.shape == (1, 16, 16)
    assert large.fingerprint != small.fingerprint == Digits().load().fingerprint
    # Bilinear enlargement keeps an image's mean but for its border.
    a, b = small.train.read(range(200)).float(), large.train.read(range(200)).float()
    torch.testing.assert_close(b.mean((1, 2, 3)), a.mean((1, 2, 3)), rtol=0.02, atol=0.5)
    with pytest.raises(InputError, match=r"data.image_size=0 cannot be used"):
        Digits(image_size=0)


# ---- CIFAR


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, np.ndarray]]:
    """A tiny set in CIFAR-10's own file format, with its true checksums, in place of the real one."""
    cls = torchvision.datasets.CIFAR10
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 3072), dtype=np.uint8)
    source = tmp_path / "made" / cls.base_folder
    source.mkdir(parents=True)
    names = {"batch_1": (0, 10), "batch_2": (10, 20), "test": (20, 30)}
    for name, (first, last) in names.items():
        content = {"data": pixels[first:last], "labels": list(range(10))}
        (source / name).write_bytes(pickle.dumps(content))
    (source / "meta").write_bytes(pickle.dumps({"label_names": [f"c{i}" for i in range(10)]}))

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes()).hexdigest()

    archive = tmp_path / "made" / cls.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, cls.base_folder)
    monkeypatch.setattr(cls, "train_list", [[n, md5(source / n)] for n in ("batch_1", "batch_2")])
    monkeypatch.setattr(cls, "test_list", [["test", md5(source / "test")]])
    monkeypatch.setattr(cls, "meta", {"filename": "meta", "key": "label_names", "md5": md5(source / "meta")})
    monkeypatch.setattr(cls, "tgz_md5", md5(archive))
    handler = partial(SimpleHTTPRequestHandler, directory=str(archive.parent))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(cls, "url", f"http://127.0.0.1:{server.server_port}/{cls.filename}")
        yield archive, pixels
        server.shutdown()


def test_cifar_downloads_unpacks_and_is_cached(small_cifar: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    archive, pixels = small_cifar
    root = tmp_path / "data"
    dataset = Cifar10(root=str(root)).load()
    archive.unlink()
    again = Cifar10(root=str(root), download=False).load()
    assert dataset.fingerprint == again.fingerprint
    assert dataset.test is not None and (len(dataset.train), len(dataset.test)) == (20, 10)
    expected = torch.from_numpy(pixels).reshape(30, 3, 32, 32)
    assert torch.equal(dataset.train.read(range(20)), expected[:20])
    assert torch.equal(dataset.test.read([3, 1]), expected[[23, 21]])
    assert dataset.classes[3] == "c3" and dataset.train.labels.tolist() == 2 * list(range(10))


def test_cifar_unpacks_an_archive_that_is_there_without_downloading(small_cifar: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    shutil.move(small_cifar[0], root)
    assert len(Cifar10(root=str(root), download=False).load().train) == 20


@pytest.mark.parametrize("damage", ["missing", "archive", "file"])
def test_cifar_missing_or_damaged_without_download(small_cifar: tuple[Path, np.ndarray], tmp_path: Path, damage: str) -> None:
    root = tmp_path / "data"
    if damage == "archive":
        root.mkdir()
        (root / small_cifar[0].name).write_bytes(small_cifar[0].read_bytes()[:-20])
    if damage == "file":
        Cifar10(root=str(root)).load()
        (root / small_cifar[0].name).unlink()
        (root / torchvision.datasets.CIFAR10.base_folder / "batch_2").write_bytes(b"something else")
    state = "no CIFAR-10" if damage == "missing" else "damaged CIFAR-10 files"
    with pytest.raises(InputError, match=f"data.root='{root}' holds {state}: set data.download=true") as caught:
        Cifar10(root=str(root), download=False).load()
    assert "\n" not in str(caught.value)


def test_cifar_damaged_archive_is_fetched_again(small_cifar: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / small_cifar[0].name).write_bytes(b"half of it")
    assert len(Cifar10(root=str(root)).load().train) == 20


def test_cifar_download_fails(small_cifar: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(InputError, match=r"could not be downloaded \(no route to host\): check the network, or put cifar"):
        Cifar10(root=str(tmp_path / "data")).load()


def test_cifar_download_of_something_else(small_cifar: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    small_cifar[0].write_bytes(b"a captive portal's page")
    with pytest.raises(InputError, match="could not be downloaded"):
        Cifar10(root=str(tmp_path / "data")).load()


def test_cifar_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="name a folder that can be written"):
        Cifar100(root=str(tmp_path / "file")).load()


# ---- decoding


def test_decode_keeps_pixels_of_an_image_that_fits() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels)), 16, "RGB"), pixels)


@pytest.mark.parametrize("size", [(40, 16), (16, 40), (7, 5), (33, 33)])
def test_decode_crops_the_centre_and_resizes(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    expected = ImageOps.fit(image, (8, 8), Image.Resampling.BICUBIC)
    difference = np.abs(decode(encoded(image), 8, "RGB").astype(int) - np.asarray(expected).astype(int))
    assert difference.mean() < 5  # large reductions are done in two steps


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_turns_images_upright(orientation: int) -> None:
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF 2.3, tag 274 -> Pillow's transposition
    expected = image if orientation == 1 else image.transpose(Image.Transpose(undo[orientation]))
    np.testing.assert_array_equal(decode(encoded(image, exif=exif), 16, "RGB"), np.asarray(expected))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("stored", ["1", "L", "P", "RGB", "CMYK"])
def test_decode_modes(stored: str, mode: str) -> None:
    grey = np.repeat(np.where(np.indices((8, 8)).sum(0) % 2, 255, 0).astype(np.uint8)[:, :, None], 3, 2)
    image = Image.fromarray(grey).convert(stored)
    found = decode(encoded(image, "TIFF"), 8, mode)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, grey if mode == "RGB" else grey[:, :, :1])


def test_decode_scales_16_bit_grey() -> None:
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for kind in ("PNG", "TIFF", "PPM"):
        found = decode(encoded(Image.fromarray(levels), kind), 16, "L")
        np.testing.assert_array_equal(found[:, :, 0], np.arange(256).reshape(16, 16), err_msg=kind)


def tiff(levels: np.ndarray, bits: int, data: bytes) -> bytes:
    """Return an uncompressed little-endian grey TIFF, whose pixels Pillow itself would not write in so many bits."""
    height, width = levels.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def test_decode_scales_12_bit_grey() -> None:
    levels = (np.arange(256, dtype=np.uint16) * 16 + 7).reshape(16, 16)
    pairs = levels.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1).astype(np.uint8)
    found = decode(tiff(levels, 12, packed.tobytes()), 16, "L")
    np.testing.assert_array_equal(found[:, :, 0], np.arange(256).reshape(16, 16))
    same = decode(tiff(levels, 16, levels.astype("<u2").tobytes()), 16, "L")
    np.testing.assert_array_equal(same[:, :, 0], levels >> 8)


@pytest.mark.parametrize("kind", ["signed", "32 bits"])
def test_decode_refuses_whole_numbers_without_a_fixed_range(kind: str) -> None:
    levels = np.arange(16, dtype=np.int32).reshape(4, 4)
    data = encoded(Image.fromarray(levels), "TIFF") if kind == "signed" else tiff(levels, 32, levels.astype("<u4").tobytes())
    with pytest.raises(OSError, match="signed or have 32 bits, which has no fixed range"):
        decode(data, 4, "L")


def test_decode_lays_transparency_over_white() -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    expected = np.zeros((4, 4, 3), np.uint8)
    expected[2:] = 255
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgba)), 4, "RGB"), expected)
    palette = Image.fromarray(expected[:, :, 0]).convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    found = decode(encoded(palette, transparency=palette.getpixel((0, 0))), 4, "RGB")
    assert (found == 255).all()


def test_decode_refuses_floating_point() -> None:
    with pytest.raises(OSError, match="floating point"):
        decode(encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), 4, "L")


def test_large_jpegs_are_reduced_faithfully() -> None:
    y, x = np.mgrid[0:600, 0:800]
    smooth = np.stack([x * 255 // 799, y * 255 // 599, (x + y) * 255 // 1398], -1).astype(np.uint8)
    image = Image.fromarray(smooth)
    found = decode(encoded(image, "JPEG", quality=95), 32, "RGB").astype(int)
    expected = np.asarray(ImageOps.fit(image, (32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(found - expected).max() <= 4


# ---- folders


def test_folder_with_a_test_part(image_folder) -> None:
    root = image_folder({"train/cat": 5, "train/dog/puppies": 4, "test/cat": 2, "test/dog": 3})
    dataset = ImageFolder(str(root), 8).load()
    assert dataset.classes == ("cat", "dog") and dataset.name == "images"
    assert dataset.train.labels.tolist() == 5 * [0] + 4 * [1]
    assert dataset.test is not None and dataset.test.labels.tolist() == 2 * [0] + 3 * [1]
    assert dataset.train.shape == (3, 8, 8) and dataset.train.nbytes == 9 * 192
    expected = decode((root / "train/dog/puppies/001.png").read_bytes(), 8, "RGB")
    np.testing.assert_array_equal(dataset.train.read([6])[0].permute(1, 2, 0).numpy(), expected)


def test_folder_decodes_on_demand_when_it_is_large(image_folder) -> None:
    root = image_folder({"a": 70, "b": 70})
    kept, read = ImageFolder(str(root), 6).load(), ImageFolder(str(root), 6, decoded_budget_mb=0.0).load()
    assert read.train.decoded is None and kept.train.decoded is not None
    order = torch.randperm(140)
    assert torch.equal(read.train.read(order), kept.train.read(order))
    assert read.fingerprint == kept.fingerprint
    assert b"003.png" in pickle.dumps(read.train)  # it travels to a loader's workers
    (root / "a/003.png").unlink()
    with pytest.raises(InputError, match=r"a/003.png cannot be read any more \(No such file"):
        read.train.read([3])


def test_names_need_not_be_utf8(image_folder, caplog: pytest.LogCaptureFixture) -> None:
    root = image_folder({"a": 3, "b": 3})
    plain = ImageFolder(str(root), 6).load()
    (root / "a/000.png").rename(root / "a" / os.fsdecode(b"caf\xe9.png"))
    dataset = ImageFolder(str(root), 6, decoded_budget_mb=0.0).load()
    assert len(dataset.train) == 6 and dataset.fingerprint != plain.fingerprint
    assert torch.equal(dataset.train.read([2])[0], plain.train.read([0])[0])
    (root / "a" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no")
    with pytest.raises(InputError, match=r"a/caf\\xe9\.png cannot be read as an image"):
        ImageFolder(str(root), 6).load()
    (skipped,) = ImageFolder(str(root), 6, on_bad_image="skip").load().skipped
    assert skipped.encode().endswith(rb"a/caf\xe9.png"), "it goes into files, which are UTF-8"
    (root / "b").rename(root / os.fsdecode(b"\xff"))
    with pytest.raises(InputError, match=r"the name of class folder '\\udcff' of its train part is no UTF-8: rename it\."):
        ImageFolder(str(root), 6).load()


def test_linked_folders_are_followed_and_never_for_ever(image_folder, tmp_path: Path) -> None:
    root = image_folder({"a": 2, "b": 2})
    elsewhere = image_folder({"c/deep": 3}, root="elsewhere")
    (root / "a/more").symlink_to(elsewhere / "c")
    (elsewhere / "c/deep/back").symlink_to(root / "a")
    (root / "a/again").symlink_to(root / "a")
    dataset = ImageFolder(str(root), 8).load()
    assert dataset.train.labels.tolist() == [0] * 5 + [1] * 2
    read = ImageFolder(str(root), 8, decoded_budget_mb=0.0).load()
    assert [Path(name).relative_to(root).as_posix() for name in read.train.files[:5]] == [
        *("a/000.png", "a/001.png", "a/more/deep/000.png", "a/more/deep/001.png", "a/more/deep/002.png")
    ]


@pytest.mark.parametrize("target", ["nowhere.png", "itself"])
def test_a_link_that_leads_nowhere_is_a_bad_image(image_folder, target: str) -> None:
    root = image_folder({"a": 2, "b": 2})
    link = root / "a/000.png"
    link.unlink()
    link.symlink_to(link if target == "itself" else root / target)
    with pytest.raises(InputError, match=r"a/000\.png cannot be read as an image \("):
        ImageFolder(str(root), 8).load()
    assert ImageFolder(str(root), 8, on_bad_image="skip").load().skipped == (str(link),)


def test_folder_fingerprint_is_of_content(image_folder, tmp_path: Path) -> None:
    root = image_folder({"a": 3, "b": 3})
    shutil.copytree(root, tmp_path / "moved")

    def fingerprint(where: Path = root, size: int = 8, mode: str = "RGB") -> str:
        return ImageFolder(str(where), size, mode).load().fingerprint  # type: ignore[arg-type]

    first = fingerprint()
    assert fingerprint(tmp_path / "moved") == first
    others = {fingerprint(size=9), fingerprint(mode="L")}
    (root / "a/000.png").replace(root / "a/010.png")
    others.add(fingerprint())
    (root / "a/010.png").replace(root / "b/010.png")
    others.add(fingerprint())
    content = bytearray((root / "b/001.png").read_bytes())
    (root / "b/001.png").write_bytes((root / "b/002.png").read_bytes())
    others.add(fingerprint())
    assert len(content) and len(others | {first}) == 6


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated", "gif header"])
def test_bad_images_fail_or_are_skipped(image_folder, caplog: pytest.LogCaptureFixture, content: bytes | str) -> None:
    root = image_folder({"a": 3, "b": 3})
    bad = root / "a/001.png"
    if content == "truncated":
        content = bad.read_bytes()[:150]
    elif content == "gif header":
        content = b"GIF89a\x10\x00\x10\x00\x80"
    bad.write_bytes(content)
    with pytest.raises(InputError, match=r"images/a/001.png cannot be read as an image \(.*data.on_bad_image=skip") as caught:
        ImageFolder(str(root), 8).load()
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING, "nas.train.folder"):
        dataset = ImageFolder(str(root), 8, on_bad_image="skip").load()
    assert "1 image(s)" in caplog.text
    assert dataset.skipped == (str(bad),) and dataset.train.labels.tolist() == [0, 0, 1, 1, 1]
    good = [root / name for name in ("a/000.png", "a/002.png", "b/000.png")]
    expected = np.stack([decode(path.read_bytes(), 8, "RGB") for path in good])
    np.testing.assert_array_equal(dataset.train.read(range(3)).permute(0, 2, 3, 1).numpy(), expected)


def test_bad_test_images_show_at_once(image_folder) -> None:
    root = image_folder({"train/a": 2, "train/b": 2, "test/a": 2, "test/b": 2})
    (root / "test/b/000.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"test/b/000\.png"):
        ImageFolder(str(root), 8).load()


def test_a_class_of_bad_images_only(image_folder) -> None:
    root = image_folder({"a": 2, "b": 1})
    (root / "b/000.png").write_bytes(b"no")
    with pytest.raises(InputError, match="no image of class 'b'"):
        ImageFolder(str(root), 8, on_bad_image="skip").load()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({}, "is not a folder that can be read"),
        ({"": 3}, "no class folders"),
        ({"a": 3}, r"one class only \('a'\)"),
        ({"a": 3, "b": 0}, "'b' of its train part holds no image"),
        ({"train": 3, "test": 3}, "train/ has no class folders"),
        ({"test/a": 3, "test/b": 3}, "train/ has no class folders"),
        ({"train/a": 2, "train/b": 2, "test/a": 2, "test/c": 2}, "class 'b' is in only one of train/ and test/"),
        ({"train/a": 2, "train/b": 2, "test": 0}, "class 'a' is in only one"),
        ({"train/a": 2, "train/b": 2, "test/a": 2, "test/b": 0}, "'b' of its test part holds no image"),
    ],
)
def test_folders_that_cannot_be_used(image_folder, tmp_path: Path, layout: dict[str, int], message: str) -> None:
    image_folder(layout)
    with pytest.raises(InputError, match=message) as caught:
        ImageFolder(str(tmp_path / "images"), 8).load()
    assert str(caught.value).startswith("data.root=") and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [ImageFolder, Cifar10])
def test_a_place_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    stat = os.stat

    def as_a_user(path: object, *args: object, **kwargs: object) -> os.stat_result:
        if str(path).startswith(str(tmp_path / "closed" / "inside")):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **kwargs)  # type: ignore[call-overload]

    # Tests may run as root, who may look everywhere.
    monkeypatch.setattr(os, "stat", as_a_user)
    options = {"image_size": 8} if kind is ImageFolder else {"download": False}
    with pytest.raises(InputError, match=r"data\.root=.*inside"):
        kind(root=str(tmp_path / "closed" / "inside"), **options).load()


def test_other_files_and_folders(image_folder, caplog: pytest.LogCaptureFixture) -> None:
    root = image_folder({"train/a": 2, "train/b": 2, "val/a": 2, ".hidden/x": 1})
    (root / "train/a/notes.txt").write_text("hello")
    (root / "train/a/.000.png").write_bytes(b"a file manager's")
    with caplog.at_level(logging.WARNING, "nas.train.folder"):
        assert len(ImageFolder(str(root), 8).load().train) == 4
    assert "val/ beside train/ and test/ is not used" in caplog.text and "hidden" not in caplog.text


def test_a_class_may_be_called_train(image_folder) -> None:
    assert ImageFolder(str(image_folder({"car": 2, "train": 2})), 8).load().classes == ("car", "train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "data.image_size=0"),
        ({"image_size": 8.0}, "data.image_size=8.0"),
        ({"mode": "BGR"}, "data.mode='BGR' cannot be used: set it to RGB or L"),
        ({"on_bad_image": "ignore"}, "data.on_bad_image='ignore'"),
        ({"decoded_budget_mb": -1.0}, "data.decoded_budget_mb=-1.0"),
    ],
)
def test_folder_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageFolder(**{"root": "x", "image_size": 8, **arguments})  # type: ignore[arg-type]


def test_formats_that_run_programs_are_not_opened() -> None:
    assert "EPS" not in folder._formats() and "JPEG" in folder._formats()
    eps = encoded(Image.new("RGB", (4, 4)), "EPS")
    with pytest.raises(OSError, match="cannot identify"):
        decode(eps, 4, "RGB")
