"""What the shipped studies promise of their design spaces, on random draws that are counted without being run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.asking import make_question
from nas.compose import compose, studies
from nas.config.search import SEARCH_GROUPS, SEARCH_ROOT, parse_search
from nas.drawn import doubts, drawn_by
from nas.targets import build_target
from search_spaces import osa
from search_spaces.base import RandomTrial
from search_spaces.rivals import Rivals, count_mult_adds


def space_of(study: str) -> osa.OSASpace:
    config = parse_search(compose("search", SEARCH_ROOT, SEARCH_GROUPS, [f"conf={study}"]).plain)
    space = build_target("space", config.space)
    assert isinstance(space, osa.OSASpace)
    return space


def test_osa_cifar_spans_20_to_400_mflops() -> None:
    space, mflops = space_of("osa_cifar"), []
    for seed in range(40):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            space.build(space.suggest(RandomTrial(seed)), 3, 10)(torch.zeros(2, 3, 32, 32))
        mflops.append(counter.get_total_flops() / 2e6)
    assert min(mflops) < 35 and max(mflops) > 250
    assert np.quantile(mflops, 0.02) > 15 and np.quantile(mflops, 0.98) < 450


class Chosen(RandomTrial):
    """Answers with the values of the paper's CIFAR network where the space has them."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        assert "layers" in name and (low, high) == (2, 5)
        return 5

    def suggest_categorical(self, name: str, choices: object) -> object:  # type: ignore[override]
        wanted = {"stages": 3, "stem.width": 16, "conv_channels": 43, "downsample": "maxpool", "depth": 1, "ese": "none"}
        concat = {"stage1.concat_channels": 160, "stage2.concat_channels": 304, "stage3.concat_channels": 448}
        value = {**wanted, **concat}.get(name, wanted.get(name.partition(".")[2], False))
        assert value in choices, name  # type: ignore[operator]
        return value


def test_osa_cifar_holds_the_papers_network() -> None:
    assert space_of("osa_cifar").suggest(Chosen(0)).id == osa.preset("osa_densenet40").id


@pytest.mark.parametrize("study", ["osa_digits", "osa_cifar", "dense_cifar"])
def test_spaces_are_large(study: str) -> None:
    config = parse_search(compose("search", SEARCH_ROOT, SEARCH_GROUPS, [f"conf={study}"]).plain)
    space = build_target("space", config.space)
    assert len({space.suggest(RandomTrial(seed)).id for seed in range(100)}) > 90


QUESTIONS = [name for name in studies() if name.startswith("studies/")]


def test_the_papers_questions_are_studies() -> None:
    assert QUESTIONS == ["studies/bottleneck", "studies/layers", "studies/osa_or_dense"]


@pytest.mark.parametrize("study", QUESTIONS)
def test_a_question_compares_equal_work_and_draws_a_fair_sample(study: str) -> None:
    config = parse_search(compose("search", SEARCH_ROOT, SEARCH_GROUPS, [f"conf={study}"]).plain)
    space = build_target("space", config.space)
    assert isinstance(space, Rivals)
    question = make_question(config, space)
    assert question is not None and question.values == tuple(space.arms) and question.asks and doubts((drawn_by(config),)) == ()
    off: dict[str, list[float]] = {arm: [] for arm in space.arms}
    for seed in range(16):
        trial = RandomTrial(seed)
        found = count_mult_adds(space, space.suggest(trial), [1, 8, 8], 10)
        off[trial.params["arm"]].append(found / trial.params["mult_adds"] - 1)
    assert all(len(arm) >= 5 and max(map(abs, arm)) < 0.05 and abs(sum(arm) / len(arm)) < 0.02 for arm in off.values())


def test_a_question_can_be_put_to_larger_images() -> None:
    larger = ["data=cifar10", "space.input_shape=[3,32,32]", "space.mult_adds=[3e7]"]
    config = parse_search(compose("search", SEARCH_ROOT, SEARCH_GROUPS, ["conf=studies/osa_or_dense", *larger]).plain)
    space = build_target("space", config.space)
    for seed in range(3):
        assert count_mult_adds(space, space.suggest(RandomTrial(seed)), [3, 32, 32], 10) == pytest.approx(3e7, rel=0.03)
