"""How a trial that has ended is told: its state, its values, by how much it misses each bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.analyse.tradeoffs import violations
from nas.archive import STATES
from nas.metrics import METRICS
from nas.plan import StudyPlan
from nas.storage import Storage

BeforeTell = Callable[[optuna.Trial, bool], None]

LEGACY_CONSTRAINTS = "constraints"
"""The system attribute by which Optuna's dashboard (0.21) tells whether a trial is feasible; see ``Verdict._show_feasible``."""

_INFEASIBLE = math.ulp(0.0)


class Verdict:
    """Tells the trials of one study.

    Args:
        study: Whose trials they are.
        storage: Where it is kept.
        plan: What is wanted of it.

    Attributes:
        before_tell: Called with each trial, and whether it failed, just before it is told.
    """

    def __init__(self, study: optuna.Study, storage: Storage, plan: StudyPlan) -> None:
        self._study, self._storage, self._plan = study, storage, plan
        self.before_tell: BeforeTell = lambda trial, failed: None

    @property
    def early_bounds(self) -> dict[str, float]:
        """The bounds that a training which has not come to its end can miss."""
        return {name: bound for name, bound in self._plan.constraints.items() if METRICS[name].stage != "train"}

    def missing(self, attributes: Mapping[str, Any]) -> str | None:
        """Return which objective or constraint has no value, and why."""
        for name in (*(metric.name for metric in self._plan.objectives), *self._plan.constraints):
            if not _finite(attributes.get(name)):
                reason = attributes.get(f"{name}_reason") or f"its value was {attributes.get(name)}"
                return f"{name} has no finite value: {reason}"
        return None

    def tell(self, trial: optuna.Trial) -> FrozenTrial:
        """Finish a trial by what its attributes say: complete with its values, pruned, or failed with its reason."""
        attributes = trial.user_attrs
        # A candidate that was not trained to the end has no accuracy to compare; told as failed it would teach nothing.
        gated = bool(attributes.get("gated_by"))
        missing = None if gated else self.missing(attributes)
        pruned = not (missing or attributes.get("failure")) and (gated or attributes.get("stopped_at") is not None)
        if missing and not attributes.get("failure"):
            trial.set_user_attr("failure", "error")
            trial.set_user_attr("failure_reason", missing)
        failed = bool(missing) or bool(attributes.get("failure"))
        state = TrialState.FAIL if failed else TrialState.PRUNED if pruned else TrialState.COMPLETE
        if "outcome" not in attributes:
            trial.set_user_attr("outcome", STATES[state])
        known = trial.constraints
        missed = violations(attributes, self.early_bounds if pruned else self._plan.constraints)
        for name, miss in missed.items():
            if name not in known and math.isfinite(miss):
                trial.set_constraint(name, miss)
        self._show_feasible(trial, missed)
        self.before_tell(trial, failed)
        return self._study.tell(
            trial,
            [float(attributes[metric.name]) for metric in self._plan.objectives] if state == TrialState.COMPLETE else None,
            state,
        )

    def _show_feasible(self, trial: optuna.Trial, missed: Mapping[str, float]) -> None:
        """Write feasibility where the dashboard reads it, in a way that no sampler learns anything from.

        Optuna adds this older list to ``Trial.constraints``. Its samplers sum up what is missed: the smallest number there is
        changes no sum, yet it is above 0. ``nas.sampling`` hides it from samplers that do otherwise.
        """
        if any(miss > 0 for miss in missed.values()):
            shown = _INFEASIBLE
        elif len(missed) == len(self._plan.constraints) > 0:
            shown = 0.0
        else:
            return  # nothing is asked, or a bound's metric was never known
        self._storage.optuna.set_trial_system_attr(trial._trial_id, LEGACY_CONSTRAINTS, [shown])


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
