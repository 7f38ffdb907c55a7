"""The study under ask and tell: nothing replayed, nothing lost, nothing counted twice, nothing mixed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from nas import gathering
from nas.archive import read_archive
from nas.beside import MOST_ATTEMPTS
from nas.errors import InputError, RunError
from nas.evaluate import Evaluation, Metrics
from nas.metrics import METRICS
from nas.owner import Owner
from nas.plan import Asked, StudyPlan
from nas.sampling import TrialSeededSampler
from nas.spool import Spool
from nas.storage import Storage, memory_storage, open_storage, storage_spec
from nas.study import Study, require_success
from nas.targets import build_target, locate_target
from nas.verdict import Verdict
from tests.toy import ToyArchitecture, ToySpace, toy_evaluation

PLAN = StudyPlan(
    name="toy",
    trials=12,
    seed=7,
    objectives=(METRICS["top1"], METRICS["latency_ms"]),
    constraints={},
    conditions={"space": {"high": 1000}, "train": {"epochs": 3, "precision": "fp32"}},
    record={"device": {"name": "none"}},
)
SAMPLERS: dict[str, dict[str, Any]] = {
    "random": {"_target_": "optuna.samplers.RandomSampler"},
    "tpe": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 4, "multivariate": True, "group": True},
    "nsga2": {"_target_": "optuna.samplers.NSGAIISampler", "population_size": 4},
    "nsga3": {"_target_": "optuna.samplers.NSGAIIISampler", "population_size": 4},
    "gp": {"_target_": "optuna.samplers.GPSampler", "n_startup_trials": 8},
    "qmc": {"_target_": "optuna.samplers.QMCSampler", "scramble": True, "warn_independent_sampling": False},
}


def sampler(name: str, seed: int = 7) -> TrialSeededSampler:
    node = SAMPLERS[name]
    return TrialSeededSampler(locate_target("s", node["_target_"]), lambda **extra: build_target("s", node, **extra), seed)


class Run:
    """One process's worth of searching: opens the study anew, as the command does."""

    def __init__(
        self,
        folder: Path,
        name: str = "random",
        plan: StudyPlan = PLAN,
        storage: str | Storage | None = None,
        spool: Spool | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.owner = Owner(folder / "owners")
        opened = storage if isinstance(storage, Storage) else open_storage(storage_spec(storage, folder))
        self.study = Study(opened, plan, ToySpace(), sampler(name), self.owner, spool=spool)

    def go(self, count: int = 1000, tell: Callable[[Any], Evaluation] = toy_evaluation) -> list[Asked]:
        done = []
        while len(done) < count and (asked := self.study.ask()) is not None:
            self.study.tell(asked.number, tell(asked.architecture))
            done.append(asked)
        return done

    def die(self) -> None:
        """What a SIGKILL leaves: the lock is gone, the trial is still running."""
        self.owner._lock.release()


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*arguments: Any) -> None:
        raise error

    return fail


def parameters(run: Run) -> list[dict[str, Any]]:
    return [trial.params for trial in run.study.trials]


@pytest.mark.parametrize("name", ["random", "qmc"])
def test_a_restart_changes_no_suggestion(tmp_path: Path, name: str) -> None:
    whole = Run(tmp_path / "whole", name)
    whole.go()
    for _ in range(4):
        parts = Run(tmp_path / "parts", name)
        parts.go(3)
        parts.owner.close()
    assert parameters(parts) == parameters(whole)


@pytest.mark.parametrize("storage", [None, "journal"])
def test_a_death_in_the_midst_of_a_suggestion_leaves_out_no_place_of_a_sequence(
    tmp_path: Path, storage: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run(tmp_path / "whole", "qmc", storage=storage)
    whole.go()
    dying = Run(tmp_path / "parts", "qmc", storage=storage)
    dying.go(4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # The trial is there and has its suggestion, but nothing of it is written yet.
        patch.setattr(gathering._Unit, "flush", raising(KeyboardInterrupt()))
        dying.go(1)
    dying.die()
    again = Run(tmp_path / "parts", "qmc", storage=storage)
    again.go()
    assert parameters(again) == parameters(whole)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_the_dashboard_reads_of_feasibility_teaches_no_sampler_anything(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, trials=20 if name == "gp" else 40, constraints={"latency_ms": 400.0, "params": 600.0})
    shown = Run(tmp_path / "shown", name, plan, memory_storage())
    shown.go()
    monkeypatch.setattr(Verdict, "_show_feasible", lambda *_: None)
    hidden = Run(tmp_path / "hidden", name, plan, memory_storage())
    hidden.go()
    assert parameters(shown) == parameters(hidden)
    infeasible = [any(miss > 0 for miss in trial.constraints.values()) for trial in hidden.study.trials]
    assert 0 < sum(infeasible) < len(infeasible)
    legacy = [trial.system_attrs["constraints"] for trial in shown.study.trials]
    assert [value > 0 for (value,) in legacy] == infeasible
    assert [o.number for o in shown.study.front()] == [o.number for o in hidden.study.front()]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_searches_and_never_replays(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        run = Run(tmp_path, name)
        run.go(6)
        run.owner.close()
    drawn = [tuple(sorted(t.params.items())) for t in run.study.trials if "reused_from" not in t.user_attrs]
    assert len(drawn) == 12  # and no architecture twice
    # 3,000 points: a sampler that replays draws the second half equal to the first.
    assert drawn[:6] != drawn[6:] and len(set(drawn)) >= 7


def test_the_seed_decides(tmp_path: Path) -> None:
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two", plan=replace(PLAN, seed=8))
    two.study._study.sampler = sampler("random", 8)
    one.go()
    two.go()
    assert parameters(one) != parameters(two)


def test_continues_to_the_number_of_trials_in_all(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert len(run.go()) == 12 and run.study.ask() is None
    assert len(Run(tmp_path, plan=replace(PLAN, trials=15)).go()) == 3
    assert len(Run(tmp_path).go()) == 0


@pytest.mark.parametrize("storage", [None, "journal"])
def test_a_trial_cut_off_is_run_again_as_itself(tmp_path: Path, storage: str | None) -> None:
    undisturbed = Run(tmp_path / "undisturbed", storage=storage)
    undisturbed.go()
    killed = Run(tmp_path / "killed", storage=storage)
    killed.go(4)
    lost = killed.study.ask()
    assert lost is not None
    killed.die()
    resumed = Run(tmp_path / "killed", storage=storage)
    asked = resumed.go()
    assert asked[0] == lost
    assert parameters(resumed) == parameters(undisturbed)
    assert [trial.state for trial in resumed.study.trials] == [TrialState.COMPLETE] * 12


def test_a_trial_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    one, two = Run(tmp_path), Run(tmp_path)
    mine = one.study.ask()
    assert mine is not None
    assert {asked.number for asked in two.go()} == set(range(12)) - {mine.number}
    one.study.tell(mine.number, toy_evaluation(ToyArchitecture(1, "a")))
    assert len(one.study.finished) == 12


def test_an_outcome_that_was_recorded_is_not_evaluated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(PLAN, constraints={"latency_ms": 500.0})
    run = Run(tmp_path, plan=plan)
    asked = run.study.ask()
    assert asked is not None

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            run.study.tell(asked.number, toy_evaluation(asked.architecture))  # type: ignore[arg-type]
    run.die()
    resumed = Run(tmp_path, plan=plan)
    assert [next_.number for next_ in resumed.go(1)] == [1]
    first = resumed.study.trials[0]
    assert first.state == TrialState.COMPLETE
    assert first.values == [first.user_attrs["top1"], first.user_attrs["latency_ms"]]
    missed = first.user_attrs["latency_ms"] - 500
    assert first.constraints == {"latency_ms": missed, "0": math.ulp(0.0) if missed > 0 else 0.0}


def test_a_failure_keeps_its_reason_and_counts(tmp_path: Path) -> None:
    def fails(architecture: ToyArchitecture) -> Evaluation:
        return Evaluation(Metrics(architecture_id=architecture.id, params=3), {}, "diverged", "train: the loss was nan")

    run = Run(tmp_path)
    run.go(2, fails)
    with pytest.raises(RunError, match=r"all 2 trials failed; the first \(trial 0\): train: the loss was nan"):
        require_success(run.study)
    run.go()
    failed = run.study.trials[0]
    assert failed.state == TrialState.FAIL and failed.user_attrs["failure"] == "diverged" and failed.user_attrs["params"] == 3
    assert len(run.study.finished) == 12
    assert {0, 1}.isdisjoint(trial.number for trial in run.study.front())
    require_success(run.study)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_an_objective_without_a_finite_value_fails_the_trial(tmp_path: Path, value: float | None) -> None:
    run = Run(tmp_path)
    run.go(1, lambda a: Evaluation(Metrics(a.id, top1=0.5, latency_ms=value), {"latency_ms": "no clock"}))
    trial = run.study.trials[0]
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["failure_reason"] == "latency_ms has no finite value: no clock"


def test_a_constraint_without_a_value_fails_the_trial(tmp_path: Path) -> None:
    run = Run(tmp_path, plan=replace(PLAN, constraints={"energy_j": 0.1}))
    run.go(1)
    assert run.study.trials[0].user_attrs["failure_reason"].startswith("energy_j has no finite value")
    assert run.study.front() == []


def test_a_trial_that_keeps_killing_its_process_is_given_up(tmp_path: Path) -> None:
    for _ in range(3):
        run = Run(tmp_path)
        asked = run.study.ask()
        assert asked is not None and asked.number == 0
        run.die()
    run = Run(tmp_path)
    run.go()
    assert run.study.trials[0].user_attrs["failure"] == "crash"
    assert [trial.state for trial in run.study.trials] == [TrialState.FAIL] + [TrialState.COMPLETE] * 11


def test_stopping_on_request_is_no_cut_off(tmp_path: Path) -> None:
    for _ in range(5):
        run = Run(tmp_path)
        asked = run.study.ask()
        assert asked is not None
        run.study.release(asked.number)
        run.owner.close()
    run = Run(tmp_path)
    run.go()
    assert [trial.state for trial in run.study.trials] == [TrialState.COMPLETE] * 12


def test_a_result_that_comes_too_late_changes_nothing(tmp_path: Path) -> None:
    slow = Run(tmp_path)
    asked = slow.study.ask()
    assert asked is not None
    slow.die()
    fast = Run(tmp_path)
    fast.go(1)
    told = slow.study.tell(asked.number, Evaluation(Metrics("other", top1=1.0, latency_ms=0.0)))
    assert told.attributes["architecture_id"] == asked.architecture.id


class Remembers(optuna.samplers.BaseSampler):
    """A sampler of a user's own that keeps what it is told in memory."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return getattr(param_distribution, "low", None) or param_distribution.choices[0]

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        self.told.append(trial.number)


def test_an_own_sampler_is_made_once_and_told_everything(tmp_path: Path) -> None:
    made: list[Remembers] = []

    def make(**_: Any) -> Remembers:
        made.append(Remembers())
        return made[-1]

    wrapped = TrialSeededSampler(Remembers, make, 0)
    owner = Owner(tmp_path / "owners")
    study = Study(open_storage(storage_spec(None, tmp_path)), replace(PLAN, trials=3), ToySpace(), wrapped, owner)
    while (asked := study.ask()) is not None:
        study.tell(asked.number, toy_evaluation(asked.architecture))  # type: ignore[arg-type]
    # It always suggests the same, which is evaluated once.
    assert len(made) == 1 and made[0].told == list(range(len(study.trials))) and not wrapped.is_seeded
    assert [outcome.number for outcome in study.finished if outcome.state == "complete"] == [0]
    assert sum(outcome.counts for outcome in study.finished) == 3


def test_constraints_bound_from_the_right_side(tmp_path: Path) -> None:
    plan = replace(PLAN, constraints={"latency_ms": 600.0, "top1": 0.7})
    run = Run(tmp_path, plan=plan)
    run.go()
    for trial in run.study.trials:
        width = trial.params["width"]
        assert trial.constraints["latency_ms"] == width - 600
        assert trial.constraints["top1"] == pytest.approx(0.7 - width / (width + 100))
    # Along the toy's trade-off everything feasible is on the front; 0.7 is a width of 234.
    expected = {t.number for t in run.study.trials if 233.4 < t.params["width"] <= 600}
    assert {trial.number for trial in run.study.front()} == expected and expected


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ({"space": {"high": 9}, "train": {"epochs": 3, "precision": "fp32"}}, "space.high was 1000, now 9"),
        ({"space": {"high": 1000}, "train": {"epochs": 4, "precision": "bf16"}}, "train.epochs was 3, now 4; train.precision"),
        ({"space": {"high": 1000}, "train": {"epochs": 3}}, "train.precision was fp32, now unset"),
        ({"space": {"high": [[1, 2], [3]]}, "train": {"epochs": 3, "precision": "fp32"}}, "space.high.0.0 was unset, now 1"),
    ],
)
def test_other_conditions_are_refused(tmp_path: Path, conditions: dict[str, Any], says: str) -> None:
    Run(tmp_path).go(1)
    with pytest.raises(InputError, match=says):
        Run(tmp_path, plan=replace(PLAN, conditions=conditions))


def test_a_study_of_another_program_is_refused(tmp_path: Path) -> None:
    theirs = optuna.create_study(study_name="toy", storage=f"sqlite:///{tmp_path}/study.db")
    with pytest.raises(InputError, match="other objectives"):
        Run(tmp_path)
    theirs.tell(theirs.ask(), 1.0)
    with pytest.raises(InputError, match="was not made by"):
        Run(tmp_path)


def test_a_spooled_result_is_kept_until_it_stands_in_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Run(tmp_path)
    asked = first.study.ask()
    assert asked is not None
    spool = Spool(tmp_path / "spool", PLAN.name)
    spool.keep(asked.number, toy_evaluation(asked.architecture).attributes())  # type: ignore[arg-type]
    first.die()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gathering._Unit, "flush", raising(KeyboardInterrupt()))
        dying = Run(tmp_path, spool=spool)
        dying.study.ask()
    assert spool.take(asked.number) is not None, "nothing of it was written"
    dying.die()
    again = Run(tmp_path, spool=spool)
    again.study.ask()
    (told,) = again.study.finished
    assert told.number == asked.number and told.state == "complete" and spool.take(asked.number) is None


def test_a_study_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(1)
    optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/study.db").set_user_attr("format", 99)
    with pytest.raises(InputError, match=r"a newer version of this program \(its format is 99"):
        Run(tmp_path)
    with pytest.raises(InputError, match="a newer version"):
        read_archive(open_storage(storage_spec(None, tmp_path)), "toy")


def test_a_study_cut_off_while_it_was_made_is_made_whole(tmp_path: Path) -> None:
    optuna.create_study(study_name="toy", storage=f"sqlite:///{tmp_path}/study.db", directions=["maximize", "minimize"])
    assert len(Run(tmp_path).go()) == 12
    assert len(Run(tmp_path, plan=replace(PLAN, trials=13)).go()) == 1


def test_a_study_cut_off_while_its_first_trials_were_enqueued_is_made_whole(tmp_path: Path) -> None:
    start = ({"width": 3, "kind": "a"}, {"width": 5, "kind": "b"})
    half = optuna.create_study(study_name="toy", storage=f"sqlite:///{tmp_path}/study.db", directions=["maximize", "minimize"])
    half.enqueue_trial(start[0], user_attrs={"start": True})
    whole = Run(tmp_path, plan=replace(PLAN, start=start))
    whole.go()
    assert parameters(whole)[:2] == list(start) and len(whole.study.trials) == PLAN.trials


def numbers(run: Run, count: int) -> list[int]:
    asked = [run.study.ask() for _ in range(count)]
    return [one.number for one in asked if one is not None]


def test_all_that_dead_processes_left_comes_before_anything_new(tmp_path: Path) -> None:
    dying = Run(tmp_path)
    left = numbers(dying, 3)
    dying.die()
    assert numbers(Run(tmp_path), 4) == [*left, 3]


def test_a_result_of_a_study_that_is_gone_is_nobodys(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", PLAN.name)
    spool.keep(0, toy_evaluation(ToyArchitecture(5, "c")).attributes())
    run = Run(tmp_path, spool=spool)
    (asked,) = run.go(1)
    assert run.study.trials[0].user_attrs["architecture_id"] == asked.architecture.id
    assert spool.take(0) is None


def test_a_sampler_that_has_suggested_everything_ends_no_search(tmp_path: Path) -> None:
    def grid(**extra: Any) -> optuna.samplers.BaseSampler:
        return optuna.samplers.GridSampler({"width": [1, 2], "kind": ["a", "b"]}, **extra)

    def brute(**extra: Any) -> optuna.samplers.BaseSampler:
        return optuna.samplers.BruteForceSampler(**extra)

    for name, kind, make in (
        ("grid", optuna.samplers.GridSampler, grid),
        ("brute", optuna.samplers.BruteForceSampler, brute),
    ):
        run = Run(tmp_path / name, storage=memory_storage())
        run.study._study.sampler = TrialSeededSampler(kind, make, 7)
        run.study.space = ToySpace(high=2)
        run.go()
        built = {trial.user_attrs["architecture_id"] for trial in run.study.trials}
        assert len(built) == {"grid": 4, "brute": 6}[name]
        assert sum(outcome.counts for outcome in run.study.finished) == PLAN.trials


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_what_was_enqueued_belongs_to_a_generation(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path, name, replace(PLAN, start=({"width": 3, "kind": "a"},)))
    run.go()
    given, *others = run.study.trials
    generations = [key for key in others[0].system_attrs if key.endswith("generation")]
    assert generations and given.system_attrs[generations[0]] == 0
    # So it is among the parents of the next one.
    assert max(trial.system_attrs[generations[0]] for trial in others) > 0


def test_two_processes_keep_a_seed_once_and_evaluate_a_reference_once(tmp_path: Path) -> None:
    storage = memory_storage()
    one, other = Run(tmp_path, storage=storage), Run(tmp_path, storage=storage)
    one.go(1)
    found = toy_evaluation(ToyArchitecture(5, "c"))
    one.study.beside.record_seed(0, 8, found)
    other.study.beside.record_seed(0, 8, found)
    other.study.beside.record_seed(0, 9, found)
    assert one.study.beside.seeds(0) == [8, 9]
    assert one.study.finished[0].attributes["seeds"] == [7, 8, 9]
    assert one.study.beside.begin_reference("r") == "here"
    assert other.study.beside.begin_reference("r") == "elsewhere"
    one.study.beside.release_reference("r")
    assert other.study.beside.begin_reference("r") == "here"
    other.die()
    assert one.study.beside.begin_reference("r") == "here"
    one.study.beside.record_reference("r", found)
    assert [reference.name for reference in one.study.beside.references] == ["r"]
    assert other.study.beside.begin_reference("r") == one.study.beside.begin_reference("r") == "known"


def test_a_reference_whose_process_may_be_dead_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = memory_storage()
    one, other = Run(tmp_path, storage=storage), Run(tmp_path, storage=storage)
    assert one.study.beside.begin_reference("r") == "here"
    monkeypatch.setattr(other.owner, "lives", lambda name: True)
    monkeypatch.setattr(other.owner, "is_unsure", lambda name: True)
    assert other.study.beside.begin_reference("r") == "unsure"
    monkeypatch.setattr(other.owner, "is_unsure", lambda name: False)
    assert other.study.beside.begin_reference("r") == "elsewhere"
    monkeypatch.setattr(other.owner, "lives", lambda name: False)
    assert other.study.beside.begin_reference("r") == "here"


def test_what_another_process_finished_ends_no_search(tmp_path: Path) -> None:
    storage = memory_storage()
    slow, fast = Run(tmp_path, storage=storage), Run(tmp_path, storage=storage)
    first, second = slow.study.ask(), slow.study.ask()
    assert first is not None and second is not None
    found = toy_evaluation(first.architecture)  # type: ignore[arg-type]
    slow.die()
    for _ in range(2):  # the other process takes both for left behind
        asked = fast.study.ask()
        assert asked is not None
        fast.study.tell(asked.number, toy_evaluation(asked.architecture))  # type: ignore[arg-type]
    at_a_rung = replace(found, metrics=replace(found.metrics, epochs=1, train_loss=(1.0,)))
    assert slow.study.goes_on(first.number, at_a_rung) is False
    assert slow.study.tell(first.number, at_a_rung, 1).state == "complete"  # the other one's result stands
    slow.study.release(second.number)
    assert slow.study.trials[second.number].user_attrs["attempt"] == 2


def test_a_spooled_result_is_taken_however_often_its_processes_died(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", PLAN.name)
    for _ in range(MOST_ATTEMPTS):
        run = Run(tmp_path, spool=spool)
        asked = run.study.ask()
        assert asked is not None
        run.die()
    run.study.keep(asked.number, toy_evaluation(asked.architecture))  # type: ignore[arg-type]
    again = Run(tmp_path, spool=spool)
    following = again.study.ask()
    assert following is not None and following.number != asked.number
    assert again.study.trials[asked.number].state == TrialState.COMPLETE
    assert [outcome.number for outcome in again.study.told_meanwhile()] == [asked.number]


def test_a_trial_that_is_begun_again_says_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    asked = run.study.ask()
    assert asked is not None
    run.die()
    again = Run(tmp_path)
    before = time.time()
    taken = again.study.ask()
    assert taken is not None and taken.number == asked.number
    outcome = again.study.tell(taken.number, toy_evaluation(taken.architecture))  # type: ignore[arg-type]
    assert outcome.started_at is not None and before <= outcome.started_at <= time.time()
    assert outcome.ended_at is not None and outcome.started_at <= outcome.ended_at


def test_study_attributes(tmp_path: Path) -> None:
    Run(tmp_path).go(1)
    loaded = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/study.db")
    assert loaded.user_attrs["objectives"] == ["top1", "latency_ms"]
    assert loaded.user_attrs["device"] == {"name": "none"}
    assert loaded.metric_names == ["top1 (fraction)", "latency_ms"]
    assert [direction.name for direction in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]
