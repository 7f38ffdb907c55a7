"""The keys of ``nas.search``, and the sentence that a wrong key or value earns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Lt, MinLen

from nas.config.common import Plain, check_name, reject_unknown
from nas.errors import InputError, suggestion
from nas.measure.settings import MeasureSettings
from nas.metrics import METRICS
from nas.train.settings import DataSettings, TrainSettings
from nas.typed import typed

DEFAULT_OBJECTIVES = ("top1", "latency_ms", "flops_per_s", "energy_j")


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
class SchedulerSettings:
    """The ``scheduler.*`` keys.

    Attributes:
        kind: ``mo_asha`` stops trainings early by how a candidate stands at a rung; ``none`` trains every candidate to the end.
        eta: Of so many candidates that come to a rung, one goes on.
        rungs: Epochs after which is decided; ``None`` for the recipe's epochs divided by eta again and again.
        score: What a training is judged by at a rung: ``loss``, the mean training loss of its last epoch, which tells more of the
            final accuracy than an early accuracy does; or ``objective``, the objectives themselves after so many epochs.
        first_latency_seconds: How long a latency is timed at most before the training, behind which it is timed in full if the
            network may belong on the front; ``None`` is 0.1 on a CPU and 0.5 on a GPU.
    """

    kind: Literal["none", "mo_asha"] = "none"
    eta: Annotated[float, Gt(1), Lt(math.inf)] = 3.0
    rungs: tuple[Annotated[int, Ge(1)], ...] | None = None
    score: Literal["loss", "objective"] = "loss"
    first_latency_seconds: Annotated[float, Gt(0), Lt(math.inf)] | None = None


@dataclass(frozen=True)
class TimeoutSettings:
    """The ``engine.timeout.*`` keys: how long a candidate may stay in a part of its way, in seconds; ``None`` for ever.

    Attributes:
        data: Loading the images, which each worker does once, whichever candidate is its first: decoding many takes long.
        build: Building and counting.
        measure: Latency, memory and energy, without waiting for the device.
        train: All epochs, up to the next rung.
    """

    data: Annotated[float, Gt(0), Lt(math.inf)] | None = 14400.0
    build: Annotated[float, Gt(0), Lt(math.inf)] | None = 600.0
    measure: Annotated[float, Gt(0), Lt(math.inf)] | None = 1800.0
    train: Annotated[float, Gt(0), Lt(math.inf)] | None = 14400.0


@dataclass(frozen=True)
class EngineSettings:
    """The ``engine.*`` keys.

    Attributes:
        kind: Where candidates are evaluated: ``local``, in worker processes on this machine, or ``ray``, on a cluster's nodes.
        workers: How many; ``auto`` is one per GPU, times ``train.packing``, and one on CPUs; 0 is the study's own process. On a
            cluster ``auto`` is as many as its resources bear.
        address: Of a Ray cluster that is there: ``host:port`` of its head, or ``auto`` for the one that ``RAY_ADDRESS`` names or
            that this machine is a node of. Nothing is ever started.
        timeout: How long a candidate may take.
    """

    kind: Literal["local", "ray"] = "local"
    workers: Literal["auto"] | Annotated[int, Ge(0)] = "auto"
    address: str | None = "auto"
    timeout: TimeoutSettings = field(default_factory=TimeoutSettings)


@dataclass(frozen=True)
class QuestionSettings:
    """The ``question.*`` keys: what the end of a search shall answer.

    Attributes:
        factor: The parameter of the space whose values are compared.
        asks: The question as a person would put it.
        values: Two to four of the factor's values; ``None`` for all of them.
        equal: The metric that must be equal for two networks to be compared; ``None`` for none.
        within: Up to which relative difference it is.
    """

    factor: str
    asks: str | None = None
    values: tuple[bool | int | float | str, ...] | None = None
    equal: str | None = None
    within: Annotated[float, Gt(0), Lt(1)] = 0.1


Resources = dict[str, Annotated[float, Gt(0), Lt(math.inf)]]
"""What of a cluster's node a worker takes: ``num_cpus``, ``num_gpus``, or a name that the nodes were started with."""

PROXIES = {"last": "top1", "mean": "top1_mean", "loss_area": "train_loss_area"}
"""What a brief training may be scored by: the metric that stands for ``top1`` among the objectives."""


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
        sampler: What suggests candidates, this package's or Optuna's, and its arguments.
        sampler_seed: ``sampler.seed``: origin of the suggestions alone; ``None`` takes ``seed``.
        scheduler: Which trainings are stopped early.
        engine: Where candidates are evaluated.
        run_dir: Folder of everything that the study leaves behind.
        packing: ``train.packing``: how many candidates train side by side on one GPU; ``auto`` as many as its memory holds.
        measure_resources: ``measure.resources``: the class of nodes that measure, on a cluster; ``None`` for those that train.
        train_resources: ``train.resources``: likewise, of those that train; ``None`` for all.
        seed: Origin of all randomness; 0 to 2^31 - 1.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        objectives: Names of metrics; each is taken in its better direction.
        constraints: Bounds on metrics: an upper one where less is better, a lower one where more is.
        gate: Whether a candidate that misses a bound that is known before it is trained is not trained.
        proxy: What a brief training is scored by: ``last``, the last epoch's accuracy; ``mean``, that of the last third of the
            epochs; ``loss_area``, the area under the training loss.
        confirm: How many further seeds the networks on the front, or within noise of it, are trained with at the end.
        checkpoints: Which trials keep their trained weights: those on the ``front`` when they end, ``all`` or ``none``.
        references: Known networks that are trained and measured like the candidates, for comparison.
        start: Architectures that are the first trials: ``preset:<name>``, or the path of a YAML file.
        reuse: Studies, by name or folder, whose results are taken where a candidate builds what they built.
        table: A table of evaluated networks that answers in place of building, training and measuring.
        question: What the end of the search shall answer.
        allow_modules: Modules of the user's own that ``_target_`` may reach.
    """

    study: StudySettings
    data: DataSettings
    source: Plain
    space: Plain
    train: TrainSettings
    measure: MeasureSettings
    sampler: Plain
    scheduler: SchedulerSettings
    engine: EngineSettings
    run_dir: str
    sampler_seed: Annotated[int, Interval(ge=0, lt=2**31)] | None = None
    packing: Literal["auto"] | Annotated[int, Ge(1)] = 1
    measure_resources: Resources | None = None
    train_resources: Resources | None = None
    seed: Annotated[int, Interval(ge=0, lt=2**31)] = 0
    device: str = "auto"
    objectives: Annotated[tuple[str, ...], MinLen(1)] = DEFAULT_OBJECTIVES
    constraints: dict[str, float] = field(default_factory=dict)
    gate: bool = True
    proxy: Literal["last", "mean", "loss_area"] = "last"
    confirm: Annotated[int, Interval(ge=0, le=100)] = 0
    checkpoints: Literal["front", "all", "none"] = "front"
    references: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    reuse: tuple[str, ...] = ()
    table: str | None = None
    question: QuestionSettings | None = None
    allow_modules: tuple[str, ...] = ()


SEARCH_GROUPS: Plain = {
    "data": None,
    "space": None,
    "train": "brief",
    "measure": "default",
    "sampler": "ehvi",
    "scheduler": "mo_asha",
    "engine": "local",
}
"""The groups of ``conf/`` that a search is composed of, and the option of each that holds if a study names none."""

SEARCH_ROOT: Plain = {
    "study": {"name": None, "trials": 40, "storage": None},
    "run_dir": "runs/${study.name}",
    "seed": 0,
    "device": "auto",
    "objectives": list(DEFAULT_OBJECTIVES),
    "constraints": None,
    "gate": True,
    "proxy": "last",
    "confirm": 0,
    "checkpoints": "front",
    "references": [],
    "start": [],
    "reuse": [],
    "table": None,
    "question": None,
    "allow_modules": [],
}
"""What holds before any file of ``conf/`` is read."""


_ELSEWHERE = {
    "sampler_seed": "sampler.seed",
    "packing": "train.packing",
    "train_resources": "train.resources",
    "measure_resources": "measure.resources",
}
"""Fields of ``SearchConfig`` that a user knows as keys of a group."""


def parse_search(plain: Mapping[str, Any]) -> SearchConfig:
    """Check a composed configuration and return it typed.

    Args:
        plain: Nested plain data with every interpolation resolved.

    Raises:
        InputError: On the first unknown key, wrong type or value out of bounds; the sentence names it and the remedy.
    """
    known = {f.name for f in dataclasses.fields(SearchConfig)} - {"source", *_ELSEWHERE}
    reject_unknown("", plain, known)
    values = {"scheduler": {}, "engine": {}, **plain}  # a study of an older version has neither
    for key in ("study", "data", "space", "train", "measure", "sampler", "scheduler", "engine"):
        value = values.get(key)
        if value is None and key in ("data", "space"):
            raise InputError(
                f"{key} is not set: choose one with {key}=<name> or write a {key}: block with a _target_ in the study."
            )
        if not isinstance(value, Mapping):
            raise InputError(f"{key}={value!r} cannot be used: it must be a mapping of keys; set {key}.<key>=<value>.")
        if key in ("data", "space", "sampler") and not isinstance(value.get("_target_"), str):
            raise InputError(f"{key}._target_ is not set: name the class to use, or choose one with {key}=<name>.")
    train, measure, sampler = dict(values["train"]), dict(values["measure"]), dict(values["sampler"])
    # They say where and how fast a network is trained and measured and not how: no part of the recipe.
    values["packing"] = train.pop("packing", 1)
    values["train_resources"], values["measure_resources"] = train.pop("resources", None), measure.pop("resources", None)
    # No argument of the sampler's class, which gets another one for each trial, made from this.
    values["sampler_seed"] = sampler.pop("seed", None)
    values["train"], values["measure"], values["sampler"] = train, measure, sampler
    for key, cls in (
        ("study", StudySettings),
        ("train", TrainSettings),
        ("measure", MeasureSettings),
        ("scheduler", SchedulerSettings),
        ("engine", EngineSettings),
    ):
        reject_unknown(f"{key}.", values[key], {f.name for f in dataclasses.fields(cls)})
    timeout = values["engine"].get("timeout", {})
    if isinstance(timeout, Mapping):
        reject_unknown("engine.timeout.", timeout, {f.name for f in dataclasses.fields(TimeoutSettings)})
    _check_question(values.get("question"))
    shared = {f.name for f in dataclasses.fields(DataSettings)}
    data = values["data"]
    values["source"] = {key: value for key, value in data.items() if key not in shared}
    values["data"] = {key: value for key, value in data.items() if key in shared}
    values["constraints"] = values.get("constraints") or {}
    config: SearchConfig = typed(SearchConfig, values, renamed={"source": "data", **_ELSEWHERE})
    check_name("study.name", config.study.name)
    _check_resources(config)
    _check_metrics(config)
    return _by_proxy(config)


def _check_resources(config: SearchConfig) -> None:
    for key, wanted in (("measure.resources", config.measure_resources), ("train.resources", config.train_resources)):
        if wanted and config.engine.kind != "ray":
            raise InputError(f"{key} names nodes of a cluster, and engine={config.engine.kind} has none: set engine=ray.")
        for name, amount in (wanted or {}).items():
            if name in ("CPU", "GPU"):
                raise InputError(f"{key}.{name}={amount:g} cannot be used: write {key}.num_{name.lower()}s={amount:g}.")
            if amount > 1 and amount % 1:
                raise InputError(f"{key}.{name}={amount:g} cannot be used: above 1 it should be a whole number.")
    if config.engine.kind == "ray" and config.engine.workers == 0:
        raise InputError("engine.workers=0 cannot be used with engine=ray: give a number of workers, or auto.")


def _by_proxy(config: SearchConfig) -> SearchConfig:
    """Let the metric that the proxy names stand for ``top1``; one that is no fraction of images keeps its own name."""
    metric = PROXIES[config.proxy]
    if metric == "top1" or metric in config.objectives:
        return config
    if "top1" not in config.objectives:
        raise InputError(f"proxy={config.proxy} cannot be used: top1, for which it stands, is not among the objectives; add it.")
    objectives = tuple(metric if name == "top1" else name for name in config.objectives)
    return dataclasses.replace(config, objectives=objectives)


def _check_question(question: Any) -> None:
    if question is None:
        return
    known = [f.name for f in dataclasses.fields(QuestionSettings)]
    if not isinstance(question, Mapping):
        raise InputError(f"question={question!r} cannot be used: it must be a mapping with the keys {', '.join(known)}.")
    reject_unknown("question.", question, set(known))
    if question.get("factor") is None:
        raise InputError("question.factor is not set: name the parameter of the space that is asked about, or set question=null.")


def _check_metrics(config: SearchConfig) -> None:
    for key, names in (
        ("objectives", config.objectives),
        ("constraints", config.constraints),
        ("measure.require", config.measure.require),
        ("question.equal", [config.question.equal] if config.question and config.question.equal else []),
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
