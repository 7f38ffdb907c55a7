"""Which network of a study a user means: the knee of its front, the best under conditions, a trial, or an architecture's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from nas.analyse.picking import Best, best, knee, nearest, parse_pick
from nas.analyse.tradeoffs import nearest_feasible, violations
from nas.catalogue import find
from nas.catalogue.models import ReferenceSpace, as_candidate
from nas.errors import InputError
from nas.metrics import METRICS, show
from nas.outcomes import Outcome
from nas.runs import Run
from search_spaces.base import Architecture, SearchSpace, SpaceError, from_yaml


@dataclass(frozen=True)
class Chosen:
    """One network.

    Attributes:
        outcome: Its trial; ``None`` for an architecture from a file.
        space: What builds it.
        label: Names its folders: the trial's number, or the architecture's id.
        why: One sentence: how it was chosen.
    """

    outcome: Outcome | None
    architecture: Architecture
    space: SearchSpace
    label: str
    why: str


def choose(run: Run, pick: str | None, trial: int | None, architecture: str | None) -> Chosen:
    """Return the network that the keys ``pick``, ``trial`` and ``architecture`` mean; the knee if none is set.

    Raises:
        InputError: More than one is set, or there is no such network.
    """
    given = [key for key, value in (("pick", pick), ("trial", trial), ("architecture", architecture)) if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are both set: each names a network by itself, so give one.")
    if architecture is not None:
        return _from_file(run, architecture)
    if trial is not None:
        outcome = run.trial(trial)
        misses = {name: miss for name, miss in violations(outcome.attributes, run.constraints).items() if miss > 0}
        why = f"trial {trial} was asked for"
        if outcome.state == "failed":
            why += "; in the search it failed"
        elif outcome.state == "pruned":
            why += f"; in the search it was {outcome.pruned_reason}"
        elif misses:
            why += f"; it misses {_misses(misses, run)}"
        return _of_trial(run, outcome, f"{why}.")
    expression = parse_pick(pick or "knee")
    if not run.feasible:
        raise InputError(_no_feasible(run))
    if isinstance(expression, Best):
        return _best(run, expression)
    found = knee(run.front, run.objectives)
    values = ", ".join(f"{m.name} {show(m, found.attributes.get(m.name))}" for m in run.objectives)
    return _of_trial(run, found, f"Trial {found.name}, the knee of the front of {len(run.front)}: {values}.")


def _best(run: Run, pick: Best) -> Chosen:
    found = best(pick, run.feasible, run.objectives)
    if found is not None:
        value = show(pick.metric, found.attributes[pick.metric.name])
        return _of_trial(run, found, f"{str(pick).capitalize()}: {pick.metric.name} {value}.")
    near = nearest(pick, run.feasible)
    if near is None or not near[1]:
        names = dict.fromkeys([pick.metric.name, *(condition.metric.name for condition in pick.conditions)])
        raise InputError(
            f'pick="{pick}" finds nothing: no network of study {run.name} has a value for {" and ".join(names)}; '
            "ask for metrics that it measured."
        )
    outcome, told = near
    raise InputError(f'pick="{pick}" finds nothing: the nearest is trial {outcome.name}, whose {told}; loosen the conditions.')


def _no_feasible(run: Run) -> str:
    near = nearest_feasible(run.outcomes, run.constraints)
    if near is None:
        return f"study {run.name} has no complete trial yet: go on with its search, or give trial=<number>."
    outcome, misses = near
    return (
        f"study {run.name} has no network that keeps every constraint: the nearest is trial {outcome.name}, which misses "
        f"{_misses(misses, run)}; take it with trial={outcome.name}, or search on with other constraints."
    )


def _misses(misses: dict[str, float], run: Run) -> str:
    return " and ".join(
        f"{name} by {show(METRICS[name], miss)} (bound {show(METRICS[name], run.constraints[name])})"
        for name, miss in misses.items()
    )


def _of_trial(run: Run, outcome: Outcome, why: str) -> Chosen:
    return Chosen(outcome, run.architecture(outcome), run.space, outcome.name, why)


def _from_file(run: Run, path: str) -> Chosen:
    """Read an architecture with the study's space, which may be a user's own, else as one of our families."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(
            f"architecture={path} cannot be read ({reason}): give the path of an architecture's YAML file."
        ) from None
    space = run.space
    architecture: Architecture
    try:
        architecture = from_yaml(run.space, text)
    except (SpaceError, ValueError, TypeError, KeyError, AttributeError) as refusal:
        if _family(text) not in ("osa", "dense", "reference"):
            raise InputError(f"architecture={path}: {str(refusal).rstrip('.')}.") from None
        find(path)  # tells what is wrong with it, as everywhere
        architecture, space = as_candidate(path), ReferenceSpace()
    return Chosen(None, architecture, space, architecture.id, f"The architecture in {path} was asked for.")


def _family(text: str) -> object:
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return None
    return document.get("family") if isinstance(document, dict) else None
