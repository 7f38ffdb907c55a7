"""The files of a run folder: written whole or not at all, under names that other commands and users rely on."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nas.errors import InputError


def make_run_dir(path: Path, key: str = "run_dir") -> Path | None:
    """Make the folder that ``key`` names and prove that it can be written.

    Returns:
        The topmost folder that was made for it, ``None`` if it was there.

    Raises:
        InputError: If it cannot.
    """
    made = None
    for folder in (path, *path.parents):
        if os.path.exists(folder):
            break
        made = folder
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"{key}={path} cannot be written ({error.strerror}): choose another {key}.") from None
    return made


def write_text(path: Path, text: str) -> None:
    """Write a file so that after a crash at any moment either its old or its new content is there, never a part."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that after a crash at any moment either its old or its new content is there, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_config(run_dir: Path, written: Mapping[str, Any]) -> None:
    """Write ``config.yaml``; the caller hands in the form without secrets."""
    write_text(run_dir / "config.yaml", yaml.safe_dump(dict(written), sort_keys=False, allow_unicode=True))


def write_architecture(run_dir: Path, number: int, text: str) -> None:
    """Write ``trials/<number>/architecture.yaml``, unless that very text is there already."""
    path = run_dir / "trials" / str(number) / "architecture.yaml"
    if not (path.exists() and path.read_text(encoding="utf-8") == text):
        write_text(path, text)


def write_measurement(run_dir: Path, number: int, record: Mapping[str, Any]) -> None:
    """Write ``trials/<number>/measurement.json``: everything that the meters recorded, raw samples included."""
    write_json(run_dir / "trials" / str(number) / "measurement.json", record)


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON; numbers come back as they were."""
    write_text(path, json.dumps(data) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table: a row per mapping, a column per name, nothing where a value is missing; other keys are left out."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
