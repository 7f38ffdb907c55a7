"""One candidate's way is a function of plain data to plain data, also in another process and when a stage fails."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nas.errors import InputError, RunError
from nas.evaluate import EvaluationRequest, evaluate, mean_of_last_third
from nas.measure import energy, latency, lock, memory
from nas.measure.device import resolve_conditions
from nas.measure.record import SensorError
from nas.measure.settings import MeasureSettings
from nas.measure.subject import Subject
from nas.train.data import DataRequest
from nas.train.datasets import Digits
from nas.train.fit import TrainingDiverged
from nas.train.settings import DataSettings, NumericFormat, TrainSettings
from tests.toy import ToyArchitecture, ToySpace

METERS = ["latency", "memory", "energy"]


@pytest.fixture(autouse=True)
def locks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests measure at the same time is no stage of what is evaluated here."""
    monkeypatch.setattr(lock, "_SHARED", tmp_path)


@pytest.fixture
def request_() -> EvaluationRequest:
    settings = MeasureSettings(batch_size=4, latency_max_seconds=0.05)
    return EvaluationRequest(
        space=ToySpace(),
        architecture=ToyArchitecture(8, "a"),
        data=DataRequest(Digits(), DataSettings(), seed=0),
        train=TrainSettings(epochs=1, batch_size=128, peak_lr=0.05),
        numeric=NumericFormat("fp32", "contiguous"),
        measure=resolve_conditions(settings, torch.device("cpu")),
        device="cpu",
        seed=3,
    )


def test_closed_forms(request_: EvaluationRequest) -> None:
    stages: list[str] = []
    found = evaluate(request_, stages.append).metrics
    assert found.params == (9 + 1) * 8 + (8 + 1) * 10
    assert found.mult_adds == 8 * 8 * 9 * 8 + 8 * 10 and found.flops == 2 * found.mult_adds
    assert found.mem_access == 8 * 8 * (1 + 8) + 9 * 8
    assert found.latency_ms is not None and found.images_per_s == pytest.approx(4000 / found.latency_ms)
    assert found.flops_per_s == pytest.approx(found.flops * 4000 / found.latency_ms)
    assert stages == ["data", "build", "complexity", "waiting for the device", *METERS, "train", "train 1/1"]


def test_a_latency_is_timed_briefly_first_and_in_full_when_that_is_asked_for(request_: EvaluationRequest) -> None:
    wanted = replace(request_, train=replace(request_.train, epochs=2), first_latency_seconds=0.02)
    stages: list[str] = []
    first = evaluate(replace(wanted, until_epoch=1, keep_state=True), stages.append)
    assert first.measurement is not None and first.measurement.conditions.latency_max_seconds == 0.02
    assert stages == ["data", "build", "complexity", "waiting for the device", *METERS, "train", "train 1/1"]
    stages.clear()
    trained = evaluate(replace(wanted, begun=first), stages.append)
    assert stages == ["data", "build", "train", "train 2/2"]
    assert trained.measurement == first.measurement and first.metrics.latency_brief and trained.metrics.latency_brief
    stages.clear()
    last = evaluate(replace(wanted, begun=trained, only_measure=True), stages.append)
    assert stages == ["data", "build", "waiting for the device", "latency"]
    assert last.metrics.latency_brief is False and last.metrics.top1 == trained.metrics.top1 and last.metrics.epochs == 2
    assert last.measurement is not None and last.measurement.conditions == request_.measure
    assert last.measurement.memory == first.measurement.memory and last.measurement.complexity == first.measurement.complexity
    assert last.metrics.latency_ms != first.metrics.latency_ms and last.metrics.params == first.metrics.params
    assert (last.metrics.measure_seconds or 0) > (first.metrics.measure_seconds or 0)
    straight = evaluate(wanted).measurement
    assert straight is not None and straight.conditions == request_.measure


def test_a_timing_in_full_that_is_refused_leaves_the_look_and_calls_it_one(
    request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replace(request_, first_latency_seconds=0.02, train=replace(request_.train, epochs=2))
    looked = evaluate(replace(wanted, until_epoch=1))

    def refuse(subject: Subject) -> latency.Latency:
        raise SensorError("others use the device")

    monkeypatch.setattr(latency, "measure", refuse)
    found = evaluate(replace(wanted, begun=looked, only_measure=True))
    assert found.metrics.latency_brief and found.metrics.latency_ms == looked.metrics.latency_ms
    assert found.measurement is not None and looked.measurement is not None
    assert found.measurement.latency == looked.measurement.latency and not found.failure
    assert (
        found.measurement.conditions.latency_max_seconds == 0.02 and found.metrics.measure_flags == looked.metrics.measure_flags
    )
    assert ("latency_ms", "others use the device") in found.measurement.refusals


@pytest.mark.parametrize(("factor", "seconds"), [(1.05, 0.05), (0.95, 0.05), (2.0, 0.02), (0.5, 0.02)])
def test_close_to_a_bound_it_is_timed_in_full_at_once(
    request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch, factor: float, seconds: float
) -> None:
    taken: list[float] = []
    measure = latency.measure

    def always_one(subject: Subject) -> latency.Latency:
        taken.append(subject.conditions.latency_max_seconds)
        found = measure(subject)
        return replace(found, eager=replace(found.eager, median_ms=1.0))

    monkeypatch.setattr(latency, "measure", always_one)
    wanted = replace(request_, train=replace(request_.train, epochs=2), first_latency_seconds=0.02, until_epoch=1)
    found = evaluate(replace(wanted, gate={"latency_ms": factor}))
    assert taken == sorted({0.02, seconds}), "in full only where it may decide"
    assert found.gated_by == (() if factor > 1 else ("latency_ms",))


def test_request_and_evaluation_travel(request_: EvaluationRequest) -> None:
    here = evaluate(request_)
    there = evaluate(pickle.loads(pickle.dumps(request_)))  # noqa: S301 - made a line ago
    assert here.metrics.top1 == there.metrics.top1 and here.metrics.train_loss == there.metrics.train_loss
    assert pickle.loads(pickle.dumps(here)) == here  # noqa: S301


def test_what_is_missing_has_a_reason(request_: EvaluationRequest) -> None:
    evaluation = evaluate(replace(request_, measure=replace(request_.measure, energy=False)))
    assert evaluation.metrics.energy_j is None
    assert evaluation.attributes()["energy_j_reason"] == "measure.energy is false"
    missing = {name for name in ("energy_j", "peak_memory_mb", "process_memory_mb") if getattr(evaluation.metrics, name) is None}
    assert missing <= set(evaluation.reasons)


class BreaksAt(ToySpace):
    """Builds a network that breaks when it is trained, not when it is measured."""

    def build(self, architecture: ToyArchitecture, in_channels: int, num_classes: int) -> torch.nn.Module:
        model = super().build(architecture, in_channels, num_classes)
        first = model[0]  # type: ignore[index]

        def check(module: object, inputs: tuple[torch.Tensor], output: object) -> None:
            if len(inputs[0]) == 128:  # a training batch
                raise KeyError("deep inside")

        first.register_forward_hook(check)
        return model


def test_a_failure_keeps_what_was_measured(request_: EvaluationRequest) -> None:
    evaluation = evaluate(replace(request_, space=BreaksAt()))
    assert evaluation.failure == "error" and evaluation.failure_reason == "train: KeyError: 'deep inside'"
    assert evaluation.metrics.latency_ms is not None and evaluation.metrics.top1 is None


def test_a_failure_gives_no_reasons_of_figures_that_are_there(request_: EvaluationRequest) -> None:
    """They were missing when a rung before was reached, and are there now."""
    first = evaluate(replace(request_, train=replace(request_.train, epochs=2), until_epoch=1, keep_state=True))
    begun = replace(first, reasons={**first.reasons, "latency_ms": "refused", "top1_mean": "not scored", "top5": "not scored"})
    wanted = replace(request_, train=replace(request_.train, epochs=2), space=BreaksAt(), begun=begun)
    found = evaluate(wanted)
    assert found.failure == "error" and found.metrics.latency_ms is not None
    assert all(getattr(found.metrics, name) is None for name in found.reasons)


def test_a_signal_is_not_a_failure(request_: EvaluationRequest) -> None:
    class Stop(BaseException):
        pass

    def stop(stage: str) -> None:
        if stage == "latency":
            raise Stop

    with pytest.raises(Stop):
        evaluate(request_, stop)


def test_data_that_is_gone_is_no_fault_of_the_candidate(request_: EvaluationRequest, tmp_path: Path) -> None:
    from nas.train.folder import ImageFolder

    source = ImageFolder(root=str(tmp_path / "gone"), image_size=8)
    with pytest.raises(InputError, match="gone"):
        evaluate(replace(request_, data=DataRequest(source, DataSettings(), seed=0)))


def test_a_candidate_whose_required_metric_cannot_be_measured_is_not_trained(request_: EvaluationRequest) -> None:
    stages: list[str] = []
    evaluation = evaluate(replace(request_, required=("peak_memory_mb", "latency_ms")), stages.append)
    assert evaluation.failure == "error"
    assert str(evaluation.failure_reason).startswith("measure: SensorError: peak_memory_mb is needed")
    assert "GPU only" in str(evaluation.failure_reason) and "GPU only" in evaluation.attributes()["peak_memory_mb_reason"]
    assert "train" not in stages and evaluation.metrics.latency_ms is not None
    assert evaluate(replace(request_, required=("latency_ms", "top1"))).failure is None


def test_energy_is_required_before_training(request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []
    monkeypatch.setattr(energy, "measure", lambda *_: energy.Energy(None, "the counter stood still"))
    evaluation = evaluate(replace(request_, required=("energy_j",)), stages.append)
    assert (
        evaluation.failure_reason == "measure: SensorError: energy_j is needed and could not be measured: the counter stood still"
    )
    assert stages[-1] == "energy" and evaluation.attributes()["energy_j_reason"] == "the counter stood still"
    assert evaluate(request_).failure is None


def test_what_the_meters_know_is_recorded(request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "measure", lambda *_: energy.Energy(0.5, None, method="rapl", power_w=4.0, flags=("doubt",)))
    monkeypatch.setattr(memory, "measure", lambda *_: memory.Memory(1.0, 1.1, 3.0, None, 4.0, 8.0, 600.0, None))
    flat = evaluate(request_).attributes()
    assert (flat["energy_j"], flat["energy_method"], flat["power_w"]) == (0.5, "rapl", 4.0)
    assert "doubt" in flat["measure_flags"]
    assert (flat["peak_memory_mb"], flat["process_memory_mb"]) == (3.0, 600.0)
    assert isinstance(flat["latency_warm"], bool)


ALIVE: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
"""Every network that has run, copies included, and is still there."""


class Seen(torch.nn.Sequential):
    """Known to ``ALIVE`` and, as many networks are, held by a reference cycle."""

    fails_at: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ALIVE.add(self)
        object.__setattr__(self, "cycle", self)
        if len(x) == self.fails_at:
            raise ValueError("deep inside")
        return super().forward(x)


class SeenSpace(ToySpace):
    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at

    def build(self, architecture: ToyArchitecture, in_channels: int, num_classes: int) -> torch.nn.Module:
        model = Seen(super().build(architecture, in_channels, num_classes))
        model.fails_at = self.fails_at
        return model


def test_nothing_of_a_candidate_stays_alive(request_: EvaluationRequest) -> None:
    at_training: list[int] = []

    def look(stage: str) -> None:
        if stage == "train":
            at_training.append(len(ALIVE))

    ALIVE.clear()
    gc.collect()
    gc.disable()
    try:
        frozen = gc.get_freeze_count()
        for fails_at in (None, 4, 128, None):  # nowhere, while it is timed, while it is trained
            evaluation = evaluate(replace(request_, space=SeenSpace(fails_at)), look)
            assert (evaluation.failure is None) == (fails_at is None)
            assert len(ALIVE) == 0
        assert gc.get_freeze_count() == frozen
    finally:
        gc.enable()
    # The copies that were counted and timed take no memory from the training.
    assert at_training == [0, 0, 0]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out_of_memory",
        ),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out_of_memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "error"),
        (TrainingDiverged(2), "diverged"),
    ],
)
def test_kinds_of_failure(request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(latency, "measure", fail)
    evaluation = evaluate(request_)
    assert evaluation.failure == kind and str(evaluation.failure_reason).startswith(f"latency: {type(error).__name__}: ")


def test_a_spoilt_gpu_ends_the_run_and_not_the_candidate(request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that is not there: every call that would reach it is replaced."""
    calls: list[str] = []
    current: list[torch.device] = []
    trouble: list[Exception] = []

    def load(*_: object) -> None:
        assert current == [torch.device("cuda", 1)]
        raise trouble[0]

    def synchronize(device: torch.device) -> None:
        calls.append(f"synchronize {device}")
        if "illegal" in str(trouble[0]):
            raise trouble[0]

    monkeypatch.setattr("nas.evaluate.load_bundle", load)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    on_gpu = replace(request_, device="cuda:1")

    trouble[:] = [RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")]
    with pytest.raises(RunError, match=r"cuda:1 cannot be used any more .*illegal memory access was encountered\) after .*data:"):
        evaluate(on_gpu)
    current.clear()
    trouble[:] = [torch.OutOfMemoryError("CUDA out of memory")]
    calls.clear()
    assert evaluate(on_gpu).failure == "out_of_memory"
    assert calls == ["synchronize cuda:1", "empty_cache"]
    current.clear()
    trouble[:] = [ValueError("no fault of the GPU")]
    calls.clear()
    assert evaluate(on_gpu).failure == "error"
    assert calls == ["synchronize cuda:1", "empty_cache"], "what it keeps reserved, a neighbour that is tried alone does not have"


def test_evaluating_needs_neither_optuna_nor_hydra() -> None:
    check = (
        "import sys, nas.evaluate, nas.tables; sys.exit(bool({'optuna', 'hydra', 'omegaconf', 'pydantic'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# ---- the gate, and a way in stretches


@pytest.mark.parametrize(
    ("gate", "gated_by", "met", "unmet"),
    [
        ({"params": 10.0, "latency_ms": 1e9}, ("params",), ["complexity"], ["latency_ms", "energy_j", "peak_memory_mb"]),
        ({"latency_ms": 1e-9}, ("latency_ms",), ["complexity", "latency"], ["energy_j", "peak_memory_mb"]),
        ({"params": 10.0, "mult_adds": 1.0}, ("params", "mult_adds"), ["complexity"], ["latency_ms"]),
    ],
)
def test_a_candidate_that_misses_a_bound_is_neither_measured_on_nor_trained(
    request_: EvaluationRequest, gate: dict[str, float], gated_by: tuple[str, ...], met: list[str], unmet: list[str]
) -> None:
    stages: list[str] = []
    found = evaluate(replace(request_, gate=gate, required=("top1", "latency_ms")), stages.append)
    assert found.gated_by == gated_by and found.failure is None
    assert found.metrics.top1 is None and found.metrics.params is not None
    assert [stage for stage in stages if stage in ("complexity", "latency", "energy", "memory", "train")] == met
    reason = f"the network misses the bound of {' and '.join(gated_by)}"
    assert {name: found.reasons[name] for name in unmet} == dict.fromkeys(unmet, reason)
    attributes = found.attributes()
    assert attributes["gated_by"] == list(gated_by) and attributes["fidelity"] == 0


def test_a_bound_that_is_kept_or_only_known_after_training_gates_nothing(request_: EvaluationRequest) -> None:
    found = evaluate(replace(request_, gate={"params": 1e9, "top1": 1.0}))
    assert found.gated_by == () and found.metrics.top1 is not None
    assert "gated_by" not in found.attributes() and found.attributes()["fidelity"] == 1


def test_a_way_in_stretches_ends_where_one_in_one_go_does(request_: EvaluationRequest) -> None:
    whole = replace(request_, train=replace(request_.train, epochs=6), scored=(2, 4, 5), keep_weights=True)
    wanted = evaluate(whole)
    stages: list[str] = []
    first = evaluate(replace(whole, until_epoch=2, keep_state=True), stages.append)
    assert first.metrics.epochs == 2 and first.weights is None and first.state is not None
    assert first.metrics.curve == wanted.metrics.curve[:1]
    second = evaluate(replace(whole, until_epoch=4, begun=first, keep_state=True))
    stages.clear()
    last = evaluate(replace(whole, begun=second), stages.append)
    assert stages == ["data", "build", "train", "train 5/6", "train 6/6"]  # nothing is measured again
    assert last.measurement == first.measurement and last.metrics.latency_ms == first.metrics.latency_ms
    assert last.state is None and last.weights == wanted.weights
    same = ("top1", "top5", "train_loss", "curve", "epochs", "top1_mean", "train_loss_area", "params")
    assert [getattr(last.metrics, name) for name in same] == [getattr(wanted.metrics, name) for name in same]


@pytest.mark.parametrize("state", [b"", b"PK damaged", "of another network"])
def test_a_state_that_cannot_be_used_is_begun_anew(request_: EvaluationRequest, state: bytes | str) -> None:
    """As every attempt would come to the same state, the trial would be begun for ever."""
    whole = replace(request_, train=replace(request_.train, epochs=2), keep_weights=True, keep_state=True)
    first = evaluate(replace(whole, until_epoch=1))
    if isinstance(state, str):
        state = evaluate(replace(whole, until_epoch=1, architecture=ToyArchitecture(9, "a"))).state or b""
    stages: list[str] = []
    again = evaluate(replace(whole, begun=replace(first, state=state)), stages.append)
    wanted = evaluate(whole)
    assert stages == ["data", "build", "train", "build", "train", "train 1/2", "train 2/2"], "nothing is measured again"
    assert again.failure is None and again.weights == wanted.weights
    assert again.metrics.train_loss == wanted.metrics.train_loss and again.metrics.latency_ms == first.metrics.latency_ms


def test_exhausted_memory_while_a_state_is_restored_is_the_candidates_failure(
    request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replace(request_, train=replace(request_.train, epochs=2))
    first = evaluate(replace(wanted, until_epoch=1, keep_state=True))

    def load(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "load", load)
    found = evaluate(replace(wanted, begun=first))
    assert found.failure == "out_of_memory" and str(found.failure_reason).startswith("train: OutOfMemoryError")


def test_waiting_for_who_measures_is_a_stage_and_no_part_of_the_training(
    request_: EvaluationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [10.0]

    class Busy:
        """A device on which another process measures after each epoch."""

        def __init__(self, device: torch.device, on_wait: Callable[[], None]) -> None:
            self.waited_s, self._on_wait = 0.0, on_wait

        def __enter__(self) -> Busy:
            self.give_way()
            return self

        def __exit__(self, *_: object) -> None: ...

        def give_way(self) -> None:
            self._on_wait()
            now_s[0] += 1000.0
            self.waited_s += 1000.0

    monkeypatch.setattr("nas.evaluate.Shared", Busy)
    monkeypatch.setattr("nas.train.fit.time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    stages: list[str] = []
    found = evaluate(replace(request_, train=replace(request_.train, epochs=2)), stages.append)
    assert found.metrics.train_seconds == 0.0
    waiting = "waiting for the device"
    at_last = [waiting, "train", "train 1/2", waiting, "train 1/2", "train 2/2", waiting, "train 2/2"]
    assert stages == ["data", "build", "complexity", waiting, *METERS, *at_last]


def test_proxies_are_what_they_say(request_: EvaluationRequest) -> None:
    found = evaluate(replace(request_, train=replace(request_.train, epochs=6), scored=(1, 5))).metrics
    tops = dict(found.curve)
    assert list(tops) == [1, 5, 6] and tops[6] == found.top1
    assert found.top1_mean == pytest.approx((tops[5] + tops[6]) / 2)  # the last third of six epochs
    assert found.train_loss_area == pytest.approx(sum(found.train_loss) / 6)


@pytest.mark.parametrize(
    ("scored", "epochs", "mean"),
    [
        ([1, 2, 3, 4, 5, 6], 6, 0.55),
        ([5, 6], 6, 0.55),
        ([2, 6], 6, None),  # the fifth is of the last third too
        ([6], 6, None),
        ([2], 2, 0.2),
        ([1], 1, 0.1),
        ([], 3, None),
    ],
)
def test_the_mean_over_the_last_third_is_of_all_its_epochs(scored: list[int], epochs: int, mean: float | None) -> None:
    found = mean_of_last_third([(epoch, 0.1 * epoch) for epoch in scored], epochs)
    assert found == (None if mean is None else pytest.approx(mean))


class Leaving(ToySpace):
    """Ends the program while it builds."""

    def build(self, architecture: ToyArchitecture, in_channels: int, num_classes: int) -> torch.nn.Module:
        sys.exit(0)


def test_a_candidate_that_ends_the_program_ends_itself_alone(request_: EvaluationRequest) -> None:
    found = evaluate(replace(request_, space=Leaving()))
    assert found.failure == "crash" and found.failure_reason == "build: SystemExit: 0"
