"""Questions to a search: what can be asked, what is refused, what spoils the sample, and an answer from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.asking import make_question
from nas.compose import compose
from nas.config.search import SEARCH_GROUPS, SEARCH_ROOT, SearchConfig, parse_search
from nas.drawn import doubts, drawn_by
from nas.errors import InputError
from nas.targets import build_target
from tests.browser import ask, needs_chromium
from tests.conftest import QUICK, Search


def config(*arguments: str) -> SearchConfig:
    return parse_search(compose("search", SEARCH_ROOT, SEARCH_GROUPS, ["conf=osa_digits", *arguments]).plain)


def asked(*arguments: str) -> tuple[object, ...]:
    settings = config(*arguments)
    question = make_question(settings, build_target("space", settings.space))
    assert question is not None
    return question.values


def test_the_values_are_those_of_the_space() -> None:
    assert make_question(config(), build_target("space", config().space)) is None
    assert asked("question.factor=bottleneck") == (False, True)
    assert asked("question.factor=downsample") == ("maxpool", "conv")
    assert asked("question.factor=stages") == (1, 2, 3)
    assert asked("question.factor=stage3.layers") == (2, 3, 4, 5)  # of a stage that is not always there
    assert asked("question.factor=stages", "question.values=[3,1]") == (3, 1)
    assert asked("question.factor=bottleneck", "question.values=[true,false]") == (True, False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["factor=bottlneck"], "question.factor=bottlneck is nothing that the space asks for; did you mean 'bottleneck'?"),
        (["factor=depthwise"], "question.factor=depthwise is nothing that the space asks for"),  # the space fixes it
        (
            ["factor=stages", "values=[1,4]"],
            "question.values=[1, 4] cannot be used: 4 is no value of stages, which takes 1, 2, 3.",
        ),
        (["factor=bottleneck", "values=[1,0]"], "1 is no value of bottleneck, which takes false, true."),
        (["factor=stages", "values=[2,2]"], "question.values=[2, 2] cannot be used: 2 names it twice."),
        (["factor=stages", "values=[2]"], "question.values=[2] cannot be used: it should be two to 4 of 1, 2, 3."),
        (["factor=stem.width", "values=[8,16,24,8,16]"], "it should be two to 4 of 8, 16, 24."),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        asked(*(f"question.{argument}" for argument in arguments))
    assert sentence in str(refused.value) and str(refused.value)[-1] in ".?"


def test_many_values_must_be_named() -> None:
    ranged = ("space.conv_channels={low: 8, high: 32}", "question.factor=conv_channels")
    with pytest.raises(
        InputError, match=r"question\.factor=conv_channels takes 25 values \(8, 9, .*\.\.\.\): name two to 4 of them"
    ):
        asked(*ranged)
    assert asked(*ranged, "question.values=[8,32]") == (8, 32)
    with pytest.raises(InputError, match=r"takes any number from 0\.25 to 2, which no two networks share"):
        asked("space.bottleneck=true", "space.bottleneck_ratio={low: 0.25, high: 2.0}", "question.factor=bottleneck_ratio")


@pytest.mark.parametrize(
    ("arguments", "doubt"),
    [
        (["scheduler=none"], "EhviSampler draws where it expects good networks"),
        (["sampler=nsga2", "scheduler=none"], "NSGAIISampler draws where it expects good networks"),
        (["scheduler=mo_asha", "sampler=random"], "scheduler=mo_asha trains to the end only what stands high early"),
        (["constraints.params=1e5", "sampler=random", "scheduler=none"], "networks that miss a bound (params) are not trained"),
        (["start=[preset:osa_densenet40]", "sampler=qmc", "scheduler=none"], "the 1 networks of start were chosen and not drawn"),
    ],
)
def test_what_spoils_the_sample_is_told(arguments: list[str], doubt: str) -> None:
    (told,) = doubts((drawn_by(config(*arguments)),))
    assert told.startswith(doubt)


@pytest.mark.parametrize("more", [["sampler=random"], ["sampler=qmc"], ["sampler=random", "constraints.top1=0.9"]])
def test_a_fair_sample_raises_no_doubt(more: list[str]) -> None:
    assert doubts((drawn_by(config("scheduler=none", *more)),)) == ()


def test_a_question_that_cannot_be_asked_writes_nothing(search: Search, workdir: Path) -> None:
    for arguments in (["question.factor=arms"], ["question.factor=bottleneck", "question.equal=joules"]):
        code, _, err = search("conf=osa_digits", *QUICK, "study.trials=2", *arguments)
        assert code == 2 and err.count("\n") == 1 and arguments[-1].partition("=")[2] in err
    assert not Path("runs").exists()


def test_a_space_that_counts_on_other_images_is_refused(search: Search, workdir: Path) -> None:
    shape = ("space.input_shape=[3,32,32]", "space.mult_adds=[3e7]")
    code, _, err = search("conf=studies/osa_or_dense", *QUICK, "study.trials=2", *shape)
    assert code == 2 and "space.input_shape=[3, 32, 32] cannot be used: that of digits is [1, 8, 8]" in err
    assert "set space.input_shape=[1,8,8]" in err and err.count("\n") == 1
    code, _, err = search("conf=studies/osa_or_dense", *QUICK, "study.trials=2", "space.num_classes=100")
    assert code == 2 and "set space.num_classes=10" in err


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nas.search import main

    folder = tmp_path_factory.mktemp("asking")
    small = (
        "study.trials=14",
        "study.name=asked",
        "objectives=[top1,latency_ms]",
        "question.equal=null",
        "space.mult_adds=[5e5]",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["conf=studies/osa_or_dense", *QUICK, *small]) == 0
    return folder


def test_a_search_ends_with_its_answer(asking: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from nas.search import main

    monkeypatch.chdir(asking)
    kept = json.loads(Path("runs/asked/answer.json").read_text())
    (comparison,) = kept["comparisons"]
    assert sum(comparison["networks"]) == 14 and {"first": "osa", "second": "dense"}.items() <= comparison.items()
    assert {difference["metric"] for difference in comparison["differences"]} >= {
        "top1",
        "latency_ms",
        "flops_per_s",
        "mem_access",
    }
    # Asked otherwise, the same study answers at once: no trial is run for it.
    same = ("study.trials=14", "study.name=asked", "objectives=[top1,latency_ms]", "space.mult_adds=[5e5]")
    assert main(["conf=studies/osa_or_dense", *QUICK, *same, "question.equal=flops", "question.within=0.2"]) == 0
    printed = capsys.readouterr().out
    assert "14 trials, 14 of them done" in printed
    assert "question: does one-shot aggregation beat dense connections at equal FLOPs?" in printed
    assert "each with those whose FLOPs differ by 20 % at most" in printed
    again = json.loads(Path("runs/asked/answer.json").read_text())
    assert again["question"]["equal"] == "flops" and all(line in printed for line in again["told"])
    assert "flops" not in {difference["metric"] for difference in again["comparisons"][0]["differences"]}


SHOWN = """
answers.text = document.querySelector("#answer").innerText;
answers.cards = [...document.querySelectorAll("#answer .card")].map((card) => card.innerText);
"""


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_shows_the_answer(asking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from nas.report import main

    monkeypatch.chdir(asking)
    assert main(["study=asked", "layers=false"]) == 0
    answers = ask(asking / "runs" / "asked" / "report.html", tmp_path, SHOWN, width)
    assert "error" not in answers and answers["scroll"] <= answers["width"]
    assert "Does one-shot aggregation beat dense connections" in answers["text"]
    assert len(answers["cards"]) >= 4 and all("osa to dense" in card or "dense to osa" in card for card in answers["cards"])
