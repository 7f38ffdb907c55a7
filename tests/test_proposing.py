"""What a report proposes to search next: the file, the command that takes it, and each reason for proposing nothing."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.analyse.study.population import Population
from nas.compose import compose
from nas.config.common import StudyKeys
from nas.config.search import SEARCH_GROUPS, SEARCH_ROOT
from nas.proposing import Proposal, propose, settings, write_proposal
from nas.runs import Run, read_run
from search_spaces.osa import OSASpace
from tests.conftest import QUICK, Search

OVERRIDES = (
    "conf=osa_digits",
    *QUICK,
    "study.trials=16",
    "objectives=[top1,params]",
    "constraints={params: 200000}",
    "sampler=random",
    "train.peak_lr=0.1",
    "space.stem.width=[8,16]",
    "run_dir='out/a=b c'",
)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nas.search import main

    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(OVERRIDES) == 0
    return folder


@pytest.fixture
def run(searched: Path, workdir: Path) -> Run:
    shutil.copytree(searched / "out", workdir / "out")
    return read_run(StudyKeys(run_dir="out/a=b c"))


def population(run: Run) -> Population:
    return Population(run.outcomes, run.references, run.objectives, run.constraints, 287)


def plain(*arguments: str) -> dict[str, Any]:
    return compose("search", SEARCH_ROOT, SEARCH_GROUPS, arguments).plain


def test_the_file_and_the_command(run: Run, search: Search) -> None:
    proposal = propose(run, population(run), "error")
    assert isinstance(proposal, Proposal) and proposal.settings is not None
    before, after = proposal.settings
    assert 1 <= after < before
    write_proposal(proposal, run, population(run), "error")
    text = proposal.path.read_text(encoding="utf-8")
    head = [line for line in text.splitlines() if line.startswith("#")]
    told = " ".join(head)
    for part in ("study osa_digits", f"{len(run.feasible)}", "RandomSampler", "RegNet", "times fewer", "# was "):
        assert part in told
    assert yaml.safe_load(text) == proposal.narrowed.space
    # The command searches the narrowed space, and is otherwise the study's own but for its sampler, name and folder.
    program, *arguments = shlex.split(proposal.command)[2:]
    assert program == "nas.search" and f"#   {proposal.command}" in head
    found = plain(*arguments)
    assert found["space"] == proposal.narrowed.space and found["study"]["name"] == "osa_digits_narrowed"
    assert found["run_dir"] == "out/a=b c_narrowed" and found["sampler"]["_target_"].endswith("EhviSampler")
    for key in ("train", "measure", "data", "objectives", "constraints", "seed"):
        assert found[key] == run.plain[key], key
    code, _, err = search(*arguments, "study.trials=1")
    assert code == 0, err
    assert yaml.safe_load(Path("out/a=b c_narrowed/config.yaml").read_text())["space"] == proposal.narrowed.space


def test_without_a_proposal_an_older_file_goes(run: Run) -> None:
    few = Population(run.outcomes[:5], (), run.objectives, run.constraints, 287)
    refused = propose(run, few, "error")
    assert isinstance(refused, str) and "are too few, 12 are needed" in refused
    path = run.folder / "space_narrowed.yaml"
    path.write_text("an older one")
    write_proposal(refused, run, few, "error")
    assert not path.exists()


def test_a_space_of_another_language_is_not_narrowed(search: Search) -> None:
    Path("conf").mkdir()
    Path("conf/own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: digits\nallow_modules: [tests]\n"
        "space: {_target_: tests.toy.ToySpace, high: 40}\n"
    )
    code, _, err = search("conf=own", *QUICK, "study.trials=13", "objectives=[top1,params]", "sampler=random", "data.workers=0")
    assert code == 0, err
    run = read_run(StudyKeys(study="own"))
    refused = propose(run, population(run), "error")
    assert isinstance(refused, str) and refused.startswith("it asks for width, of which its configuration does not say")


def test_settings_are_counted() -> None:
    # Two stems; with one stage 3 + 2 settings (a ratio with the bottleneck alone), with two their square.
    asks = {"layers": {"each": [1, 2, 3, 4, 5]}, "conv_channels": 8, "concat_channels": 8}
    assert settings(OSASpace(stem={"width": [8, 16]}, stages=2, **asks)) == 2 * 25
    assert settings(OSASpace(stages=[1, 2], **asks)) == pytest.approx(5 + 25, rel=0.1)
    assert settings(OSASpace(stages=1, bottleneck=True, bottleneck_ratio={"low": 0.1, "high": 1})) is None
    assert settings(OSASpace(stages=1, conv_channels={"low": 8, "high": 32, "step": 8})) == 4
