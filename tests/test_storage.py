"""Where a study is kept, and what is said when it cannot be."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.storages import RDBStorage

from nas.database import connect_args
from nas.errors import InputError
from nas.secrets import mask_password
from nas.storage import open_storage, storage_spec


def test_default_is_sqlite_in_the_run_folder(tmp_path: Path) -> None:
    storage = open_storage(storage_spec(None, tmp_path))
    assert storage.spec.file == tmp_path / "study.db" and storage.spec.file.exists()
    storage.make_durable()
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_tables_that_another_process_makes_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.storage._PAUSES_SECONDS", (0.0, 0.0))
    whole, left = RDBStorage.__init__, [2]

    def begin(self: RDBStorage, *arguments: Any, **more: Any) -> None:
        whole(self, *arguments, **more)
        if left[0]:
            left[0] -= 1
            text = ("table trials already exists", "UNIQUE constraint failed: alembic_version.version_num")[left[0]]
            raise sqlalchemy.exc.IntegrityError("", {}, Exception(text))

    monkeypatch.setattr(RDBStorage, "__init__", begin)
    open_storage(storage_spec(None, tmp_path))
    left[0] = 1
    monkeypatch.setattr("nas.storage._PAUSES_SECONDS", ())
    with pytest.raises(InputError, match="already exists"):
        open_storage(storage_spec(None, tmp_path))


def test_journal_by_name_and_by_path(tmp_path: Path) -> None:
    assert storage_spec("journal", tmp_path).file == tmp_path / "journal.log"
    spec = storage_spec(f"journal:{tmp_path}/other.log", tmp_path)
    open_storage(spec)
    assert (tmp_path / "other.log").exists() and spec.is_journal


@pytest.mark.parametrize(
    ("storage", "names"),
    [
        ("study.db", ["study.storage=study.db", "journal"]),
        ("nosuchdb://host/name", ["nosuchdb"]),
        ("sqlite:////proc/none/study.db", ["make the folder /proc/none"]),
        ("journal:/proc/none/j.log", ["make the folder /proc/none"]),
        ("sqlite:////proc/study.db", ["/proc/study.db"]),
        ("journal:/proc/j.log", ["/proc/j.log"]),
        ("mysql+pymysql://me:sesame@127.0.0.1:1/db", ["me:***@127.0.0.1"]),
    ],
)
def test_what_cannot_be_opened_is_named(tmp_path: Path, storage: str, names: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        open_storage(storage_spec(storage, tmp_path))
    text = str(refused.value)
    assert "study.storage" in text and "sesame" not in text and "\n" not in text
    for name in names:
        assert name in text


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to have a header" * 20, b""])
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(content)
    if not content:  # an empty file is an empty database
        open_storage(storage_spec(None, tmp_path))
        return
    with pytest.raises(InputError, match=r"study\.db cannot be opened .*restore a copy"):
        open_storage(storage_spec(None, tmp_path))
    assert path.read_bytes() == content


@pytest.mark.parametrize("storage", ["sqlite://", "sqlite:///:memory:"])
def test_a_study_in_memory_is_refused(tmp_path: Path, storage: str) -> None:
    with pytest.raises(InputError, match="lost at the end"):
        storage_spec(storage, tmp_path)


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    path.write_text('{"op_code": 0, "worker_id": "a", "study_name": "x", "directions": [1]}\nnot json\n{"op_code": 99}\n')
    with pytest.raises(InputError, match=r"journal\.log cannot be opened .*restore a copy"):
        open_storage(storage_spec("journal", tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://me:se/same@h/db",
        "postgresql://me:p@ss:word@host/db",
        "postgresql://h/db?user=me&password=sesame",
        "mysql://me:se:same@h:5/db",
    ],
)
def test_odd_passwords_are_masked(tmp_path: Path, url: str) -> None:
    shown = mask_password(url)
    assert not any(secret in shown for secret in ("sesame", "se:same", "se/same", "ss:word")) and "***" in shown
    with pytest.raises(InputError) as refused:
        open_storage(storage_spec(url, tmp_path))
    assert not any(secret in str(refused.value) for secret in ("sesame", "se:same", "se/same", "ss:word"))


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("postgresql+psycopg://me@h/db", {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}),
        ("postgresql://me@h/db?keepalives_idle=5", {"connect_timeout": 10, "keepalives_idle": None}),
        ("postgresql+psycopg2://me@h/db?connect_timeout=3&sslmode=require", {"connect_timeout": None, "sslmode": None}),
        ("postgresql+pg8000://me@h/db", {"connect_timeout": None}),
        ("mysql+pymysql://me@h/db", {"connect_timeout": None}),
        ("sqlite:///study.db", {"connect_timeout": None}),
    ],
)
def test_a_server_that_is_gone_is_noticed_unless_the_url_says_otherwise(url: str, given: dict[str, int | None]) -> None:
    found = connect_args(url)
    assert {key: found.get(key) for key in given} == given


def test_passwords_are_masked() -> None:
    assert mask_password("postgresql://me:${oc.env:PW}@h/db") == "postgresql://me:${oc.env:PW}@h/db"
    assert mask_password("a postgresql+psycopg://u:p%40ss@h:5/d b") == "a postgresql+psycopg://u:***@h:5/d b"
    assert mask_password("sqlite:///runs/a:b/study.db") == "sqlite:///runs/a:b/study.db"
