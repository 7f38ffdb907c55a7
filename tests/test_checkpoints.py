"""What a candidate that was stopped left is gone on with, if it is its own, and begun anew otherwise."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nas import checkpoints
from nas.evaluate import Evaluation, Metrics
from nas.outcomes import Outcome


def stopped(number: int, architecture_id: str) -> Outcome:
    return Outcome(str(number), number, "pruned", {"architecture_id": architecture_id, "epochs": 2, "stopped_at": 2})


@pytest.mark.parametrize("state", [b"state", b"", b"\nPK\x03\x04\n{\n"])
def test_a_state_comes_back_as_it_was(tmp_path: Path, state: bytes) -> None:
    checkpoints.keep(tmp_path, 3, Evaluation(Metrics("a8"), state=state))
    found = checkpoints.read(tmp_path, stopped(3, "a8"), measured=False)
    assert found is not None and found.state == state and found.metrics.epochs == 2
    checkpoints.drop(tmp_path, 3)
    assert checkpoints.read(tmp_path, stopped(3, "a8"), measured=False) is None


@pytest.mark.parametrize(("known", "taken_for"), [({}, True), ({"latency_brief": False}, False), ({"latency_brief": True}, True)])
def test_a_latency_of_which_it_is_not_known_how_it_was_timed_is_a_look(
    tmp_path: Path, known: dict[str, bool], taken_for: bool
) -> None:
    checkpoints.keep(tmp_path, 3, Evaluation(Metrics("a8"), state=b"state"))
    trial = stopped(3, "a8")
    trial = replace(trial, attributes={**trial.attributes, "latency_ms": 1.0, **known})
    found = checkpoints.read(tmp_path, trial, measured=False)
    assert found is not None and found.metrics.latency_brief is taken_for


def test_a_state_of_another_network_or_format_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.keep(tmp_path, 3, Evaluation(Metrics("a8"), state=b"state"))
    assert checkpoints.read(tmp_path, stopped(3, "a9"), measured=False) is None
    assert checkpoints.read(tmp_path, stopped(3, "a8")) is None, "its measurement is gone"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_FORMAT", 2)
        assert checkpoints.read(tmp_path, stopped(3, "a8"), measured=False) is None
    for earlier in (b"PK\x03\x04 as torch wrote it", b"", b"{\n", b"[]\n"):
        (tmp_path / "trials" / "3" / "training_state.pt").write_bytes(earlier)
        assert checkpoints.read(tmp_path, stopped(3, "a8"), measured=False) is None


def test_what_killed_processes_left_half_written_goes(tmp_path: Path) -> None:
    old, new, other = (tmp_path / "trials" / "7" / name for name in (".training_state.pt.abc", ".training_state.pt.xyz", "mine"))
    old.parent.mkdir(parents=True)
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 3700,) * 2)
    checkpoints.keep(tmp_path, 3, Evaluation(Metrics("a8"), state=b"state"))
    assert not old.exists() and new.exists() and other.exists(), "another process may be writing the new one"
