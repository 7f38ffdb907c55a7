"""Networks that a study found, read back from its run folder: the front, each with its space and the images it is for."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from nas.compose import resolve_written
from nas.errors import InputError
from nas.targets import build_target
from search_spaces.base import Architecture, SearchSpace, SpaceError, from_yaml


@dataclass(frozen=True)
class Found:
    """One network of a study.

    Attributes:
        study: The study's name.
        trial: Its trial.
        input_shape: One image: (channels, height, width).
        top1: What its study scored, where that is in ``front.csv``.
    """

    study: str
    trial: int
    space: SearchSpace
    architecture: Architecture
    input_shape: tuple[int, int, int]
    num_classes: int
    top1: float | None

    @property
    def name(self) -> str:
        """Study and trial."""
        return f"{self.study}/{self.trial}"

    def build(self) -> nn.Module:
        """Build it, untrained."""
        return self.space.build(self.architecture, self.input_shape[0], self.num_classes)


def find_run(name: str) -> Path:
    """Return the run folder that a path, or a study's name under ``runs/``, means.

    Raises:
        InputError: There is none.
    """
    for path in (Path(name), Path("runs") / name):
        if os.path.exists(path / "config.yaml"):
            return path
    raise InputError(f"study:{name} is no run folder: give the folder of a search, such as study:runs/osa_digits.")


def read_front(run_dir: Path) -> list[Found]:
    """Return the networks in a run folder's ``front.csv``, in its order.

    Raises:
        InputError: A file is missing or cannot be read; the sentence names it.
    """
    config = read_file(run_dir / "config.yaml", yaml.safe_load)
    record = read_file(run_dir / "record.json", json.loads)
    rows = read_file(run_dir / "front.csv", _rows)
    try:
        space = build_target("space", resolve_written(config["space"]), config.get("allow_modules", ()))
        data = record["data"]
        return [_found(run_dir, config["study"]["name"], space, data, row) for row in rows]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run_dir} is no whole run folder ({type(error).__name__}: {error}): run its search again.") from None


def _rows(text: str) -> list[tuple[int, float | None]]:
    """Return the trial and the top-1 of each row."""
    rows = csv.DictReader(text.splitlines())
    if "trial" not in (rows.fieldnames or ()):
        raise ValueError("it has no column trial")
    return [(int(row["trial"] or ""), float(row["top1"]) if row.get("top1") else None) for row in rows]


def _found(run_dir: Path, study: str, space: SearchSpace, data: Mapping[str, Any], row: tuple[int, float | None]) -> Found:
    trial, top1 = row
    path = run_dir / "trials" / str(trial) / "architecture.yaml"
    architecture = read_file(path, lambda text: from_yaml(space, text))
    channels, height, width = data["input_shape"]
    return Found(study, trial, space, architecture, (channels, height, width), data["num_classes"], top1)


def read_file(path: Path, parse: Callable[[str], Any], remedy: str = "run the search again") -> Any:
    """Return what ``parse`` makes of a file of a run folder.

    Raises:
        InputError: It is missing, cannot be parsed, or lacks what ``parse`` looks for.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SpaceError, yaml.YAMLError) as error:
        if isinstance(error, OSError):
            reason = error.strerror or type(error).__name__
        else:
            reason = f"it has no {error}" if isinstance(error, KeyError) else (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read ({reason}): {remedy}.") from None
