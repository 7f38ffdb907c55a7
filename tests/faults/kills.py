"""A search that is killed (SIGKILL) again and again loses no finished trial, doubles none, and ends with the same front.

For a sampler whose suggestions do not depend on when trials end, a search of tiny networks, really trained, runs undisturbed.
Then it runs again and is killed at random moments: its own process, its worker, or both at once; after the death of its own
process the same command is given anew. After each kill a copy of the storage, as the dead process left it, is read: whatever
stands there as told must be in the end what it was then. Which networks were evaluated to the end is recorded by the workers.

A trial whose process or worker has died three times is taken for the cause and ends as failed. That is as it should be, and not
looked for here: a trial that was under way in two kills is let through.

    python tests/faults/kills.py [--kills 50] [--samplers random,qmc] [--trials 120] [--seed 0]

The last line is one JSON object; the exit code is 1 if anything was lost, doubled or changed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # as a script, this file's own folder is what Python looks in

from nas.beside import MOST_ATTEMPTS  # noqa: E402
from tests.conftest import QUICK  # noqa: E402
from tests.faults import recorded  # noqa: E402

WIDTHS = 300
TARGETS = ("study", "worker", "both")
_LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class Found:
    """What a killed search came to.

    Attributes:
        kills: By what was killed.
        lost: Trials that had been told at some kill and were not there, or not the same, later on.
        doubled: Networks evaluated to the end more often than kills in their midst explain, and trials of what was known.
        again: Evaluations that came to their end and were done again, as the kill came before they were told.
        failed: Trials that failed.
        trials_equal: Whether every trial has the network and the values of the undisturbed search's.
        front_equal: Whether the front has.
    """

    sampler: str
    trials: int
    kills: dict[str, int]
    lost: int
    doubled: int
    again: int
    failed: int
    trials_equal: bool
    front_equal: bool
    seconds: float

    @property
    def is_whole(self) -> bool:
        """Whether the kills cost nothing."""
        return not (self.lost or self.doubled or self.failed) and self.trials_equal and self.front_equal


class Search:
    """One search and its folder."""

    def __init__(self, folder: Path, sampler: str, trials: int) -> None:
        self.folder, self.record = folder, folder / "record"
        self._storage = folder / "run" / "study.db"
        (folder / "conf").mkdir(parents=True)
        space = {"_target_": "tests.faults.recorded.RecordedSpace", "widths": WIDTHS, "record": str(self.record)}
        text = yaml.safe_dump({"defaults": [{"override /data": "digits"}], "space": space})
        (folder / "conf" / "kills.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
        self._command = [
            *(sys.executable, "-m", "nas.search", "conf=kills", f"run_dir={folder / 'run'}", f"study.trials={trials}"),
            *(f"sampler={sampler}", "scheduler=none", "allow_modules=[tests.faults.recorded]", "objectives=[top1,flops]"),
            *("device=cpu", "engine.workers=1", "seed=1", "measure.energy=false", "train.batch_size=64", *QUICK),
        ]

    def start(self) -> subprocess.Popen[bytes]:
        """Give the command."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(self._command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def left(self) -> list[FrozenTrial]:
        """Return the trials as a dead process left them, read from a copy, so that nobody but the search mends anything."""
        with tempfile.TemporaryDirectory() as name:
            for path in self._storage.parent.glob("study.db*"):
                shutil.copy(path, name)
            return _read(Path(name) / "study.db")

    def trials(self) -> list[FrozenTrial]:
        """Return the trials as they are now; there must be a study."""
        return _read(self._storage)

    def check_ended(self, process: subprocess.Popen[bytes]) -> None:
        """Refuse to go on if a search ended otherwise than by being done."""
        if process.returncode != 0:
            raise SystemExit(f"the search ended with exit code {process.returncode}:\n{(self.folder / 'log').read_text()}")


def _read(path: Path) -> list[FrozenTrial]:
    if not path.exists():
        return []
    try:
        return optuna.load_study(study_name="kills", storage=f"sqlite:///{path}").trials
    except KeyError:  # killed before there was a study
        return []


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of a search: children of the server that forks them, which is its child."""

    def children(parent: int) -> list[int]:
        try:
            return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        except FileNotFoundError:
            return []

    return [worker for server in children(pid) for worker in children(server)]


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Killer:
    """Kills a search until it has had enough, and keeps account of what was told before each kill.

    Args:
        search: What is killed.
        draw: The source of the moments.
        start_s: What the search takes until its first evaluation.
        trial_s: What a trial takes.
    """

    def __init__(self, search: Search, draw: random.Random, start_s: float, trial_s: float) -> None:
        self._search, self._draw, self._start_s, self._trial_s = search, draw, start_s, trial_s
        self.told: dict[int, FrozenTrial] = {}
        self.lost: set[int] = set()
        self.hits: Counter[int] = Counter()
        """Kills that came while a trial was under way, by its number."""
        self.kills: Counter[str] = Counter()

    def run(self, kills: int) -> None:
        """Kill so often, and let the search come to its end.

        Raises:
            SystemExit: It came to its end before that, or failed.
        """
        process = self._search.start()
        while self.kills.total() < kills:
            target = self._draw.choice(TARGETS)
            fresh = target != "worker" and self._draw.random() < 0.5
            wait_s = self._draw.uniform(0, 4 * self._trial_s if not fresh else self._start_s)
            if not fresh:
                self._until_worker(process)
            self._pause(process, wait_s)
            self._let_through(process)
            if self._strike(process, target):
                self.kills[target] += 1
            if process.returncode is not None:
                process = self._search.start()
        process.wait()
        self._search.check_ended(process)
        self.account(self._search.trials())

    def _until_worker(self, process: subprocess.Popen[bytes]) -> None:
        self._until(process, lambda: bool(workers_of(process.pid)))

    def _pause(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Wait so long; less where it is too long, as the machine has other things to do than at first, or no more."""
        until_s, most = time.monotonic() + seconds, len(recorded.read(self._search.record)) + 5
        self._until(process, lambda: time.monotonic() > until_s or len(recorded.read(self._search.record)) > most)

    def _until(self, process: subprocess.Popen[bytes], there: Callable[[], bool]) -> None:
        while not there():
            if process.poll() is not None:
                self._search.check_ended(process)
                raise SystemExit(f"the search was done after {self.kills.total()} kills: give it more --trials")
            time.sleep(_LOOK_SECONDS)

    def _let_through(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of whatever one more kill would make the cause of deaths."""
        tired = {number for number, hits in self.hits.items() if hits >= MOST_ATTEMPTS - 1}
        if tired:
            self._until(process, lambda: all(trial.state.is_finished() for trial in self._search.left() if trial.number in tired))

    def _strike(self, process: subprocess.Popen[bytes], target: str) -> bool:
        workers = workers_of(process.pid) if target != "study" else []
        if target == "worker":
            if not sum(map(_kill, workers)):  # it had just died by itself, or was not there yet
                return False
            self.account(self._search.trials())
            return True
        process.kill()
        for worker in workers:
            _kill(worker)
        process.wait()
        self.account(self._search.left())
        return True

    def account(self, trials: list[FrozenTrial]) -> None:
        """Compare what is told now with what was told before."""
        now = {trial.number: trial for trial in trials}
        self.lost |= {number for number, trial in self.told.items() if now.get(number) != trial}
        self.told |= {number: trial for number, trial in now.items() if trial.state.is_finished()}
        self.hits.update(number for number, trial in now.items() if trial.state == TrialState.RUNNING)


def _plain(trial: FrozenTrial) -> tuple[Any, ...]:
    return trial.number, trial.state.name, trial.params, trial.values, trial.user_attrs.get("architecture_id")


def _front(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    """Return the trials that no other one dominates, top1 upwards and flops downwards."""
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]

    def beats(one: FrozenTrial, other: FrozenTrial) -> bool:
        better = one.values[0] >= other.values[0] and one.values[1] <= other.values[1]
        return bool(better and one.values != other.values)

    return [_plain(trial) for trial in whole if not any(beats(other, trial) for other in whole)]


def show_kills(folder: Path, sampler: str, trials: int, kills: int, seed: int) -> Found:
    """Search undisturbed and killed, and compare."""
    calm = Search(folder / "calm", sampler, trials)
    began_s = time.monotonic()
    process = calm.start()
    process.wait()
    calm.check_ended(process)
    record = recorded.read(calm.record)
    start_s = record[0].began_ns / 1e9 - began_s
    trial_s = (record[-1].began_ns - record[0].began_ns) / 1e9 / (len(record) - 1)
    wanted = calm.trials()

    search = Search(folder / "killed", sampler, trials)
    killer = Killer(search, random.Random(f"{seed}/{sampler}"), start_s, trial_s)
    killer.run(kills)
    found = search.trials()
    ends = recorded.ended(recorded.read(search.record))
    own = {trial.user_attrs["architecture_id"]: trial for trial in reversed(found) if "reused_from" not in trial.user_attrs}
    begun = Counter(trial.user_attrs["architecture_id"] for trial in found if "reused_from" not in trial.user_attrs)
    doubled = sum(count - 1 for count in begun.values())
    doubled += sum(max(0, count - 1 - killer.hits[own[name].number]) for name, count in ends.items())
    missing = set(range(len(found))) - {trial.number for trial in found}
    counted = sum(not trial.user_attrs.get("uncounted") for trial in found)
    unfinished = sum(not trial.state.is_finished() for trial in found)
    return Found(
        sampler=sampler,
        trials=counted,
        kills=dict(sorted(killer.kills.items())),
        lost=len(killer.lost | missing) + unfinished + abs(trials - counted),
        doubled=doubled,
        again=sum(count - 1 for count in ends.values()),
        failed=sum(trial.state == TrialState.FAIL for trial in found),
        trials_equal=list(map(_plain, found)) == list(map(_plain, wanted)),
        front_equal=_front(found) == _front(wanted),
        seconds=round(time.monotonic() - began_s, 1),
    )


def main() -> None:
    """Print one table, and what was found as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--samplers", default="random,qmc")
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    columns = ("sampler", "trials", "kills", "lost", "doubled", "evaluated again", "trials equal", "front equal", "s")
    table = Table(*columns, box=None)
    every = []
    for sampler in options.samplers.split(","):
        with tempfile.TemporaryDirectory() as name:
            found = show_kills(Path(name), sampler, options.trials, options.kills, options.seed)
        every.append(found)
        kills = ", ".join(f"{count} {target}" for target, count in found.kills.items())
        numbers = (found.lost, found.doubled, found.again, found.trials_equal, found.front_equal, found.seconds)
        table.add_row(sampler, str(found.trials), kills, *map(str, numbers))
    Console(width=130, highlight=False).print(table)
    print(json.dumps({found.sampler: asdict(found) for found in every}))
    if not all(found.is_whole for found in every):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
