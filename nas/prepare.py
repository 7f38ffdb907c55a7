"""From a checked configuration to everything a search needs; refuses what cannot work before anything is written."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler

from nas import checkpoints
from nas.analyse.question import Answer
from nas.asking import answer_question, make_question
from nas.catalogue import ReferenceSpace, as_candidate
from nas.compose import Composed
from nas.conditions import check_conditions, flatten, stored_conditions
from nas.config.search import SearchConfig
from nas.drawn import all_drawn, doubts, drawn_by
from nas.engine import Engine
from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest, metrics_of
from nas.grounds import Grounds
from nas.measure.measurement import Measurement
from nas.metrics import METRICS, Metric
from nas.outcomes import Outcome
from nas.plan import Asked, StudyPlan
from nas.reuse import read_known
from nas.samplers import make_sampler, rehearse
from nas.sampling import TrialSeededSampler
from nas.scheduler import Scheduler, make_scheduler
from nas.sites import site_of
from nas.start import locate
from nas.storage import StorageSpec, open_storage, storage_spec
from nas.targets import build_target
from nas.train.data import DataRequest
from search_spaces.base import Architecture, SearchSpace

_WHERE_NOT_WHAT = ("root", "download", "workers", "resident_budget_mb", "decoded_budget_mb", "on_bad_image")
"""Keys of ``data`` that say where the images come from and how they are held; what they are is in their fingerprint."""

_FIRST_LATENCY_SECONDS = {"cpu": 0.1, "cuda": 0.5}

_DEAF_TO_THE_GATE = ("NSGAIISampler", "NSGAIIISampler", "GPSampler")
"""Samplers that learn from complete trials only."""


@dataclass(frozen=True)
class Prepared:
    """A search that can begin.

    Attributes:
        scheduler: Decides which trainings are stopped early.
        confirm: How many further seeds the contenders are trained with at the end.
        confirm_for: How to train a network with another seed.
        timing_for: How to time a network in full whose latency was only looked at.
        engine: Makes what evaluates the candidates.
        keeps: Which trials keep their trained weights.
        references: How to evaluate each reference network, by its name.
        notes: Lines that a user should read before it does.
        answer: Answers the configuration's question from the trials that ended and the study's attributes; ``None`` where
            nothing is asked.
    """

    plan: StudyPlan
    space: SearchSpace
    sampler: BaseSampler
    scheduler: Scheduler
    storage: StorageSpec
    run_dir: Path
    request_for: Callable[[Asked], EvaluationRequest]
    confirm: int
    confirm_for: Callable[[Outcome, int], EvaluationRequest]
    timing_for: Callable[[Outcome], EvaluationRequest]
    engine: Callable[[], Engine]
    keeps: Literal["front", "all", "none"]
    references: Mapping[str, EvaluationRequest]
    notes: tuple[str, ...]
    answer: Callable[[Sequence[Outcome], Mapping[str, Any]], Answer | None]


def prepare_search(config: SearchConfig, composed: Composed) -> Prepared:
    """Build and check everything that a search needs, and settle what the configuration leaves open.

    Raises:
        InputError: On anything that the search could not work with.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run_dir = Path(config.run_dir)
    spec = storage_spec(config.study.storage, run_dir)
    asked = config.scheduler
    scheduler = make_scheduler(asked.kind, asked.eta, asked.rungs, config.train.epochs, asked.score)
    site = site_of(config)
    measuring = site.measuring
    objectives = tuple(METRICS[name] for name in measuring.objectives)
    references = {name: as_candidate(name) for name in config.references}
    space = build_target("space", config.space, config.allow_modules)
    if not isinstance(space, SearchSpace):
        raise InputError(f"space._target_={config.space['_target_']} is no design space: it must have suggest, build and preset.")
    source = build_target("data", config.source, config.allow_modules)
    if not callable(getattr(source, "load", None)):
        raise InputError(f"data._target_={config.source['_target_']} is no data set: it must have load().")
    rehearse(_sampler(config, space), str(config.sampler["_target_"]), objectives, space)
    sampler = _sampler(config, space)
    data = DataRequest(source, config.data, config.seed)
    before = _stored(spec, config.study.name)
    grounds = site.grounds(space, data, before)
    notes = list(grounds.notes)
    if make_question(config, space) is not None:
        notes += [f"question: {doubt}" for doubt in doubts((drawn_by(config),))]
    if isinstance(sampler, TrialSeededSampler) and not sampler.is_seeded:
        notes.append(f"sampler {config.sampler['_target_']} takes no seed: its suggestions differ from run to run")
    notes += [f"objective {name} is dropped: {reason}" for name, reason in measuring.dropped.items()]
    notes += _gate_notes(config)
    start = tuple(locate(space, name) for name in config.start)
    found = _conditions(config, composed, objectives, grounds)
    required = tuple({*(metric.name for metric in objectives), *config.constraints, *config.measure.require})
    known = read_known(config.reuse, found, required)
    if config.reuse:
        notes.append(f"reuse: {len(known)} networks are known from {', '.join(config.reuse)}")
    plan = StudyPlan(
        name=config.study.name,
        trials=config.study.trials,
        seed=config.seed,
        objectives=objectives,
        constraints=config.constraints,
        conditions=found,
        start=start,
        known=known,
        drawn_by=asdict(replace(drawn_by(config), start=len(start) if before is None else 0)),
        record={
            "device": grounds.device,
            "objectives_dropped": dict(measuring.dropped),
            "numeric_format": grounds.how,
            "data": grounds.data,
            "config": composed.written,
            "versions": {name: version(name) for name in ("torch", "lightning", "optuna", "thop")}
            | {"python": platform.python_version()},
        },
    )

    if before is not None:
        check_conditions(plan.name, before, plan.conditions)

    first_latency_seconds = asked.first_latency_seconds or _FIRST_LATENCY_SECONDS[measuring.device.partition(":")[0]]

    def request_for(space: SearchSpace, architecture: Architecture) -> EvaluationRequest:
        return EvaluationRequest(
            space=space,
            architecture=architecture,
            data=data,
            train=config.train,
            numeric=grounds.numeric,
            measure=grounds.measured,
            device=measuring.device,
            seed=config.seed,
            required=required,
            scored=_scored(config, scheduler, required),
        )

    def candidate_for(candidate: Asked) -> EvaluationRequest:
        return replace(
            request_for(space, candidate.architecture),
            gate=config.constraints if config.gate else {},
            first_latency_seconds=first_latency_seconds,
            begun=None if candidate.begun is None else checkpoints.read(run_dir, candidate.begun, config.table is None),
            keep_weights=config.checkpoints != "none",
        )

    def again(network: Outcome, measurement: Measurement | None = None) -> EvaluationRequest:
        architecture = space.from_dict(json.loads(network.attributes["architecture"]))
        # A beginning without a training in it: nothing is measured again.
        begun = Evaluation(metrics_of(network.attributes), measurement=measurement)
        return replace(request_for(space, architecture), begun=begun)

    def another_seed_for(network: Outcome, seed: int) -> EvaluationRequest:
        return replace(again(network), seed=seed)

    def timing_for(network: Outcome) -> EvaluationRequest:
        return replace(again(network, checkpoints.measurement_of(run_dir, network)), only_measure=True)

    def answer(outcomes: Sequence[Outcome], attributes: Mapping[str, Any]) -> Answer | None:
        drawn = all_drawn(attributes, config)
        return answer_question(config, space, outcomes, objectives, grounds.device_identity, drawn)

    return Prepared(
        plan=plan,
        space=space,
        sampler=sampler,
        scheduler=scheduler,
        storage=spec,
        run_dir=run_dir,
        request_for=candidate_for,
        confirm=config.confirm,
        confirm_for=another_seed_for,
        timing_for=timing_for,
        engine=site.engine(run_dir),
        keeps=config.checkpoints,
        references={name: request_for(ReferenceSpace(), architecture) for name, architecture in references.items()},
        notes=tuple(notes),
        answer=answer,
    )


def _scored(config: SearchConfig, scheduler: Scheduler, required: Collection[str]) -> tuple[int, ...]:
    """Return the epochs whose accuracies ``top1_mean`` is made of: the last third up to each rung and up to the end."""
    if "top1_mean" not in required:
        return ()
    ends = (*scheduler.rungs, config.train.epochs)
    return tuple(sorted({epoch for end in ends for epoch in range(1, end + 1) if epoch > end * 2 / 3}))


def _gate_notes(config: SearchConfig) -> list[str]:
    if not config.gate or not config.constraints:
        return []
    late = [name for name in config.constraints if METRICS[name].stage == "train"]
    notes = [f"constraint {name} is known after training only: it bounds the front and gates nothing" for name in late]
    sampler = str(config.sampler["_target_"]).rpartition(".")[2]
    if len(late) < len(config.constraints) and sampler in _DEAF_TO_THE_GATE:
        notes.append(f"{sampler} learns nothing of candidates that the gate stops: with tight constraints take sampler=ehvi")
    return notes


def _sampler(config: SearchConfig, space: SearchSpace) -> BaseSampler:
    return make_sampler(config.sampler, space, config.seed, config.sampler_seed, config.allow_modules)


def _stored(spec: StorageSpec, name: str) -> dict[str, Any] | None:
    if spec.file is not None and not os.path.exists(spec.file):
        return None
    return stored_conditions(open_storage(spec), name)


def _conditions(
    config: SearchConfig,
    composed: Composed,
    objectives: tuple[Metric, ...],
    grounds: Grounds,
) -> dict[str, Any]:
    """Return all that must agree between two runs of one study; of the configuration, the form without secrets."""
    data = {key: value for key, value in composed.written["data"].items() if key not in _WHERE_NOT_WHAT}
    space = flatten(config.space)
    # A value from the environment may be a secret: what is written is its digest, so that another value is noticed all the same.
    for key, value in flatten(composed.written["space"]).items():
        if "${" in str(value):
            space[key] = f"{value} {hashlib.sha256(str(space.get(key)).encode()).hexdigest()[:12]}"
    # These decide whether a figure is taken, or what is taken beside it, and not what it is.
    apart = ("device", "variants", "when_loaded", "lock_seconds")
    measure = {key: value for key, value in grounds.measured.to_dict().items() if key not in apart}
    known, numeric = grounds.data, grounds.numeric
    return {
        "objectives": [metric.name for metric in objectives],
        "constraints": dict(config.constraints),
        "seed": config.seed,
        "space": space,
        "data": {**data, "fingerprint": known["fingerprint"], "split": known["split_digest"], "sizes": dict(known["sizes"])},
        "train": asdict(replace(config.train, precision=numeric.precision, memory_format=numeric.memory_format)),
        "measure": measure,
        "device": dict(grounds.device_identity),
    }
