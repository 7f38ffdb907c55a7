"""``_target_`` builds what it may reach, and reaches nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nas.errors import InputError
from nas.targets import build_target


def test_builds_an_allowed_class_and_nested_ones() -> None:
    sampler = build_target(
        "sampler",
        {"_target_": "optuna.samplers.NSGAIISampler", "crossover": {"_target_": "optuna.samplers.nsgaii.UniformCrossover"}},
        seed=1,
    )
    assert type(sampler).__name__ == "NSGAIISampler"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "optuna.create_study",
        "nas.compose.re.compile",  # a module that ours merely imported
        "nas.compose.initialize_config_dir",  # a function that ours merely imported
        "nasty.thing",
        "nas",
        "nas.targets.locate_target",  # our own, but no class
    ],
)
def test_refuses_everything_else(target: str) -> None:
    with pytest.raises(InputError, match=r"sampler\._target_"):
        build_target("sampler", {"_target_": target})


def test_refuses_a_nested_target() -> None:
    node = {"_target_": "optuna.samplers.NSGAIISampler", "crossover": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(InputError, match=r"sampler\.crossover\._target_=os\.system is not allowed"):
        build_target("sampler", node)


def test_own_module_only_when_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_mine.py").write_text(
        "from os import system\nclass Thing:\n    def __init__(self, size=1): self.size = size\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "module_of_mine.Thing", "size": 3}
    with pytest.raises(InputError, match="allow_modules"):
        build_target("space", node)
    assert "module_of_mine" not in sys.modules  # refused before its code could run
    assert build_target("space", node, ["module_of_mine"]).size == 3
    with pytest.raises(InputError, match="defined in"):
        build_target("space", {"_target_": "module_of_mine.system"}, ["module_of_mine"])


@pytest.mark.parametrize(
    ("node", "names"),
    [
        ({"_target_": "optuna.samplers.TPESampel"}, "'TPESampler'"),
        ({"_target_": "optuna.samplers.none.TPESampler"}, "cannot be imported"),
        ({"_target_": "optuna.samplers.TPESampler", "n_startup": 3}, "'n_startup_trials'"),
        ({"_target_": "optuna.samplers.TPESampler", "_partial_": True}, "_partial_"),
        ({"_target_": "nas.train.datasets.Cifar10", "root": 2024}, r"sampler\.root=2024 cannot be used: it should be text"),
        ({"_target_": "nas.train.datasets.Cifar10", "download": "flase"}, "download='flase'.*true or false"),
        ({"_target_": "optuna.samplers.NSGAIISampler", "population_size": 1}, "population_size"),
    ],
)
def test_names_what_is_wrong(node: dict[str, object], names: str) -> None:
    with pytest.raises(InputError, match=names):
        build_target("sampler", node)


def test_a_nested_target_is_named_by_its_own_place() -> None:
    arms = {"osa": {"_target_": "search_spaces.osa.OSASpace"}, "dense": {"_target_": "search_spaces.dense.DenseSpace"}}
    for wrong, says in (
        ({"layers": 99}, r"space\.arms\.osa\.layers is 99; give a whole number from 1 to 64\.$"),
        ({"layer": 3}, r"space\.arms\.osa\.layer is not a known key of search_spaces\.osa\.OSASpace; did you mean 'layers'\?$"),
    ):
        node = {"_target_": "search_spaces.rivals.Rivals", "arms": {**arms, "osa": {**arms["osa"], **wrong}}}
        with pytest.raises(InputError, match=f"^{says}"):
            build_target("space", node)
