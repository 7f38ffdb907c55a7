"""Gathers what a study's report shows: its trials sorted, what choices do, the space to search next, the networks of the
front with their layers timed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.analyse.question import Answer
from nas.analyse.ranking import AuditResult
from nas.analyse.spread import validation_images
from nas.analyse.study.choices import Importance, importance
from nas.analyse.study.good_values import Good
from nas.analyse.study.population import Population
from nas.asking import answer_question
from nas.choosing import Chosen, choose
from nas.config.report import ReportConfig
from nas.errors import InputError
from nas.files import write_json
from nas.found import read_file
from nas.measure import layers, subject
from nas.measure.complexity import LayerCost
from nas.measure.device import resolve_conditions, resolve_device
from nas.measure.fingerprint import fingerprint
from nas.measure.layers import LayerTimes
from nas.measure.lock import exclusive
from nas.measure.record import SensorError
from nas.measure.settings import MeasureConditions, MeasureSettings
from nas.outcomes import Outcome
from nas.proposing import Proposal, propose
from nas.runs import Run

_LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class Sheet:
    """One network of the front, in detail.

    Attributes:
        layers: Its convolutions and linear layers; empty if the trial's record is gone.
        times: Where its time goes; ``None`` with the reason in ``untimed``.
        timed_on: The device, if it is another kind than the search's.
    """

    outcome: Outcome
    layers: tuple[LayerCost, ...]
    times: LayerTimes | None
    untimed: str
    timed_on: str | None


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        chosen: The network that stands first; ``None`` with the reason in ``unchosen``.
        importances: By objective.
        sheets: Networks of the front, the chosen one first.
        retrained: ``metrics.json`` of each network that was trained in full.
        audit: How far the brief order holds, if that was audited.
        good: What made a network good where the space was narrowed.
        proposal: The space to be searched next, or why there is none.
        answer: To the search's question, if it had one.
    """

    run: Run
    population: Population
    chosen: Chosen | None
    unchosen: str
    importances: Mapping[str, Importance | str]
    sheets: tuple[Sheet, ...]
    retrained: tuple[Mapping[str, Any], ...]
    audit: AuditResult | None
    good: Good
    proposal: Proposal | str
    answer: Answer | None


def gather(run: Run, config: ReportConfig) -> Report:
    """Gather a report.

    Raises:
        InputError: ``pick`` and its like name no network, though some could be named; a study without one is reported on.
    """
    population = Population(run.outcomes, run.references, run.objectives, run.constraints, validation_images(run.record["data"]))
    chosen, unchosen = None, ""
    if run.feasible or (config.pick, config.trial, config.architecture) != (None, None, None):
        chosen = choose(run, config.pick, config.trial, config.architecture)
    else:
        try:
            choose(run, None, None, None)
        except InputError as error:
            unchosen = str(error)
    return Report(
        run=run,
        population=population,
        chosen=chosen,
        unchosen=unchosen,
        importances={metric.name: importance(population, metric) for metric in run.objectives},
        sheets=_sheets(run, _shown(population.front, chosen, config.networks), config),
        retrained=_retrained(run),
        audit=_audit(run),
        good=config.good,
        proposal=propose(run, population, config.good),
        answer=answer_question(
            run.config(), run.space, run.as_told, run.objectives, run.record["conditions"]["device"], run.drawn
        ),
    )


def _shown(front: Sequence[Outcome], chosen: Chosen | None, most: int) -> list[Outcome]:
    """Return at most ``most`` networks: the chosen one, then some spread over the front."""
    first = [chosen.outcome] if chosen is not None and chosen.outcome is not None else []
    places = np.unique(np.linspace(0, len(front) - 1, min(most, len(front))).round().astype(int)).tolist() if front else []
    rest = [front[place] for place in places if not first or front[place].name != first[0].name]
    return [*first, *rest][:most]


def _retrained(run: Run) -> tuple[Mapping[str, Any], ...]:
    found = []
    for path in sorted((run.folder / "retrain").glob("*/metrics.json")):
        metrics = read_file(path, _metrics, f"retrain it anew, or delete {path.parent}")
        found.append({**metrics, "folder": str(path.parent)})
    return tuple(found)


def _metrics(text: str) -> dict[str, Any]:
    """Return a retraining's metrics; raise KeyError or TypeError if the page's are not among them."""
    metrics = json.loads(text)
    return {**metrics, **{name: metrics[name] for name in ("test_top1", "test_top1_standard_error", "epochs")}}


def _audit(run: Run) -> AuditResult | None:
    path = run.folder / "audit" / "audit.json"
    if not path.exists():
        return None
    found: AuditResult = read_file(path, lambda text: AuditResult.from_dict(json.loads(text)), "audit anew, or delete it")
    return found


def _sheets(run: Run, outcomes: Sequence[Outcome], config: ReportConfig) -> tuple[Sheet, ...]:
    timer = _Timer(run, config)
    return tuple(_sheet(run, outcome, timer) for outcome in outcomes)


def _sheet(run: Run, outcome: Outcome, timer: _Timer) -> Sheet:
    path = run.folder / "trials" / outcome.name / "measurement.json"
    found: tuple[LayerCost, ...] = ()
    if path.exists():
        found = read_file(path, _layers)
    times, untimed = timer.times(outcome)
    return Sheet(outcome, found, times, untimed, timer.other_device)


def _layers(text: str) -> tuple[LayerCost, ...]:
    return tuple(LayerCost.from_dict(layer) for layer in (json.loads(text).get("complexity") or {}).get("layers", ()))


class _Timer:
    """Times networks one after the other until its time is up; what was timed before under the same conditions is reused."""

    def __init__(self, run: Run, config: ReportConfig) -> None:
        self._run, self._config = run, config
        search = run.config()
        self._device = resolve_device(config.device or ("auto" if search.device.startswith("cuda") else search.device))
        self._refusal = ""
        try:
            self._conditions: MeasureConditions = resolve_conditions(search.measure, self._device)
        except InputError as refusal:  # this machine has fewer CPUs than the search's, or not its precision
            self._refusal = f"the search's conditions cannot be had here ({str(refusal).rstrip('.')})"
            self._conditions = resolve_conditions(MeasureSettings(batch_size=search.measure.batch_size), self._device)
        identity = fingerprint(self._device, self._conditions.threads).identity()
        self._key = {"device": identity, "conditions": self._conditions.to_dict()}
        same = identity == run.record["conditions"]["device"]
        self.other_device = None if same else str(identity.get("name") or self._device)
        self._until = time.perf_counter() + config.layer_seconds

    def _kept(self, path: Path) -> LayerTimes | None:
        """Return what was timed before; what cannot be read is timed anew."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return LayerTimes.from_dict(kept["times"]) if kept["key"] == json.loads(json.dumps(self._key)) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def times(self, outcome: Outcome) -> tuple[LayerTimes | None, str]:
        path = self._run.folder / "trials" / outcome.name / "layers.json"
        kept = self._kept(path)
        if kept is not None:
            return kept, ""
        if not self._config.layers:
            return None, "layers=false"
        if self._refusal or time.perf_counter() >= self._until:
            return (
                None,
                self._refusal or f"the {self._config.layer_seconds:g} s of layer_seconds were spent on the networks above",
            )
        try:
            times = self._take(outcome)
        except SensorError as refusal:
            self._refusal = str(refusal)
            return None, self._refusal
        except Exception as error:  # noqa: BLE001 - a network of a user's own may break in any way: the report says so
            return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        write_json(path, {"key": self._key, "times": times.to_dict()})
        return times, ""

    def _take(self, outcome: Outcome) -> LayerTimes:
        run = self._run
        torch.manual_seed(0)
        model = run.space.build(run.architecture(outcome), run.input_shape[0], len(run.classes))
        with exclusive(self._device, _LOCK_SECONDS):
            return layers.measure(subject.of(model, run.input_shape, self._conditions), seconds=0.1)
