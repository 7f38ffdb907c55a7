"""The networks on a study's front, read back from its run folder; every file that is missing or damaged is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from nas.errors import InputError
from nas.found import find_run, read_front
from search_spaces import osa
from search_spaces.base import RandomTrial, to_yaml

SPACE = {
    "_target_": "search_spaces.osa.OSASpace",
    "stem": {"kind": "cifar", "width": 8},
    "stages": 2,
    "depth": 1,
    "layers": [2, 3],
    "conv_channels": {"each": [8, 12]},
    "concat_channels": 16,
    "downsample": "maxpool",
}


def make_run(folder: Path, trials: int = 2) -> Path:
    """Write what a search leaves behind."""
    space = osa.OSASpace(**{key: value for key, value in SPACE.items() if key != "_target_"})  # type: ignore[arg-type]
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"conf": "small", "study": {"name": "small"}, "space": SPACE}))
    (folder / "record.json").write_text(json.dumps({"data": {"input_shape": [1, 8, 8], "num_classes": 10}}))
    (folder / "front.csv").write_text("trial,top1,latency_ms\n" + "".join(f"{n},0.{9 - n},1.5\n" for n in range(trials)))
    for number in range(trials):
        path = folder / "trials" / str(number) / "architecture.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(to_yaml(space.suggest(RandomTrial(number))))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "small")


def test_the_front_is_built_as_its_study_built_it(run: Path) -> None:
    networks = read_front(run)
    assert [network.name for network in networks] == ["small/0", "small/1"]
    for network in networks:
        assert network.build()(torch.zeros(2, *network.input_shape)).shape == (2, 10)
        text = (run / "trials" / str(network.trial) / "architecture.yaml").read_text()
        assert to_yaml(network.architecture) == text
    assert [network.top1 for network in networks] == [0.9, 0.8]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("front.csv", "trial,top1\n0,high\n"),
        ("front.csv", "top1,trial\n0.9\n"),
        ("record.json", '{"data": {"input_shape": [8, 8], "num_classes": 10}}'),
        ("record.json", "[]"),
    ],
)
def test_odd_content_is_named_too(run: Path, name: str, text: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(InputError, match=str(run)):
        read_front(run)


def test_by_path_and_by_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[1])
    assert find_run(str(run)) == run
    assert find_run("small") == Path("runs/small")
    with pytest.raises(InputError, match="study:smal is no run folder"):
        find_run("smal")


@pytest.mark.parametrize("name", ["config.yaml", "record.json", "front.csv", "trials/1/architecture.yaml"])
@pytest.mark.parametrize("text", [None, "{"])
def test_a_file_that_is_missing_or_damaged_is_named(run: Path, name: str, text: str | None) -> None:
    if text is None:
        (run / name).unlink()
    else:
        (run / name).write_text(text)
    with pytest.raises(InputError, match=str(run)):
        read_front(run)


def test_a_space_that_is_not_allowed_is_not_imported(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "space": {"_target_": "os.system", "command": "true"}}))
    with pytest.raises(InputError, match=r"os\.system is not allowed"):
        read_front(run)


def test_only_what_a_network_needs_has_to_be_known_here(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAS_STORAGE", raising=False)
    config = yaml.safe_load((run / "config.yaml").read_text())
    known = [found.architecture.id for found in read_front(run)]
    config["study"]["storage"] = "${oc.env:NAS_STORAGE}"
    config["space"]["layers"] = "${oc.decode:${oc.env:LAYERS}}"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("LAYERS", "[1,2,3,4,5]")
    assert [found.architecture.id for found in read_front(run)] == known
    monkeypatch.delenv("LAYERS")
    with pytest.raises(InputError, match="LAYERS"):
        read_front(run)
