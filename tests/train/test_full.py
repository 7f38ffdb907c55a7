"""Full training: its parts against closed forms, and that it can be stopped anywhere without leaving a trace in the weights."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import math
import os
import shutil
import traceback
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException

from nas.errors import InputError
from nas.train import full, full_module, mixing
from nas.train.augment import plan_epoch
from nas.train.data import DataRequest, load_bundle
from nas.train.datasets import Digits
from nas.train.ema import MovingAverage
from nas.train.full import FullResult, TrainingDiverged, fit_full, full_learning_rate, newest_checkpoint, resolve_full
from nas.train.recipe import ieee_fp32, score, set_ieee_fp32
from nas.train.settings import DataSettings, FullSettings, NumericFormat, TrainSettings

FP32 = NumericFormat("fp32", "contiguous")
REQUEST = DataRequest(Digits(), DataSettings(validation_fraction=0.2, crop_padding=1), 0)
QUICK = FullSettings(epochs=4, batch_size=256, peak_lr=0.2, mixup_alpha=0.2, erase_probability=0.2, ema_decay=0.9)


def network(dropout: float = 0.1, norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, 10))


def train(
    folder: Path | None, settings: FullSettings = QUICK, model: nn.Module | None = None, **changes: Any
) -> tuple[Any, FullResult]:
    model = network() if model is None else model
    arguments = {"seed": 3, "on": "train+validation", "checkpoints": folder, **changes}
    result = fit_full(model, REQUEST, settings, FP32, "cpu", **arguments)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, result


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Stopped(Exception):  # noqa: N818
    pass


class Noting:
    """Told of epochs and held while training: writes both into a file, from whichever process it is in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{what}\n")

    def __call__(self, done: int, total: int, loss: float) -> None:
        self.note(f"epoch {done} {torch.backends.cudnn.conv.fp32_precision} {torch.backends.cuda.matmul.fp32_precision}")

    def __enter__(self) -> None:
        self.note("enter")

    def __exit__(self, *raised: object) -> None:
        self.note("exit")

    def give_way(self) -> None:
        self.note("give way")

    def read(self) -> list[str]:
        return self.path.read_text().splitlines()


def gone(done: int, total: int, loss: float) -> None:
    raise InputError("data.root='x' is gone: restore it.")


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, torch.Tensor], FullResult]:
    return train(None)


def test_it_learns(whole: tuple[dict[str, torch.Tensor], FullResult]) -> None:
    state, result = whole
    assert result.epochs == len(result.train_loss) == len(result.learning_rates) == 4 and result.resumed_at == 0
    assert result.train_loss[-1] < result.train_loss[0] and result.images == 1438 // 6 * 6
    model = network()
    model.load_state_dict(state)
    bundle = load_bundle(REQUEST, "cpu")
    assert score(model, bundle.test_batches(256), FP32).top1 > 0.6


@pytest.mark.parametrize("after", [1, 3])
def test_stopped_and_resumed_it_ends_alike(tmp_path: Path, whole: Any, after: int) -> None:
    def stop(done: int, total: int, loss: float) -> None:
        if done == after:
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path, on_epoch=stop)
    state, result = train(tmp_path)
    assert result.resumed_at == after - 1 and result.train_loss == whole[1].train_loss
    assert same(state, whole[0])
    again, result = train(tmp_path)
    assert result.resumed_at == 4 and same(again, whole[0])
    assert len(list(tmp_path.glob("*.ckpt"))) <= 3


def test_a_damaged_checkpoint_falls_back_on_the_one_before(tmp_path: Path, whole: Any) -> None:
    train(tmp_path)
    newest = max(tmp_path.glob("*.ckpt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    state, result = train(tmp_path)
    assert result.resumed_at == 3 and same(state, whole[0])
    for path in tmp_path.glob("*.ckpt"):
        path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no checkpoint can be used.*overwrite=true"):
        train(tmp_path)


def test_a_flipped_byte_in_a_checkpoint_is_noticed(tmp_path: Path, whole: Any) -> None:
    train(tmp_path)
    newest = max(tmp_path.glob("*.ckpt"))
    with zipfile.ZipFile(newest) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(newest.read_bytes())
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 0x01  # within its data: weights that would load
    newest.write_bytes(content)
    state, result = train(tmp_path)
    assert result.resumed_at == 3 and same(state, whole[0])


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    torch.save({"full": print}, tmp_path / "epoch=00001.ckpt")
    with pytest.raises(InputError, match="no checkpoint can be used"):
        newest_checkpoint(tmp_path, {})


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 4}, "seed"),
        ({"on": "train"}, "on"),
        ({"settings": dataclasses.replace(QUICK, epochs=5)}, "epochs"),
        ({"model": network(norm=False)}, "network"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    train(tmp_path)
    with pytest.raises(InputError, match=f"was made with {key}="):
        train(tmp_path, **changes)


def test_other_augmentation_is_another_training(tmp_path: Path) -> None:
    train(tmp_path)
    other = dataclasses.replace(REQUEST, settings=dataclasses.replace(REQUEST.settings, crop_padding=2))
    with pytest.raises(InputError, match="was made with augmentation="):
        fit_full(network(), other, QUICK, FP32, "cpu", 3, on="train+validation", checkpoints=tmp_path)


def test_it_trains_in_bf16_on_a_cpu_too() -> None:
    settings = dataclasses.replace(QUICK, epochs=1, cutmix_alpha=1.0, randaugment_ops=2)
    result = fit_full(network(), REQUEST, settings, NumericFormat("bf16", "contiguous"), "cpu", 3, on="train", checkpoints=None)
    assert math.isfinite(result.train_loss[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gradient_is_clipped_in_either_arithmetic(precision: Any) -> None:
    model = network(0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = dataclasses.replace(QUICK, epochs=1, ema_decay=0.0, weight_decay=0.0, momentum=0.0, clip_norm=1e-3)
    result = fit_full(model, REQUEST, settings, NumericFormat(precision, "contiguous"), "cpu", 3, on="train", checkpoints=None)
    assert math.isfinite(result.train_loss[0])
    moved = math.sqrt(sum(float((after.detach() - before[name]).square().sum()) for name, after in model.named_parameters()))
    # No step is longer than its learning rate times the norm, which is 0.2 at most.
    assert 0 < moved <= 5 * 0.2 * 1e-3


def test_fp32_stays_fp32_for_the_rest_of_the_process() -> None:
    flags = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    with ieee_fp32():  # puts back what was set
        for flag in flags:
            flag.fp32_precision = "tf32"
        set_ieee_fp32()
        gc.collect()
        assert [flag.fp32_precision for flag in flags] == ["ieee", "ieee"]


def test_what_is_held_is_given_way_with_between_epochs(tmp_path: Path) -> None:
    noting = Noting(tmp_path / "noted")
    train(None, dataclasses.replace(QUICK, epochs=2), on_epoch=noting, hold=noting)
    assert noting.read() == ["enter", "epoch 1 ieee ieee", "give way", "epoch 2 ieee ieee", "exit"]


def test_a_long_epoch_gives_way_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_module, "_WAY_SECONDS", -1.0)
    noting = Noting(tmp_path / "noted")
    train(None, dataclasses.replace(QUICK, epochs=1), on_epoch=noting, hold=noting)
    assert noting.read().count("give way") == 6  # once a step


def test_training_on_the_training_part_leaves_the_validation_part_out() -> None:
    bundle = load_bundle(REQUEST, "cpu")
    assert bundle.train_batches(256, 0, 0).images == 1150 // 5 * 5
    every = torch.cat([labels for _, labels in bundle.all_batches(2000, 0, 0)])
    both = torch.cat([bundle.train_labels, bundle.validation_labels])
    assert torch.equal(every.sort().values, both.sort().values)


def test_divergence_is_told() -> None:
    with pytest.raises(TrainingDiverged):
        train(None, dataclasses.replace(QUICK, peak_lr=1e12), model=network(norm=False))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_schedule(schedule: Any) -> None:
    settings = FullSettings(peak_lr=0.4, schedule=schedule, warmup_fraction=0.25)
    rates = [full_learning_rate(step, 1000, settings) for step in range(1000)]
    assert max(rates) == pytest.approx(0.4, rel=0.01) and rates.index(max(rates)) in (249, 250)
    assert rates[0] == pytest.approx(0.4 * 0.5 / 250) and rates[-1] < 0.001
    if schedule == "cosine":
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 750)
        for step in range(250, 999):
            optimizer.step()
            theirs.step()
            middle = (rates[step] + rates[step + 1]) / 2
            assert theirs.get_last_lr()[0] == pytest.approx(middle, abs=1e-5)


def test_what_is_open_is_filled_in_from_the_search() -> None:
    brief, numeric = TrainSettings(batch_size=33, peak_lr=0.7), NumericFormat("bf16", "channels_last")
    settings, form = resolve_full(FullSettings(), brief, numeric)
    assert (settings.batch_size, settings.peak_lr, form) == (33, 0.7, numeric)
    settings, form = resolve_full(FullSettings(batch_size=9, precision="fp32"), brief, numeric)
    assert (settings.batch_size, form) == (9, NumericFormat("fp32", "channels_last"))


def test_the_average_is_that_of_the_formula() -> None:
    model = nn.BatchNorm1d(1)
    average = MovingAverage(model, 0.5)
    expected = 1.0
    for step in range(1, 20):
        with torch.no_grad():
            model.weight.fill_(step)
            model.num_batches_tracked.fill_(step)
        average.follow(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.average.weight.item() == pytest.approx(expected)
    assert average.average.num_batches_tracked.item() == 19


@given(st.integers(1, 6), st.integers(2, 40))
def test_several_processes_share_each_step(of: int, batch_size: int) -> None:
    plan = plan_epoch(57, batch_size, 0, 0, 1, True)
    shares = [plan.share(rank, of) for rank in range(of)]
    steps, size = plan.order.shape
    assert {share.order.shape for share in shares} == {(steps, size // of)}
    together = torch.stack([share.order for share in shares], 2).reshape(steps, -1)
    assert torch.equal(together, plan.order[:, : size // of * of])


# What happens to images


def images(n: int = 64, channels: int = 3, side: int = 16) -> torch.Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_augmentation_depends_on_its_place_alone() -> None:
    settings = dataclasses.replace(QUICK, randaugment_ops=2, mix_probability=1.0)
    x, y = images(), torch.arange(64)
    one, two, other = (mixing.augmented(x, y, settings, *place) for place in ((0, 1, 2, 0), (0, 1, 2, 0), (0, 1, 3, 0)))
    assert torch.equal(one.x, two.x) and torch.equal(one.other, two.other) and one.share == two.share
    assert not torch.equal(one.x, other.x)
    assert torch.equal(x, images()), "the images themselves must stay"


def test_randaugment_of_no_strength_changes_nothing() -> None:
    assert torch.allclose(mixing.randaugment(images(), 3, 0.0, generator()), images(), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_changes_most_images_and_keeps_their_statistics_near(channels: int) -> None:
    x = images(256, channels)
    found = mixing.randaugment(x, 1, 0.3, generator())
    changed = (found != x).flatten(1).any(1).double().mean()
    assert 0.8 < changed < 1 and found.isfinite().all()  # one of nine or ten leaves an image alone
    assert 0.5 < found.std() / x.std() < 1.5


def test_a_shift_is_a_shift() -> None:
    x = images(1, 1, 10)
    matrix = mixing._GEOMETRIC["shift x"](torch.tensor([1.0]))
    found = mixing._resampled(x, matrix)
    assert torch.allclose(found[..., :7], x[..., 3:], atol=1e-5)


def test_a_rotation_by_a_right_angle() -> None:
    x = images(1, 2, 8)
    turn = mixing._GEOMETRIC["rotation"](torch.tensor([3.0]))  # three times the most: 90 degrees
    assert torch.allclose(mixing._resampled(x, turn), torch.rot90(x, 1, (2, 3)), atol=1e-4)


def test_contrast_and_colour_against_torchvision() -> None:
    from torchvision.transforms.v2 import functional as theirs

    x = images(4).sigmoid()
    change = torch.full((4, 1, 1, 1), -0.4)
    grey = mixing._PHOTOMETRIC["contrast"](x[:, :1], change)
    assert torch.allclose(grey, theirs.adjust_contrast(x[:, :1], 0.6), atol=1e-5)
    mean = x.mean(1, keepdim=True)
    assert torch.allclose(mixing._PHOTOMETRIC["colour"](x, change), 0.6 * x + 0.4 * mean, atol=1e-6)


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_cutmix_counts_the_pixels(seed: int, share: float) -> None:
    x = torch.arange(4.0)[:, None, None, None].expand(4, 1, 9, 7)
    mixed = mixing.cutmix(x, torch.arange(4), torch.tensor([1, 2, 3, 0]), share, np.random.default_rng(seed))
    stayed = (mixed.x == x).double().mean((1, 2, 3))
    assert torch.allclose(stayed, torch.tensor(mixed.share, dtype=torch.float64))
    assert torch.equal(mixed.other, torch.tensor([1, 2, 3, 0]))


def test_mixup_and_its_loss() -> None:
    x, y = images(8), torch.arange(8)
    mixed = mixing.mixup(x, y, torch.arange(8).flip(0), 0.3, np.random.default_rng(0))
    assert torch.allclose(mixed.x, 0.3 * x + 0.7 * x.flip(0))
    logits = torch.randn(8, 10)
    soft = 0.3 * nn.functional.one_hot(y, 10) + 0.7 * nn.functional.one_hot(y.flip(0), 10)
    expected = nn.functional.cross_entropy(logits, soft, label_smoothing=0.1)
    assert mixing.mixed_loss(logits, mixed, 0.1).item() == pytest.approx(expected.item(), rel=1e-6)


def test_erasing_covers_what_it_should() -> None:
    x = torch.ones(512, 1, 32, 32)
    found = mixing.erased(x, 0.5, generator())
    share = (found == 0).double().mean((1, 2, 3))
    assert 0.4 < (share > 0).double().mean() < 0.6
    assert share.max() < 0.36 and math.isclose(share[share > 0].mean(), 0.17, abs_tol=0.03)


# Several processes


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, epochs=2, devices=2, ema_decay=0.0)
    noting = Noting(tmp_path / "noted")
    state, result = train(tmp_path, settings, on_epoch=noting, hold=noting)
    assert result.epochs == 2 and result.train_loss[1] < result.train_loss[0] and result.images == 6 * (1438 // 6 // 2) * 2
    # In the process of the first, which ends with the training, and in the arithmetic of one alone.
    assert noting.read() == ["enter", "epoch 1 ieee ieee", "give way", "epoch 2 ieee ieee"]
    again, _ = train(tmp_path / "again", settings)
    assert same(state, again)


def test_what_another_process_refuses_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^data\.root='x' is gone: restore it\.$"):
        train(tmp_path, dataclasses.replace(QUICK, devices=2), on_epoch=gone)


def test_what_several_gpus_take_over_lies_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[torch.device] = []

    def stop(*_: Any) -> None:
        raise Stopped

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    monkeypatch.setattr(full, "load_bundle", lambda request, device: load_bundle(request, "cpu"))
    monkeypatch.setattr(full, "place", lambda model, numeric, device: placed.append(device))
    monkeypatch.setattr(full_module, "run_full", stop)
    for devices in (1, 2):
        settings = dataclasses.replace(QUICK, devices=devices)
        with pytest.raises(Stopped):
            fit_full(network(), REQUEST, settings, FP32, "cuda:0", 3, on="train", checkpoints=tmp_path)
    assert placed == [torch.device("cuda:0"), torch.device("cpu")]


def of_a_process(raised: BaseException) -> ProcessRaisedException:
    try:
        try:
            raise KeyError("an earlier one: MemoryError: not this")
        finally:
            raise raised
    except type(raised):
        return ProcessRaisedException(f"\n\n-- Process 1 terminated with the following error:\n{traceback.format_exc()}", 1, 99)


@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (TrainingDiverged(6), TrainingDiverged, "the loss was not finite at the end of epoch 7"),
        (InputError("data.root='x' is gone: restore it."), InputError, "data.root='x' is gone: restore it."),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmuch"), torch.OutOfMemoryError, "CUDA out of memory. Tried"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError, "can't allocate memory"),
        (MemoryError(), torch.OutOfMemoryError, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x.ckpt"), OSError, os.strerror(errno.ENOSPC)),
        (ValueError("InputError: no"), ProcessRaisedException, "ValueError: InputError: no"),
    ],
)
def test_what_a_process_died_of_is_known_here(raised: BaseException, kind: type[Exception], told: str) -> None:
    found = full_module.as_raised(of_a_process(raised))
    assert type(found) is kind and told in str(found)
    if isinstance(raised, TrainingDiverged):
        assert isinstance(found, TrainingDiverged) and found.epoch == raised.epoch


def test_the_gradient_of_two_is_that_of_one(tmp_path: Path) -> None:
    # Without norms, dropout and augmentation a step's gradient does not depend on how its images are shared out.
    plain = FullSettings(epochs=1, batch_size=2000, peak_lr=0.1, ema_decay=0.0, randaugment_ops=0, mix_probability=0.0)
    alone, _ = train(None, plain, network(0.0, norm=False))
    shared, _ = train(tmp_path, dataclasses.replace(plain, devices=2), network(0.0, norm=False))
    for name in alone:
        assert torch.allclose(alone[name], shared[name], rtol=1e-4, atol=1e-6), name


def test_too_many_devices_for_the_batch() -> None:
    with pytest.raises(InputError, match=r"train\.devices=200 leaves less than two"):
        train(None, dataclasses.replace(QUICK, devices=200))
    # A step shows as many images as the others, which is less than the batch size: 719 of 1438.
    settings = dataclasses.replace(QUICK, batch_size=720, devices=360)
    with pytest.raises(InputError, match=r"train\.devices=360 leaves less than two images of a step to each, which shows 719"):
        train(None, settings)


def test_a_folder_of_checkpoints_can_be_moved(tmp_path: Path, whole: Any) -> None:
    train(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    max((tmp_path / "b").glob("*.ckpt")).unlink()
    state, result = train(tmp_path / "b")
    assert result.resumed_at == 3 and same(state, whole[0])
