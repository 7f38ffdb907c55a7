"""An audit of a real search: which networks it takes, that it goes on where it stopped, what it refuses, what is shown."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nas.analyse.ranking import AuditResult
from nas.auditing import select
from nas.config.common import StudyKeys
from nas.errors import InputError
from nas.runs import read_run
from tests.conftest import QUICK

Command = Callable[..., tuple[int, str, str]]
FAST = ("study=osa_digits", "audit=4", "train.epochs=2", "audit_seeds=2", "audit_epochs_factor=2", "device=cpu")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nas.search import main

    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["conf=osa_digits", *QUICK, "study.trials=6", "objectives=[top1,params]", "sampler=random"]) == 0
    return folder


@pytest.fixture
def audit(searched: Path, workdir: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    from nas.cli import run_command
    from nas.retrain import main

    shutil.copytree(searched / "runs", workdir / "runs")

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["nas.retrain", *arguments])
            run_command(main)
        written = capfd.readouterr()
        return int(str(ended.value.code)), written.out, written.err

    return run


def test_networks_are_spread_and_hold_the_best_and_the_knee(audit: Command) -> None:
    run = read_run(StudyKeys(study="osa_digits"))
    for count in (2, 3, 4, 6):
        chosen = select(run, count)
        ids = [outcome.attributes["architecture_id"] for outcome in chosen]
        assert len(set(ids)) == count and [o.number for o in chosen] == sorted(o.number or 0 for o in chosen)
        best = max(run.outcomes, key=lambda outcome: float(outcome.attributes["top1"]))
        assert max(float(o.attributes["top1"]) for o in chosen) == best.attributes["top1"]
    assert select(run, 4) == select(run, 4)
    with pytest.raises(InputError, match=r"audit=7 is more than the 6 different networks"):
        select(run, 7)


def test_it_judges_goes_on_and_is_shown(audit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas import auditing
    from nas.report import main as report

    tested = []
    monkeypatch.setattr("nas.train.data.DataBundle.test_batches", lambda *_: tested.append(1))
    whole = auditing.fit_full
    calls = 0

    def stops(*arguments: object, **keys: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return whole(*arguments, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(auditing, "fit_full", stops)
    assert audit(*FAST)[0] == 130
    done = sorted(Path("runs/osa_digits/audit").glob("*/audit.json"))
    assert len(done) == 2
    before = {path: path.read_text() for path in done}
    monkeypatch.setattr(auditing, "fit_full", whole)
    code, out, err = audit(*FAST)
    assert code == 0, err
    assert all(path.read_text() == text for path, text in before.items())
    found = AuditResult.from_dict(json.loads(Path("runs/osa_digits/audit/audit.json").read_text()))
    assert len(found.networks) == 4 and not tested
    names = [judged.proxy.name for judged in found.judged]
    assert names[:3] == ["last epoch, one seed", "mean of 2 seeds", "2 epochs instead of 1"]
    assert [judged.proxy.cost for judged in found.judged] == [1, 2, 2, 1, 1, 1, 0, 0]
    assert all(word in out for word in (*names, "Kendall τ", "nas.report study=osa_digits", *found.told[0].split()[:6]))
    # All is known: nothing is trained, and the result is the same.
    monkeypatch.setattr(auditing, "fit_full", lambda *_, **__: pytest.fail("trained again"))
    code, out, _ = audit(*FAST)
    assert code == 0 and "trainings in" not in out
    assert AuditResult.from_dict(json.loads(Path("runs/osa_digits/audit/audit.json").read_text())) == found
    code, _, err = audit(*FAST, "train.epochs=3")
    assert code == 2 and "is of an audit under another full" in err
    # A folder may be another study's, whose trial of the same number is another network; older audits do not say of which.
    known = json.loads(done[0].read_text())
    for key, value in (("architecture_id", "0123456789abcdef"), ("study", "another")):
        done[0].write_text(json.dumps({**known, "conditions": {**known["conditions"], key: value}}))
        code, _, err = audit(*FAST)
        assert code == 2 and f"is of an audit under another {key}: set it back" in err
        done[0].write_text(json.dumps({**known, "conditions": {k: v for k, v in known["conditions"].items() if k != key}}))
        assert audit(*FAST)[0] == 0
    assert report(["study=osa_digits", "layers=false"]) == 0
    text = Path("runs/osa_digits/report.html").read_text(encoding="utf-8")
    assert ">Audit</h2>" in text and "Brief against full training" in text


def test_a_network_that_diverges_is_left_out(audit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas import auditing

    whole, first = auditing.fit_full, []

    def diverges(*arguments: object, **keys: object) -> object:
        if not first:
            first.append(1)
            raise auditing.TrainingDiverged(0)
        return whole(*arguments, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(auditing, "fit_full", diverges)
    code, out, _ = audit(*FAST, "audit=3", "audit_seeds=1")
    assert code == 0 and "is left out: full: the training diverged" in out and "Too few networks" in out


def test_a_refusal_in_its_midst_keeps_what_was_trained(audit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas import auditing

    whole, calls = auditing.fit_full, []

    def gone(*arguments: object, **keys: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise InputError("data.root is gone: restore it.")
        return whole(*arguments, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(auditing, "fit_full", gone)
    few = (*FAST, "audit=2", "audit_seeds=1", "train.epochs=1")
    code, _, err = audit(*few)
    assert code == 2 and "data.root is gone" in err
    (kept,) = Path("runs/osa_digits/audit").glob("*/audit.json")
    before = kept.read_bytes()
    assert audit(*few)[0] == 0 and len(calls) == 3 and kept.read_bytes() == before


def test_exhausted_memory_costs_one_network_and_a_full_disk_none(audit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas import auditing

    few = (*FAST, "audit=2", "audit_seeds=1", "train.epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(auditing, "write_json", raises(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        code, _, err = audit(*few)
    assert code == 1 and "cannot be written (No space left on device): make room there, and the same command goes on." in err
    assert err.count("\n") == 1
    whole, first = auditing.fit, []

    def exhausted(*arguments: object, **keys: object) -> object:
        if not first:
            first.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return whole(*arguments, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(auditing, "fit", exhausted)
    code, out, _ = audit(*few, "audit=3")
    assert code == 0 and "is left out: seed 0: out of memory (CUDA out of memory. Tried to allocate 2 GiB)" in out


def raises(error: Exception) -> Callable[..., object]:
    def fails(*_: object, **__: object) -> object:
        raise error

    return fails


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("audit=99",), "audit=99 is more than the 6 different networks"),
        (("audit=1",), "audit=1"),
        (("audit=4", "pick=knee"), "audit and pick are both set"),
        (("audit=4", "audit_seeds=0"), "audit_seeds=0"),
    ],
)
def test_bad_input(audit: Command, arguments: tuple[str, ...], sentence: str) -> None:
    code, _, err = audit("study=osa_digits", "train.epochs=2", *arguments)
    assert code == 2 and sentence in err and err.count("\n") == 1
    assert not Path("runs/osa_digits/audit").exists()
