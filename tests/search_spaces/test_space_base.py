"""What holds for every family: the protocols, YAML, ids, the stand-in for a trial, and whether a space can be built."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import nn

from search_spaces import dense, osa
from search_spaces.base import (
    Architecture,
    RandomTrial,
    SearchSpace,
    SpaceError,
    Trial,
    from_yaml,
    operations_id,
    sample_buildable,
    to_yaml,
)
from search_spaces.dense import DenseSpace
from search_spaces.osa import OSASpace
from search_spaces.spec import kinds

PRESETS = [(OSASpace(), name) for name in osa.PRESETS] + [(DenseSpace(), name) for name in dense.PRESETS]


@dataclass(frozen=True)
class Line:
    """An architecture of a user's own, which knows nothing of ours."""

    width: int
    stride: int = 1

    @property
    def id(self) -> str:
        return operations_id([["linear", self.width]])

    def to_dict(self) -> dict[str, Any]:
        return {"family": "line", "width": self.width}


class Reversed(torch.autograd.Function):
    """Stands for an operation of a user's own that cannot run on the meta device."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        if x.is_meta:
            raise NotImplementedError("no meta kernel")
        return x.flip(1)


class Flipped(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Reversed.apply(x)


class LineSpace:
    def suggest(self, trial: Trial) -> Line:
        return Line(trial.suggest_int("width", 1, 4))

    def build(self, architecture: Line, in_channels: int, num_classes: int) -> nn.Module:
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, architecture.width))
        return nn.Sequential(pooled, Flipped(), nn.Linear(architecture.width, num_classes))

    def preset(self, name: str) -> Line:
        raise SpaceError(f"preset is {name!r}; there is none.")

    def from_dict(self, mapping: Mapping[str, Any]) -> Line:
        return Line(mapping["width"])


def test_our_spaces_and_a_users_own_keep_to_the_protocols() -> None:
    spaces: list[SearchSpace] = [OSASpace(), DenseSpace(), LineSpace()]
    for space in spaces:
        assert isinstance(space, SearchSpace)
        architecture = space.suggest(RandomTrial(0))
        assert isinstance(architecture, Architecture)
        assert from_yaml(space, to_yaml(architecture)) == architecture
        sample_buildable(space, (3, 8, 8), 10)


@pytest.mark.parametrize(("space", "family"), [(OSASpace, osa), (DenseSpace, dense)])
def test_every_value_of_an_architecture_has_a_key_in_the_space(space: Any, family: Any) -> None:
    keys = {f.name for f in fields(space) if f.init}
    assert keys == set(kinds(family.Architecture)) | set(kinds(family.Stage))


@pytest.mark.parametrize(("space", "name"), PRESETS, ids=lambda value: value if isinstance(value, str) else "")
def test_presets_round_trip_and_differ(space: Any, name: str) -> None:
    architecture = space.preset(name)
    assert from_yaml(space, to_yaml(architecture)) == architecture
    assert pickle.loads(pickle.dumps(architecture)) == architecture  # noqa: S301 - our own bytes
    assert [n for s, n in PRESETS if s.preset(n).id == architecture.id] == [name]


def test_a_wrong_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpaceError, match="preset is 'vovnet93', which is not known; did you mean 'vovnet39'"):
        osa.preset("vovnet93")
    with pytest.raises(SpaceError, match="preset is 'xyz', which is not known; give one of densenet40, "):
        dense.preset("xyz")


def test_spaces_and_trials_are_plain_data_that_travels() -> None:
    space = OSASpace(layers={"each": [3, 5]}, ese=["none", "every"])
    there = pickle.loads(pickle.dumps(space))  # noqa: S301 - our own bytes
    assert there == space
    assert there.suggest(RandomTrial(3)) == space.suggest(RandomTrial(3))


def test_ids_are_stable_across_processes_and_releases() -> None:
    # Stored studies know their candidates by these: a change here means that no study from before recognises them.
    assert operations_id([["conv", {"in": 3, "out": 8}], ["pool", {}]]) == "a73ca3275a501009"
    assert osa.preset("vovnet39").id == "230eb31fe027fcd9"
    assert dense.preset("densenet121").id == "d712773867cfb11f"


def test_an_id_tells_operations_apart_and_not_the_order_of_their_arguments() -> None:
    assert operations_id([["conv", {"in": 3, "out": 8}]]) == operations_id([["conv", {"out": 8, "in": 3}]])
    lists = [[["a", 1]], [["a", 1], ["a", 1]], [["a", "1"]], [["a", True]], [["a", None]], [], [["a"], 1]]
    assert len({operations_id(operations) for operations in lists}) == len(lists)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "architecture is empty; give a mapping with the keys stem, activation, stages."),
        ("[1, 2]", "architecture is [1, 2]; give a mapping"),
        ("a: b: c", "is no YAML (mapping values are not allowed here at line 1); correct the file."),
        ("!!python/object/apply:os.getcwd []", "is no YAML (could not determine a constructor for the tag"),
        ("!!int ''", "is no plain YAML (IndexError"),
        ("\0", "is no plain YAML (ReaderError"),
        ("[" * 50_000, "is no plain YAML (RecursionError"),
        ("family: dense\nstages: []", "architecture.family is 'dense'; this space reads osa"),
        ("stem: {}", "architecture.family is empty; this space reads osa"),
        ("{family: osa, stem: {}}", "architecture.stages is missing; add it."),
        ("{family: osa, stem: {}, stages: []}", "architecture.stages is []; give a list of 1 to 8 stages."),
        ("{family: osa, stem: {}, stages: [3]}", "architecture.stages[0] is 3; give a mapping"),
        ("{family: osa, stem: {}, stages: [{}]}", "architecture.stages[0].conv_channels is missing; add it."),
        ("{family: osa, stem: {widht: 3}, stages: []}", "architecture.stem.widht is not a known key; did you mean 'width'?"),
        ("{family: osa, stem: {}, stages: [], 7: 8}", "architecture.7 is not a known key"),
        ('{family: osa, "two\\nlines": 8}', r"architecture.'two\nlines' is not a known key"),
        ("{family: osa, %s: 8}" % ("x" * 500), "architecture.'xxx"),
        (
            "{family: osa, stem: {}, stages: [{conv_channels: 8, concat_channels: -8}]}",
            "architecture.stages[0].concat_channels is -8; give a whole number",
        ),
        (
            "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b]\n"
            "d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\nfamily: [*d, *d, *d, *d, *d, *d, *d, *d]",
            "architecture.family is [",
        ),
    ],
)
def test_a_bad_document_is_refused_in_one_bounded_sentence(text: str, says: str) -> None:
    with pytest.raises(SpaceError) as caught:
        from_yaml(OSASpace(), text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_random_trial_draws_uniformly_keeps_its_answers_and_repeats_by_seed() -> None:
    draws = [RandomTrial(seed) for seed in range(3000)]
    counts = Counter(trial.suggest_int("a", 2, 11, step=3) for trial in draws)
    assert set(counts) == {2, 5, 8, 11}
    assert all(abs(count - 750) < 5 * (3000 * 0.25 * 0.75) ** 0.5 for count in counts.values())
    logs = Counter(trial.suggest_int("b", 1, 100, log=True) for trial in draws)
    assert set(logs) <= set(range(1, 101))
    assert sum(count for value, count in logs.items() if value <= 10) / 3000 == pytest.approx(0.575, abs=0.05)
    floats = [trial.suggest_float("c", 0.01, 1.0, log=True) for trial in draws]
    assert sum(value < 0.1 for value in floats) / 3000 == pytest.approx(0.5, abs=0.05)
    assert {round(trial.suggest_float("d", 0.1, 0.3, step=0.1), 9) for trial in draws} == {0.1, 0.2, 0.3}
    assert {trial.suggest_categorical("e", ("x", "y")) for trial in draws} == {"x", "y"}
    first = draws[0]
    assert first.suggest_int("a", 2, 11, step=3) == first.params["a"]
    assert RandomTrial(5).suggest_float("c", 0.0, 1.0) == RandomTrial(5).suggest_float("c", 0.0, 1.0)


@pytest.mark.parametrize("downsample", ["maxpool", "conv"])
def test_a_space_with_more_down_samplings_than_pixels_is_refused(downsample: str) -> None:
    space = OSASpace(stages=[7, 8], downsample=downsample, layers=[1, 2])
    with pytest.raises(SpaceError) as caught:
        sample_buildable(space, (3, 32, 32), 10)
    assert "32x32 input" in str(caught.value)
    assert "allow fewer down-samplings" in str(caught.value)
    sample_buildable(space, (3, 128, 128), 10)


def test_the_reason_that_a_forward_pass_gave_is_told() -> None:
    with pytest.raises(SpaceError, match=r"none of 1 random architectures .* 3x5 input .*Output size is too small"):
        sample_buildable(DenseSpace(stages=3, layers=1), (1, 3, 5), 10, tries=3)


def test_one_architecture_that_fits_is_enough() -> None:
    sample_buildable(OSASpace(stages={"low": 1, "high": 8}), (1, 4, 4), 10)
