"""One candidate's way is a function of plain data to plain data, also in another process and when a stage fails."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.evaluate import Evaluation, EvaluationRequest, evaluate
from nas.measure.device import resolve_conditions
from nas.measure.settings import MeasureSettings
from nas.train.data import DataRequest
from nas.train.datasets import Digits
from nas.train.settings import DataSettings, NumericFormat, TrainSettings
from tests.toy import ToyArchitecture, ToySpace


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
    assert stages == ["data", "build", "complexity", "latency", "memory", "energy", "train", "train 1/1"]


def test_request_and_evaluation_travel(request_: EvaluationRequest) -> None:
    here = evaluate(request_)
    there = evaluate(pickle.loads(pickle.dumps(request_)))  # noqa: S301 - made a line ago
    assert here.metrics.top1 == there.metrics.top1 and here.metrics.train_loss == there.metrics.train_loss
    assert pickle.loads(pickle.dumps(here)) == here  # noqa: S301


def test_what_is_missing_has_a_reason(request_: EvaluationRequest) -> None:
    evaluation = evaluate(replace(request_, with_energy=False))
    assert evaluation.metrics.energy_j is None
    assert evaluation.attributes()["energy_j_reason"] == "measure.energy is false"
    missing = {name for name in ("energy_j", "peak_memory_mb") if getattr(evaluation.metrics, name) is None}
    assert set(evaluation.reasons) == missing


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


def test_a_signal_is_not_a_failure(request_: EvaluationRequest) -> None:
    class Stop(BaseException):
        pass

    def stop(stage: str) -> None:
        if stage == "latency":
            raise Stop

    with pytest.raises(Stop):
        evaluate(request_, stop)


def test_data_that_cannot_be_read_is_a_failure_of_the_trial(request_: EvaluationRequest, tmp_path: Path) -> None:
    from nas.train.datasets import ImageFolder

    source = ImageFolder(root=str(tmp_path / "gone"), image_size=8)
    evaluation: Evaluation = evaluate(replace(request_, data=DataRequest(source, DataSettings(), seed=0)))
    assert evaluation.failure == "error" and "gone" in str(evaluation.failure_reason)
