"""Every fault at every stage of a candidate: the search goes on, says what happened, and leaves the others as they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from tests.conftest import QUICK, Search
from tests.faults.faulty import FAULTS, STAGES

ROOT = Path(__file__).resolve().parents[2]
TRIALS, WIDTHS, FAULTY = 5, 4, 2

WHOLE = os.environ.get("FAULTS") == "all"
"""Every fault at every stage takes minutes: without ``FAULTS=all`` each fault and each stage is tried, but not each pair."""


def pairs(stages: Sequence[str]) -> list[tuple[str, str]]:
    every = [(stage, fault) for stage in stages for fault in FAULTS]
    return [
        (stage, fault) for stage, fault in every if WHOLE or (STAGES.index(stage) - FAULTS.index(fault)) % len(FAULTS) in (0, 1)
    ]


EXPECTED = {
    "exception": ("error", "RuntimeError: injected"),
    "out_of_memory": ("out_of_memory", "injected: out of memory"),
    "hang": ("timeout", "no end within engine.timeout."),
    "exit": ("crash", "ended by itself with exit code 3"),
    "sigkill": ("crash", "died of SIGKILL, 3 times"),
}
FIGURES = {"complexity": "flops", "latency": "latency_ms", "energy": "energy_j", "tell": "top1"}


def study(folder: Path, stage: str, fault: str) -> list[str]:
    """Write a study in which one network goes wrong, and return what it takes to search it."""
    space = {"_target_": "tests.faults.faulty.FaultySpace", "stage": stage, "fault": fault, "widths": WIDTHS}
    text = yaml.safe_dump({"defaults": [{"override /data": "digits"}], "space": {**space, "faulty_width": FAULTY}})
    (folder / "conf").mkdir(exist_ok=True)
    (folder / "conf" / "faults.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
    return [
        *("conf=faults", f"study.trials={TRIALS}", "sampler=random", "scheduler=none", *QUICK, "train.batch_size=64"),
        *("allow_modules=[tests.faults.faulty]", "objectives=[top1,latency_ms,flops]", "seed=1"),
        *("engine.workers=1", "engine.timeout.build=3", "engine.timeout.measure=3", "engine.timeout.train=3"),
    ]


def trials(folder: Path) -> dict[int, FrozenTrial]:
    """Return the trials by the width of their network."""
    found = optuna.load_study(study_name="faults", storage=f"sqlite:///{folder}/runs/faults/study.db").trials
    assert all(trial.state.is_finished() for trial in found)
    own = [trial for trial in found if "reused_from" not in trial.user_attrs]
    by_width = {trial.params["width"]: trial for trial in own}
    assert FAULTY in by_width and len(by_width) >= WIDTHS - 1
    # What failed in a way that need not last is tried again when it is suggested again, and fails again.
    others = [trial for trial in own if trial.params["width"] != FAULTY]
    assert len(others) == len(by_width) - 1, "every other network once"
    return by_width


def check_others(found: dict[int, FrozenTrial], undisturbed: dict[int, Any]) -> None:
    for width, trial in found.items():
        if width != FAULTY:
            assert trial.state == TrialState.COMPLETE and trial.user_attrs["top1"] == undisturbed[width]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """The accuracies of a search in which nothing goes wrong, by width."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "nas.search", *study(folder, "", "")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=300)
    return {width: trial.user_attrs["top1"] for width, trial in trials(folder).items()}


@pytest.mark.parametrize(("stage", "fault"), pairs(STAGES[:-1]))
def test_a_fault_in_a_worker(
    stage: str, fault: str, search: Search, workdir: Path, undisturbed: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    code, out, err = search(*study(workdir, stage, fault))
    assert code == 0, err
    found = trials(workdir)
    check_others(found, undisturbed)
    faulty = found[FAULTY]
    attributes = faulty.user_attrs
    if fault == "nan" and stage == "energy":
        assert faulty.state == TrialState.COMPLETE and attributes.get("energy_j") is None and attributes["energy_j_reason"]
        return
    assert faulty.state == TrialState.FAIL and "failed" in out
    if fault == "nan":
        expected = ("diverged", "train: ") if stage in ("build", "train") else ("error", f"{FIGURES[stage]} has no finite value")
    else:
        expected = EXPECTED[fault]
    assert attributes["failure"] == expected[0] and expected[1] in attributes["failure_reason"], attributes["failure_reason"]
    if fault not in ("nan", "hang", "sigkill"):
        assert attributes["failure_log"]


TELLER = """
import json, os, signal, sys, time
from nas import verdict
from nas.cli import run_command
from nas.search import main

whole, fault, left = verdict.Verdict.tell, sys.argv.pop(1), [1]

def finish(self, trial):
    if trial.params["width"] == {faulty} and left[0] and fault != "none":
        left[0] = 0
        if fault == "exit":
            os._exit(3)
        if fault == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            time.sleep(600)
        raise {{"exception": RuntimeError, "out_of_memory": MemoryError, "nan": ValueError}}[fault]("injected")
    return whole(self, trial)

verdict.Verdict.tell = finish
run_command(main)
"""


@pytest.mark.parametrize("fault", [fault for _, fault in pairs(["tell"])])
def test_a_fault_while_a_trial_is_told_costs_no_evaluation(fault: str, workdir: Path, undisturbed: dict[int, Any]) -> None:
    """It is the search's own process that goes wrong: the same command goes on, and takes the result from the spool."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def begin(what: str) -> subprocess.Popen[bytes]:
        script = TELLER.format(faulty=FAULTY)
        command = [sys.executable, "-c", script, what, *study(workdir, "", "")]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    first = begin(fault)
    if fault == "hang":
        spool = workdir / "runs" / "faults" / "spool"
        while not (spool.is_dir() and any(json.loads(path.read_text()) for path in spool.glob("*.json"))):
            assert first.poll() is None
        first.kill()
    first.communicate(timeout=300)
    assert first.returncode != 0
    second = begin("none")
    _, err = second.communicate(timeout=300)
    assert second.returncode == 0, err.decode()
    found = trials(workdir)
    check_others(found, undisturbed)
    assert found[FAULTY].state == TrialState.COMPLETE and found[FAULTY].user_attrs["top1"] == undisturbed[FAULTY]
    assert not list((workdir / "runs" / "faults" / "spool").glob("*.json"))
