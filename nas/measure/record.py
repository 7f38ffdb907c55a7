"""Results as plain data: a measurement becomes a dict that JSON can hold and comes back equal. Files are the caller's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from nas.errors import InputError

YOUNGER: Mapping[str, Any] = {"younger": True}
"""The metadata of a field, with a default, that records of an earlier version lack."""


class SensorError(Exception):
    """A quantity cannot be measured here; the message is the reason that the result carries in its place."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Base of the frozen dataclasses that hold a measurement: plain values, tuples of one type, and further records."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as dicts, lists and plain values; ``json.dumps`` takes it and ``from_dict`` restores it."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Restore what ``to_dict`` gave, also after a way through JSON.

        A field that is marked ``YOUNGER`` than the first records may be missing, and has its default then.

        Raises:
            InputError: Another field is missing, or one is unknown.
        """
        if not isinstance(data, Mapping):
            raise InputError(f"a stored {cls.__name__} is no mapping; measure again")
        fields = dataclasses.fields(cls)
        needed = {field.name for field in fields if not field.metadata.get("younger")}
        if wrong := (needed - data.keys()) | (data.keys() - {field.name for field in fields}):
            raise InputError(f"a stored {cls.__name__} has missing or unknown fields ({', '.join(sorted(wrong))}); measure again")
        hints = get_type_hints(cls)
        return cls(**{name: _restored(hints[name], data[name]) for name in data})


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _restored(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if get_origin(hint) is tuple:
        return tuple(_restored(get_args(hint)[0], item) for item in value)
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        return _restored(get_args(hint)[0], value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict(value)
    return value
