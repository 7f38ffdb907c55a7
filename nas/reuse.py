"""Results of earlier studies that a search takes where a candidate builds what they built: read, and checked for conditions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.conditions import flatten
from nas.config.common import StudyKeys
from nas.errors import InputError
from nas.outcomes import ANEW, TAKEN_AT
from nas.plan import Known
from nas.runs import Run, read_run

_MAY_DIFFER = ("objectives", "constraints")
"""Conditions that decide which results a study keeps, and not what they are."""

_OF_THAT_STUDY = ("owner", "attempt", "outcome", "architecture", "architecture_id", "start", "seeds", TAKEN_AT, ANEW)
_OF_A_STOP = ("rung:", "resumed_from", "uncounted", "reused_from")


def read_known(names: Sequence[str], conditions: Mapping[str, Any], required: Sequence[str]) -> dict[str, Known]:
    """Return the complete results of studies by the architecture's id; of several, the study that was named first.

    A latency that was timed in full goes before one that was only looked at.

    Args:
        names: Of studies under ``runs/``, or their folders.
        conditions: Of the search; those of the studies must be the same, but for objectives and bounds.
        required: Metrics that a result must have.

    Raises:
        InputError: There is no such study, or it was made under other conditions.
    """
    found: dict[str, Known] = {}
    for name in names:
        run = read_run(StudyKeys(run_dir=name) if os.sep in name or Path(name).is_dir() else StudyKeys(study=name))
        _check(name, run, conditions)
        for outcome in run.as_told:  # a mean over several seeds is not what one seed comes to
            attributes = outcome.attributes
            if outcome.state != "complete" or any(attributes.get(metric) is None for metric in required):
                continue
            kept = {key: value for key, value in attributes.items() if not _is_its_own(key) and value is not None}
            identity = str(attributes["architecture_id"])
            if identity not in found or (found[identity].attributes.get("latency_brief") and not kept.get("latency_brief")):
                found[identity] = Known(f"{run.name}/{outcome.name}", kept)
    return found


def _is_its_own(key: str) -> bool:
    return key in _OF_THAT_STUDY or key.startswith(_OF_A_STOP)


def _check(name: str, run: Run, conditions: Mapping[str, Any]) -> None:
    theirs = {key: value for key, value in run.record["conditions"].items() if key not in _MAY_DIFFER}
    ours = {key: value for key, value in conditions.items() if key not in _MAY_DIFFER}
    old, new = flatten(theirs), flatten(json.loads(json.dumps(ours)))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if differing:
        key = differing[0]
        raise InputError(
            f"reuse={name} cannot be used: there {key} is {old.get(key)}, here {new.get(key)}; reuse a study of the same space, "
            "data, recipe, seed and device, or take it out."
        )
