"""A search's first trials, and results that it takes from other studies."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from nas.analyse.spread import SEED_NOISE
from nas.errors import InputError
from nas.outcomes import ANEW, TAKEN_AT
from nas.reuse import _is_its_own
from nas.start import locate
from search_spaces import dense, osa
from search_spaces.base import RandomTrial, to_yaml
from tests.conftest import QUICK, Search

SPACES = [
    yaml.safe_load((Path(__file__).parent.parent / "conf" / "space" / f"{name}.yaml").read_text())
    for name in ("osa_digits", "osa_cifar", "dense_cifar", "osa_digits_table")
]


def space_of(values: dict[str, object]) -> osa.OSASpace | dense.DenseSpace:
    kind = dense.DenseSpace if "dense" in str(values["_target_"]) else osa.OSASpace
    return kind(**{key: value for key, value in values.items() if key != "_target_"})  # type: ignore[arg-type,return-value]


def test_when_a_trial_was_taken_up_is_nothing_to_take_over() -> None:
    assert all(map(_is_its_own, (TAKEN_AT, ANEW, "attempt", "rung:1"))) and not any(map(_is_its_own, ("top1", "fidelity")))


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(SPACES), st.integers(0, 10_000))
def test_every_point_of_a_space_is_found_again(tmp_path_factory, values: dict[str, object], seed: int) -> None:  # type: ignore[no-untyped-def]
    space = space_of(values)
    architecture = space.suggest(RandomTrial(seed))
    path = tmp_path_factory.mktemp("a") / "architecture.yaml"
    path.write_text(to_yaml(architecture))
    params = locate(space, str(path))
    study = optuna.create_study()
    study.enqueue_trial(params)
    assert space.suggest(study.ask()).id == architecture.id


def test_the_papers_network_is_a_point_of_its_space() -> None:
    params = locate(space_of(SPACES[1]), "preset:osa_densenet40")
    assert params["stages"] == 3 and params["stage2.conv_channels"] == 43 and params["stage3.concat_channels"] == 448


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("preset:vovnet39", "preset:vovnet39 is no point of the space: it has stem.width=128"),
        ("preset:vovnet40", "'vovnet40'"),
        ("nowhere.yaml", "nowhere.yaml cannot be read"),
    ],
)
def test_what_the_space_does_not_hold_is_refused(workdir: Path, name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=r"^start: ") as error:
        locate(space_of(SPACES[1]), name)
    assert sentence in str(error.value)


def test_a_fixed_value_that_differs_is_named(workdir: Path) -> None:
    wide, narrow = osa.OSASpace(layers=[2, 3], concat_channels=64), osa.OSASpace(layers=[2, 3], concat_channels=32)
    Path("a.yaml").write_text(to_yaml(wide.suggest(RandomTrial(0))))
    with pytest.raises(InputError, match=r"which fixes stages\[0\].concat_channels to 32, where it has 64"):
        locate(narrow, "a.yaml")


def study_of(name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///runs/{name}/study.db")


def test_a_search_begins_with_them_and_takes_what_others_know(search: Search, workdir: Path) -> None:
    first = ("conf=osa_digits", *QUICK, "study.name=first", "study.trials=3", "objectives=[top1,latency_ms]", "confirm=1")
    assert search(*first)[0] == 0
    known = study_of("first")
    start = [f"runs/first/trials/{number}/architecture.yaml" for number in (2, 0)]
    arguments = (
        "conf=osa_digits",
        *QUICK,
        "study.name=second",
        "objectives=[top1,params]",
        f"start=[{','.join(start)}]",
        "reuse=[first]",
    )
    code, out, err = search(*arguments, "study.trials=3", "seed=0", "sampler=random")
    assert code == 0, err
    assert "reuse: 3 networks are known from first" in out
    trials = study_of("second").get_trials()
    assert [trial.user_attrs["architecture_id"] for trial in trials[:2]] == [
        known.trials[number].user_attrs["architecture_id"] for number in (2, 0)
    ]
    for trial, number in zip(trials[:2], (2, 0), strict=True):
        assert trial.state == TrialState.COMPLETE and trial.user_attrs["reused_from"] == f"first/{number}"
        # One seed's, not the mean over those with which it was confirmed.
        assert trial.values == [known.trials[number].user_attrs["top1"], known.trials[number].user_attrs["params"]]
        assert trial.user_attrs["seeds"] == [0] and not [name for name in trial.user_attrs if name.endswith(SEED_NOISE)]
        assert json.loads(trial.user_attrs["architecture"])["family"] == "osa"
        assert Path(f"runs/second/trials/{trial.number}/architecture.yaml").exists()
    with Path("runs/second/front.csv").open() as file:
        front = [trials[int(row["trial"])].user_attrs["architecture_id"] for row in csv.DictReader(file)]
    assert front and len(front) == len(set(front)), "what is suggested again is no second network"
    # The same random draws as in the first study: its third trial is known as well.
    assert sum(1 for line in out.splitlines() if line.startswith("trial ")) >= 3
    # Going on asks for no start again.
    assert search(*arguments, "study.trials=4", "sampler=random")[0] == 0
    assert len([t for t in study_of("second").get_trials() if t.user_attrs.get("start")]) == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("train.epochs=2", "there train.epochs is 1, here 2"),
        ("seed=1", "there seed is 0, here 1"),
        ("space.depth=1", "there space.depth"),
        ("measure.batch_size=16", "there measure.batch_size is 8, here 16"),
        ("reuse=[nobody]", "nobody"),
    ],
)
def test_a_study_under_other_conditions_is_not_reused(search: Search, workdir: Path, change: str, sentence: str) -> None:
    assert search("conf=osa_digits", *QUICK, "study.name=first", "study.trials=1", "objectives=[top1,params]")[0] == 0
    code, _, err = search(
        "conf=osa_digits", *QUICK, "study.name=second", "study.trials=1", "objectives=[top1,params]", "reuse=[first]", change
    )
    assert code == 2 and sentence in err and err.count("\n") == 1
    assert not Path("runs/second").exists()
