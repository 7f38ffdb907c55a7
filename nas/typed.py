"""Turns plain data into typed values, and a wrong type into a sentence that names the key, the value and what was wanted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from nas.errors import InputError

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "dict": "a mapping",
    "too": "a list with at least one entry",
    "finite": "a finite number",
}
"""What a value should be, by the first word of pydantic's type of error."""


def typed(kind: Any, value: Any, key: str = "", renamed: Mapping[str, str] | None = None) -> Any:
    """Return ``value`` as the type ``kind``, strictly: a list may stand for a tuple and 5 for 5.0, but "5" is no number.

    Args:
        kind: A type that pydantic understands, such as an annotated dataclass.
        value: Plain data.
        key: Where it stands in the configuration.
        renamed: Names of fields that a user knows by another one.

    Raises:
        InputError: If it is not of that type.
    """
    try:
        # By way of JSON, whose strict mode is the one just described.
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        # A union such as `int | None` appends the name of the branch that failed; a user's key never has brackets.
        parts = [key, *(str(part) for part in first["loc"] if not re.search(r"[\[\(]", str(part)))]
        parts = [(renamed or {}).get(part, part) for part in parts if part]
        # The branch of a plain union has a bare type name at the end.
        place = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] in ("int", "float", "bool", "str") else parts)
        wanted = _WANTED.get(first["type"].split("_")[0]) or first["msg"].removeprefix("Input should be ")
        raise InputError(f"{place}={first['input']!r} cannot be used: it should be {wanted}.") from None
    except TypeError as error:
        raise InputError(f"{key or 'the configuration'} holds a value that is not plain data: {error}.") from None


def can_be_checked(kind: Any) -> bool:
    """Whether pydantic understands the type, which a user's own class may use as it likes."""
    try:
        TypeAdapter(kind)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return False
    return True
