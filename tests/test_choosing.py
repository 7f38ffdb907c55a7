"""Which network is meant, on a real run; each way of asking for none earns one sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nas.choosing import choose
from nas.config.common import StudyKeys
from nas.errors import InputError
from nas.runs import Run, read_run
from search_spaces import dense, osa
from search_spaces.base import to_yaml
from tests.conftest import QUICK


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from nas.search import main

    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["study.trials=5", "objectives=[top1,latency_ms,params]", "constraints.params=1e9"]
        assert main(["conf=osa_digits", *QUICK, *arguments]) == 0
        return read_run(StudyKeys("osa_digits"))


def bounded(run: Run, params: float) -> Run:
    return dataclasses.replace(run, constraints={"params": params})


def test_the_knee_is_on_the_front_and_the_default(run: Run) -> None:
    chosen = choose(run, None, None, None)
    assert chosen == choose(run, "knee", None, None)
    assert chosen.outcome in run.front and chosen.label == chosen.outcome.name
    assert chosen.why.startswith(f"Trial {chosen.label}, the knee of the front of {len(run.front)}: top1 ")
    assert chosen.architecture.id == chosen.outcome.attributes["architecture_id"]


def test_the_best_under_conditions(run: Run) -> None:
    sizes = sorted(outcome.attributes["params"] for outcome in run.outcomes)
    chosen = choose(run, f"max params where params<{sizes[-1]}", None, None)
    assert chosen.outcome is not None and chosen.outcome.attributes["params"] == sizes[-2]


def test_a_trial(run: Run) -> None:
    assert choose(run, None, 3, None).label == "3"
    smallest = min(outcome.attributes["params"] for outcome in run.outcomes)
    assert "it misses params by" in choose(bounded(run, smallest - 1), None, 3, None).why


def test_an_architecture_of_any_family(run: Run, tmp_path: Path) -> None:
    for architecture in (osa.preset("osa_densenet40"), dense.preset("densenet40")):
        path = tmp_path / "a.yaml"
        path.write_text(to_yaml(architecture))
        chosen = choose(run, None, None, str(path))
        assert chosen.architecture == architecture and chosen.label == architecture.id and chosen.outcome is None
        assert sum(p.numel() for p in chosen.space.build(chosen.architecture, 1, 10).parameters()) > 1e5


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("knee", 3, None), "pick and trial are both set"),
        ((None, 99, None), "trial=99 is not in study osa_digits: its trials are 0 to 4"),
        (("max top1 where params<1", None, None), "finds nothing: the nearest is trial"),
        (("max energy_j", None, None), "no network of study osa_digits has a value for energy_j"),
        ((None, None, "nowhere.yaml"), "architecture=nowhere.yaml cannot be read (No such file or directory)"),
        (("max tpo1", None, None), "did you mean 'top1'?"),
    ],
)
def test_what_is_not_there(run: Run, asked: tuple[str | None, int | None, str | None], told: str) -> None:
    with pytest.raises(InputError) as error:
        choose(run, *asked)
    assert told in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "family: osa", "family: dense\nstages: 3", "- 1", "family: mine\nwidth: 3", ""])
def test_a_damaged_architecture_is_named(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=r"a\.yaml"):
        choose(run, None, None, str(tmp_path / "a.yaml"))


def test_no_feasible_network_names_the_nearest(run: Run) -> None:
    by_size = min(run.outcomes, key=lambda outcome: outcome.attributes["params"])
    with pytest.raises(InputError) as error:
        choose(bounded(run, 100), "knee", None, None)
    assert f"the nearest is trial {by_size.name}, which misses params by" in str(error.value)
    with pytest.raises(InputError, match="has no complete trial yet"):
        choose(dataclasses.replace(run, outcomes=()), None, None, None)
