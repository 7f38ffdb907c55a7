"""What optuna-dashboard shows beside Optuna's own figures: a note and artifacts per trial, a note and plots per study.

A sampler learns nothing from any of it, and a trial is never lost for want of it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from nas.analyse.spread import spread, validation_images
from nas.analyse.tradeoffs import violations
from nas.config.common import study_key
from nas.drawing import blocks, curve_svg, diagram_svg, short
from nas.measure.complexity import LayerCost
from nas.metrics import METRICS, Metric, show
from nas.storage import Storage

if TYPE_CHECKING:
    import plotly.graph_objects as go

ARTIFACTS = "artifacts"
"""The folder of a run that ``optuna-dashboard --artifact-dir`` takes."""

# Where optuna-dashboard keeps notes and plots (its save_note looks through the notes of all trials at each call).
_NOTE_VERSION, _NOTE_TEXT, _PLOT = "note_ver", "note_str:", "dashboard:plot_data:"
_LONGEST = 2045
_ARTIFACT = "artifacts:"
_SIZES = ("params", "mult_adds", "mem_access")


@dataclass(frozen=True)
class Annotated:
    """What of a study its annotations speak of.

    Attributes:
        folder: The run folder, from whose ``trials/<number>/`` the files come.
        validation_images: How many images the accuracies are shares of.
        about: Lines of the study's note: on what, where, how to go on.
    """

    name: str
    folder: Path
    objectives: tuple[Metric, ...]
    constraints: Mapping[str, float]
    validation_images: int | None
    about: tuple[str, ...]


def annotated(
    name: str, folder: Path, objectives: Sequence[Metric], constraints: Mapping[str, float], data: Mapping[str, Any], device: str
) -> Annotated:
    """Return what a study's annotations speak of."""
    shape, key = "×".join(map(str, data["input_shape"])), study_key(name, folder)
    return Annotated(
        name=name,
        folder=folder,
        objectives=tuple(objectives),
        constraints=constraints,
        validation_images=validation_images(data),
        about=(
            f"Measured on {device}; trained briefly on {data['name']} ({shape}), scored on its validation part.",
            "",
            f"The whole comparison: `python -m nas.report {key}`. Train one in full: "
            f"`python -m nas.retrain {key} pick=knee`, or `trial=<number>`.",
        ),
    )


class Annotator:
    """Writes the annotations of one study.

    Args:
        storage: Where the study is; it must exist.
        study: What to speak of.
        warn: Is told once if a file cannot be written.
    """

    def __init__(self, storage: Storage, study: Annotated, warn: Callable[[str], None]) -> None:
        self._storage: BaseStorage = storage.optuna
        self._study, self._warn = study, warn
        self._id = self._storage.get_study_id_from_name(study.name)
        self._silent = False

    def before_tell(self, trial: optuna.Trial, failed: bool) -> None:
        """Attach the files and the note of a trial that is about to be told; once it is, Optuna takes no more of them."""
        attributes = trial.user_attrs
        layers, attached = self._layers(trial.number), {}
        try:
            attached = self._attach(trial, attributes, layers)
        except OSError as error:
            self._complain(f"{self._study.folder / ARTIFACTS} cannot be written ({error.strerror}): trials have no artifacts")
        diagram = attached.get("diagram.svg")
        body = self._trial_note(attributes, failed, layers, diagram and f"/artifacts/{self._id}/{trial._trial_id}/{diagram}")
        self._write_note(body, trial._trial_id)

    def complete(self) -> int:
        """Write the notes of trials that ended without one, as those of older studies did; returns how many."""
        known = self._storage.get_study_system_attrs(self._id)
        written = 0
        for trial in self._storage.get_all_trials(self._id, deepcopy=False):
            if trial.state.is_finished() and _note_key(trial._trial_id, _NOTE_VERSION) not in known:
                failed = trial.state == TrialState.FAIL
                body = self._trial_note(trial.user_attrs, failed, self._layers(trial.number), None)
                self._write_note(body, trial._trial_id)
                written += 1
        return written

    def describe(self) -> None:
        """Write the study's note and the objectives' names with units, unless a person changed the note."""
        names = [metric.title for metric in self._study.objectives]
        study = optuna.load_study(study_name=self._study.name, storage=self._storage)
        if study.metric_names != names:
            study.set_metric_names(names)
        if int(self._storage.get_study_system_attrs(self._id).get(_note_key(None, _NOTE_VERSION), 0)) <= 1:
            self._write_note(self._study_note(), None)

    def plot(self, plots: Mapping[str, go.Figure]) -> None:
        """Write or replace plots, by their names."""
        for name, figure in plots.items():
            # The template has each colour and font of Plotly's defaults: 7 kB that the dashboard has anyway.
            plain = json.loads(figure.to_json())
            plain.get("layout", {}).pop("template", None)
            self._write_parts(f"{_PLOT}{name}:", json.dumps(plain, separators=(",", ":")))

    def _complain(self, sentence: str) -> None:
        if not self._silent:
            self._warn(sentence)
        self._silent = True

    def _layers(self, number: int) -> list[LayerCost]:
        try:
            text = (self._study.folder / "trials" / str(number) / "measurement.json").read_text(encoding="utf-8")
            return [LayerCost.from_dict(layer) for layer in json.loads(text)["complexity"]["layers"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []  # the trial failed before it was counted; its note says so

    def _attach(self, trial: optuna.Trial, attributes: Mapping[str, Any], layers: Sequence[LayerCost]) -> dict[str, str]:
        """Upload what is not attached yet; returns the artifacts' ids by file name."""
        there = self._storage.get_trial(trial._trial_id).system_attrs
        known = [json.loads(value) for key, value in there.items() if key.startswith(_ARTIFACT)]
        attached = {meta["filename"]: meta["artifact_id"] for meta in known}
        folder = self._study.folder / "trials" / str(trial.number)
        losses = attributes.get("train_loss") or ()
        texts = {}
        if layers:
            texts["diagram.svg"] = diagram_svg(layers, f"The blocks of trial {trial.number}", paper=True)
        if losses:
            texts["training_curve.svg"] = curve_svg(losses, f"Training loss of trial {trial.number}", "training loss", paper=True)
        store_in = self._study.folder / ARTIFACTS
        store_in.mkdir(parents=True, exist_ok=True)
        store = FileSystemArtifactStore(store_in)
        with tempfile.TemporaryDirectory() as made:
            files = [folder / "architecture.yaml", folder / "model.safetensors"]
            for name, text in texts.items():
                files.append(Path(made) / name)
                files[-1].write_text(text, encoding="utf-8")
            for file in files:
                if file.name not in attached and os.path.exists(file):
                    attached[file.name] = upload_artifact(
                        artifact_store=store,
                        file_path=str(file),
                        study_or_trial=trial,
                        mimetype="text/plain" if file.suffix == ".yaml" else None,
                    )
        return attached

    def _trial_note(self, attributes: Mapping[str, Any], failed: bool, layers: Sequence[LayerCost], diagram: str | None) -> str:
        lines = [self._verdict(attributes, failed), "", "| figure | value | ± |", "|---|---:|---:|"]
        names = dict.fromkeys([*(metric.name for metric in self._study.objectives), *self._study.constraints, *_SIZES])
        for name in names:
            off = spread(attributes, name, self._study.validation_images)
            lines.append(f"| {name} | {show(METRICS[name], attributes.get(name))} | {show(METRICS[name], off) if off else ''} |")
        missing = [f"{name}: {attributes[f'{name}_reason']}" for name in names if attributes.get(f"{name}_reason")]
        lines += ["", *(f"- not measured: {reason}" for reason in missing)]
        lines += [f"- doubt: {flag}" for flag in attributes.get("measure_flags") or ()]
        if diagram:
            lines += ["", f"![The blocks]({diagram})"]
        if layers:
            lines += ["", "| block | output | convolutions | params |", "|---|---|---|---:|"]
            for block in blocks(layers):
                shape = "×".join(map(str, block.output_shape))
                lines.append(f"| {block.name} | {shape} | {', '.join(block.layers)} | {short(block.params)} |")
        return "\n".join(lines)

    def _verdict(self, attributes: Mapping[str, Any], failed: bool) -> str:
        if failed:
            return f"**Failed** ({attributes.get('failure', 'error')}): {attributes.get('failure_reason', 'no reason')}"
        missed = {name: miss for name, miss in violations(attributes, self._study.constraints).items() if miss > 0}
        if attributes.get("reused_from") is not None:
            return f"**Repeat**: builds what trial {attributes['reused_from']} built; its result was taken again."
        if attributes.get("stopped_at") is not None:
            return f"**Stopped early**, after {attributes['stopped_at']} epochs: others stood higher by then."
        if missed:
            told = [
                f"{name} misses {show(METRICS[name], self._study.constraints[name])} by {show(METRICS[name], miss)}"
                for name, miss in missed.items()
            ]
            epochs = attributes.get("fidelity")
            trained = f"trained for {epochs} epoch{'s' * (epochs != 1)} only" if epochs else "not trained"
            gated = f" It was {trained}." if attributes.get("gated_by") else ""
            return f"**Infeasible**: {'; '.join(told)}.{gated}"
        return "**Complete**, keeps every constraint." if self._study.constraints else "**Complete**."

    def _study_note(self) -> str:
        lines = ["| objective | unit | better | what it is |", "|---|---|---|---|"]
        for metric in self._study.objectives:
            better = "higher" if metric.direction == "maximize" else "lower"
            lines.append(f"| {metric.name} | {metric.unit} | {better} | {metric.meaning} |")
        if self._study.constraints:
            bounds = [
                f"{name} {'≥' if METRICS[name].direction == 'maximize' else '≤'} {show(METRICS[name], bound)}"
                for name, bound in self._study.constraints.items()
            ]
            lines += ["", f"Constraints: {', '.join(bounds)}."]
        return "\n".join([*lines, "", *self._study.about])

    def _write_note(self, body: str, trial_id: int | None) -> None:
        self._storage.set_study_system_attr(self._id, _note_key(trial_id, _NOTE_VERSION), 1)
        self._write_parts(_note_key(trial_id, _NOTE_TEXT), body, look=trial_id is None)

    def _write_parts(self, prefix: str, text: str, look: bool = True) -> None:
        parts = [text[start : start + _LONGEST] for start in range(0, len(text), _LONGEST)]
        known = self._storage.get_study_system_attrs(self._id) if look else {}
        while f"{prefix}{len(parts)}" in known and known[f"{prefix}{len(parts)}"]:
            parts.append("")  # what is left of a longer text
        for index, part in enumerate(parts):
            if known.get(f"{prefix}{index}") != part:
                self._storage.set_study_system_attr(self._id, f"{prefix}{index}", part)


def _note_key(trial_id: int | None, what: str) -> str:
    return f"dashboard:{what}" if trial_id is None else f"dashboard:{trial_id}:{what}"
