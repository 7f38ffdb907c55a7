"""What a trial came to, on disk before it is recorded: a death or a storage that is away in between costs no evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.files import write_json


class Spool:
    """The results of one study that are not recorded yet.

    Args:
        folder: Where they lie; made when there is the first one.
        study: The study's name: numbers of another one mean other trials.
    """

    def __init__(self, folder: Path, study: str) -> None:
        self._folder, self._study = folder, study

    def keep(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Write what is to be recorded of a trial."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(number), {"study": self._study, "attributes": dict(attributes)})

    def take(self, number: int) -> Mapping[str, Any] | None:
        """Return what was to be recorded of a trial; ``None`` if there is nothing that can be read."""
        try:
            kept = json.loads(self._path(number).read_text(encoding="utf-8"))
            attributes = kept["attributes"] if kept["study"] == self._study else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return attributes if isinstance(attributes, dict) else None

    def drop(self, number: int) -> None:
        """Forget a trial that is recorded."""
        self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.json"
