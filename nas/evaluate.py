"""One candidate's way: build, count, measure, gate, train. Plain data in and out; knows nothing of studies or samplers.

The way can be walked in stretches: a training ends after so many epochs, and another request goes on from its state.
"""

from __future__ import annotations

import gc
import math
import statistics
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import nn

from nas.analyse.tradeoffs import violations
from nas.errors import InputError, RunError
from nas.failures import first_line, is_out_of_memory
from nas.measure.lock import Shared
from nas.measure.measurement import WAITING, Measurement, Measuring
from nas.measure.record import SensorError
from nas.measure.settings import MeasureConditions
from nas.metrics import METRICS
from nas.train.data import DataBundle, DataRequest, load_bundle
from nas.train.fit import StateError, TrainingDiverged, fit
from nas.train.settings import NumericFormat, TrainSettings
from search_spaces.base import Architecture, SearchSpace

Failure = Literal["out_of_memory", "timeout", "crash", "diverged", "error"]
OnStage = Callable[[str], None]

_LOG_CHARACTERS = 4000
_CLOSE = 0.1


@dataclass(frozen=True)
class EvaluationRequest:
    """All that it takes to evaluate one candidate, in this process or another; picklable.

    Attributes:
        seed: Origin of the initial weights, the order of images and the augmentation; equal for all candidates of a study,
            so that they are compared on equal terms.
        required: Metrics that must be measured: a candidate for which one cannot be is not trained.
        gate: Bounds by metric: a candidate that misses one that is known before it is trained is not trained.
        until_epoch: Epochs after which the training stops, counted from its beginning; ``None`` trains to the end.
        first_latency_seconds: How long the latency is timed at most before a training that may be stopped early; it is timed in
            full at once only if that decides whether a bound is kept.
        scored: Further epochs after which the network is scored.
        begun: What an earlier evaluation of this candidate came to, with its state: the training goes on from there, and
            nothing is measured again; with ``only_measure``, what was timed briefly is timed in full and nothing is trained.
        keep_state: Whether the evaluation carries what it takes to go on.
        keep_weights: Whether the evaluation carries the trained weights, if the training came to its end.
        only_measure: Whether the way ends before the training, which another device goes on with or which is over.
    """

    space: SearchSpace
    architecture: Architecture
    data: DataRequest
    train: TrainSettings
    numeric: NumericFormat
    measure: MeasureConditions
    device: str
    seed: int
    required: tuple[str, ...] = ()
    gate: Mapping[str, float] = field(default_factory=dict)
    until_epoch: int | None = None
    first_latency_seconds: float | None = None
    scored: tuple[int, ...] = ()
    begun: Evaluation | None = None
    keep_state: bool = False
    keep_weights: bool = False
    only_measure: bool = False

    @property
    def measures(self) -> bool:
        """Whether anything is to be measured: nothing was, or only briefly and that is to be made good."""
        return self.begun is None or (self.only_measure and bool(self.begun.metrics.latency_brief))

    @property
    def times_briefly(self) -> bool:
        """Whether a first look at the latency is enough for now."""
        first_s, whole_s = self.first_latency_seconds, self.measure.latency_max_seconds
        return self.begun is None and self.until_epoch is not None and first_s is not None and first_s < whole_s


@dataclass(frozen=True)
class Metrics:
    """What was found out about one candidate, under the names that a trial records. ``None`` was not measured.

    Attributes:
        latency_ms: Median for the whole batch; ``latency_graph_ms`` and its like are the variants that were asked for.
        latency_noise: Relative standard deviation of its blocks' means, where it is timed by blocks.
        latency_warm: Whether times had stopped drifting when timing began.
        latency_brief: Whether it was timed no longer than ``first_latency_seconds``; see ``nas.first_look``.
        energy_j: Gross joules per image; ``energy_net_j`` without what the idle device spends.
        energy_uncertainty_j: What the sensor's ticks and the spread of windows leave open, without the sensor's bias.
        peak_memory_mb: Highest memory asked for during a forward pass.
        process_memory_mb: All that the process held on the GPU after it, data and CUDA context included.
        epochs: Epochs that it was trained for; fewer than the recipe's if it was stopped.
        train_loss: Mean smoothed loss of each epoch; ``train_loss_area`` is their mean, the area under that curve per epoch.
        curve: Epochs after which it was scored, with the ``top1`` of each; ``top1_mean`` is the mean of those in the last third
            of the epochs so far.
        measure_flags: What makes the figures doubtful, such as another load on the device.
        measure_seconds: Wall time of counting and measuring, without waiting for the device.
    """

    architecture_id: str
    top1: float | None = None
    top5: float | None = None
    params: int | None = None
    mult_adds: int | None = None
    flops: int | None = None
    mem_access: int | None = None
    mem_access_bound: float | None = None
    latency_ms: float | None = None
    latency_iqr_ms: float | None = None
    latency_noise: float | None = None
    latency_stop_reason: str | None = None
    latency_warm: bool | None = None
    latency_brief: bool | None = None
    latency_graph_ms: float | None = None
    latency_compiled_ms: float | None = None
    latency_enqueue_ms: float | None = None
    latency_cold_ms: float | None = None
    compile_seconds: float | None = None
    images_per_s: float | None = None
    flops_per_s: float | None = None
    energy_j: float | None = None
    energy_uncertainty_j: float | None = None
    energy_net_j: float | None = None
    energy_method: str | None = None
    power_w: float | None = None
    idle_power_w: float | None = None
    parameters_mb: float | None = None
    model_file_mb: float | None = None
    peak_memory_mb: float | None = None
    reserved_memory_mb: float | None = None
    process_memory_mb: float | None = None
    epochs: int | None = None
    train_loss: tuple[float, ...] | None = None
    train_loss_area: float | None = None
    curve: tuple[tuple[int, float], ...] | None = None
    top1_mean: float | None = None
    train_seconds: float | None = None
    measure_flags: tuple[str, ...] = ()
    measure_seconds: float | None = None


def metrics_of(attributes: Mapping[str, Any]) -> Metrics:
    """Return the metrics that a trial's attributes hold, as ``Evaluation.attributes`` wrote them and JSON kept them."""
    found: dict[str, Any] = {f.name: attributes.get(f.name) for f in fields(Metrics)}
    found["measure_flags"] = tuple(found["measure_flags"] or ())
    found["train_loss"] = None if found["train_loss"] is None else tuple(found["train_loss"])
    if found["curve"] is not None:
        found["curve"] = tuple((int(epoch), float(top1)) for epoch, top1 in found["curve"])
    return Metrics(**found)


@dataclass(frozen=True)
class Evaluation:
    """The end of one candidate's way.

    Attributes:
        metrics: All that was measured, also when a later stage failed.
        reasons: For each metric that is ``None``, why.
        failure: Kind of failure, ``None`` if there was none.
        failure_reason: One sentence: stage, kind and message.
        failure_log: The end of what the failure left behind: a traceback, or the worker's log.
        worker: Which worker evaluated it, with host and device; ``None`` for the process of the study itself.
        measured_by: Likewise, which one measured it, where another one trained it.
        begun: How often its evaluation was begun: more than once if workers were killed from outside.
        measurement: Everything that the meters recorded, raw samples included; ``None`` if none was reached.
        gated_by: The bounds that it misses, for which it was not trained.
        weights: The trained weights as a safetensors file, if they were asked for and training came to its end.
        state: What it takes to go on, if that was asked for.
    """

    metrics: Metrics
    reasons: dict[str, str] = field(default_factory=dict)
    failure: Failure | None = None
    failure_reason: str | None = None
    measurement: Measurement | None = None
    failure_log: str | None = None
    worker: str | None = None
    measured_by: str | None = None
    begun: int = 1
    gated_by: tuple[str, ...] = ()
    weights: bytes | None = field(default=None, repr=False)
    state: bytes | None = field(default=None, repr=False)

    def attributes(self) -> dict[str, Any]:
        """Return flat JSON-able attributes: every metric, ``<metric>_reason`` where it is missing, gate and failure."""
        flat = {f.name: getattr(self.metrics, f.name) for f in fields(self.metrics)}
        flat["measure_flags"] = list(self.metrics.measure_flags)
        flat["fidelity"] = self.metrics.epochs or 0
        flat |= {f"{name}_reason": reason for name, reason in self.reasons.items()}
        if self.gated_by:
            flat["gated_by"] = list(self.gated_by)
        if self.failure:
            flat |= {"failure": self.failure, "failure_reason": self.failure_reason, "failure_log": self.failure_log}
        if self.worker:
            flat["worker"] = self.worker
        if self.measured_by:
            flat["measured_by"] = self.measured_by
        return flat


def evaluate(request: EvaluationRequest, on_stage: OnStage = lambda stage: None) -> Evaluation:
    """Build, count, measure and briefly train one candidate.

    Args:
        request: What to evaluate and how.
        on_stage: Called with the name of each stage as it begins.

    Returns:
        What was measured; a candidate that diverges, runs out of memory or raises is a result with its failure, not an exception.
        Nothing of the candidate stays alive.

    Raises:
        InputError: The user can mend what is wrong, such as a data folder that is gone; no fault of the candidate.
        RunError: The GPU cannot be used any more by this process; what the candidate is worth remains unknown.
    """
    where = torch.device(request.device)
    with _swept():
        way = _Way(request, on_stage)
        try:
            if where.type == "cuda":
                torch.cuda.set_device(where)  # a loader pins memory, and libraries allocate, on the current device
            way.walk()
        except InputError:
            raise
        except SystemExit as error:  # a network's own, which would end the search
            if isinstance(error.__context__, KeyboardInterrupt):  # what Lightning makes of Ctrl-C
                raise
            evaluation = way.failed("crash", error)
        except Exception as error:  # noqa: BLE001 - any candidate may break in any way, and the search must go on
            evaluation = way.failed(_kind(error), error)
        else:
            evaluation = way.result()
    if where.type == "cuda":
        if evaluation.failure:
            _check_usable(where, evaluation)
        # What is left is split into blocks of this candidate's sizes, and no neighbour on the GPU could have it meanwhile. A GPU
        # that was spoilt in silence shows where it is used next.
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
    return evaluation


def _kind(error: Exception) -> Failure:
    if isinstance(error, TrainingDiverged):
        return "diverged"
    return "out_of_memory" if is_out_of_memory(error) else "error"


def _check_usable(where: torch.device, evaluation: Evaluation) -> None:
    # A faulty kernel spoils the CUDA context for good: every later candidate would fail of this one's fault.
    try:
        torch.cuda.synchronize(where)
    except RuntimeError as error:
        raise RunError(
            f"{where} cannot be used any more by this process ({first_line(error)}) after a candidate failed "
            f"({evaluation.failure_reason}): start the command again to go on."
        ) from error


@contextmanager
def _swept() -> Iterator[None]:
    """Collect, at the end of the block, what it left in reference cycles; they hold models, and so the GPU's memory.

    Objects from before the block are set aside meanwhile: with torch and its company loaded, looking through all of them
    takes a few tenths of a second.
    """
    aside = gc.get_freeze_count() == 0
    if aside:
        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        if aside:
            gc.unfreeze()


NOT_SCORED = "not every epoch of the last third was scored: proxy=mean, or top1_mean among the objectives, does"


def mean_of_last_third(curve: Sequence[tuple[int, float]], epochs: int) -> float | None:
    """Return the mean accuracy after the epochs of the last third; ``None`` if one of them was not scored."""
    scored = dict(curve)
    late = [scored.get(epoch) for epoch in range(1, epochs + 1) if epoch > epochs * 2 / 3]
    known = [top1 for top1 in late if top1 is not None]
    return statistics.mean(known) if known and len(known) == len(late) else None


def is_close_to_a_bound(found: Mapping[str, Any], gate: Mapping[str, float]) -> bool:
    """Whether a figure that was taken briefly is too close to a bound to say on which side of it the network is."""
    known = {metric: found.get(metric) for metric in gate if METRICS[metric].stage == "latency"}
    return any(value is not None and abs(value - gate[metric]) <= _CLOSE * abs(gate[metric]) for metric, value in known.items())


def _packed(model: nn.Module) -> bytes:
    from safetensors.torch import save

    state = model.state_dict()
    return save({name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()})


class _Way:
    """The metrics gathered so far on one candidate's way, so that a failure keeps what was measured before it."""

    def __init__(self, request: EvaluationRequest, on_stage: OnStage) -> None:
        self.request = request
        self.on_stage = on_stage
        self.stage = "build"
        self.found: dict[str, Any] = {"architecture_id": request.architecture.id}
        self.reasons: dict[str, str] = {}
        self.measurement: Measurement | None = None
        self.gated_by: tuple[str, ...] = ()
        self.weights: bytes | None = None
        self.state: bytes | None = None

    def walk(self) -> None:
        request = self.request
        self._enter("data")
        bundle = load_bundle(request.data, torch.device(request.device))
        model = self._build(bundle)
        if request.begun is not None:
            self.found = {f.name: getattr(request.begun.metrics, f.name) for f in fields(Metrics)}
            self.reasons, self.measurement = dict(request.begun.reasons), request.begun.measurement
        if request.measures:
            self._measure(model, bundle.input_shape)
            gc.collect()  # the copies that were counted and timed, where reference cycles hold them
        if self.gated_by or request.only_measure:
            return
        if request.begun is not None and request.begun.state is not None:
            try:
                self._train(model, bundle, request.begun.state)
            except StateError:
                # The next attempt would come to the same state. A part of it may be in the network by now.
                model = self._build(bundle)
            else:
                return
        self._train(model, bundle, None)

    def _build(self, bundle: DataBundle) -> nn.Module:
        self._enter("build")
        torch.manual_seed(self.request.seed)
        return self.request.space.build(self.request.architecture, bundle.input_shape[0], bundle.num_classes)

    def _measure(self, model: nn.Module, input_shape: tuple[int, int, int]) -> None:
        request, first_s = self.request, self.request.first_latency_seconds
        if request.times_briefly:
            assert first_s is not None
            self._measure_by(replace(request.measure, latency_max_seconds=first_s), model, input_shape)
        if not request.times_briefly or is_close_to_a_bound(self.found, request.gate):
            self._measure_by(request.measure, model, input_shape)
        if self.gated_by:
            return
        for metric in request.required:
            if METRICS[metric].stage != "train" and self.found.get(metric) is None:
                reason = self.reasons.get(metric) or "; ".join(self.reasons.values()) or "no reason was given"
                raise SensorError(f"{metric} is needed and could not be measured: {reason}")

    def _measure_by(self, conditions: MeasureConditions, model: nn.Module, input_shape: tuple[int, int, int]) -> None:
        before = self.measurement
        measuring = Measuring(input_shape, conditions, self._enter, known=before)

        def gated() -> str | None:
            if not self.request.gate:
                return None
            known = violations(measuring.result().figures(), self.request.gate)
            self.gated_by = tuple(name for name, miss in known.items() if miss > 0)
            return f"the network misses the bound of {' and '.join(self.gated_by)}" if self.gated_by else None

        try:
            measuring.count(model)
            measuring.measure(model, gated)
        finally:
            self.measurement = measuring.result()
            if self.measurement.latency is None and before is not None and before.latency is not None:
                # The look stays what is known; why there is no more than that stands among the refusals.
                self.measurement = replace(self.measurement, latency=before.latency, conditions=before.conditions)
            spent_s = 0.0 if before is None else self.found["measure_seconds"]
            self.found |= self.measurement.figures()
            self.found["measure_seconds"] += spent_s
            if self.measurement.latency is not None:
                taken_s = self.measurement.conditions.latency_max_seconds
                self.found["latency_brief"] = taken_s < self.request.measure.latency_max_seconds
            self.reasons |= self.measurement.reasons()
        self.stage = "measure"
        gated()

    def _train(self, model: nn.Module, bundle: DataBundle, state: bytes | None) -> None:
        request, device = self.request, torch.device(self.request.device)
        with Shared(device, lambda: self.on_stage(WAITING)) as hold:
            self._enter("train")

            def on_epoch(done: int, total: int) -> float:
                before_s = hold.waited_s
                self.on_stage(f"train {done}/{total}")
                hold.give_way()
                if hold.waited_s > before_s:
                    self.on_stage(f"train {done}/{total}")
                return hold.waited_s - before_s

            trained = fit(
                model,
                bundle,
                request.train,
                request.numeric,
                device,
                request.seed,
                until_epoch=request.until_epoch,
                resume=state,
                keep_state=request.keep_state,
                scored=request.scored,
                on_epoch=on_epoch,
            )
        curve = tuple((point.epoch, point.top1) for point in trained.curve)
        self.reasons["top1_mean"] = NOT_SCORED
        self.found |= {
            "top1": trained.top1,
            "top1_mean": mean_of_last_third(curve, trained.epochs),
            "top5": trained.top5,
            "epochs": trained.epochs,
            "train_loss": trained.train_loss,
            "train_loss_area": statistics.mean(trained.train_loss),
            "curve": curve,
            "train_seconds": trained.train_seconds,
        }
        self.state = trained.state
        if request.keep_weights and trained.epochs == request.train.epochs:
            self.weights = _packed(model)

    def _enter(self, stage: str) -> None:
        self.stage = stage
        self.on_stage(stage)

    def result(self) -> Evaluation:
        metrics, reasons = self._told()
        return Evaluation(
            metrics,
            reasons,
            measurement=self.measurement,
            gated_by=self.gated_by,
            weights=self.weights,
            state=self.state,
        )

    def failed(self, failure: Failure, error: BaseException) -> Evaluation:
        reason = f"{self.stage}: {type(error).__name__}: {first_line(error)}"[:500]
        log = "".join(traceback.format_exception(error))[-_LOG_CHARACTERS:]
        return Evaluation(*self._told(), failure, reason, self.measurement, log)

    def _told(self) -> tuple[Metrics, dict[str, str]]:
        """Return all that was found, and the reasons of what was not."""
        for name, value in self.found.items():
            if isinstance(value, float) and not math.isfinite(value):  # no figure to compare, and no plain data
                self.found[name], self.reasons[name] = None, f"it came out as {value}"
        return Metrics(**self.found), {name: reason for name, reason in self.reasons.items() if self.found.get(name) is None}
