"""What the schemas of several commands share: their checks, and the keys that name a study and a network of it."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import InputError, suggestion
from nas.measure.settings import MeasureSettings

Plain = dict[str, Any]

STUDY_ROOT: Plain = {"study": None, "run_dir": None, "storage": None}
"""The keys by which a command is told which study it shall read; ``nas.runs.read_run`` takes them."""

PICK_ROOT: Plain = {"pick": None, "trial": None, "architecture": None}
"""The keys by which a command is told which network of it; ``nas.choosing.choose`` takes them."""

TEXT_KEYS = ("pick", "study.storage", "storage")
"""Keys whose values are taken as they stand, whatever signs they hold."""


@dataclass(frozen=True)
class StudyKeys:
    """Which study a command reads.

    Attributes:
        study: Its name.
        run_dir: Its folder, ``runs/<study>`` by default.
        storage: Where Optuna keeps it, if that cannot be read from its ``config.yaml`` (a password is never written there).
    """

    study: str | None = None
    run_dir: str | None = None
    storage: str | None = None

    @property
    def told(self) -> str:
        """The keys as another command takes them; a password in ``storage`` is left for the user to give again."""
        given = (("study", self.study), ("run_dir", self.run_dir))
        return " ".join(shlex.quote(f"{key}={value}") for key, value in given if value is not None)


def study_key(name: str, run_dir: Path) -> str:
    """Return how the other commands are told which study is meant."""
    return f"study={name}" if run_dir == Path("runs") / name else shlex.quote(f"run_dir={run_dir}")


def reject_unknown(prefix: str, values: Mapping[str, Any], known: set[str]) -> None:
    """Raise InputError on the first key that is not known, with the nearest one that is."""
    for key in values:
        if key not in known:
            raise InputError(f"{prefix}{key} is not a known key{suggestion(str(key), known, 'keys')}")


def check_name(key: str, name: str) -> None:
    """Raise InputError unless ``name`` can name a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise InputError(
            f"{key}={name!r} cannot be used: it names a folder, so take letters, digits, '.', '_' and '-', at most 100."
        )


def check_measure(plain: Mapping[str, Any]) -> None:
    """Raise InputError unless the ``measure`` group holds known keys, and none that only a search has."""
    measure = plain.get("measure")
    if not isinstance(measure, Mapping):
        raise InputError(f"measure={measure!r} cannot be used: it must be a mapping of keys; set measure.<key>=<value>.")
    reject_unknown("measure.", measure, {f.name for f in dataclasses.fields(MeasureSettings)})
    if measure.get("require"):
        raise InputError(f"measure.require={measure['require']} cannot be used here: only a search has it; take it out.")
