"""What ended trials teach: costs on scales that a model can learn, what a stopped training would have come to, missed bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.metrics import METRICS
from nas.suggest.knowledge import FEWEST, LEAST_ERROR, Aim, knowledge_of


def aim(*objectives: str, bounds: Mapping[str, float] | None = None) -> Aim:
    directions = tuple(StudyDirection[METRICS[name].direction.upper()] for name in objectives)
    return Aim(objectives, directions, bounds or {})


def complete(*values: float, losses: Sequence[float] = (), **attributes: Any) -> FrozenTrial:
    return create_trial(values=values, user_attrs={**attributes, "train_loss": list(losses)})


def stopped(epoch: int, losses: Sequence[float | None], **attributes: Any) -> FrozenTrial:
    given = {**attributes, "train_loss": list(losses), "stopped_at": epoch, "fidelity": epoch}
    return create_trial(state=TrialState.PRUNED, user_attrs=given)


def failed(**attributes: Any) -> FrozenTrial:
    return create_trial(state=TrialState.FAIL, user_attrs={"failure": "out_of_memory", **attributes})


def test_an_accuracy_counts_by_the_logarithm_of_its_errors() -> None:
    told = knowledge_of([complete(top1) for top1 in (0.0, 0.9, 1.0)], aim("top1"))
    assert told.costs[:, 0] == pytest.approx([math.log(error + LEAST_ERROR) for error in (1.0, 0.1, 0.0)])
    assert (np.diff(told.costs[:, 0]) < 0).all(), "less is better"


def test_times_and_rates_count_by_their_logarithm() -> None:
    told = knowledge_of([complete(1.0, 10.0), complete(2.0, 20.0), complete(4.0, 40.0)], aim("latency_ms", "images_per_s"))
    assert np.diff(told.costs[:, 0]) == pytest.approx(math.log(2)) and np.diff(told.costs[:, 1]) == pytest.approx(-math.log(2))


@pytest.mark.parametrize("least", [0.0, -3.0])
def test_figures_that_are_not_all_above_zero_stay_as_they_are(least: float) -> None:
    told = knowledge_of([complete(least, least), complete(5.0, 5.0)], aim("energy_net_j", "images_per_s"))
    assert told.costs.tolist() == [[least, -least], [5.0, -5.0]]


def test_a_study_that_does_not_name_its_objectives_is_learned_from_by_its_directions() -> None:
    unnamed = Aim(("", ""), (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE), {})
    told = knowledge_of([complete(0.5, -1.0), complete(0.25, 1.0), stopped(1, [1.0])], unnamed)
    assert told.costs[:2] == pytest.approx(np.array([[math.log(2), -1.0], [math.log(4), 1.0]]))
    assert np.isnan(told.costs[2]).all()


def test_each_state_tells_what_it_can() -> None:
    trials = [
        complete(0.5, 8.0, top1=0.5, latency_ms=8.0),
        stopped(1, [2.0], top1=0.4, latency_ms=4.0),
        create_trial(state=TrialState.PRUNED, user_attrs={"gated_by": ["params"], "latency_ms": 2.0}),
        failed(latency_ms=16.0, top1=None),
        failed(),
    ]
    told = knowledge_of(trials, aim("top1", "latency_ms"))
    assert told.complete == 1 and told.is_best.tolist() == [True, False, False, False, False]
    assert np.isfinite(told.costs[:, 0]).tolist() == [True, False, False, False, False]
    assert told.costs[:4, 1] == pytest.approx(np.log([8.0, 4.0, 2.0, 16.0])) and math.isnan(told.costs[4, 1])
    assert (told.further == 0).all()
    assert told.misses.tolist() == [[-1.0], [-1.0], [-1.0], [1.0], [1.0]], "which could be trained at all"


def test_of_nothing_nothing_is_known() -> None:
    told = knowledge_of([], aim("top1", "latency_ms", bounds={"params": 1.0}))
    assert told.costs.shape == told.further.shape == (0, 2) and told.misses.shape == (0, 1) and told.complete == 0


def by_loss(slope: float, loss: float, exact: float = 0.0) -> float:
    """Return an accuracy whose cost is a straight line of the loss's logarithm."""
    return 1.0 + LEAST_ERROR - math.exp(slope * math.log(loss) - 1.0 + exact)


LOSSES = (0.3, 0.5, 0.8, 1.2, 2.0)


@pytest.mark.parametrize("slope", [0.5, 1.0])
def test_a_stopped_training_is_foretold_by_its_loss(slope: float) -> None:
    trials = [complete(by_loss(slope, loss), losses=[9.0, loss, 0.01]) for loss in LOSSES]
    told = knowledge_of([*trials, stopped(2, [1.0, 0.4]), stopped(2, [1.0, 0.2])], aim("top1"))
    # What keeps a slope from being infinite keeps it a little below the true one.
    assert told.costs[5:, 0] == pytest.approx([slope * math.log(loss) - 1.0 for loss in (0.4, 0.2)], rel=2e-3)
    assert told.further[:, 0] == pytest.approx(0.0, abs=1e-5)


def test_what_losses_do_not_explain_makes_a_foretold_cost_unsure() -> None:
    off = (0.1, -0.1, 0.0, 0.1, -0.1)
    trials = [complete(by_loss(1.0, loss, exact), losses=[loss]) for loss, exact in zip(LOSSES, off, strict=True)]
    told = knowledge_of([*trials, stopped(1, [0.4])], aim("top1"))
    logs, costs = np.log(LOSSES), told.costs[:5, 0]
    left = costs - np.polyval(np.polyfit(logs, costs, 1), logs)
    # What a line through them foretells for one more is off by so much.
    off_line = 1 + 1 / 5 + (math.log(0.4) - logs.mean()) ** 2 / ((logs - logs.mean()) ** 2).sum()
    assert told.further[5, 0] == pytest.approx((left**2).sum() / 3 * off_line, rel=1e-2)
    assert (told.further[:5] == 0).all(), "what was trained to the end is as sure as it is"


def test_losses_of_the_epoch_it_was_stopped_at_are_what_counts() -> None:
    trials = [complete(by_loss(1.0, loss), losses=[loss, 7.0 / loss]) for loss in LOSSES]
    told = knowledge_of([*trials, stopped(1, [0.4]), stopped(2, [9.0, 7.0 / 0.4])], aim("top1"))
    assert told.costs[5, 0] == pytest.approx(told.costs[6, 0], rel=1e-3)


def test_equal_losses_foretell_the_mean() -> None:
    trials = [complete(top1, losses=[1.0]) for top1 in (0.2, 0.4, 0.6, 0.8)]
    told = knowledge_of([*trials, stopped(1, [0.5])], aim("top1"))
    assert told.costs[4, 0] == pytest.approx(told.costs[:4, 0].mean())


def test_too_few_complete_trainings_foretell_nothing() -> None:
    trials = [complete(by_loss(1.0, loss), losses=[loss]) for loss in LOSSES[: FEWEST - 1]]
    unlike = [complete(0.5, losses=[]), complete(0.5)]  # of which the loss at that epoch is not known
    told = knowledge_of([*trials, *unlike, stopped(1, [0.4])], aim("top1"))
    assert math.isnan(told.costs[-1, 0]) and (told.further == 0).all()


@pytest.mark.parametrize("loss", [None, math.nan, math.inf, 0.0])
def test_a_loss_that_is_no_number_foretells_nothing(loss: float | None) -> None:
    trials = [complete(by_loss(1.0, known), losses=[known]) for known in LOSSES]
    told = knowledge_of([*trials, stopped(1, [loss]), stopped(1, [0.4])], aim("top1"))
    assert math.isnan(told.costs[-2, 0]) and math.isfinite(told.costs[-1, 0])


def test_an_early_accuracy_is_never_taken_for_the_final_one() -> None:
    trials = [complete(by_loss(1.0, loss), losses=[loss]) for loss in LOSSES]
    costs = [knowledge_of([*trials, stopped(1, [0.4], top1=top1)], aim("top1")).costs[-1, 0] for top1 in (0.0, 0.99)]
    assert costs[0] == costs[1] == pytest.approx(math.log(0.4) - 1.0, rel=2e-3)
    alone = knowledge_of([stopped(1, [0.4], top1=0.99)], aim("top1"))
    assert np.isnan(alone.costs).all() and not alone.is_best.any()


def test_bounds_on_what_a_training_tells_hold_for_whole_trainings_only() -> None:
    bounds = {"top1": 0.6, "params": 100.0}
    trials = [
        complete(0.5, top1=0.5, params=90.0),
        complete(0.7, top1=0.7, params=90.0),
        complete(0.7, top1=0.7, params=130.0),
        stopped(1, [1.0], top1=0.1, params=120.0),
    ]
    told = knowledge_of(trials, aim("top1", bounds=bounds))
    assert told.misses == pytest.approx(np.array([[0.1, -10], [-0.1, -10], [-0.1, 30], [math.nan, 20]]), nan_ok=True)
    assert told.is_best.tolist() == [False, True, False, False]


def test_failures_take_a_column_after_the_bounds() -> None:
    told = knowledge_of([complete(0.5, params=90.0), failed(params=300.0), failed()], aim("top1", bounds={"params": 100.0}))
    assert told.misses == pytest.approx(np.array([[-10, -1], [200, 1], [math.nan, 1]]), nan_ok=True)
