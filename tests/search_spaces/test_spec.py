"""The language of a space's configuration: what is asked, under which name, and what is refused with which sentence."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf

from search_spaces.base import RandomTrial, SpaceError
from search_spaces.dense import DenseSpace
from search_spaces.osa import OSASpace


def asked(space: OSASpace | DenseSpace, seeds: int = 40) -> dict[str, set[Any]]:
    """Return every answer seen under every name that was asked for, over some random suggestions."""
    seen: dict[str, set[Any]] = {}
    for seed in range(seeds):
        trial = RandomTrial(seed)
        space.suggest(trial)
        for name, value in trial.params.items():
            seen.setdefault(name, set()).add(value)
    return seen


def test_fixed_values_single_choices_and_ranges_of_one_value_are_not_asked_for() -> None:
    space = OSASpace(layers=[4], conv_channels={"low": 8, "high": 8}, concat_channels={"low": 12, "high": 15, "step": 4})
    assert asked(space) == {}
    stage = space.suggest(RandomTrial(0)).stages[0]
    assert (stage.layers, stage.conv_channels, stage.concat_channels) == (4, 8, 12)


def test_a_shared_value_is_one_answer_for_all_stages() -> None:
    space = OSASpace(layers=[3, 4, 5])
    assert asked(space) == {"layers": {3, 4, 5}}
    assert len({stage.layers for stage in space.suggest(RandomTrial(1)).stages}) == 1


def test_each_lets_every_stage_decide_in_the_same_domain() -> None:
    space = OSASpace(stages=2, layers={"each": {"low": 2, "high": 8, "step": 3}})
    assert asked(space) == {"stage1.layers": {2, 5, 8}, "stage2.layers": {2, 5, 8}}


def test_per_stage_gives_every_stage_its_own_domain() -> None:
    space = OSASpace(stages=3, conv_channels={"per_stage": [[8, 16], 24, {"low": 32, "high": 33}]})
    assert asked(space) == {"stage1.conv_channels": {8, 16}, "stage3.conv_channels": {32, 33}}
    assert {space.suggest(RandomTrial(seed)).stages[1].conv_channels for seed in range(5)} == {24}


def test_a_stage_that_does_not_exist_asks_for_nothing() -> None:
    space = OSASpace(stages=[1, 3], layers={"each": [3, 5]})
    for seed in range(20):
        trial = RandomTrial(seed)
        stages = len(space.suggest(trial).stages)
        assert set(trial.params) == {"stages"} | {f"stage{n}.layers" for n in range(1, stages + 1)}


def test_nothing_is_asked_that_would_change_nothing() -> None:
    space = OSASpace(
        stem={"kind": ["cifar", "imagenet"], "inner_width": [32, 64]},
        stages=1,
        depth=[1, 2],
        bottleneck=[False, True],
        bottleneck_ratio=[0.25, 0.5],
        identity=[False, True],
        downsample=["maxpool", "conv"],
    )
    for seed in range(40):
        trial = RandomTrial(seed)
        space.suggest(trial)
        assert ("bottleneck_ratio" in trial.params) == trial.params["bottleneck"]
        assert ("identity" in trial.params) == (trial.params["depth"] == 2)
        assert ("stem.inner_width" in trial.params) == (trial.params["stem.kind"] == "imagenet")
        assert "downsample" not in trial.params
    assert asked(DenseSpace(stages=1, compression=[0.5, 1.0])) == {}


def test_only_per_stage_puts_a_down_sampling_before_the_first_stage() -> None:
    shared = OSASpace(stages=3, downsample="conv").suggest(RandomTrial(0))
    assert [stage.downsample for stage in shared.stages] == ["none", "conv", "conv"]
    own = OSASpace(stages=2, downsample={"per_stage": ["maxpool", "none"]}).suggest(RandomTrial(0))
    assert [stage.downsample for stage in own.stages] == ["maxpool", "none"]


def test_a_range_may_be_logarithmic_or_of_any_number() -> None:
    space = OSASpace(
        stages=1,
        conv_channels={"low": 1, "high": 64, "log": True},
        bottleneck=True,
        bottleneck_ratio={"low": 0.1, "high": 0.3, "step": 0.1},
    )
    seen = asked(space, seeds=300)
    assert {round(value, 9) for value in seen["bottleneck_ratio"]} == {0.1, 0.2, 0.3}
    assert min(seen["conv_channels"]) == 1
    assert 48 < max(seen["conv_channels"]) <= 64
    drawn = sorted(space.suggest(RandomTrial(seed)).stages[0].conv_channels for seed in range(300))
    assert drawn[150] < 16  # the median of a uniform draw would be 32, of a logarithmic one 8


def test_an_optuna_trial_is_asked_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    space = OSASpace(
        stages=[2, 3],
        layers={"low": 2, "high": 9, "step": 3},
        conv_channels={"each": {"low": 8, "high": 64, "log": True}},
        bottleneck=True,
        bottleneck_ratio={"low": 0.1, "high": 0.75, "step": 0.2},
        ese=["none", "last"],
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for seed in range(20):
        trial, plain = study.ask(), RandomTrial(seed)
        architecture = space.suggest(trial)
        space.suggest(plain)
        assert {name for name in trial.params if name[:5] != "stage"} == {name for name in plain.params if name[:5] != "stage"}
        assert space.suggest(optuna.trial.FixedTrial(trial.params)) == architecture
    assert [str(w.message) for w in recwarn if "optuna" in w.filename] == []


def test_containers_may_be_omegaconfs() -> None:
    written = {"stem": {"width": [8, 16]}, "layers": {"each": [3, 5]}, "conv_channels": {"low": 8, "high": 9}}
    assert asked(OSASpace(**OmegaConf.create(written))) == asked(OSASpace(**written))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"layers": []}, "space.layers is an empty list; give at least one choice."),
        ({"layers": {"each": []}}, "space.layers.each is an empty list"),
        ({"layers": {"per_stage": [[], 3, 3]}}, "space.layers.per_stage[0] is an empty list"),
        ({"layers": {"per_stage": [3, 4]}}, "space.layers.per_stage is [3, 4]; give a list with one entry for each of 3"),
        ({"stages": [2, 4], "layers": {"per_stage": [3, 4, 5]}}, "one entry for each of 4 stages"),
        ({"layers": {"per_stage": 3}}, "space.layers.per_stage is 3"),
        ({"layers": {"low": 5, "high": 3}}, "space.layers.low is 5, above its high of 3; exchange them."),
        ({"layers": {"low": 3}}, "space.layers.high is missing"),
        ({"layers": {"low": 3, "high": 5, "setp": 1}}, "space.layers.setp is not a known key; did you mean 'step'?"),
        ({"layers": {"each": 3, "low": 1}}, "space.layers is {'each': 3, 'low': 1}; each and per_stage stand alone"),
        ({"layers": {"each": {"each": 3}}}, "space.layers.each.each is not a known key"),
        ({"layers": {"low": 1, "high": 3, "step": 0}}, "space.layers.step is 0"),
        ({"layers": {"low": 1, "high": 3, "step": -1}}, "space.layers.step is -1"),
        ({"layers": {"low": 1, "high": 3, "step": 1, "log": True}}, "space.layers.step is 1, but a range with log"),
        ({"layers": {"low": 1, "high": 3, "log": "yes"}}, "space.layers.log is 'yes'; give true or false."),
        ({"layers": -5}, "space.layers is -5; give a whole number from 1 to 64."),
        ({"layers": [3, -5]}, "space.layers[1] is -5"),
        ({"layers": [3, 3]}, "space.layers is [3, 3], which names 3 twice"),
        ({"layers": 10**5000}, "space.layers is "),
        ({"layers": "five"}, "space.layers is 'five'"),
        ({"layers": 5.0}, "space.layers is 5.0"),
        ({"layers": None}, "space.layers is empty"),
        ({"layers": True}, "space.layers is true"),
        ({"conv_channels": float("inf")}, "space.conv_channels is inf"),
        ({"bottleneck": "yes"}, "space.bottleneck is 'yes'; give true or false."),
        ({"bottleneck": {"low": 0, "high": 1}}, "space.bottleneck is {'high': 1, 'low': 0}, but only numbers have a range"),
        ({"bottleneck_ratio": 0}, "space.bottleneck_ratio is 0; give a number from 0.01 to 16."),
        ({"bottleneck_ratio": {"low": 0.1, "high": 1, "step": 0}}, "space.bottleneck_ratio.step is 0"),
        ({"ese": [False, "none"]}, "names 'none' twice"),
        ({"ese": "evry"}, "space.ese is 'evry'; give one of none, last, every."),
        ({"activation": "relu7"}, "space.activation is 'relu7'; give one of relu,"),
        ({"stem": "cifar"}, "space.stem is 'cifar'; give a mapping with the keys kind, width, inner_width."),
        ({"stem": {"widht": 16}}, "space.stem.widht is not a known key; did you mean 'width'?"),
        ({"stem": {"width": {"each": [8, 16]}}}, "space.stem.width is {'each': [8, 16]}, but it is one for the whole"),
        ({"stages": 0}, "space.stages is 0; give a whole number from 1 to 8."),
        ({"stages": {"per_stage": [1]}}, "space.stages is {'per_stage': [1]}, but it is one for the whole network"),
    ],
)
def test_bad_input_is_refused_with_its_key_its_value_and_a_remedy(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(SpaceError) as caught:
        OSASpace(**keys)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_dense_space_speaks_the_same_language() -> None:
    with pytest.raises(SpaceError, match=r"space\.growth is -1; give a whole number from 1 to 8192\."):
        DenseSpace(growth=-1)
    space = DenseSpace(stages=2, layers={"each": [4, 6]}, growth=[8, 12], compression=[0.5, 1.0])
    assert set(asked(space)) == {"stage1.layers", "stage2.layers", "growth", "compression"}
