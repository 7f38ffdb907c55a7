"""The sampler that a configuration names, and whether it can search a space at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from nas.conditions import flatten
from nas.errors import InputError
from nas.failures import first_line
from nas.metrics import Metric
from nas.sampling import TrialSeededSampler
from nas.suggest.sampler import EhviSampler
from nas.targets import locate_target, maker
from search_spaces.base import SearchSpace, SpaceError


def make_sampler(
    node: Mapping[str, Any], space: SearchSpace, seed: int, own_seed: int | None = None, allow_modules: Sequence[str] = ()
) -> BaseSampler:
    """Return what ``node["_target_"]`` names, with randomness of its own for each trial.

    Args:
        node: The ``sampler`` of a configuration.
        space: The design space.
        seed: The study's.
        own_seed: ``sampler.seed``, which takes its place.
        allow_modules: The user's own modules that may be reached.

    Raises:
        InputError: It is no sampler, refuses its arguments, or cannot be seeded as it should be.
    """
    name = str(node["_target_"])
    target = locate_target("sampler._target_", name, allow_modules)
    for key, value in flatten(node).items():
        if key.rpartition(".")[2] == "seed":
            raise InputError(f"sampler.{key}={value} cannot be used: each trial has its own; take it out, or set seed.")
    build = maker("sampler", node, allow_modules)
    seed = seed if own_seed is None else own_seed
    if isinstance(target, type) and issubclass(target, EhviSampler):
        if "space" in node:
            raise InputError("sampler.space cannot be used: the sampler searches the study's own space; take it out.")
        own: EhviSampler = build(space=space, seed=seed)
        return own

    def make(**extra: Any) -> BaseSampler:
        made = build(**extra)
        if not isinstance(made, BaseSampler):
            raise InputError(f"sampler._target_={name} is no sampler: it must be an optuna.samplers.BaseSampler.")
        return made

    sampler = TrialSeededSampler(target, make, seed)
    if own_seed is not None and not sampler.is_seeded:
        raise InputError(f"sampler.seed={own_seed} cannot be used: {name} takes no seed; take it out.")
    if own_seed is not None and sampler.is_grid:
        raise InputError(f"sampler.seed={own_seed} cannot be used: a grid is one whole under any seed; take it out.")
    return sampler


def rehearse(sampler: BaseSampler, name: str, objectives: Sequence[Metric], space: SearchSpace) -> None:
    """Let a sampler make a few suggestions in memory: some refuse several objectives, but only when they are asked.

    Raises:
        InputError: It cannot search the space.
    """
    study = optuna.create_study(directions=[metric.direction for metric in objectives], sampler=sampler)
    try:
        for step in range(3):
            trial = study.ask()
            space.suggest(trial)
            study.tell(trial, [float(step)] * len(objectives))
    except SpaceError as error:
        raise InputError(str(error)) from None
    except (ValueError, NotImplementedError, ImportError, RuntimeError) as error:
        count = f"{len(objectives)} objective{'s' * (len(objectives) > 1)}"
        text = first_line(error)
        raise InputError(f"sampler={name} cannot search this space with {count} ({text}): choose another sampler.") from None
