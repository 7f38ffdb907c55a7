"""The two ways in which a command ends badly: the user's input cannot be used, or the run itself failed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is one sentence that names the key or file, the value and the remedy. Commands print it and exit with 2.
    """


class RunError(RuntimeError):
    """The input was good and the run failed all the same. Commands print the message and exit with 1."""


class StorageAwayError(RunError):
    """A study's storage was away for too long: what is not recorded must be kept elsewhere."""


def suggestion(name: str, known: Iterable[str], what: str) -> str:
    """Return the end of a sentence about an unknown name: the known name nearest to it, or all of them if none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; the {what} are {', '.join(names) or 'none'}."
