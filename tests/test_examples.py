"""The detector of `examples/`: its scenes are what their targets say, and on a found network its loss falls."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from nas.catalogue import ReferenceSpace
from nas.errors import InputError
from nas.shipped import Description, write_model
from search_spaces import osa

FILE = Path(__file__).parent.parent / "examples" / "detector.py"


@pytest.fixture(scope="module")
def detector() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detector", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("channels", [1, 3])
def test_scenes_hold_what_their_targets_say(detector: ModuleType, channels: int) -> None:
    images, targets = detector.scenes(20, channels, np.random.default_rng(3))
    for image, target in zip(images, targets, strict=True):
        assert image.shape == (channels, 96, 96) and image.min() >= 0 and image.max() <= 1
        assert 1 <= len(target["boxes"]) == len(target["labels"]) <= 5
        empty = torch.ones(96, 96, dtype=torch.bool)
        for left, top, right, bottom in target["boxes"].int().tolist():
            assert 0 <= left < right <= 96 and 0 <= top < bottom <= 96
            assert image[0, top:bottom, left:right].max() > 0.6
            assert empty[top:bottom, left:right].all()  # no digit covers another
            empty[top:bottom, left:right] = False
        assert image[0][empty].max() < 0.5


def test_the_loss_falls_on_a_found_network_and_the_detector_is_measured(
    detector: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = osa.OSASpace(stem={"kind": "imagenet", "width": 8}, stages=3, layers=2, conv_channels=8, concat_channels=16)
    architecture = space.suggest(_Never())
    torch.manual_seed(0)
    described = Description(
        name="small",
        study="s",
        trial=0,
        architecture=architecture.to_dict(),
        space=None,
        input_shape=(1, 32, 32),
        classes=tuple("0123456789"),
        mean=(0.3,),
        std=(0.4,),
    )
    write_model(tmp_path, space.build(architecture, 1, 10), described)
    losses = detector.main(
        ["--model", str(tmp_path), "--steps", "24", "--batch-size", "4", "--device", "cpu", "--latency-seconds", "0.05"]
    )
    assert len(losses) == 24
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])
    told = capsys.readouterr().out
    assert "maps of [16, 16, 16] channels at strides" in told
    assert "ms per image" in told and "energy" in told


def test_a_network_of_a_library_is_refused_in_one_sentence(detector: ModuleType, tmp_path: Path) -> None:
    architecture = ReferenceSpace().preset("torchvision:squeezenet1_1")
    described = Description(
        name="s/ref",
        study="s",
        trial=None,
        architecture=architecture.to_dict(),
        space=None,
        input_shape=(3, 32, 32),
        classes=tuple("0123456789"),
        mean=(0.3,) * 3,
        std=(0.4,) * 3,
    )
    write_model(tmp_path, ReferenceSpace().build(architecture, 3, 10), described)
    with pytest.raises(InputError, match=r"features cannot be given for torchvision:squeezenet1_1"):
        detector.find_backbone(str(tmp_path))


class _Never:
    """A trial of which nothing is asked, for a space without choices."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)
