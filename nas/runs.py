"""A finished or running search read back whole: its folder, its configuration and what Optuna keeps of it. Changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nas.analyse.tradeoffs import feasible, pareto_front
from nas.archive import read_archive
from nas.compose import resolve_written
from nas.config.common import StudyKeys
from nas.config.search import SearchConfig, parse_search
from nas.drawn import Drawn, all_drawn
from nas.errors import InputError, suggestion
from nas.found import read_file
from nas.metrics import METRICS, Metric
from nas.outcomes import Outcome
from nas.storage import StorageSpec, open_storage, storage_spec
from nas.targets import build_target
from search_spaces.base import Architecture, SearchSpace


@dataclass(frozen=True)
class Run:
    """One study.

    Attributes:
        name: The study's name.
        folder: Its run folder.
        plain: Its configuration as ``nas.search`` composed it, interpolations resolved; never write it anywhere.
        written: The same for files: ``${oc.env:…}`` left as it is and passwords masked.
        record: ``record.json``: device, data, versions, dropped objectives, number format, conditions.
        space: Its design space.
        objectives: Those that were measured, in the order of the trials' values.
        constraints: Bounds by metric.
        storage: Where Optuna keeps it.
        outcomes: The trials that ended, in the order of their numbers.
        as_told: The same without what further seeds came to.
        references: The reference networks that were evaluated.
        running: Trials that are under way, or whose process died.
        attributes: The study's own in its storage.
    """

    name: str
    folder: Path
    plain: Mapping[str, Any]
    written: Mapping[str, Any]
    record: Mapping[str, Any]
    space: SearchSpace
    objectives: tuple[Metric, ...]
    constraints: Mapping[str, float]
    storage: StorageSpec
    outcomes: tuple[Outcome, ...]
    as_told: tuple[Outcome, ...]
    references: tuple[Outcome, ...]
    running: int
    attributes: Mapping[str, Any]

    @cached_property
    def drawn(self) -> tuple[Drawn, ...]:
        """By what its networks were drawn."""
        return all_drawn(self.attributes, self.config())

    @cached_property
    def feasible(self) -> list[Outcome]:
        """The complete trials that keep every constraint."""
        return feasible(self.outcomes, self.constraints)

    @cached_property
    def front(self) -> list[Outcome]:
        """The feasible trials that no other one dominates, best first by the first objective."""
        return pareto_front(self.feasible, self.objectives)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """One image: (channels, height, width)."""
        channels, height, width = self.record["data"]["input_shape"]
        return channels, height, width

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(self.record["data"]["classes"])

    def config(self, data: Mapping[str, Any] | None = None) -> SearchConfig:
        """Return the search's configuration, typed; ``data`` replaces single ``data.*`` keys, such as ``root``.

        Raises:
            InputError: A key is unknown or its value cannot be used.
        """
        changed = {**self.plain["data"], **(data or {})}
        return parse_search({**{key: value for key, value in self.plain.items() if key != "conf"}, "data": changed})

    def trial(self, number: int) -> Outcome:
        """Return a trial that ended.

        Raises:
            InputError: There is none of that number.
        """
        for outcome in self.outcomes:
            if outcome.number == number:
                return outcome
        count = f"its trials are 0 to {self.outcomes[-1].number}" if self.outcomes else "it has no finished trial yet"
        raise InputError(f"trial={number} is not in study {self.name}: {count}.")

    def architecture(self, outcome: Outcome) -> Architecture:
        """Return what a trial built.

        Raises:
            InputError: It is not recorded: the trial's process died before it was suggested.
        """
        text = outcome.attributes.get("architecture")
        if not text:
            raise InputError(f"trial={outcome.name} of study {self.name} has no architecture: take another trial.")
        return self.space.from_dict(json.loads(text))


def read_run(keys: StudyKeys) -> Run:
    """Read the study that the keys ``study``, ``run_dir`` and ``storage`` mean.

    Raises:
        InputError: None of them is set, there is no such study, or a file of it is missing or damaged.
    """
    folder = _folder(keys)
    written = read_file(folder / "config.yaml", yaml.safe_load)
    record = read_file(folder / "record.json", json.loads)
    try:
        # What stands in place of the storage that was written need not be found in this environment.
        storage = {} if keys.storage is None else {"storage": keys.storage}
        plain = resolve_written({**written, "study": {**written["study"], **storage}})
        name, where = plain["study"]["name"], plain["study"]["storage"]
        conditions = record["conditions"]
        objectives = tuple(METRICS[metric] for metric in conditions["objectives"])
        constraints = dict(conditions["constraints"])
        space = build_target("space", plain["space"], plain.get("allow_modules", ()))
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder} is no whole run folder ({type(error).__name__}: {error}): run its search again.") from None
    if keys.study is not None and keys.study != name:
        raise InputError(f"run_dir={folder} holds the study {name!r} and not {keys.study!r}: take out one of the two keys.")
    spec = storage_spec(where, folder)
    if ":***@" in spec.url:
        raise InputError(f"the password of {spec.shown} is not kept in {folder / 'config.yaml'}: give storage=<URL>.")
    if spec.file is not None and not os.path.exists(spec.file):
        raise InputError(f"study {name!r} is not there: {spec.file} is missing; run its search again.")
    archive = read_archive(open_storage(spec), name)
    return Run(
        name=name,
        folder=folder,
        plain=plain,
        written=written,
        record=record,
        space=space,
        objectives=objectives,
        constraints=constraints,
        storage=spec,
        outcomes=archive.outcomes,
        as_told=archive.as_told,
        references=archive.references,
        running=archive.running,
        attributes=archive.attributes,
    )


def _folder(keys: StudyKeys) -> Path:
    if keys.study is None and keys.run_dir is None:
        raise InputError(f"study is not set: name one with study=<name>{_known('', listed=True)}")
    folder = Path(keys.run_dir) if keys.run_dir is not None else Path("runs") / str(keys.study)
    if os.path.exists(folder / "config.yaml"):
        return folder
    if keys.run_dir is not None:
        raise InputError(f"run_dir={folder} is no run folder: give the folder of a search, such as runs/osa_digits.")
    raise InputError(f"study={keys.study} does not exist{_known(str(keys.study))}")


def _known(name: str, listed: bool = False) -> str:
    """Return the end of a sentence that says which studies lie under ``runs/``."""
    found = [path.parent.name for path in Path("runs").glob("*/config.yaml") if (path.parent / "record.json").exists()]
    if not found:
        return ": there is none under runs/; run a search first, or give run_dir=<path>."
    return f"; there are {', '.join(sorted(found))}." if listed else suggestion(name, found, "studies")
