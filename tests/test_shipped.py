"""Networks written and read back: equal outputs for any architecture, and one sentence for any damage."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import nas
from nas.errors import InputError
from nas.shipped import Description, load_model, read_description, write_model
from search_spaces import dense, osa
from search_spaces.base import RandomTrial
from tests.toy import ToyArchitecture, ToySpace

SPACES: dict[str, Any] = {
    "osa": osa.OSASpace(
        stem={"kind": ["cifar", "imagenet"], "width": 8},
        stages=[1, 2, 3],
        depth={"each": [1, 2]},
        layers=[1, 3],
        conv_channels={"each": [4, 8]},
        concat_channels=12,
        bottleneck=[False, True],
        identity=[False, True],
        ese=["none", "last", "every"],
        depthwise=[False, True],
        activation=["relu", "silu"],
    ),
    "dense": dense.DenseSpace(
        stem={"kind": "cifar", "width": 8}, stages=[1, 2], layers=[1, 3], growth=4, bottleneck=[False, True]
    ),
}


def describe(architecture: Any, **changes: Any) -> Description:
    description = Description(
        name="a",
        study="s",
        trial=3,
        architecture=architecture.to_dict(),
        space=None,
        input_shape=(3, 32, 32),
        classes=("x", "y", "z"),
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 1.0, 2.0),
    )
    return dataclasses.replace(description, **changes)


def trained(model: nn.Module) -> nn.Module:
    """Move a fresh network away from its initial weights and statistics."""
    model.train()
    model(torch.randn(4, 3, 32, 32))
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    architecture = SPACES["osa"].suggest(RandomTrial(3))
    write_model(tmp_path / "m", trained(SPACES["osa"].build(architecture, 3, 3)), describe(architecture))
    return tmp_path / "m"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(SPACES)), st.integers(0, 10**6))
def test_what_is_written_is_read(tmp_path: Path, family: str, seed: int) -> None:
    architecture = SPACES[family].suggest(RandomTrial(seed))
    torch.manual_seed(seed)
    model = trained(SPACES[family].build(architecture, 3, 3).to(memory_format=torch.channels_last))
    description = describe(architecture)
    write_model(tmp_path / "m", model, description)
    model = model.to(memory_format=torch.contiguous_format)  # another layout rounds otherwise
    assert read_description(tmp_path / "m") == description
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "m")(x), model(x))
        scaled = (x - torch.tensor(description.mean)[:, None, None]) / torch.tensor(description.std)[:, None, None]
        assert torch.equal(load_model(tmp_path / "m", normalise=True)(x), model(scaled))
    (tmp_path / "m" / "model.json").unlink()
    assert load_model(tmp_path / "m" / "model.safetensors").training is False


def test_as_a_backbone(folder: Path) -> None:
    full: Any = load_model(folder)
    backbone: Any = load_model(folder, features=(-1,), normalise=True)
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        (found,) = backbone(x)
        assert torch.equal(full.head(found), load_model(folder, normalise=True)(x))
    assert backbone.feature_info.channels() == [12]
    with pytest.raises(InputError, match=r"features is \[9\]"):
        load_model(folder, features=(9,))


def test_a_family_of_ones_own(tmp_path: Path) -> None:
    architecture = ToyArchitecture(4, "a")
    model = ToySpace().build(architecture, 3, 3).eval()
    write_model(tmp_path, model, describe(architecture, space={"_target_": "tests.toy.ToySpace"}))
    with pytest.raises(InputError, match="is of the family 'toy', which is not ours"):
        load_model(tmp_path)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(load_model(tmp_path, space=ToySpace())(x), model(x))
    with pytest.raises(InputError, match="cannot give features"):
        load_model(tmp_path, space=ToySpace(), features=(1,))


@pytest.mark.parametrize("at", [0, 4, 20, 400, -1, -500])
def test_a_flipped_byte_is_noticed(folder: Path, at: int) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[at] ^= 0xFF
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors|architecture"):
        load_model(folder)


def test_another_description_is_noticed(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    for old, new in ((b"0.1, 0.2", b"0.1, 0.3"), (b'\\"y\\"', b'\\"q\\"')):
        assert content.count(old) == 1
        (folder / "model.safetensors").write_bytes(content.replace(old, new))
        with pytest.raises(InputError, match="is damaged"):
            load_model(folder)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_file_cut_short_is_noticed(folder: Path, length: int) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:length])
    with pytest.raises(InputError, match="cannot be read"):
        load_model(folder)


def test_files_of_another_kind(folder: Path, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="was not written by this project"):
        load_model(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        load_model(tmp_path / "nowhere")
    torch.save({"a": 1}, tmp_path / "pickle.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path / "pickle.safetensors")
    save_file(
        {"a": torch.zeros(1)},
        tmp_path / "new.safetensors",
        {"osa-nas": json.dumps({"format": 9, "digest": "", "description": {}})},
    )
    with pytest.raises(InputError, match="has format 9, and this version reads 2"):
        load_model(tmp_path / "new.safetensors")


def test_weights_of_another_architecture(folder: Path) -> None:
    other = SPACES["osa"].suggest(RandomTrial(4))
    write_model(folder, SPACES["osa"].build(SPACES["osa"].suggest(RandomTrial(3)), 3, 3), describe(other))
    with pytest.raises(InputError, match="does not hold the weights of its own architecture"):
        load_model(folder)


def test_importing_the_package_stays_light() -> None:
    code = "import sys, nas; assert 'torch' not in sys.modules; nas.load_model; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert nas.load_model is load_model
    with pytest.raises(AttributeError, match="nothing"):
        nas.nothing  # noqa: B018
