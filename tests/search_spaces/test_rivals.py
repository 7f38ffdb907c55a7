"""Rivals at equal multiply-adds: what is asked, how near the work is met, by a count that the meters' own agrees with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.measure.complexity import count
from search_spaces import dense, osa
from search_spaces.base import RandomTrial, SearchSpace, SpaceError, from_yaml, to_yaml
from search_spaces.rivals import Rivals, count_mult_adds
from tests.search_spaces.test_space_properties import DENSE, OSA

STEM = {"kind": "cifar", "width": [8, 16]}
IMAGE = {"input_shape": [1, 8, 8], "num_classes": 10}


def osa_arm(**more: Any) -> osa.OSASpace:
    widths = {"conv_channels": {"each": [8, 16]}, "concat_channels": {"each": [16, 32, 64]}}
    return osa.OSASpace(**{"stem": STEM, "stages": [2, 3], "layers": {"each": [3, 5]}, **widths, **more})


def dense_arm(**more: Any) -> dense.DenseSpace:
    return dense.DenseSpace(**{"stem": STEM, "stages": [2, 3], "layers": {"each": [3, 5]}, "growth": {"each": [6, 12]}, **more})


def rivals(mult_adds: Any = (5e5, 1e6, 2e6), **more: Any) -> Rivals:
    asked = list(mult_adds) if isinstance(mult_adds, tuple) else mult_adds
    return Rivals(**{"arms": {"osa": osa_arm(), "dense": dense_arm()}, "mult_adds": asked, **IMAGE, **more})


@pytest.mark.parametrize("kind", ["osa", "dense"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.05, 20), step=st.floats(1, 1.5), turn=st.floats(0, 1))
def test_widening_keeps_what_is_no_width_and_never_shrinks(kind: str, seed: int, factor: float, step: float, turn: float) -> None:
    architecture: Any = (OSA if kind == "osa" else DENSE).suggest(RandomTrial(seed))
    assert architecture.widened(1.0, turn) == architecture
    widths = {"width", "inner_width", "conv_channels", "concat_channels", "growth"}

    def parted(of: Any) -> tuple[list[int], list[Any]]:
        parts = [of.to_dict()["stem"], *of.to_dict()["stages"]]
        return (
            [value for part in parts for key, value in part.items() if key in widths],
            [value for part in parts for key, value in part.items() if key not in widths],
        )

    before, other = parted(architecture)
    smaller, larger = architecture.widened(factor, turn), architecture.widened(factor * step, turn)
    assert parted(smaller)[1] == other
    assert all(abs(new - max(1, old)) <= 1 for new, old in zip(parted(smaller)[0], [w * factor for w in before], strict=True))
    assert all(a <= b for a, b in zip(parted(smaller)[0], parted(larger)[0], strict=True))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_count_is_that_of_the_meters(device: Any) -> None:
    space = rivals()
    for seed in range(6):
        architecture = space.suggest(RandomTrial(seed))
        theirs = count(space.build(architecture, 1, 10), (1, 8, 8))
        assert count_mult_adds(space, architecture, [1, 8, 8], 10, device) == theirs.mult_adds


def test_counting_draws_no_random_numbers() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    rivals().suggest(RandomTrial(0))
    assert torch.equal(torch.rand(1), wanted)


def test_the_arms_meet_the_work_and_ask_under_their_names() -> None:
    space = rivals()
    assert isinstance(space, SearchSpace)
    off: dict[str, list[float]] = {"osa": [], "dense": []}
    for seed in range(24):
        trial = RandomTrial(seed)
        architecture = space.suggest(trial)
        arm = trial.params["arm"]
        assert list(trial.params)[:2] == ["arm", "mult_adds"]
        assert all(name.startswith(f"{arm}.") for name in list(trial.params)[2:])
        assert architecture.to_dict()["family"] == arm
        assert from_yaml(space, to_yaml(architecture)) == architecture
        assert space.suggest(RandomTrial(seed)).id == architecture.id
        mult_adds = count_mult_adds(space, architecture, [1, 8, 8], 10)
        off[arm].append(mult_adds / trial.params["mult_adds"] - 1)
    for found in off.values():
        assert len(found) >= 8
        assert max(map(abs, found)) < 0.1 and abs(sum(found) / len(found)) < 0.02


def test_the_work_may_be_a_range_and_may_be_fixed() -> None:
    trial = RandomTrial(0)
    rivals({"low": 4e5, "high": 4e6, "log": True}).suggest(trial)
    assert 4e5 <= trial.params["mult_adds"] <= 4e6
    trial = RandomTrial(0)
    rivals(1e6).suggest(trial)
    assert "mult_adds" not in trial.params


def test_without_work_an_arm_suggests_what_it_always_did() -> None:
    space = Rivals(arms={"plain": osa_arm(), "thin": osa_arm(bottleneck=True)})
    trial = RandomTrial(1)
    architecture = space.suggest(trial)
    alone = {name.partition(".")[2]: value for name, value in trial.params.items() if "." in name}
    again = RandomTrial(0)
    again.params.update(alone)
    assert space.arms[trial.params["arm"]].suggest(again) == architecture


def test_presets_and_features_are_those_of_the_arms() -> None:
    space = rivals()
    assert space.preset("densenet40") == dense.preset("densenet40")
    network = space.build(space.preset("osa_densenet40"), 3, 10, features=(1, 2))
    assert len(network(torch.zeros(1, 3, 32, 32))) == 2
    with pytest.raises(SpaceError, match="vovnet99"):
        space.preset("vovnet99")


@dataclass(frozen=True)
class Stiff:
    """A space whose networks cannot be widened."""

    def suggest(self, trial: Any) -> Any:
        return self

    def to_dict(self) -> dict[str, Any]:
        return {"family": "stiff"}

    def build(self, architecture: Any, in_channels: int, num_classes: int) -> Any: ...
    def preset(self, name: str) -> Any: ...
    def from_dict(self, mapping: Any) -> Any: ...


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arms": {"osa": osa_arm()}}, "space.arms is"),
        ({"arms": 3}, "space.arms is 3"),
        ({"arms": {"osa": osa_arm(), "the other": dense_arm()}}, "space.arms has the name 'the other'"),
        ({"arms": {"osa": osa_arm(), "dense": {}}}, "space.arms.dense is"),
        ({"arms": {"osa": osa_arm(), "stiff": Stiff()}}, "the networks of space.arms.stiff cannot be widened"),
        ({"mult_adds": 0.5}, "space.mult_adds is 0.5"),
        ({"mult_adds": [1e6, "much"]}, "space.mult_adds[1] is 'much'"),
        ({"mult_adds": [2000, 1e6]}, "with one channel everywhere a network of space.arms.osa has"),
        ({"input_shape": None}, "space.input_shape is empty"),
        ({"input_shape": [1, 8]}, "space.input_shape is [1, 8]"),
        ({"input_shape": [1, 8, 0]}, "space.input_shape[2] is 0"),
        ({"num_classes": None}, "space.num_classes is empty"),
    ],
)
def test_what_cannot_be_is_one_sentence(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SpaceError) as refused:
        rivals(**changes)
    assert says in str(refused.value) and str(refused.value).endswith(".")


def test_an_arm_none_of_whose_networks_can_be_built_is_refused() -> None:
    with pytest.raises(SpaceError) as refused:  # a fifth stage pools a map of a single pixel
        rivals(arms={"osa": osa_arm(), "dense": dense_arm(stages=5)})
    told = str(refused.value)
    assert told.startswith("space.arms.dense suggests no network that can be built for a 8x8 input with 1 channels (")
    assert "Output size is too small" in told and told.endswith("or give larger images.") and "\n" not in told


def test_a_network_that_cannot_be_built_is_suggested_as_it_is_and_fails_alone() -> None:
    space = rivals(arms={"osa": osa_arm(), "dense": dense_arm(stages=[2, 5])})
    outcomes: dict[int, set[str]] = {2: set(), 5: set()}
    for seed in range(24):
        trial = RandomTrial(seed)
        architecture = space.suggest(trial)
        if trial.params["arm"] != "dense":
            continue
        stages = trial.params["dense.stages"]
        if stages == 5:
            assert architecture == space.arms["dense"].suggest(answered(trial))
        try:
            space.build(architecture, 1, 10).eval()(torch.zeros(1, 1, 8, 8))
            outcomes[stages].add("built")
        except RuntimeError:
            outcomes[stages].add("failed")
    assert outcomes == {2: {"built"}, 5: {"failed"}}


def answered(trial: RandomTrial) -> RandomTrial:
    """Return a trial that answers an arm as it was answered."""
    again = RandomTrial(0)
    again.params.update({name.partition(".")[2]: value for name, value in trial.params.items() if "." in name})
    return again


def test_an_architecture_of_no_arm_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"architecture\.family is 'plain', which no arm reads; give one of osa, dense\."):
        rivals().from_dict({"family": "plain"})
    with pytest.raises(SpaceError, match="architecture is 3"):
        rivals().from_dict(3)  # type: ignore[arg-type]
