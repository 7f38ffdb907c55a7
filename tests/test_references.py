"""Known networks go the way of the candidates in a search: same data, recipe and meters; they are no trials."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.conftest import QUICK, Search

ARGUMENTS = ("conf=osa_digits", *QUICK, "references=[preset:osa_densenet40,squeezenet1_1]", "objectives=[top1,params]")


def test_references_are_measured_once_and_compared(search: Search, workdir: Path) -> None:
    code, out, err = search(*ARGUMENTS, "study.trials=2")
    assert code == 0, err
    run_dir = workdir / "runs" / "osa_digits"
    with (run_dir / "references.csv").open() as file:
        known, failed = sorted(csv.DictReader(file), key=lambda row: row["failure"])
    assert known["reference"] == "preset:osa_densenet40" and 0 <= float(known["top1"]) <= 1
    assert failed["reference"] == "squeezenet1_1" and failed["failure"] == "error" and "complexity" in failed["failure_reason"]
    with (run_dir / "front.csv").open() as file:
        front = list(csv.DictReader(file))
    for row in front:
        better = float(row["top1"]) >= float(known["top1"]) and int(row["params"]) < int(known["params"])
        assert row["dominates"] == (known["reference"] if better else "")
        assert row["dominates_by"].startswith("preset:osa_densenet40: top1 +") == better
        assert (f"trial {row['trial']} dominates preset:osa_densenet40: top1" in out) == better
    assert {int(row["trial"]) for row in front} <= {0, 1}
    record = json.loads((run_dir / "record.json").read_text())
    assert record["data"]["input_shape"] == [1, 8, 8]
    measured = json.loads((run_dir / "trials" / "0" / "measurement.json").read_text())
    assert len(measured["latency"]["eager"]["samples_ms"]) >= 4

    code, out, err = search(*ARGUMENTS, "study.trials=3")
    assert code == 0, err
    assert "reference preset:osa_densenet40  top1" not in out  # known already
    assert "reference squeezenet1_1  failed" in out  # tried again
    assert "ref " in out


def test_a_reference_that_does_not_exist(search: Search, workdir: Path) -> None:
    code, _, err = search("conf=osa_digits", *QUICK, "references=[resnet81]")
    assert code == 2 and "model 'resnet81' is not known; did you mean" in err and "resnet18" in err
    assert not (workdir / "runs").exists()


def test_a_reference_that_kills_its_process_is_given_up(search: Search, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.engine import InlineEngine
    from nas.errors import RunError

    submit = InlineEngine.submit

    def dies(self: InlineEngine, number: int, *rest: object) -> object:
        if number < 0:
            raise RunError("cuda:0 cannot be used any more by this process.")
        return submit(self, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(InlineEngine, "submit", dies)
    command = ("conf=osa_digits", *QUICK, "references=[preset:osa_densenet40]", "objectives=[top1,params]", "study.trials=1")
    for _ in range(3):
        assert search(*command)[0] == 1
    code, out, err = search(*command)
    assert code == 0, err
    assert "reference preset:osa_densenet40  failed: its process died 3 times" in out
