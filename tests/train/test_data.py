from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from nas.errors import InputError
from nas.train.data import TEST_FRACTION, DataRequest, load_bundle, split_dataset
from nas.train.datasets import Dataset, Digits, MemoryPool
from nas.train.folder import ImageFolder
from nas.train.settings import DataSettings


def labelled(labels: list[int], test: list[int] | None = None, classes: int | None = None) -> Dataset:
    def pool(values: list[int]) -> MemoryPool:
        return MemoryPool(torch.zeros(len(values), 1, 2, 2, dtype=torch.uint8), torch.tensor(values))

    names = tuple(f"class{i}" for i in range(classes or max(labels) + 1))
    return Dataset("made", names, pool(labels), None if test is None else pool(test), "x")


# ---- the split


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(3, 40), min_size=2, max_size=6),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**31 - 1),
    own_test=st.booleans(),
)
def test_split_properties(counts: list[int], fraction: float, seed: int, own_test: bool) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
    dataset = labelled(labels, test=labels[:5] if own_test else None)
    split = split_dataset(dataset, fraction, seed)
    again = split_dataset(dataset, fraction, seed)
    assert split.digest == again.digest
    parts = [split.train, split.validation] + ([] if own_test else [split.test])
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    if own_test:
        assert split.test.tolist() == list(range(5))
    y = torch.tensor(labels)
    for label, count in enumerate(counts):
        rest = count if own_test else count - int((y[split.test] == label).sum())
        if not own_test:
            assert abs(count - rest - TEST_FRACTION * count) <= 1
        validation = int((y[split.validation] == label).sum())
        assert 1 <= validation <= rest - 1
        assert abs(validation - fraction * rest) <= 1


def test_split_shares_are_scikit_learns() -> None:
    labels = Digits().load().train.labels.numpy()
    split = split_dataset(Digits().load(), 0.25, 7)
    rest, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=0.25, stratify=labels[rest], random_state=0)
    for ours, theirs in ((split.train, train), (split.validation, validation), (split.test, test)):
        difference = np.bincount(labels[ours.numpy()], minlength=10) - np.bincount(labels[theirs], minlength=10)
        assert np.abs(difference).max() <= 2


def test_the_test_part_does_not_depend_on_the_seed() -> None:
    dataset = Digits().load()
    a, b = split_dataset(dataset, 0.2, 0), split_dataset(dataset, 0.2, 1)
    assert torch.equal(a.test, b.test) and not torch.equal(a.validation, b.validation) and a.digest != b.digest
    # Frozen: a change here would let a search train on what was another's test part.
    assert a.test[:8].tolist() == [3, 7, 13, 19, 36, 38, 43, 48]


def test_too_small_classes() -> None:
    with pytest.raises(
        InputError, match=r"class 'class1' of data set 'made' has 2 image\(s\) for 3 parts \(train, validation, test\)"
    ):
        split_dataset(labelled([0, 0, 0, 0, 1, 1]), 0.2, 0)
    split_dataset(labelled([0, 0, 0, 0, 1, 1], test=[0]), 0.2, 0)
    with pytest.raises(InputError, match=r"class 'class2' .* has 0 image\(s\) for 2 parts"):
        split_dataset(labelled([0, 0, 1, 1], test=[0], classes=3), 0.2, 0)


def test_a_users_own_set_is_checked() -> None:
    with pytest.raises(InputError, match="labels go from 0 to 2"):
        split_dataset(labelled([0, 1, 2] * 4, classes=2), 0.2, 0)
    with pytest.raises(InputError, match=r"1 class\(es\)"):
        split_dataset(labelled([0, 0, 0, 0]), 0.2, 0)
    odd = Dataset("odd", ("a", "b"), MemoryPool(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4)), None, "x")
    with pytest.raises(InputError, match=r"labels are torch.float32"):
        split_dataset(odd, 0.2, 0)


# ---- the bundle


def test_bundle_of_digits(make_bundle) -> None:
    bundle = make_bundle(Digits(), validation_fraction=0.2)
    assert bundle.input_shape == (1, 8, 8) and bundle.num_classes == 10 and bundle.resident
    assert bundle.sizes["test"] == 359 and sum(bundle.sizes.values()) == 1797
    x, y = next(iter(bundle.train_batches(64, 0, 0)))
    assert x.shape[1:] == (1, 8, 8) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert json.loads(json.dumps(bundle.facts())) == bundle.facts()
    assert bundle.facts()["test_part"] == "fixed stratified 20%"


@pytest.mark.parametrize("augment", [{}, {"crop_padding": 3}, {"flip": True}, {"crop_padding": 2, "flip": True}])
@pytest.mark.parametrize("workers", [0, 2])
def test_resident_and_streamed_give_the_same_batches(make_bundle, generated, augment: dict, workers: int) -> None:
    source = generated(images=100, test_images=12)
    resident = make_bundle(source, **augment)
    streamed = make_bundle(source, resident_budget_mb=0.0, workers=workers, **augment)
    assert resident.resident and not streamed.resident
    assert (resident.mean, resident.std, resident.split_digest) == (streamed.mean, streamed.std, streamed.split_digest)
    makers: list[Callable] = [lambda b: b.train_batches(16, 3, 5), lambda b: b.validation_batches(7), lambda b: b.test_batches(5)]
    for make in makers:
        ours, theirs = list(make(resident)), list(make(streamed))
        assert len(ours) == len(theirs) == len(make(resident)) > 1
        for (xa, ya), (xb, yb) in zip(ours, theirs, strict=True):
            assert torch.equal(xa, xb) and torch.equal(ya, yb) and xa.stride() == xb.stride()


def test_streaming_leaves_torchs_random_stream_alone(make_bundle, generated) -> None:
    bundle = make_bundle(generated(), resident_budget_mb=0.0, workers=0, crop_padding=1, flip=True)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    list(bundle.train_batches(16, 0, 0))
    assert torch.equal(torch.rand(4), expected)


def test_batches_are_the_pools_images_normalised(make_bundle, generated) -> None:
    source = generated()
    bundle = make_bundle(source)
    pool = source.pool(source.images, 1)
    train = pool.images[bundle.split.train].double() / 255
    mean, std = train.mean((0, 2, 3)), train.std((0, 2, 3), correction=0)
    np.testing.assert_allclose(bundle.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(bundle.std, std, rtol=1e-12)

    def expected(indices: torch.Tensor) -> torch.Tensor:
        x = pool.images[indices].double() / 255
        return ((x - mean[:, None, None]) / std[:, None, None]).float()

    x, y = (torch.cat(parts) for parts in zip(*bundle.validation_batches(7), strict=True))
    torch.testing.assert_close(x, expected(bundle.split.validation), rtol=0, atol=1e-5)
    assert torch.equal(y, pool.labels[bundle.split.validation])
    x, y = (torch.cat(parts) for parts in zip(*bundle.test_batches(7), strict=True))
    torch.testing.assert_close(x, expected(bundle.split.test), rtol=0, atol=1e-5)
    assert torch.equal(y, pool.labels[bundle.split.test])


def test_an_epoch_shows_every_image_at_most_once_and_nearly_all(make_bundle, generated) -> None:
    source = generated(images=127)
    bundle = make_bundle(source)
    n = bundle.sizes["train"]
    seen_in_all: set[bytes] = set()
    everything = {x.numpy().tobytes() for x in bundle.normalised(bundle.store.images[:n])}
    for epoch in range(12):
        batches = bundle.train_batches(16, epoch, 0)
        seen = [x.numpy().tobytes() for images, _ in batches for x in images]
        assert len(set(seen)) == len(seen) == batches.images > n - 16
        assert len({len(y) for _, y in batches}) == 1
        seen_in_all |= set(seen)
    assert seen_in_all == everything


def test_epochs_and_seeds_differ_and_repeat(make_bundle, generated) -> None:
    bundle = make_bundle(generated(), crop_padding=1, flip=True)

    def epoch(number: int, seed: int) -> torch.Tensor:
        return torch.cat([x for x, _ in bundle.train_batches(16, number, seed)])

    assert torch.equal(epoch(1, 5), epoch(1, 5))
    assert not torch.equal(epoch(0, 5), epoch(1, 5)) and not torch.equal(epoch(1, 4), epoch(1, 5))


def test_a_search_never_reads_the_test_part(make_bundle, generated) -> None:
    for source in (generated(images=90, test_images=30), generated(images=90)):
        for budget in (100.0, 0.0):
            bundle = make_bundle(source, resident_budget_mb=budget, workers=0)
            list(bundle.train_batches(8, 0, 0))
            list(bundle.validation_batches(8))
            read = source.pools["train"].read_indices
            if source.test_images:
                assert not hasattr(source.pools["test"], "read_indices")
            else:
                assert not set(read) & set(bundle.split.test.tolist())
            assert set(read) == set(bundle.split.train.tolist()) | set(bundle.split.validation.tolist())


def test_a_studys_candidates_share_one_bundle(generated) -> None:
    request = DataRequest(generated(), DataSettings(), 0)
    first = load_bundle(request, "cpu")
    assert load_bundle(copy.deepcopy(request), torch.device("cpu")) is first
    other = load_bundle(DataRequest(generated(), DataSettings(), 1), "cpu")
    assert other is not first and other.split_digest != first.split_digest


class Plain:
    """A set of a user's own, with no equality; loading it changes it."""

    loads = 0

    def __init__(self, images: int) -> None:
        self.images = images

    def load(self) -> Dataset:
        type(self).loads += 1
        self.labels = labelled([0, 1] * (self.images // 2))
        return self.labels


def test_a_plain_class_that_comes_to_a_worker_again_and_again_is_loaded_once() -> None:
    Plain.loads = 0
    sent = pickle.dumps(DataRequest(Plain(20), DataSettings(), 0))
    first = load_bundle(pickle.loads(sent), "cpu")  # noqa: S301 - made a line ago
    assert load_bundle(pickle.loads(sent), "cpu") is first and Plain.loads == 1  # noqa: S301
    assert load_bundle(DataRequest(Plain(30), DataSettings(), 0), "cpu") is not first and Plain.loads == 2


def test_a_set_that_cannot_be_pickled_is_loaded_once_for_one_object() -> None:
    source = Plain(20)
    source.images_of = lambda: 0  # type: ignore[attr-defined]
    request = DataRequest(source, DataSettings(), 0)
    assert load_bundle(request, "cpu") is load_bundle(request, "cpu")


def test_a_constant_channel_stays_finite(make_bundle) -> None:
    class Flat:
        def load(self) -> Dataset:
            return labelled([0, 1] * 10)

    bundle = make_bundle(Flat())
    assert all(torch.isfinite(x).all() for x, _ in bundle.train_batches(4, 0, 0))
    assert bundle.std == (1 / 255,)


def test_crop_padding_larger_than_the_image(make_bundle, generated) -> None:
    with pytest.raises(InputError, match=r"data.crop_padding=8 cannot be used with images of 8x10 pixels.* 7 or less"):
        make_bundle(generated(), crop_padding=8)


def test_a_file_lost_in_the_middle_is_one_sentence(make_bundle, image_folder) -> None:
    root = image_folder({"a": 20, "b": 20})
    bundle = make_bundle(ImageFolder(str(root), 8, decoded_budget_mb=0.0), resident_budget_mb=0.0, workers=2)
    for path in root.rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"cannot be read any more") as caught:
        list(bundle.train_batches(8, 0, 0))
    assert "\n" not in str(caught.value)


def test_facts_name_what_was_skipped(make_bundle, image_folder) -> None:
    root = image_folder({"a": 9, "b": 9})
    (root / "a/000.png").write_bytes(b"no")
    facts = make_bundle(ImageFolder(str(root), 8, on_bad_image="skip")).facts()
    assert facts["skipped"] == [str(root / "a/000.png")] and sum(facts["sizes"].values()) == 17


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_gpu_batches_are_the_cpus(make_bundle, generated) -> None:
    source = generated()
    cpu = list(make_bundle(source, crop_padding=2, flip=True).train_batches(16, 1, 0))
    gpu = list(make_bundle(source, device="cuda", crop_padding=2, flip=True).train_batches(16, 1, 0))
    streamed = list(make_bundle(source, device="cuda", crop_padding=2, flip=True, resident_budget_mb=0.0).train_batches(16, 1, 0))
    for (xa, ya), (xb, yb), (xc, yc) in zip(cpu, gpu, streamed, strict=True):
        torch.testing.assert_close(xb.cpu(), xa, rtol=1e-6, atol=1e-6)
        assert torch.equal(xb, xc) and torch.equal(yb.cpu(), ya) and torch.equal(yb, yc)
