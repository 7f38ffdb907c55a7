"""A search's own sampler: of many networks drawn from the space, the one that is expected to add most to the front.

What a network would come to is foretold by one Gaussian process per objective, from complete trials and from what those that were
stopped early let expect. A network that was stopped is one of those to choose from: its training is gone on with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr
from threadpoolctl import ThreadpoolController

from nas.analyse.front import non_dominated
from nas.history import History, tells
from nas.suggest.drawing import Candidate, contains, draw
from nas.suggest.encoding import Coordinates, coordinates, points
from nas.suggest.improvement import expected_improvement, free_points
from nas.suggest.knowledge import FEWEST, Aim, Knowledge, knowledge_of
from nas.suggest.model import Model
from nas.suggest.seeds import trial_seed
from nas.suggest.window import Best, window
from search_spaces.base import SearchSpace

Array = NDArray[np.float64]

TRIES = 10
"""How often as many networks are drawn again where all that were drawn are known."""


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


@runtime_checkable
class Resuming(Protocol):
    """A sampler that may choose a candidate that was stopped early."""

    def goes_on_with(self, number: int) -> int | None:
        """Return the stopped trial with whose training trial ``number``, which was asked for last, is to go on, if it is one."""
        ...


class EhviSampler(BaseSampler):
    """Suggests by expected hypervolume improvement over networks drawn from the space; the same for equal seeds and trials.

    Half of the networks to choose from are drawn at random, the others differ from one of the front in a parameter or two.
    What is known is not suggested again, as long as anything else is drawn.

    Args:
        space: The design space.
        seed: Of all suggestions; each trial's are a function of it, of the trial's number and of the trials before it.
        n_startup_trials: Networks that are drawn at random before anything is foretold.
        n_candidates: Networks to choose from.
        looks_at: Most trials that are learned from, of the front first and then the most recent: time grows with their cube.

    Raises:
        ValueError: A number is too small.
    """

    def __init__(
        self, space: SearchSpace, seed: int, n_startup_trials: int = 8, n_candidates: int = 96, looks_at: int = 200
    ) -> None:
        for name, value, least in (
            ("n_startup_trials", n_startup_trials, 1),
            ("n_candidates", n_candidates, 2),
            ("looks_at", looks_at, 10),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value} cannot be used: it should be a whole number of {least} or more")
        if n_startup_trials > looks_at:
            raise ValueError(f"n_startup_trials={n_startup_trials} cannot be used: it should not be above looks_at={looks_at}")
        self._space, self._seed = space, seed
        self._startup, self._count, self._looks_at = n_startup_trials, n_candidates, looks_at
        self._history, self._best = History(), Best()
        self._about: optuna.Study | None = None
        self._placed: dict[int, Coordinates] = {}
        self._chosen: tuple[int, Candidate] | None = None
        self._random: tuple[int, RandomSampler] | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Choose what to suggest for a trial; none that was told what it is."""
        self._chosen = None
        if study is not self._about:
            self._about, self._history, self._best, self._placed = study, History(), Best(), {}
        if "fixed_params" in trial.system_attrs or "resumed_from" in trial.user_attrs or trial.params:
            return
        history = self._history.update(study.get_trials(deepcopy=False))
        # On matrices this small threads cost more than they save, and their number must not decide what comes out.
        with _threads().limit(limits=1, user_api="blas"):
            chosen = self._choose(study, history, trial.number)
        if chosen is not None:
            self._chosen = trial.number, chosen

    def goes_on_with(self, number: int) -> int | None:
        """See ``Resuming``."""
        return self._chosen[1].stopped if self._chosen is not None and self._chosen[0] == number else None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See ``BaseSampler``; none, as the space alone knows which parameters there are."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See ``BaseSampler``."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See ``BaseSampler``; what the choice does not say is drawn at random."""
        told = self._chosen[1].params if self._chosen is not None and self._chosen[0] == trial.number else {}
        if param_name in told and contains(param_distribution, told[param_name]):
            return told[param_name]
        # One trial asks for one parameter after the other; each has to get a draw of its own.
        if self._random is None or self._random[0] != trial.number:
            self._random = trial.number, RandomSampler(seed=trial_seed(self._seed, trial.number))
        return self._random[1].sample_independent(study, trial, param_name, param_distribution)

    def _choose(self, study: optuna.Study, history: History, number: int) -> Candidate | None:
        """Return what to suggest for trial ``number``; ``None`` if nothing can be drawn."""
        random = np.random.default_rng([self._seed, number])
        attributes = study.user_attrs
        names = tuple(attributes.get("objectives") or ("",) * len(study.directions))
        aim = Aim(names, tuple(study.directions), attributes.get("constraints") or {})
        taught = self._taught(study, history)
        told = knowledge_of(taught, aim)
        # Without any, bounds are what is looked for at first.
        enough = told.complete >= min(FEWEST, self._startup) or (told.misses > 0).any()
        if len(taught) < self._startup or not enough:
            return self._new(history, number, self._drawn(random, ()))
        front = _front_of(taught, told)
        self._placed = {trial.number: self._coordinates(trial) for trial in taught}
        # One of whose training nothing can be told would be taken for one that promises much.
        is_foretold = np.isfinite(told.costs).all(axis=1) & told.is_best.any()
        is_open = {trial.number for trial in history.all_stopped}
        stopped = [
            Candidate(trial.params, self._placed[trial.number], stopped=trial.number)
            for trial in (taught[place] for place in np.flatnonzero(is_foretold).tolist())
            if trial.number in is_open
        ]
        candidates = [*self._drawn(random, front), *stopped]
        under_way = [history.trials[other] for other in sorted(history.open) if other != number and history.trials[other].params]
        if not candidates:
            return None
        worth = self._worth(candidates, taught, told, [t for t in under_way if t.state == TrialState.RUNNING], number)
        return self._new(history, number, [candidates[index] for index in np.argsort(-worth, kind="stable")])

    def _taught(self, study: optuna.Study, history: History) -> list[FrozenTrial]:
        """Return the ended trials that are learned from, by number."""
        kept = window(history, self._best.update(study, history), self._looks_at, tells)
        ended = history.ended if kept is None else [history.trials[number] for number in kept]
        return sorted(
            (trial for trial in ended if trial.number not in history.hidden and tells(trial)), key=lambda trial: trial.number
        )

    def _drawn(self, random: np.random.Generator, front: Sequence[FrozenTrial]) -> Iterator[Candidate]:
        """Draw candidates: at random, and every other one as a neighbour of the front, if there is one."""
        for index in range(self._count):
            parent = front[int(random.integers(len(front)))].params if front and index % 2 else None
            candidate = draw(self._space, int(random.integers(2**31)), parent)
            if candidate is not None:
                yield candidate

    def _new(self, history: History, number: int, candidates: Iterable[Candidate]) -> Candidate | None:
        """Return the first candidate that is not known; where all are, one that is drawn until it is not, or any."""
        known = None
        # After a repeat there is little left that could be found.
        for attempt in range(1 + (0 if history.repeats_before(number) else TRIES)):
            if attempt:
                candidates = self._drawn(np.random.default_rng([self._seed, number, attempt]), ())
            for candidate in candidates:
                if candidate.stopped is not None or not self._is_known(history, number, candidate):
                    return candidate
                known = known or candidate
        return known

    def _is_known(self, history: History, number: int, candidate: Candidate) -> bool:
        assert candidate.architecture is not None
        name = candidate.architecture.id
        return history.known(name) is not None or history.under_way(name, number) is not None

    def _worth(
        self,
        candidates: Sequence[Candidate],
        taught: Sequence[FrozenTrial],
        told: Knowledge,
        under_way: Sequence[FrozenTrial],
        number: int,
    ) -> Array:
        """Return the hypervolume that each candidate is expected to add, times the probability that it keeps all bounds."""
        suggestions = [self._coordinates(trial) for trial in taught]
        # Of what another process is suggesting just now not all parameters may be known yet.
        suggestions += [coordinates(trial.params, trial.distributions) for trial in under_way]
        placed = points([*suggestions, *(candidate.coordinates for candidate in candidates)])
        known, others, asked = np.split(placed, [len(taught), len(suggestions)])
        model = Model(known, others, asked)
        worth, keep = np.ones(len(candidates)), np.ones(len(under_way), dtype=bool)
        for miss in told.misses.T:
            if np.isfinite(miss).any() and np.nanmax(miss) > np.nanmin(miss):
                means, deviations, supposed = model.foretold(miss)
                worth *= ndtr(-means / deviations)
                keep &= supposed <= 0
        if not told.is_best.any():
            return worth
        foretold = [model.foretold(costs, further) for costs, further in zip(told.costs.T, told.further.T, strict=True)]
        means, deviations, supposed = (np.column_stack(columns) for columns in zip(*foretold, strict=True))
        costs = np.vstack([told.costs[told.is_best], supposed[keep]])
        front = costs[non_dominated(costs)]
        free = free_points(front, _reference(front, costs), trial_seed(self._seed, number))
        return worth * expected_improvement(means, deviations, free)

    def _coordinates(self, trial: FrozenTrial) -> Coordinates:
        return self._placed.get(trial.number) or coordinates(trial.params, trial.distributions)


def _front_of(taught: Sequence[FrozenTrial], told: Knowledge) -> list[FrozenTrial]:
    """Return the trials of the front; where there is none, those that miss no bound that is known of them."""
    at_best = np.flatnonzero(told.is_best)
    if not len(at_best):
        return [taught[number] for number in np.flatnonzero(~(told.misses > 0).any(axis=1)).tolist()]
    return [taught[number] for number in at_best[non_dominated(told.costs[at_best])].tolist()]


def _reference(front: Array, costs: Array) -> Array:
    """Return a point that is as far beyond the front as the front spans: its ends shall be worth looking for.

    Where the front is narrow it is a tenth of what all costs span.
    """
    whole = np.ptp(costs, axis=0)
    reference: Array = front.max(axis=0) + np.maximum(np.ptp(front, axis=0), np.where(whole > 0, 0.1 * whole, 1.0))
    return reference
