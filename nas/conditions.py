"""What must agree between two runs of one study, so that results taken under different conditions never share a front."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from nas.errors import InputError
from nas.storage import Storage

FORMAT = 1
"""Of what a study's attributes mean; a study that says nothing has this one."""


def check_format(name: str, attributes: Mapping[str, Any]) -> None:
    """Refuse a study whose attributes mean what this program does not know.

    Raises:
        InputError: A newer version has written it.
    """
    found = attributes.get("format", FORMAT)
    if found != FORMAT:
        raise InputError(
            f"study.name={name} was written by a newer version of this program (its format is {found}, and {FORMAT} is known "
            "here): update the program, or take another study.name."
        )


def stored_conditions(storage: Storage, name: str) -> dict[str, Any] | None:
    """Return the conditions under which a study was begun, ``None`` if there is no such study.

    Raises:
        InputError: If the study was not made by this program, or by a newer version of it.
    """
    names = optuna.get_all_study_names(storage.optuna)
    if name not in names:
        return None
    study = optuna.load_study(study_name=name, storage=storage.optuna)
    check_format(name, study.user_attrs)
    conditions = study.user_attrs.get("conditions")
    if conditions is None and all(trial.state == TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
        return None  # cut off while it was being made, its first trials perhaps enqueued
    if not isinstance(conditions, dict):
        raise InputError(f"study.name={name} in {storage.spec.shown} was not made by nas.search: take another study.name.")
    return conditions


def check_conditions(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the conditions of a study with those of a run that wants to continue it.

    Raises:
        InputError: If they differ; the sentence names up to three keys with both values.
    """
    old, new = flatten(before), flatten(json.loads(json.dumps(now)))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if differing:
        shown = "; ".join(f"{key} was {_short(old.get(key))}, now {_short(new.get(key))}" for key in differing[:3])
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise InputError(
            f"study.name={name} was begun under other conditions ({shown}{more}): set them back, or take another study.name."
        )


def _short(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def flatten(data: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings and lists as one flat mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items() if isinstance(data, Mapping) else enumerate(data):
        nested = isinstance(value, Mapping | Sequence) and not isinstance(value, str) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
