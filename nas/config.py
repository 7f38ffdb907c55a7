"""The typed schema of every key in ``conf/``, and the sentence that a wrong key or value earns."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, MinLen

from nas.errors import InputError, suggestion
from nas.measure.settings import MeasureSettings
from nas.metrics import METRICS
from nas.train.settings import DataSettings, TrainSettings
from nas.typed import typed

DEFAULT_OBJECTIVES = ("top1", "latency_ms", "flops_per_s", "energy_j")

Plain = dict[str, Any]


@dataclass(frozen=True)
class StudySettings:
    """The ``study.*`` keys.

    Attributes:
        name: Name of the study and, by default, of its folder under ``runs/``; the configuration's own name if not set.
        trials: How many trials the study holds in the end, those of earlier runs included.
        storage: ``None`` for SQLite in the run folder, ``journal`` for a journal file there, ``journal:<path>``, or any URL
            that Optuna takes.
    """

    name: str
    trials: Annotated[int, Ge(1)] = 40
    storage: str | None = None


@dataclass(frozen=True)
class SearchConfig:
    """All keys of ``nas.search``; ``data``, ``space`` and ``sampler`` are open mappings that their ``_target_`` checks.

    Attributes:
        study: Name, number of trials and storage of the study.
        data: The ``data.*`` keys that hold for every data set.
        source: The remaining ``data.*`` keys: what the data set named by ``_target_`` takes.
        space: The design space.
        train: The recipe.
        measure: The measuring conditions.
        sampler: Optuna's sampler and its arguments.
        run_dir: Folder of everything that the study leaves behind.
        seed: Origin of all randomness; 0 to 2^31 - 1.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        objectives: Names of metrics; each is taken in its better direction.
        constraints: Bounds on metrics: an upper one where less is better, a lower one where more is.
        references: Known networks that are trained and measured like the candidates, for comparison.
        allow_modules: Modules of the user's own that ``_target_`` may reach.
    """

    study: StudySettings
    data: DataSettings
    source: Plain
    space: Plain
    train: TrainSettings
    measure: MeasureSettings
    sampler: Plain
    run_dir: str
    seed: Annotated[int, Interval(ge=0, lt=2**31)] = 0
    device: str = "auto"
    objectives: Annotated[tuple[str, ...], MinLen(1)] = DEFAULT_OBJECTIVES
    constraints: dict[str, float] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    allow_modules: tuple[str, ...] = ()


SEARCH_GROUPS: Plain = {"data": None, "space": None, "train": "brief", "measure": "default", "sampler": "tpe"}
"""The groups of ``conf/`` that a search is composed of, and the option of each that holds if a study names none."""

SEARCH_ROOT: Plain = {
    "study": {"name": None, "trials": 40, "storage": None},
    "run_dir": "runs/${study.name}",
    "seed": 0,
    "device": "auto",
    "objectives": list(DEFAULT_OBJECTIVES),
    "constraints": None,
    "references": [],
    "allow_modules": [],
}
"""What holds before any file of ``conf/`` is read."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """All keys of ``nas.benchmark``.

    Attributes:
        name: Names the run folder and the page.
        models: What is measured: names of torchvision, timm and our presets (``timm:…``, ``torchvision:…``, ``preset:…`` where
            a name is ambiguous), ``<path>.yaml`` for an architecture, ``study:<run folder>`` for the front of a study.
        batch_sizes: Images per forward pass.
        precisions: Arithmetics, each measured apart.
        measure: The measuring conditions; ``batch_size`` and ``precision`` are the two above.
        input_size: Side of the square images; ``None`` takes each network's own.
        num_classes: Classes of the networks that come without weights and data of their own.
        run_dir: Folder of everything that the benchmark leaves behind.
        device: ``auto``, ``cpu`` or ``cuda:N``.
    """

    name: str
    models: Annotated[tuple[str, ...], MinLen(1)]
    batch_sizes: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]
    precisions: Annotated[tuple[Literal["auto", "fp32", "tf32", "bf16", "fp16"], ...], MinLen(1)]
    measure: MeasureSettings
    run_dir: str
    input_size: Annotated[int, Ge(1)] | None = None
    num_classes: Annotated[int, Ge(1)] = 1000
    device: str = "auto"


BENCHMARK_GROUPS: Plain = {"measure": "thorough", "benchmark": "representative"}

BENCHMARK_ROOT: Plain = {
    "name": None,
    "models": [],
    "batch_sizes": [1, 2, 4, 8, 16, 32, 64],
    "precisions": ["fp32"],
    "input_size": None,
    "num_classes": 1000,
    "run_dir": "runs/benchmark/${name}",
    "device": "auto",
}


@dataclass(frozen=True)
class DoctorConfig:
    """All keys of ``nas.doctor``.

    Attributes:
        measure: The measuring conditions.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        runs: How often the built-in network is measured.
        data_root: Folder that data sets are looked for in.
    """

    measure: MeasureSettings
    device: str = "auto"
    runs: Annotated[int, Ge(2)] = 3
    data_root: str = "data"


DOCTOR_GROUPS: Plain = {"measure": "default"}

DOCTOR_ROOT: Plain = {"device": "auto", "runs": 3, "data_root": "data"}


def parse_doctor(plain: Mapping[str, Any]) -> DoctorConfig:
    """Check a composed configuration of ``nas.doctor`` and return it typed; raises like ``parse_search``."""
    _reject_unknown("", plain, {f.name for f in dataclasses.fields(DoctorConfig)})
    _check_measure(plain)
    config: DoctorConfig = typed(DoctorConfig, plain)
    return config


def _check_measure(plain: Mapping[str, Any]) -> None:
    measure = plain.get("measure")
    if not isinstance(measure, Mapping):
        raise InputError(f"measure={measure!r} cannot be used: it must be a mapping of keys; set measure.<key>=<value>.")
    _reject_unknown("measure.", measure, {f.name for f in dataclasses.fields(MeasureSettings)})
    if measure.get("require"):
        raise InputError(f"measure.require={measure['require']} cannot be used here: only a search has it; take it out.")


def parse_benchmark(plain: Mapping[str, Any]) -> BenchmarkConfig:
    """Check a composed configuration of ``nas.benchmark`` and return it typed; raises like ``parse_search``."""
    if "benchmark" in plain:
        raise InputError(
            "benchmark.<key> is not a known key: write <key> alone, and '# @package _global_' as the first line of a list's file."
        )
    _reject_unknown("", plain, {f.name for f in dataclasses.fields(BenchmarkConfig)})
    _check_measure(plain)
    config: BenchmarkConfig = typed(BenchmarkConfig, plain)
    for key, value, instead in (
        ("batch_size", config.measure.batch_size, "batch_sizes"),
        ("precision", config.measure.precision, "precisions"),
    ):
        if value != getattr(MeasureSettings, key):
            raise InputError(f"measure.{key}={value} cannot be used here: set {instead}=[{value}].")
    _check_name("name", config.name)
    for key, values in (("models", config.models), ("batch_sizes", config.batch_sizes), ("precisions", config.precisions)):
        repeated = [value for value in values if list(values).count(value) > 1]
        if repeated:
            raise InputError(f"{key}: {repeated[0]} is named twice; name each once.")
    return config


def parse_search(plain: Mapping[str, Any]) -> SearchConfig:
    """Check a composed configuration and return it typed.

    Args:
        plain: Nested plain data with every interpolation resolved.

    Raises:
        InputError: On the first unknown key, wrong type or value out of bounds; the sentence names it and the remedy.
    """
    known = {f.name for f in dataclasses.fields(SearchConfig)} - {"source"}
    _reject_unknown("", plain, known)
    values = dict(plain)
    for key in ("study", "data", "space", "train", "measure", "sampler"):
        value = values.get(key)
        if value is None and key in ("data", "space"):
            raise InputError(
                f"{key} is not set: choose one with {key}=<name> or write a {key}: block with a _target_ in the study."
            )
        if not isinstance(value, Mapping):
            raise InputError(f"{key}={value!r} cannot be used: it must be a mapping of keys; set {key}.<key>=<value>.")
        if key in ("data", "space", "sampler") and not isinstance(value.get("_target_"), str):
            raise InputError(f"{key}._target_ is not set: name the class to use, or choose one with {key}=<name>.")
    for key, cls in (("study", StudySettings), ("train", TrainSettings), ("measure", MeasureSettings)):
        _reject_unknown(f"{key}.", values[key], {f.name for f in dataclasses.fields(cls)})
    shared = {f.name for f in dataclasses.fields(DataSettings)}
    data = values["data"]
    values["source"] = {key: value for key, value in data.items() if key not in shared}
    values["data"] = {key: value for key, value in data.items() if key in shared}
    values["constraints"] = values.get("constraints") or {}
    config: SearchConfig = typed(SearchConfig, values, renamed={"source": "data"})
    _check_name("study.name", config.study.name)
    _check_metrics(config)
    return config


def _reject_unknown(prefix: str, values: Mapping[str, Any], known: set[str]) -> None:
    for key in values:
        if key not in known:
            raise InputError(f"{prefix}{key} is not a known key{suggestion(str(key), known, 'keys')}")


def _check_name(key: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise InputError(
            f"{key}={name!r} cannot be used: it names a folder, so take letters, digits, '.', '_' and '-', at most 100."
        )


def _check_metrics(config: SearchConfig) -> None:
    for key, names in (
        ("objectives", config.objectives),
        ("constraints", config.constraints),
        ("measure.require", config.measure.require),
    ):
        for name in names:
            if name not in METRICS:
                raise InputError(f"{key}: {name!r} is not a metric{suggestion(name, METRICS, 'metrics')}")
    repeated = [name for name in config.objectives if list(config.objectives).count(name) > 1]
    if repeated:
        raise InputError(f"objectives: {repeated[0]!r} is named twice; name each metric once.")
    for name, bound in config.constraints.items():
        largest = 1.0 if METRICS[name].unit == "fraction" else math.inf
        if not (math.isfinite(bound) and 0 <= bound <= largest):
            wanted = "a fraction from 0 to 1" if largest == 1.0 else "a finite number of 0 or more"
            raise InputError(f"constraints.{name}={bound} cannot be used: it should be {wanted}.")
