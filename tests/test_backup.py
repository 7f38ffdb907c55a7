"""A study's file has a copy beside it that can be put in its place, and a file that cannot be read says so."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import time
from pathlib import Path

import optuna
import pytest

from nas import backup
from nas.backup import Backup
from nas.errors import InputError
from nas.storage import Storage, open_storage, storage_spec


@pytest.fixture(params=["sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(storage_spec("journal" if request.param == "journal" else None, tmp_path))


def fill(storage: Storage, trials: int) -> None:
    study = optuna.create_study(study_name="s", storage=storage.optuna, load_if_exists=True)
    for _ in range(trials):
        with storage.together():
            trial = study.ask()
            trial.set_user_attr("text", "x" * 500)
            study.tell(trial, 1.0)
        storage.make_durable()


def empty_log(storage: Storage) -> None:
    """Let all that is in a database's log go to the file itself."""
    if not storage.spec.is_journal:
        with contextlib.closing(sqlite3.connect(str(storage.spec.file))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def test_it_is_made_at_the_first_trial_and_again_when_it_is_old(storage: Storage) -> None:
    assert storage.spec.file is not None
    copy = Path(f"{storage.spec.file}.backup")
    fill(storage, 1)
    first = copy.stat().st_mtime_ns
    fill(storage, 1)
    assert copy.stat().st_mtime_ns == first, "it is young"
    os.utime(copy, (time.time() - backup.EVERY_SECONDS - 1,) * 2)
    fill(storage, 1)
    assert copy.stat().st_mtime > time.time() - 60
    assert sorted(path.name for path in copy.parent.glob(".*backup*")) == []


def test_what_it_says_to_do_brings_the_trials_back(storage: Storage, tmp_path: Path) -> None:
    file = storage.spec.file
    assert file is not None and storage.backup is not None
    fill(storage, 40)
    storage.backup.make()
    empty_log(storage)
    size = file.stat().st_size
    with file.open("rb+") as damaged:  # all but the beginning, which is what opening looks at
        damaged.seek(size // 8)
        damaged.write(os.urandom(size - size // 8))
    with pytest.raises(InputError, match=r"cannot be (opened|read)") as refused:
        again = open_storage(storage_spec("journal" if storage.spec.is_journal else None, tmp_path))
        optuna.load_study(study_name="s", storage=again.optuna).get_trials()
    told = str(refused.value)
    found = re.search(r"copy (\S+) \(of .*\) to its place", told)
    assert found and "\n" not in told
    file.rename(tmp_path / "damaged")
    for path in re.findall(r"\S+-(?:wal|shm)", told):
        Path(path).unlink(missing_ok=True)
    shutil.copy(found[1], file)
    again = open_storage(storage_spec("journal" if storage.spec.is_journal else None, tmp_path))
    assert len(optuna.load_study(study_name="s", storage=again.optuna).trials) == 40


def test_a_damaged_file_and_a_full_disk_leave_the_old_copy(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(storage, 3)
    assert storage.backup is not None and storage.spec.file is not None
    copy = Path(f"{storage.spec.file}.backup")
    before = copy.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        storage.backup.make()
    assert copy.read_bytes() == before
    if not storage.spec.is_journal:
        empty_log(storage)
        storage.spec.file.write_bytes(b"not a database" * 500)
        Backup(storage.spec.file, is_journal=False).make()
        assert copy.read_bytes() == before
    assert sorted(path.name for path in copy.parent.glob(".*backup*")) == []


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_what_was_lost_is_not_begun_anew_beside_its_copy(storage: Storage, tmp_path: Path, how: str) -> None:
    fill(storage, 3)
    file = storage.spec.file
    assert file is not None and storage.backup is not None
    storage.backup.make()
    copy = Path(f"{file}.backup")
    before = copy.read_bytes()
    empty_log(storage)
    file.unlink()
    if how == "empty":
        file.touch()
    storage.backup.make()
    assert copy.read_bytes() == before, "nothing is no copy"
    with pytest.raises(InputError, match=f"{re.escape(str(copy))} is a copy of it: copy that to its place"):
        open_storage(storage_spec("journal" if storage.spec.is_journal else None, tmp_path))
    assert file.exists() == (how == "empty")


def test_what_a_killed_process_left_half_made_goes_when_it_is_opened(tmp_path: Path) -> None:
    names = (
        ".study.db.backup.abc",
        ".study.db.backup.abc-journal",
        ".study.db.backup.new",
        ".other.db.backup.abc",
        "study.db.backup",
    )
    for name in names:
        (tmp_path / name).touch()
        if not name.endswith("new"):
            os.utime(tmp_path / name, (time.time() - 3700,) * 2)
    Backup(tmp_path / "study.db", is_journal=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


def test_without_a_copy_it_says_so(tmp_path: Path) -> None:
    assert Backup(tmp_path / "study.db", is_journal=False).remedy() == "restore a copy of it, or move it away to begin anew"


def test_a_database_of_a_newer_optuna_is_refused(tmp_path: Path) -> None:
    open_storage(storage_spec(None, tmp_path))
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    with pytest.raises(InputError, match="another version of Optuna; install that one, or a newer one"):
        open_storage(storage_spec(None, tmp_path))
