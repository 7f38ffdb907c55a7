"""What is suggested after a repeat: neighbours of the front and random draws by turns, from what every network came to once."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from nas.history import History
from nas.sampling import TrialSeededSampler, _front, _Neighbour, trial_seed

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
    assert [trial.number for trial in _front(study, history)] == [5], "the one that misses its bound beats nobody"
    history.hidden.add(5)
    assert [trial.number for trial in _front(study, history)] == [0, 1, 3]


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
