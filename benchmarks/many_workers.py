"""How well a search keeps many workers busy: the share of the time that so many simulated workers are at work (of linear).

Evaluations sleep as long as a candidate takes, each its own time around a mean, and come to invented figures; the study, its
sampler, the driver and the storage (SQLite) are the real ones, in one process. What is lost is what asking and telling cost:
while the driver does one, workers that have ended wait.

    python benchmarks/many_workers.py [--workers 1,8,64] [--seconds 2] [--rounds 20] [--sampler ehvi]

A run takes about ``seconds * rounds``, however many workers there are. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import optuna
import torch
import yaml
from ask_and_tell import OBJECTIVES, ROOT, invented
from closing import keep, show
from rich.table import Table

from nas.driver import run
from nas.engine import OnStage, Unattended
from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest
from nas.interrupt import InterruptGate
from nas.metrics import METRICS
from nas.outcomes import Outcome
from nas.owner import Owner
from nas.plan import Asked, StudyPlan
from nas.samplers import make_sampler
from nas.storage import open_storage, storage_spec
from nas.study import Study
from nas.targets import build_target

SPREAD = 0.25
"""Evaluations take from ``1 - SPREAD`` to ``1 + SPREAD`` of the mean."""


@dataclass(frozen=True)
class _Request:
    """What an evaluation needs to know here; stands for an ``EvaluationRequest``."""

    asked: Asked
    begun: None = None
    until_epoch: int | None = None
    keep_state: bool = False


class Sleepers(Unattended):
    """An engine whose workers sleep."""

    def __init__(self, capacity: int, seconds: float) -> None:
        self.capacity = capacity
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(capacity)
        self.spans: list[tuple[float, float]] = []

    def submit(self, number: int, request: EvaluationRequest, on_stage: OnStage) -> Future[Evaluation]:
        """See ``Engine``."""
        asked = cast(_Request, request).asked
        return self._pool.submit(self._sleep, asked, random.Random(number).uniform(1 - SPREAD, 1 + SPREAD) * self._seconds)

    def _sleep(self, asked: Asked, seconds: float) -> Evaluation:
        began_s = time.perf_counter()
        time.sleep(seconds)
        evaluation = invented(asked)
        self.spans.append((began_s, time.perf_counter()))
        return evaluation

    def busy_s(self, until_s: float) -> float:
        """Return the seconds that all workers together were at work until some moment."""
        return sum(max(0.0, min(ended_s, until_s) - began_s) for began_s, ended_s in self.spans)


class Silent:
    """An observer that does nothing."""

    def asked(self, asked: Asked) -> None: ...

    def stage(self, number: int, stage: str) -> None: ...

    def evaluated(self, number: int, evaluation: Evaluation) -> None: ...

    def told(self, trial: Outcome) -> None: ...


@dataclass
class Spent:
    """Seconds that one kind of call took, call by call."""

    seconds: list[float] = field(default_factory=list)

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call, timed."""

        def timed(*arguments: Any, **more: Any) -> Any:
            began_s = time.perf_counter()
            try:
                return call(*arguments, **more)
            finally:
                self.seconds.append(time.perf_counter() - began_s)

        return timed

    @property
    def median_ms(self) -> float:
        """The median, in milliseconds."""
        return 1e3 * statistics.median(self.seconds)


@dataclass(frozen=True)
class Kept:
    """How busy some workers were kept.

    Attributes:
        share: Of the workers' time until the last candidate was asked for, what they were at work.
        driver: Of that time, what the driver was asking and telling.
        ask_ms: The median; of asking that told repeats, that is part of it.
    """

    workers: int
    trials: int
    share: float
    driver: float
    ask_ms: float
    tell_ms: float


def keep_busy(workers: int, seconds: float, rounds: int, sampler: str) -> Kept:
    """Let a study of so many rounds of all workers be searched."""

    def node(group: str, name: str) -> dict[str, object]:
        found = yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8"))
        assert isinstance(found, dict)
        return found

    space = build_target("space", node("space", "osa_digits"))
    made = make_sampler(node("sampler", sampler), space, 0)
    plan = StudyPlan("busy", workers * rounds, 0, tuple(METRICS[name] for name in OBJECTIVES), {}, {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        study = Study(open_storage(storage_spec(None, path)), plan, space, made, Owner(path / "owners"))
        asking, telling = Spent(), Spent()
        study.tell = telling.timed(study.tell)  # type: ignore[method-assign]
        ask, asked_last_s = asking.timed(study.ask), 0.0

        def watched() -> Asked | None:
            nonlocal asked_last_s
            asked = cast(Asked | None, ask())
            if asked is not None:  # after the last one there is nothing to keep all workers busy with
                asked_last_s = time.perf_counter()
            return asked

        study.ask = watched  # type: ignore[method-assign]
        engine = Sleepers(workers, seconds)
        began_s = time.perf_counter()
        run(study, engine, cast(Any, _Request), Silent(), InterruptGate())
        took_s = asked_last_s - began_s
        trials = len(study.finished)
    return Kept(
        workers=workers,
        trials=trials,
        share=engine.busy_s(asked_last_s) / (workers * took_s),
        driver=(sum(asking.seconds) + sum(telling.seconds)) / took_s,
        ask_ms=asking.median_ms,
        tell_ms=telling.median_ms,
    )


def main() -> None:
    """Print one table, and the shares as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sampler", default="ehvi")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    every = [keep_busy(int(workers), options.seconds, options.rounds, options.sampler) for workers in options.workers.split(",")]
    keep("many_workers.json", [asdict(kept) for kept in every])
    table = Table("workers", "trials", "of linear", "asking and telling", "ask, ms", "tell, ms", box=None)
    for kept in every:
        row = (f"{kept.share:.3f}", f"{kept.driver:.3f} of the time", f"{kept.ask_ms:.1f}", f"{kept.tell_ms:.1f}")
        table.add_row(str(kept.workers), str(kept.trials), *row)
    low, high = ((1 + sign * SPREAD) * options.seconds for sign in (-1, 1))
    told = f"{options.sampler}; simulated evaluations of {low:g} to {high:g} s, {options.rounds} per worker; SQLite, medians"
    show(torch.device("cpu"), told, table, 100)
    print(json.dumps({str(kept.workers): round(kept.share, 3) for kept in every}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
