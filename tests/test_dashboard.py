"""The dashboard on a real search: what it is told, what it shows in a browser, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta

from nas import load_model
from tests.browser import CHROMIUM, needs_chromium
from tests.conftest import QUICK, Search

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of which some trials miss a constraint."""
    from nas.search import main

    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ("study.trials=5", "objectives=[top1,latency_ms,params]", "constraints={params: 60000}")
        assert main(["conf=osa_digits", *QUICK, *arguments, "checkpoints=all", "gate=false"]) == 0
    return folder


@pytest.fixture
def study(searched: Path, workdir: Path) -> optuna.Study:
    shutil.copytree(searched / "runs", workdir / "runs")
    return optuna.load_study(study_name="osa_digits", storage="sqlite:///runs/osa_digits/study.db")


@pytest.fixture(scope="module")
def served(searched: Path) -> Iterator[str]:
    """The address of a running dashboard."""
    command = [sys.executable, "-m", "nas.dashboard", "study=osa_digits", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=searched) as server:
        assert server.stdout is not None
        said = ""
        for line in server.stdout:
            said += line
            if found := re.search(r"(http://127\.0\.0\.1:\d+/dashboard/)studies/1", line):
                yield found[1]
                break
        server.terminate()
        assert "http://" in said, said


def answer(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=60) as reply:
        return json.load(reply)


def test_a_search_leaves_what_the_dashboard_shows(study: optuna.Study) -> None:
    from optuna_dashboard import get_note

    assert study.metric_names == ["top1 (fraction)", "latency_ms", "params"]
    note = get_note(study)
    assert "| latency_ms | ms | lower |" in note and "params ≤ 60 k" in note and "nas.retrain study=osa_digits" in note
    states = set()
    for trial in study.get_trials():
        told = get_note(optuna.Trial(study, trial._trial_id))
        missed = trial.user_attrs["params"] - 60_000
        states.add(missed > 0)
        if missed > 0:
            assert told.startswith("**Infeasible**: params misses 60 k by ") and trial.system_attrs["constraints"][0] > 0
        else:
            assert told.startswith("**Complete**") and trial.system_attrs["constraints"] == [0.0]
        names = [meta.filename for meta in get_all_artifact_meta(trial, storage=study._storage)]
        assert sorted(names) == ["architecture.yaml", "diagram.svg", "model.safetensors", "training_curve.svg"]
        assert all(
            (Path("runs/osa_digits/artifacts") / meta.artifact_id).stat().st_size
            for meta in get_all_artifact_meta(trial, storage=study._storage)
        )
        # The weights that a trial kept are a network that can be used.
        assert (
            sum(p.numel() for p in load_model(f"runs/osa_digits/trials/{trial.number}").parameters())
            == (trial.user_attrs["params"])
        )
    assert states == {True, False}


def test_a_gated_trial_says_that_it_was_not_trained(search: Search, workdir: Path) -> None:
    from optuna_dashboard import get_note

    assert search("conf=osa_digits", *QUICK, "study.trials=1", "objectives=[top1,latency_ms]", "constraints={params: 10}")[0] == 0
    study = optuna.load_study(study_name="osa_digits", storage="sqlite:///runs/osa_digits/study.db")
    (trial,) = study.get_trials()
    told = get_note(optuna.Trial(study, trial._trial_id))
    assert trial.state.name == "PRUNED" and trial.system_attrs["constraints"][0] > 0
    assert told.startswith("**Infeasible**: params misses 10 by ") and "It was not trained." in told
    assert "- not measured: latency_ms: the network misses the bound of params" in told
    names = [meta.filename for meta in get_all_artifact_meta(trial, storage=study._storage)]
    assert sorted(names) == ["architecture.yaml", "diagram.svg"]


def test_it_answers_with_everything(served: str) -> None:
    base = served.removesuffix("dashboard/")
    found = answer(f"{base}api/studies/1")
    assert found["objective_names"] == ["top1 (fraction)", "latency_ms", "params"]
    assert {plot["id"] for plot in found["plotly_graph_objects"]} >= {"front-1", "front-2", "front-3"}
    assert all(json.loads(plot["graph_object"])["data"] for plot in found["plotly_graph_objects"])
    for trial in found["trials"]:
        path = re.search(r"!\[The blocks\]\((.*?)\)", trial["note"]["body"])
        assert path
        with urllib.request.urlopen(base + path[1].lstrip("/"), timeout=60) as reply:
            assert b"<svg" in reply.read() and reply.headers["Content-Type"] == "image/svg+xml"
    columns = {attribute["key"] for attribute in found["union_user_attrs"]}
    assert columns >= {"top1", "latency_ms", "latency_iqr_ms", "params", "mult_adds", "mem_access", "measure_flags"}


@needs_chromium
def test_a_browser_shows_the_note_with_its_drawing_and_the_plots(served: str, tmp_path: Path) -> None:
    def page(path: str) -> str:
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=20000")
        command = [str(CHROMIUM), *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"{served}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        faults = [line for line in done.stderr.splitlines() if "Uncaught" in line or "SyntaxError" in line]
        assert not faults, faults
        return done.stdout

    trial = page("studies/1/trials?numbers=0")
    assert re.search(r"<img[^>]*alt=\"The blocks\"", trial) and "<th>block</th>" in re.sub(r"<th [^>]*>", "<th>", trial)
    assert "architecture.yaml" in trial and "training_curve.svg" in trial
    overview = page("studies/1")
    assert "top1 (fraction)" in overview and "latency_ms against params" in overview


def test_an_older_study_gets_its_notes_once_and_a_changed_one_stays(study: optuna.Study) -> None:
    from optuna_dashboard import get_note, save_note

    from nas.annotations import Annotator, annotated
    from nas.config.common import StudyKeys
    from nas.runs import read_run
    from nas.storage import open_storage

    run = read_run(StudyKeys(study="osa_digits"))
    about = annotated(run.name, run.folder, run.objectives, run.constraints, run.record["data"], "cpu")
    annotator = Annotator(open_storage(run.storage), about, pytest.fail)
    assert annotator.complete() == 0
    first = optuna.Trial(study, study.get_trials()[0]._trial_id)
    save_note(first, "mine")
    save_note(study, "ours")
    annotator.describe()
    assert annotator.complete() == 0 and get_note(first) == "mine" and get_note(study) == "ours"
    bare = optuna.create_study(study_name="bare", storage=study._storage, directions=["maximize", "minimize", "minimize"])
    bare.add_trials([trial for trial in study.get_trials() if trial.number < 2])
    again = Annotator(
        open_storage(run.storage), annotated("bare", run.folder, run.objectives, {}, run.record["data"], "cpu"), print
    )
    assert again.complete() == 2 and again.complete() == 0
    assert get_note(optuna.Trial(bare, bare.get_trials()[1]._trial_id)).startswith("**Complete**.")


def test_a_long_text_becomes_a_shorter_one(study: optuna.Study) -> None:
    from optuna_dashboard import get_note

    from nas.annotations import Annotator, annotated
    from nas.config.common import StudyKeys
    from nas.runs import read_run
    from nas.storage import open_storage

    run = read_run(StudyKeys(study="osa_digits"))
    about = annotated(run.name, run.folder, run.objectives, run.constraints, run.record["data"], "cpu")
    annotator = Annotator(open_storage(run.storage), about, pytest.fail)
    for text in ("x" * 9000, "y" * 5, "z" * 2045, "w" * 2046):
        annotator._write_note(text, None)
        assert get_note(study) == text


def test_files_that_cannot_be_written_cost_no_trial(workdir: Path, search: Command) -> None:
    folder = workdir / "runs" / "osa_digits"
    folder.mkdir(parents=True)
    (folder / "artifacts").write_text("in the way")
    code, out, _ = search("conf=osa_digits", *QUICK, "study.trials=2", "objectives=[top1,params]", "checkpoints=none")
    assert code == 0 and out.count("trials have no artifacts") == 1 and "done: 2 trials" in out


def run_dashboard(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    from nas.cli import run_command
    from nas.dashboard import main

    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["nas.dashboard", *arguments])
        run_command(main)
    return int(str(ended.value.code)), capsys.readouterr().err


def test_a_port_in_use(study: optuna.Study, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = run_dashboard(capsys, "study=osa_digits", f"port={port}")
    assert code == 2 and said.startswith(f"error: port={port} of 127.0.0.1 cannot be used") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("study=nothing",), "study=nothing does not exist"),
        ((), "study is not set"),
        (("study=osa_digits", "prot=1"), "prot is not a known key"),
        (("study=osa_digits", "port=99999"), "port=99999"),
    ],
)
def test_bad_input(study: optuna.Study, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str) -> None:
    code, said = run_dashboard(capsys, *arguments)
    assert code == 2 and sentence in said and said.count("\n") == 1
