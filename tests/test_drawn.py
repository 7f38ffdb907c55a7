"""By what a study's networks were drawn: of every run of it, and not of the last one alone."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from nas.compose import compose
from nas.config.search import SEARCH_GROUPS, SEARCH_ROOT, parse_search
from nas.drawn import Drawn, all_drawn, doubts, drawn_by
from tests.conftest import QUICK, Search
from tests.test_study import PLAN, Run

TPE = Drawn("TPESampler", "mo_asha", ("params",), 2)
FAIR = Drawn("RandomSampler", "none")


def config(*overrides: str):  # type: ignore[no-untyped-def]
    return parse_search(compose("search", SEARCH_ROOT, SEARCH_GROUPS, ["conf=osa_digits", *overrides]).plain)


def test_what_a_configuration_draws_by() -> None:
    asked = config("sampler=random", "scheduler=none", "constraints={params: 1e5, top1: 0.9}")
    assert drawn_by(asked) == Drawn("RandomSampler", "none", ("params",))
    assert drawn_by(config("sampler=random", "scheduler=none", "constraints={params: 1e5}", "gate=false")) == FAIR


def test_each_run_that_draws_is_kept_once(tmp_path: Path) -> None:
    for drawn, trials in ((TPE, 2), (FAIR, 4), (TPE, 6), (FAIR, 6)):
        run = Run(tmp_path, plan=replace(PLAN, trials=trials, drawn_by=asdict(drawn)))
        run.go()
        run.owner.close()
    assert all_drawn(run.study.attributes, config()) == (TPE, FAIR)


def test_a_run_that_draws_nothing_is_not_kept(tmp_path: Path) -> None:
    for drawn in (TPE, FAIR):  # the second finds the study full
        run = Run(tmp_path, plan=replace(PLAN, trials=3, drawn_by=asdict(drawn)))
        run.go()
        run.owner.close()
    assert all_drawn(run.study.attributes, config()) == (TPE,)


def test_a_study_of_an_earlier_version_drew_as_it_was_begun(tmp_path: Path) -> None:
    first = {
        "sampler": {"_target_": "optuna.samplers.TPESampler"},
        "scheduler": {"kind": "mo_asha"},
        "constraints": {"params": 1e5},
    }
    before = Run(tmp_path, plan=replace(PLAN, trials=2, record={**PLAN.record, "config": {**first, "start": ["a", "b"]}}))
    before.go()
    before.owner.close()
    run = Run(tmp_path, plan=replace(PLAN, trials=4, drawn_by=asdict(FAIR)))
    run.go()
    assert all_drawn(run.study.attributes, config("sampler=random", "scheduler=none")) == (TPE, FAIR)


def test_of_a_study_that_kept_none_the_configuration_speaks() -> None:
    assert all_drawn({}, config("sampler=random", "scheduler=none")) == (FAIR,)


def test_doubts_are_those_of_all_runs() -> None:
    assert doubts((FAIR,)) == ()
    told = doubts((FAIR, TPE, TPE))
    assert [line.split()[0] for line in told] == ["TPESampler", "scheduler=mo_asha", "networks", "the"]


def test_a_question_that_is_asked_afterwards_knows_how_the_study_was_drawn(search: Search, workdir: Path) -> None:
    study = ("conf=osa_digits", *QUICK, "study.trials=3", "objectives=[top1,params]")
    assert search(*study)[0] == 0
    code, out, _ = search(*study, "sampler=random", "scheduler=none", "question.factor=bottleneck")
    assert code == 0 and "EhviSampler draws where it expects good networks" in out
