"""What is suggested after a repeat: neighbours of the front and random draws by turns, from what every network came to once."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from nas.history import History
from nas.sampling import LOOKS_AT, TrialSeededSampler, _Neighbour, _teaches
from nas.suggest.seeds import trial_seed
from nas.suggest.window import Best, window

SPACE = {f"x{index}": IntDistribution(0, 999) for index in range(6)}


def study_of(*values: tuple[float, float], **params: int) -> optuna.Study:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for number, value in enumerate(values):
        given = dict.fromkeys(SPACE, number) | params
        study.add_trial(optuna.trial.create_trial(params=given, distributions=SPACE, values=value))
    return study


def test_a_neighbour_differs_in_one_parameter() -> None:
    study = study_of((1.0, 1.0), x3=7)
    (parent,) = study.trials
    changed = set()
    for seed in range(40):
        neighbour = _Neighbour([parent], seed)
        study.ask()
        drawn = {name: neighbour.sample_independent(study, study.trials[-1], name, domain) for name, domain in SPACE.items()}
        differing = [name for name in SPACE if drawn[name] != parent.params[name]]
        assert len(differing) <= 1
        changed |= set(differing)
    assert changed == set(SPACE), "each of them in turn"


def test_what_the_parent_cannot_say_is_drawn() -> None:
    study = study_of((1.0, 1.0), x3=7)
    neighbour = _Neighbour(study.trials, 0)
    study.ask()
    trial = study.trials[-1]
    narrower = IntDistribution(100, 200)
    assert 100 <= neighbour.sample_independent(study, trial, "x1", narrower) <= 200, "7 is no longer in the space"
    assert neighbour.sample_independent(study, trial, "new", CategoricalDistribution(["a"])) == "a"


def test_the_front_is_that_of_complete_trials_that_keep_their_bounds() -> None:
    study = study_of((1.0, 1.0), (2.0, 3.0), (2.0, 2.0), (0.5, 0.5))
    for miss in (0.5, -0.5):
        trial = study.ask(SPACE)
        trial.set_constraint("size", miss)
        study.tell(trial, [0.1, 9.0])
    stopped = study.ask(SPACE)
    study.tell(stopped, state=TrialState.PRUNED)
    history = History().update(study.trials)
    best = Best()
    assert [trial.number for trial in best.update(study, history)] == [5], "the one that misses its bound beats nobody"
    study.add_trial(optuna.trial.create_trial(values=[0.05, 8.0]))
    assert [trial.number for trial in best.update(study, history.update(study.trials))] == [5, 7]
    study.add_trial(optuna.trial.create_trial(values=[0.01, 9.5], user_attrs={"reused_from": 0}))
    assert [trial.number for trial in best.update(study, history.update(study.trials))] == [5, 7], "a repeat is none of it"
    hidden = History()
    hidden.hidden.add(5)
    assert [trial.number for trial in Best().update(study, hidden.update(study.trials[:7]))] == [0, 1, 3]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40), st.integers(1, 7))
def test_the_front_kept_as_trials_end_is_that_of_all_of_them(values: list[tuple[int, int]], step: int) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    history, best = History(), Best()
    for number, value in enumerate(values):
        study.add_trial(optuna.trial.create_trial(values=value))
        if number % step == 0:
            best.update(study, history.update(study.trials))
    brute = [mine for mine, (a, b) in enumerate(values) if not any((c <= a and d >= b) and (c < a or d > b) for c, d in values)]
    assert [trial.number for trial in best.update(study, history.update(study.trials))] == brute


def test_beyond_a_number_the_sampler_learns_from_the_front_and_the_most_recent() -> None:
    many = 3 * LOOKS_AT
    # All of the early half are on the front, nobody after them.
    study = study_of(*((float(n), float(n)) if n < many // 2 else (many, 0.0) for n in range(many)))
    history = History().update(study.trials)
    front = Best().update(study, history)
    assert len(front) == many // 2
    shown = window(history, front, LOOKS_AT, _teaches)
    assert shown is not None and len(shown) == LOOKS_AT
    assert shown == {*range(many // 2 - LOOKS_AT // 2, many // 2), *range(many - LOOKS_AT // 2, many)}
    few = History().update(study.trials[:LOOKS_AT])
    assert window(few, front, LOOKS_AT, _teaches) is None
    few.hidden |= set(range(10))
    few.update(study.trials[: LOOKS_AT + 10])
    assert window(few, front, LOOKS_AT, _teaches) is None, "what is hidden anyway does not count"


def test_tpe_suggests_from_what_it_is_shown() -> None:
    study = study_of(*((float(n), float(n)) for n in range(2 * LOOKS_AT)))
    seen: list[int] = []

    class Looking(optuna.samplers.TPESampler):
        def sample_relative(self, study, trial, search_space):  # type: ignore[no-untyped-def]
            seen.append(len(study.get_trials(deepcopy=False)))
            return {}

    Looking.__module__ = "optuna.samplers"  # it is not one of a user's own
    study.sampler = TrialSeededSampler(Looking, lambda **extra: Looking(multivariate=True, **extra), seed=3)
    study.ask().suggest_int("x0", 0, 999)
    assert seen == [LOOKS_AT + 1], "with the trial itself"


@pytest.mark.parametrize(("repeats", "kind"), [(1, _Neighbour), (2, optuna.samplers.RandomSampler), (3, _Neighbour)])
def test_neighbours_and_random_draws_take_turns(repeats: int, kind: type) -> None:
    study = study_of((1.0, 1.0))
    for _ in range(repeats):
        copy = optuna.trial.create_trial(params={}, distributions={}, values=[1.0, 1.0], user_attrs={"reused_from": 0})
        study.add_trial(copy)
    sampler = TrialSeededSampler(optuna.samplers.TPESampler, lambda **extra: optuna.samplers.TPESampler(**extra), seed=3)
    study.sampler = sampler
    trial = study.ask()
    trial.suggest_int("x0", 0, 999)
    assert sampler._drawing is not None and type(sampler._drawing[1]) is kind
    assert sampler._drawing[0] == trial.number and trial_seed(3, 1) != trial_seed(3, 2)


def test_without_a_repeat_the_sampler_itself_suggests() -> None:
    study = study_of((1.0, 1.0))
    sampler = TrialSeededSampler(optuna.samplers.TPESampler, lambda **extra: optuna.samplers.TPESampler(**extra), seed=3)
    study.sampler = sampler
    study.ask().suggest_int("x0", 0, 999)
    assert sampler._drawing is None


def test_failures_take_no_place_among_what_the_sampler_learns_from() -> None:
    study = study_of(*((float(n), float(n)) for n in range(LOOKS_AT)))
    for _ in range(LOOKS_AT):
        study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    history = History().update(study.trials)
    assert window(history, Best().update(study, history), LOOKS_AT, _teaches) == set(range(LOOKS_AT))


def test_a_trial_that_has_no_place_in_a_grid_can_be_told_when_one_place_is_left() -> None:
    """Such as a first trial of the user's, or one that goes on with another one."""
    grid: dict[str, list[int]] = {"x0": [1, 2]}

    def make(**extra: object) -> optuna.samplers.GridSampler:
        return optuna.samplers.GridSampler(grid, **extra)  # type: ignore[arg-type]

    study = optuna.create_study(sampler=TrialSeededSampler(optuna.samplers.GridSampler, make, seed=3))
    study.enqueue_trial({"x0": 1})
    given, first = study.ask(), study.ask()
    for trial in (given, first):
        trial.suggest_int("x0", 0, 999)
    study.tell(first, 0.0)
    study.tell(given, 0.0)
    assert {first.params["x0"], study.ask().suggest_int("x0", 0, 999)} == {1, 2}
