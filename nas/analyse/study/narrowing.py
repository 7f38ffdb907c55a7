"""A narrower design space: the configuration of a space cut to where good values of its choices lie.

Works on plain data in the language of ``search_spaces.spec``, whatever the family. That the space's class takes what comes
out, and how much smaller it is, is found by whoever has the class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.analyse.study.good_values import GoodValues

LEAST_SHARE = 0.025
"""A listed value stays if it was the best network's in so many of the repeats."""

_STAGED = re.compile(r"stage(\d+)\.(\w+)")
_SCOPES = ("each", "per_stage")


@dataclass(frozen=True)
class Listed:
    """A parameter that is one of some values, in the order in which the space asks for them."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Ranged:
    """A parameter that is a number from ``low`` to ``high``, both included; ``step`` is ``None`` for any number."""

    low: float
    high: float
    step: float | None
    log: bool


Domain = Listed | Ranged


@dataclass(frozen=True)
class Change:
    """What became of one key of a space, ``layers`` or ``stem.width``; both sides in the language of ``search_spaces.spec``."""

    key: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Narrowed:
    """A space's configuration with every change made, and the changes."""

    space: Mapping[str, Any]
    changes: tuple[Change, ...]


def narrow(space: Mapping[str, Any], asked: Mapping[str, Domain], good: Sequence[GoodValues]) -> Narrowed | str:
    """Return the space cut to good values, or why it cannot be.

    A range becomes the range of good values, outward to its next step. Of a list stay the values that were the best network's
    in at least 2.5 % of the repeats, and those that no network had. ``{each: …}`` becomes ``{per_stage: […]}`` where the
    stages differ. What ``good`` says nothing about stays as it is.

    Args:
        space: Its configuration, ``_target_`` included.
        asked: What the space asks a trial for, by name: what its configuration must say under that name.
        good: Where good values lie.
    """
    cuts: dict[str, dict[int, Any]] = {}
    known = {found.choice: found for found in good}
    for name, domain in asked.items():
        key, stage = _place(name)
        spec = _spec(space, key, stage)
        if not _says(spec, domain):
            return (
                f"it asks for {name}, of which its configuration does not say the values under {key}: only a space that is "
                "written in the language of search_spaces.spec can be narrowed"
            )
        cuts.setdefault(key, {})[stage] = _cut(spec, domain, known[name]) if name in known else spec
    narrower = dict(space)
    changes = []
    # The number of stages first: it says how many entries a list of stages needs.
    for key in sorted(cuts, key=lambda name: name != "stages"):
        before, most = _walk(space, key), _most(narrower.get("stages"))
        after = _joined(before, cuts[key], most)
        if after != before:
            changes.append(Change(key, before, after))
            narrower = _replaced(narrower, key.split("."), after)
    if not changes:
        return "good values of every choice lie all over it"
    places = {key: place for place, key in enumerate(cuts)}
    return Narrowed(narrower, tuple(sorted(changes, key=lambda change: places[change.key])))


def _place(name: str) -> tuple[str, int]:
    """Return a parameter's key in the configuration and its stage, from 1; 0 if it is one for all."""
    staged = _STAGED.fullmatch(name)
    return (staged[2], int(staged[1])) if staged else (name, 0)


def _walk(space: Any, key: str) -> Any:
    for part in key.split("."):
        space = space.get(part) if isinstance(space, Mapping) else None
    return space


def _replaced(space: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**space, first: _replaced(space[first], rest, value) if rest else value}


def _spec(space: Mapping[str, Any], key: str, stage: int) -> Any:
    """Return what the configuration says of a parameter; ``None`` if nothing."""
    spec = _walk(space, key)
    if stage == 0:
        return spec
    if not isinstance(spec, Mapping) or len(spec) != 1:
        return None
    if "each" in spec:
        return spec["each"]
    listed = spec.get("per_stage")
    return listed[stage - 1] if isinstance(listed, Sequence) and stage <= len(listed) else None


def _says(spec: Any, domain: Domain) -> bool:
    """Whether a part of the configuration says what was asked for: whether we read it as the space's class does."""
    if isinstance(domain, Ranged):
        if not isinstance(spec, Mapping) or not {"low", "high"} <= set(spec) <= {"low", "high", "step", "log"}:
            return False
        # The class cuts a range to whole steps.
        return bool(spec["low"] == domain.low and spec["high"] >= domain.high and spec.get("step") in (None, domain.step))
    if not isinstance(spec, Sequence) or isinstance(spec, str) or len(spec) != len(domain.values):
        return False
    # True and false may stand for names; apart from that a value is asked for as it is written.
    pairs = zip(spec, domain.values, strict=True)
    return all(written == value or (isinstance(written, bool) and isinstance(value, str)) for written, value in pairs)


def _cut(spec: Any, domain: Domain, good: GoodValues) -> Any:
    if isinstance(domain, Ranged):
        return spec if good.low is None or good.high is None else _cut_range(spec, domain, good.low, good.high)
    shares = list(zip(good.values, good.shares, strict=True))

    def share(value: Any) -> float | None:
        # 1 and True are equal and are not the same choice.
        return next((share for known, share in shares if type(known) is type(value) and known == value), None)

    found = [share(value) for value in domain.values]
    least = min(LEAST_SHARE, max((one for one in found if one is not None), default=0.0))
    kept = [written for written, one in zip(spec, found, strict=True) if one is None or one >= least]
    return _listed(spec, kept)


def _listed(spec: Any, kept: Sequence[Any]) -> Any:
    if len(kept) == len(spec):
        return spec
    return kept[0] if len(kept) == 1 else list(kept)


def _cut_range(spec: Mapping[str, Any], domain: Ranged, low: float, high: float) -> Any:
    """Return a range cut to the good one, outward to the next step, or to a round number where there are none."""
    low, high = max(low, domain.low), min(high, domain.high)
    if domain.step is None:
        low, high = _outward(low, domain, math.floor), _outward(high, domain, math.ceil)
    else:
        # The small term lets a step of 0.1 meet 0.3 in spite of binary fractions.
        low = domain.low + math.floor((low - domain.low) / domain.step + 1e-9) * domain.step
        high = domain.low + math.ceil((high - domain.low) / domain.step - 1e-9) * domain.step
    low, high = max(low, domain.low), min(high, domain.high)
    if (low, high) == (domain.low, domain.high):
        return spec
    whole = isinstance(spec["low"], int) and isinstance(spec["high"], int) and isinstance(domain.step, int)
    # Rounded to what a person would write, but never beyond an end.
    ends = [int(end) if whole else min(max(float(f"{end:.12g}"), domain.low), domain.high) for end in (low, high)]
    return ends[0] if ends[0] == ends[1] else {**spec, "low": ends[0], "high": ends[1]}


def _outward(value: float, domain: Ranged, rounding: Any) -> float:
    # A hundredth of the range's width, or of the value itself where what counts are ratios, as a round number.
    size = abs(value) if domain.log else domain.high - domain.low
    unit = 10.0 ** (math.floor(math.log10(size)) - 2) if size > 0 else 1.0
    return float(rounding(value / unit) * unit)


def _joined(spec: Any, cuts: Mapping[int, Any], most: int | None) -> Any:
    """Return what the configuration shall say of a key, from what each stage's part was cut to.

    Args:
        spec: What it says.
        cuts: By stage, 0 for one that holds for all.
        most: Stages that the narrowed space may have; ``None`` if that is not said.
    """
    if 0 in cuts:
        return cuts[0]
    if "per_stage" in spec:
        parts = list(spec["per_stage"])
        for stage, part in cuts.items():
            parts[stage - 1] = part
        return {"per_stage": parts}
    stages = set(range(1, most + 1)) if most is not None else set(cuts)
    missing = stages - set(cuts)
    parts = [cuts[stage] for stage in sorted(stages & set(cuts))]
    if not parts or missing - {1}:
        return spec  # a stage that nobody built
    # A first stage that is never asked stands aside, as it does for a down-sampling: an entry of its own would open it.
    if missing or most is None or all(_same(part, parts[0]) for part in parts):
        return {"each": _union(spec["each"], parts)}
    return {"per_stage": parts}


def _same(part: Any, other: Any) -> bool:
    return bool(part == other) and type(part) is type(other)


def _union(spec: Any, parts: Sequence[Any]) -> Any:
    """Return the least part of ``spec`` that holds each of ``parts``."""
    if isinstance(spec, Mapping):
        ends = [(part["low"], part["high"]) if isinstance(part, Mapping) else (part, part) for part in parts]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        return low if low == high else {**spec, "low": low, "high": high}
    values = [value for part in parts for value in (part if isinstance(part, list) else [part])]
    return _listed(spec, [value for value in spec if any(_same(value, other) for other in values)])


def _most(stages: Any) -> int | None:
    """Return the most stages that a configuration allows; ``None`` if it says nothing of them."""
    if isinstance(stages, Mapping):
        stages = stages.get("high")
    elif isinstance(stages, Sequence) and not isinstance(stages, str):
        stages = max((stage for stage in stages if isinstance(stage, int)), default=None)
    return stages if isinstance(stages, int) else None
