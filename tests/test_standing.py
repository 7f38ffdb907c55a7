"""The front kept as trials end is the front of all of them, however seldom all are looked through."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nas.analyse.hypervolume import normalised_hypervolume
from nas.progress import Progress
from nas.standing import SHARE, Standing
from tests.test_study import PLAN, Run
from tests.toy import toy_evaluation


class Clock:
    """Goes on by a step whenever it is read."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


@pytest.mark.parametrize("step_s", [0.0, 1.0])
def test_it_is_the_front_of_all_trials(tmp_path: Path, step_s: float) -> None:
    run = Run(tmp_path, plan=replace(PLAN, trials=30, constraints={"params": 700}))
    standing = Standing(run.study, Clock(step_s))
    while (asked := run.study.ask()) is not None:
        standing.take(run.study.tell(asked.number, toy_evaluation(asked.architecture)))  # type: ignore[arg-type]
        assert standing.front == run.study.front()
    assert standing.front
    if step_s == 0.0:  # nothing takes time: everything is always looked at
        values = run.study.minimised(run.study.feasible())
        assert standing.hypervolume == pytest.approx(normalised_hypervolume(values))


def test_a_trial_that_was_seen_before_it_is_told_stands_there_once(tmp_path: Path) -> None:
    run = Run(tmp_path, plan=replace(PLAN, trials=6))
    standing = Standing(run.study, Clock(1.0))
    run.go()
    standing.look()
    for outcome in run.study.finished:
        assert not standing.take(outcome)
    assert [trial.number for trial in standing.front] == [trial.number for trial in run.study.front()]


def test_trials_that_are_told_at_once_are_counted_once(tmp_path: Path) -> None:
    run = Run(tmp_path, plan=replace(PLAN, trials=4))
    written = io.StringIO()
    progress = Progress(run.study, Console(file=written))
    run.go()
    progress._standing._look_due_s = 0.0  # the first of them is the moment to look
    for outcome in run.study.finished:
        progress.told(outcome)
    assert (progress._done, progress._failed) == (4, 0) and "(4 of 4)" in written.getvalue().splitlines()[-1]


def test_looking_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    run = Run(tmp_path, plan=replace(PLAN, trials=30))
    clock = Clock(1.0)
    looks = 0
    whole = run.study.feasible

    def counted():  # type: ignore[no-untyped-def]
        nonlocal looks
        looks += 1
        return whole()

    run.study.feasible = counted  # type: ignore[method-assign]
    standing = Standing(run.study, clock)
    while (asked := run.study.ask()) is not None:
        standing.take(run.study.tell(asked.number, toy_evaluation(asked.architecture)))  # type: ignore[arg-type]
    assert looks == 1 and clock.now_s < 1 / SHARE
    clock.now_s += 2 / SHARE
    standing.take(run.study.finished[0])
    assert looks == 2
