"""The report on real searches: its content, in a browser at two widths, and each case in which there is little to show."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path

import pytest
import yaml

from tests.browser import ask, needs_chromium
from tests.conftest import QUICK

Command = Callable[..., tuple[int, str, str]]
OBJECTIVES = "objectives=[top1,latency_ms,params]"

HOVER = """
const plot = document.querySelector(".plot");
const trace = plot.data.findIndex(({ legendgroup }) => legendgroup === "on the front");
Plotly.Fx.hover(plot, [{ curveNumber: trace, pointNumber: 0 }]);
await new Promise((done) => setTimeout(done, 200));
answers.hover = [...plot.querySelectorAll(".hoverlayer text")].map((node) => node.textContent).join(" ");
"""
BRUSH = """
const axis = document.querySelector(".parallel .brush"), box = axis.getBoundingClientRect();
const at = (share) => ({ clientX: box.left + 5, clientY: box.top + 6 + share * (box.height - 12), bubbles: true, pointerId: 1 });
const rows = () => shown("#filter tbody tr").length;
answers.before = rows();
axis.dispatchEvent(new PointerEvent("pointerdown", at(-0.05)));
axis.dispatchEvent(new PointerEvent("pointermove", at(0.001)));
axis.dispatchEvent(new PointerEvent("pointermove", at(0.02)));
axis.dispatchEvent(new PointerEvent("pointerup", at(0.02)));
await new Promise((done) => setTimeout(done, 200));
answers.kept = rows();
answers.selected = [...document.querySelectorAll(".plot")].map((plot) => (plot.data || [])
  .filter((trace) => trace.meta && trace.meta.link).map((trace) => (trace.selectedpoints || []).length)
  .reduce((a, b) => a + b, 0))[0];
axis.dispatchEvent(new PointerEvent("pointerdown", at(0.5)));
axis.dispatchEvent(new PointerEvent("pointerup", at(0.5)));
await new Promise((done) => setTimeout(done, 200));
answers.again = rows();
for (const button of document.querySelectorAll("#networks button[data-choice]")) button.click();
answers.sheets = shown("#networks .drawing").length;
answers.lines = document.querySelectorAll(".parallel canvas").length;
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nas.search import main

    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ("study.trials=14", OBJECTIVES, "references=[osa_densenet40]", "constraints={params: 150000}")
        assert main(["conf=osa_digits", *QUICK, *arguments, "sampler=random"]) == 0
    return folder


@pytest.fixture
def report(searched: Path, workdir: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run ``nas.report`` in this process, in a folder with the search's run."""
    from nas.cli import run_command
    from nas.report import main

    shutil.copytree(searched / "runs", workdir / "runs")

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["nas.report", *arguments])
            run_command(main)
        written = capfd.readouterr()
        return int(str(ended.value.code)), written.out, written.err

    return run


def test_the_page_and_the_front(report: Command) -> None:
    code, out, err = report("study=osa_digits", "layer_seconds=2")
    assert code == 0, err
    assert "the knee of the front of " in out and "python -m nas.retrain study=osa_digits pick=knee" in out
    page = Path("runs/osa_digits/report.html")
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 8e6
    for part in ("At a glance", "Fronts", "Filter", "Choices", "Networks", "Space", "Course", "Conditions", "Caveats"):
        assert f">{part}</h2>" in text
    with Path("runs/osa_digits/front.csv").open(encoding="utf-8") as file:
        front = [row["trial"] for row in csv.DictReader(file)]
    assert front and all(f">trial {trial}<" in text for trial in front)
    timed = json.loads(Path(f"runs/osa_digits/trials/{front[0]}/layers.json").read_text())
    assert sum(layer["share"] for layer in timed["times"]["layers"]) > 0.3
    # Twelve networks that keep the bound are enough to say which sizes are good ones.
    assert "What a setting does to the space" in text and 'data-choice="split by"' in text
    narrowed = Path("runs/osa_digits/space_narrowed.yaml")
    assert f"narrowed space: {narrowed}: about " in out and narrowed.read_text(encoding="utf-8").startswith(
        "# The space of study"
    )
    (command,) = [line.strip() for line in out.splitlines() if "nas.search" in line]
    assert f"space={narrowed} study.name=osa_digits_narrowed" in command and escape(command) in text and "# was " in text
    # What was timed is not timed again.
    before = Path(f"runs/osa_digits/trials/{front[0]}/layers.json").stat().st_mtime_ns
    assert report("study=osa_digits")[0] == 0
    assert Path(f"runs/osa_digits/trials/{front[0]}/layers.json").stat().st_mtime_ns == before


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(report: Command, tmp_path: Path, width: int) -> None:
    assert report("study=osa_digits", "layers=false")[0] == 0
    answers = ask(Path("runs/osa_digits/report.html"), tmp_path, HOVER + BRUSH, width=width)
    assert answers["plots"] == answers["drawn"] >= 8
    assert answers["scroll"] <= width and not answers["meetings"] and not answers["outside"]
    assert "trial " in answers["hover"] and "latency_ms" in answers["hover"]
    assert "preset:osa_densenet40" in answers["names"] or "osa_densenet40" in answers["names"]
    # The best of the first axis alone is kept.
    assert answers["before"] == answers["again"] == 14 and 1 <= answers["kept"] < 14
    assert answers["selected"] == answers["kept"]
    assert answers["sheets"] == 1 and answers["lines"] == 1


def test_another_network_first_and_another_file(report: Command) -> None:
    code, out, _ = report("study=osa_digits", "pick=min params", "layers=false", "out=elsewhere/page.html", "networks=1")
    assert code == 0 and "min params" in out and "nas.retrain study=osa_digits 'pick=min params'" in out
    text = Path("elsewhere/page.html").read_text(encoding="utf-8")
    assert text.count("class='half drawing'") == 1 and "1 of the " in text


def test_conditions_that_cannot_be_had_here_leave_the_layers_untimed(report: Command) -> None:
    path = Path("runs/osa_digits/config.yaml")
    written = yaml.safe_load(path.read_text())
    written["measure"]["threads"] = 512
    path.write_text(yaml.safe_dump(written))
    code, _, err = report("study=osa_digits")
    assert code == 0, err
    assert "conditions cannot be had here (measure.threads=512" in Path("runs/osa_digits/report.html").read_text()


def test_no_network_keeps_the_constraints(search: Command, workdir: Path) -> None:
    from nas.report import main

    assert search("conf=osa_digits", *QUICK, "study.trials=2", OBJECTIVES, "constraints={params: 10}")[0] == 0
    assert main(["study=osa_digits"]) == 0
    text = Path("runs/osa_digits/report.html").read_text(encoding="utf-8")
    assert "has no network that keeps every constraint: the nearest is trial" in text and "misses params by" in text


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("retrain/0/metrics.json", "{}", "it has no 'test_top1'): retrain it anew, or delete"),
        ("audit/audit.json", "{}", "audit anew, or delete it"),
        ("trials/0/measurement.json", "[1]", "trials/0/measurement.json cannot be read"),
    ],
)
def test_damaged_files_are_named(
    search: Command, workdir: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, sentence: str
) -> None:
    from nas.cli import run_command
    from nas.report import main

    assert search("conf=osa_digits", *QUICK, "study.trials=1", OBJECTIVES)[0] == 0
    path = Path("runs/osa_digits") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["nas.report", "study=osa_digits", "layers=false"])
        run_command(main)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and sentence in err and err.count("\n") == 1


def test_a_study_without_a_complete_trial(search: Command, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas import evaluate
    from nas.report import main

    def diverges(*_: object, **__: object) -> None:
        raise evaluate.TrainingDiverged(0)

    monkeypatch.setattr(evaluate, "fit", diverges)
    assert search("conf=osa_digits", *QUICK, "study.trials=2", OBJECTIVES)[0] == 1
    assert main(["study=osa_digits"]) == 0
    text = Path("runs/osa_digits/report.html").read_text(encoding="utf-8")
    assert "No trial is complete yet" in text and "2 trials failed (diverged)" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("study=osa_digit",), "did you mean 'osa_digits'"),
        (("study=osa_digits", "pick=max speed"), "speed"),
        (("study=osa_digits", "trial=99"), "trial=99 is not in study osa_digits"),
        (("study=osa_digits", "networks=0"), "networks=0"),
        (("study=osa_digits", "layer=false"), "layer is not a known key"),
        (("study=osa_digits", "out=runs"), "out=runs is a folder"),
        (("study=osa_digits", "device=cuda:7"), "cuda:7"),
        (("study=osa_digits", "good=speed"), "good='speed'"),
    ],
)
def test_bad_input(report: Command, arguments: tuple[str, ...], sentence: str) -> None:
    code, _, err = report(*arguments)
    assert code == 2 and sentence in err and err.count("\n") == 1
    assert not Path("runs/osa_digits/report.html").exists()
