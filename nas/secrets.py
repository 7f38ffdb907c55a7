"""Keeps passwords out of everything that is printed or written."""

from __future__ import annotations

import re
from typing import Any

# Greedy up to the last @: a password may hold / and : and @. One that is still ${...} is no secret yet.
_IN_URL = re.compile(r"(://[^/\s:@]*):((?!\$\{)\S*)@")
_IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd)=)((?!\$\{)[^&\s]*)", re.IGNORECASE)


def mask_password(text: str) -> str:
    """Replace the password of every URL in ``text`` by ``***``; ``${...}`` stays."""
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub(r"\1:***@", text))


def mask_passwords(data: Any) -> Any:
    """Return nested plain data with ``mask_password`` applied to every text."""
    if isinstance(data, dict):
        return {key: mask_passwords(value) for key, value in data.items()}
    if isinstance(data, list):
        return [mask_passwords(value) for value in data]
    return mask_password(data) if isinstance(data, str) else data
