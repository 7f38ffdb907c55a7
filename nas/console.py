"""The terminal that all commands print to: how wide it is, and how a duration looks on it."""

from __future__ import annotations

from rich.console import Console

_FILE_WIDTH = 160
"""A log file has no width; the widest table fits."""


def make_console() -> Console:
    """Return the console that a command prints to."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_FILE_WIDTH)


def clock(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
