"""Files of a run folder are whole or not there; owners are alive or not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nas.errors import InputError
from nas.files import make_run_dir, write_architecture, write_csv, write_text
from nas.owner import Owner


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "old")

    def crash(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_front_has_its_columns_and_nothing_for_what_is_missing(tmp_path: Path) -> None:
    rows = [{"trial": 3, "top1": 0.5, "energy_j": None, "other": 1, "architecture_id": "ab"}]
    write_csv(tmp_path / "front.csv", ["trial", "top1", "energy_j", "architecture_id"], rows)
    assert (tmp_path / "front.csv").read_text() == "trial,top1,energy_j,architecture_id\n3,0.5,,ab\n"


def test_architecture_is_written_once(tmp_path: Path) -> None:
    write_architecture(tmp_path, 4, "family: toy\n")
    path = tmp_path / "trials" / "4" / "architecture.yaml"
    before = path.stat().st_ino
    write_architecture(tmp_path, 4, "family: toy\n")
    assert path.stat().st_ino == before and path.read_text() == "family: toy\n"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "run", Path("/proc/nothing/run")):
        with pytest.raises(InputError, match=f"run_dir={path} cannot be written"):
            make_run_dir(path)


def test_an_owner_lives_until_its_process_dies(tmp_path: Path) -> None:
    me = Owner(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from nas.owner import Owner\n"
        "owner = Owner(Path(sys.argv[1])); print(owner.name, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    try:
        assert me.lives(me.name) and me.lives(name)
        here = socket.gethostname()
        assert not me.lives(f"{here}-1-gone") and not me.lives("") and me.lives("elsewhere-1-unknown")
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert not me.lives(name)
    me.close()
    assert not (tmp_path / f"{me.name}.lock").exists()
