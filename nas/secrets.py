"""Keeps passwords out of everything that is printed or written."""

from __future__ import annotations

import re

_URL_PASSWORD = re.compile(r"(://[^/\s:@]*):([^/\s@]+)@")


def mask_password(text: str) -> str:
    """Replace the password of every URL in ``text`` by ``***``."""
    return _URL_PASSWORD.sub(r"\1:***@", text)
