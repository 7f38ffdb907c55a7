"""What a search leaves in its run folder as it goes, architectures, measurements, weights, the front, and on the display."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nas import checkpoints
from nas.analyse.tradeoffs import minimised, violations
from nas.annotations import Annotator, annotated
from nas.files import write_architecture, write_bytes, write_measurement
from nas.outcomes import Outcome
from nas.progress import Progress
from nas.retrying import patiently
from nas.shipped import FAMILIES, WEIGHTS, Description, pack
from nas.storage import Storage
from nas.tables import write_front, write_references
from search_spaces.base import Architecture, to_yaml

if TYPE_CHECKING:
    from nas.evaluate import Evaluation
    from nas.plan import Asked, StudyPlan
    from nas.prepare import Prepared
    from nas.study import Study


def annotator_of(plan: StudyPlan, run_dir: Path, storage: Storage, warn: Callable[[str], None]) -> Annotator:
    """Return what writes the dashboard's notes for a search; the study must be in the storage."""
    agreed = plan.conditions["device"]
    device = str(agreed.get("name") or agreed.get("kind"))
    return Annotator(storage, annotated(plan.name, run_dir, plan.objectives, plan.constraints, plan.record["data"], device), warn)


class Recorder:
    """Is told what happens in a search; see ``nas.driver.Observer`` and ``ReferenceObserver``."""

    def __init__(self, prepared: Prepared, study: Study, progress: Progress) -> None:
        self._prepared, self._study, self._progress = prepared, study, progress
        self._asked: dict[int, Architecture] = {}

    def asked(self, asked: Asked) -> None:
        """A trial begins: write what it builds."""
        self._asked[asked.number] = asked.architecture
        self._write_architecture(asked.number, asked.architecture)

    def _write_architecture(self, number: int, architecture: Architecture) -> None:
        # A full disk is waited for, as a storage is that is away.
        patiently(lambda: write_architecture(self._prepared.run_dir, number, to_yaml(architecture)), "the run folder")

    def stage(self, number: int, stage: str) -> None:
        """A trial entered a stage."""
        self._progress.stage(number, stage)

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """A trial was evaluated and is not told yet: write what it left."""
        architecture = self._asked[number]  # kept until it is told: this is tried again where a disk is full
        if evaluation.measurement is not None:
            write_measurement(self._prepared.run_dir, number, evaluation.measurement.to_dict())
        if evaluation.state is not None:
            checkpoints.keep(self._prepared.run_dir, number, evaluation)
        if evaluation.weights is not None and (self._prepared.keeps == "all" or self._would_be_on_front(evaluation)):
            self._write_weights(number, architecture, evaluation.weights)

    def told(self, trial: Outcome) -> None:
        """A trial is recorded."""
        if trial.number is not None:
            self._asked.pop(trial.number, None)
        if trial.attributes.get("reused_from") is not None and trial.number is not None:
            architecture = self._prepared.space.from_dict(json.loads(trial.attributes["architecture"]))
            self._write_architecture(trial.number, architecture)
        begun = trial.attributes.get("resumed_from")
        if begun is not None:
            checkpoints.drop(self._prepared.run_dir, begun)
        if self._progress.told(trial):
            self._write_front()

    def _write_front(self) -> None:
        plan, found = self._prepared.plan, self._progress
        path = self._prepared.run_dir / "front.csv"
        references = bool(self._prepared.references)
        patiently(
            lambda: write_front(path, found.front, plan.objectives, plan.constraints, found.dominated, references),
            "the run folder",
        )

    def reference_stage(self, name: str, stage: str) -> None:
        """A reference entered a stage."""
        self._progress.reference_stage(name, stage)

    def reference_told(self, reference: Outcome) -> None:
        """A reference is recorded."""
        self._progress.reference_told(reference)
        plan = self._prepared.plan
        path, known = self._prepared.run_dir / "references.csv", self._progress.references
        patiently(lambda: write_references(path, known, plan.objectives, plan.constraints), "the run folder")

    def seed_stage(self, name: str, stage: str) -> None:
        """A further seed of a network entered a stage."""
        self._progress.seed_stage(name, stage)

    def seed_told(self, network: Outcome, seed: int, evaluation: Evaluation) -> None:
        """A further seed is recorded."""
        self._progress.seed_told(network, seed, evaluation.metrics.top1, evaluation.failure_reason)
        self._write_front()

    def timing_stage(self, name: str, stage: str) -> None:
        """The timing of a network in full entered a stage."""
        self._progress.timing_stage(name, stage)

    def timing_ended(self, network: Outcome, evaluation: Evaluation) -> None:
        """A network was timed in full, and that is not recorded yet: write what it left."""
        number, measurement = network.number, evaluation.measurement
        if measurement is not None and number is not None:
            patiently(lambda: write_measurement(self._prepared.run_dir, number, measurement.to_dict()), "the run folder")

    def timed(self, network: Outcome, evaluation: Evaluation) -> None:
        """That is recorded, or the network could not be timed in full."""
        refusal = evaluation.failure_reason
        if refusal is None and evaluation.metrics.latency_brief:
            refused = dict(evaluation.measurement.refusals) if evaluation.measurement is not None else {}
            refusal = refused.get("latency_ms", "the meter refused")
        self._progress.timed(network, evaluation.metrics.latency_ms, refusal)
        self._write_front()

    def _would_be_on_front(self, evaluation: Evaluation) -> bool:
        plan, attributes = self._prepared.plan, evaluation.attributes()
        values = [attributes.get(metric.name) for metric in plan.objectives]
        if evaluation.failure or None in values or any(m > 0 for m in violations(attributes, plan.constraints).values()):
            return False
        mine = minimised([Outcome("", None, "complete", attributes)], plan.objectives)
        front = self._study.minimised(self._progress.front)
        return not bool(((front <= mine).all(axis=1) & (front < mine).any(axis=1)).any())

    def _write_weights(self, number: int, architecture: Architecture, weights: bytes) -> None:
        from safetensors.torch import load

        plan, data = self._prepared.plan, self._prepared.plan.record["data"]
        plain = architecture.to_dict()
        description = Description(
            name=f"{plan.name}/{number}",
            study=plan.name,
            trial=number,
            architecture=plain,
            space=None if plain.get("family") in FAMILIES else dict(plan.record["config"]["space"]),
            input_shape=tuple(data["input_shape"]),
            classes=tuple(data["classes"]),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
        )
        write_bytes(self._prepared.run_dir / "trials" / str(number) / WEIGHTS, pack(load(weights), description))
