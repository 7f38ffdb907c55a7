"""Searches that stop early, gate and confirm, for real: what the study and the run folder hold, what is said, what is refused."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.conftest import QUICK, Search

SHORT = (*QUICK, "train.epochs=3", "scheduler=mo_asha", "objectives=[top1,params]", "measure.energy=false")


def study_of(name: str = "osa_digits") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///runs/{name}/study.db")


def test_a_stopped_training_goes_on_from_its_checkpoint(search: Search, workdir: Path) -> None:
    code, out, err = search(
        "conf=osa_digits", *SHORT, "scheduler.rungs=[1]", "scheduler.eta=2", "study.trials=14", "sampler=random"
    )
    assert code == 0, err
    trials = study_of().get_trials()
    stopped = {trial.number: trial for trial in trials if trial.state == TrialState.PRUNED}
    resumed = [trial for trial in trials if "resumed_from" in trial.user_attrs]
    assert stopped and all(trial.user_attrs["stopped_at"] == 1 == trial.user_attrs["epochs"] for trial in stopped.values())
    begun = {trial.user_attrs["resumed_from"] for trial in resumed}
    for trial in resumed:
        old = stopped[trial.user_attrs["resumed_from"]]
        assert trial.user_attrs["train_loss"][:1] == old.user_attrs["train_loss"]
        assert trial.user_attrs["latency_ms"] == old.user_attrs["latency_ms"]  # measured once
        assert trial.user_attrs["curve"][0] == old.user_attrs["curve"][0]
    for number in stopped:
        # What may still go on keeps its checkpoint; what has gone on left it behind.
        assert (Path("runs/osa_digits/trials") / str(number) / "training_state.pt").exists() == (number not in begun)
    assert "stopping: " in out and "stopped after 1 epoch" in out
    code, _, err = search(
        "conf=osa_digits", *SHORT, "scheduler.rungs=[1]", "scheduler.eta=2", "study.trials=16", "sampler=random"
    )
    assert code == 0, err
    assert sum(not trial.user_attrs.get("uncounted") for trial in study_of().get_trials()) == 16


def test_the_contenders_are_confirmed(search: Search, workdir: Path) -> None:
    arguments = ("conf=osa_digits", *QUICK, "objectives=[top1,params]", "study.trials=3", "proxy=mean", "confirm=1")
    code, out, err = search(*arguments)
    assert code == 0, err
    study = study_of()
    assert study.user_attrs["objectives"] == ["top1_mean", "params"]
    confirmed = {key: value for key, value in study.user_attrs.items() if key.startswith("seeds:")}
    assert confirmed and all(record["seed"] == 1 and record["top1_mean"] is not None for (record,) in confirmed.values())
    assert out.count(", seed 1: top1 ") == len(confirmed) and " sure " in out
    code, out, _ = search(*arguments)
    assert code == 0 and ", seed 1:" not in out  # known by now


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("scheduler.eta=1",), "scheduler.eta=1"),
        (("scheduler.rungs=[3]",), "scheduler.rungs=[3] cannot be used: 3 is not below train.epochs=3"),
        (("scheduler.rungs=[0]",), "scheduler.rungs"),
        (("scheduler.etta=2",), "scheduler.etta is not a known key; did you mean 'eta'?"),
        (("scheduler=asha",), "scheduler"),
        (("proxy=area",), "proxy"),
        (("proxy=mean", "objectives=[params]"), "proxy=mean cannot be used: top1, for which it stands, is not among"),
        (("confirm=-1",), "confirm=-1"),
        (("gate=maybe",), "gate"),
        (("table=none.parquet",), "table=none.parquet does not exist"),
    ],
)
def test_what_cannot_be_is_refused(search: Search, workdir: Path, arguments: tuple[str, ...], sentence: str) -> None:
    code, _, err = search("conf=osa_digits", *SHORT, "study.trials=2", *arguments)
    assert code == 2 and sentence in err and err.count("\n") == 1, err
    assert not Path("runs").exists()


def test_what_the_gate_cannot_do_is_said(search: Search, workdir: Path) -> None:
    code, out, err = search(
        "conf=osa_digits",
        *QUICK,
        "study.trials=1",
        "objectives=[top1,params]",
        "constraints={params: 1e6, top1: 0.1}",
        "sampler=nsga2",
    )
    assert code == 0, err
    assert "constraint top1 is known after training only: it bounds the front and gates nothing" in out
    assert "NSGAIISampler learns nothing of candidates that the gate stops" in out
