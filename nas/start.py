"""Known architectures as a search's first trials: what a sampler would have to suggest for each, found by asking the space.

A parameter's name says what it sets, ``stage2.layers`` or ``stem.width``, in every space that is written in the language of
``search_spaces.spec``; a space of a user's own that asks by other names cannot be started from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

from nas.errors import InputError
from search_spaces.base import Architecture, SearchSpace, SpaceError, from_yaml

_MOST_TRIES = 256

_STAGED = re.compile(r"stage(\d+)\.(\w+)")


class _NotThere(Exception):  # noqa: N818 - it is an answer
    """The space has no such value."""


class _Located:
    """A trial that answers as an architecture that is there already.

    Attributes:
        params: What was answered, by name.
        open: Of values that all stages share in the space and that differ in the architecture, all that it has: where a value
            changes nothing of a stage, an architecture holds the plainest.
    """

    def __init__(self, wanted: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> None:
        self.params: dict[str, Any] = {}
        self.open: dict[str, list[Any]] = {}
        self._wanted, self._shared = wanted, shared or {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high or (value - low) % step:
            raise _NotThere(f"{name}={value} (there: {low} to {high}{f' in steps of {step}' if step > 1 else ''})")
        return int(self._answer(name, value))

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _NotThere(f"{name}={value} (there: {low:g} to {high:g})")
        return float(self._answer(name, float(value)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._value(name)
        # 1 and True are equal and are not the same choice.
        if not any(type(choice) is type(value) and choice == value for choice in choices):
            raise _NotThere(f"{name}={value} (there: {', '.join(map(str, choices))})")
        return self._answer(name, value)

    def _answer(self, name: str, value: Any) -> Any:
        self.params[name] = value
        return value

    def _value(self, name: str) -> Any:
        wanted = self._wanted
        stages: Sequence[Mapping[str, Any]] = wanted.get("stages") or ()
        try:
            if name == "stages":
                return len(stages)
            if staged := _STAGED.fullmatch(name):
                return stages[int(staged[1]) - 1][staged[2]]
            if "." in name:
                outer, inner = name.split(".", 1)
                return wanted[outer][inner]
            if name in wanted:
                return wanted[name]
            values = [stage[name] for stage in stages]
            if len(set(values)) > 1:
                self.open[name] = list(dict.fromkeys(values))
            return self._shared.get(name, values[-1])
        except (KeyError, IndexError, TypeError):
            raise _NotThere(f"no {name}") from None


def locate(space: SearchSpace, name: str) -> dict[str, Any]:
    """Return the parameters for which ``space`` suggests an architecture.

    Args:
        space: The design space.
        name: ``preset:<name>`` for one of the space's, or the path of an architecture's YAML file.

    Raises:
        InputError: There is none of that name, or it is no point of the space; the sentence says where it leaves it.
    """
    wanted = _wanted(space, name)
    plain = wanted.to_dict()
    outside = f"start: {name} is no point of the space"

    first = _Located(plain)
    why = ""
    tries: Iterator[Mapping[str, Any]] = iter(())
    trial: _Located | None = first
    while trial is not None:
        try:
            suggested = space.suggest(trial)
            if suggested.id == wanted.id:
                return trial.params
            why = why or f", which fixes {_first_difference(suggested.to_dict(), plain)}"
        except _NotThere as missing:
            why = why or f": it has {missing}"
        except SpaceError as error:
            why = why or f": {str(error).rstrip('.')}"
        if trial is first:  # what is open is known only once it was asked for
            combined = islice(product(*first.open.values()), _MOST_TRIES)
            tries = (dict(zip(first.open, values, strict=True)) for values in combined)
        shared = next(tries, None)
        trial = None if shared is None else _Located(plain, shared)
    raise InputError(f"{outside}{why}; widen the space, or take it out.")


def _wanted(space: SearchSpace, name: str) -> Architecture:
    try:
        if name.startswith("preset:"):
            return space.preset(name.removeprefix("preset:"))
        return from_yaml(space, Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(
            f"start: {name} cannot be read ({reason}): give preset:<name>, or an architecture's YAML file."
        ) from None
    except SpaceError as error:
        raise InputError(f"start: {name}: {error}") from None


def _first_difference(there: Any, wanted: Any, path: str = "") -> str:
    if isinstance(there, Mapping) and isinstance(wanted, Mapping):
        for key in there:
            if there[key] != wanted.get(key):
                return _first_difference(there[key], wanted.get(key), f"{path}.{key}" if path else str(key))
    if isinstance(there, Sequence) and isinstance(wanted, Sequence) and not isinstance(there, str):
        for index, (one, other) in enumerate(zip(there, wanted, strict=False)):
            if one != other:
                return _first_difference(one, other, f"{path}[{index}]")
    return f"{path} to {there}, where it has {wanted}"
