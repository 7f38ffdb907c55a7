"""What happens within one network's process, run here in this one: each end is a file with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas.benchmarking import job
from nas.benchmarking.job import Job, describe
from nas.benchmarking.results import Key, Result, read
from nas.errors import InputError
from nas.measure import latency
from nas.measure.record import SensorError
from nas.measure.settings import MeasureSettings
from nas.measure.subject import Subject

QUICK = MeasureSettings(precision="fp32", latency_max_seconds=0.05, energy=False)


def run(folder: Path, *batch_sizes: int, word: str = "preset:osa_densenet40", num_classes: int = 10) -> list[Result]:
    keys = tuple(Key(word, "preset", "osa", (3, 32, 32), num_classes, "fp32", size) for size in batch_sizes)
    job.run(Job(word, keys, 32, num_classes, QUICK, "cpu", folder))
    return [read(folder / key.file_name) for key in keys]


def test_batches_in_turn(tmp_path: Path) -> None:
    small, large = run(tmp_path, 1, 2)
    assert (small.status, large.status) == ("measured", "measured")
    assert small.measurement is not None and large.measurement is not None
    assert small.measurement.complexity == large.measurement.complexity
    assert large.measurement.conditions.batch_size == 2
    assert large.measurement.reasons()["energy_j"] == "measure.energy is false"


def test_out_of_memory_ends_the_larger_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = latency.measure

    def exhausted(net: Subject) -> latency.Latency:
        if net.conditions.batch_size > 1:
            raise torch.OutOfMemoryError("tried to allocate 3 GiB\nand more")
        return measure(net)

    monkeypatch.setattr(latency, "measure", exhausted)
    results = run(tmp_path, 1, 2, 4)
    assert [result.status for result in results] == ["measured", "out_of_memory", "out_of_memory"]
    assert results[1].reason == "latency: tried to allocate 3 GiB"
    assert results[2].reason == "not tried: batch 2 ran out of memory"
    # What was counted before is kept.
    assert results[1].measurement is not None and results[1].measurement.complexity is not None


def test_a_failure_leaves_the_other_batches_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = latency.measure

    def odd(net: Subject) -> latency.Latency:
        if net.conditions.batch_size == 1:
            raise ValueError("one image has no variance")
        return measure(net)

    monkeypatch.setattr(latency, "measure", odd)
    one, two = run(tmp_path, 1, 2)
    assert (one.status, one.reason, two.status) == ("failed", "latency: one image has no variance", "measured")


def test_a_refusal_is_a_failure_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(net: Subject) -> latency.Latency:
        raise SensorError("others kept 2 of 2 CPUs busy")

    monkeypatch.setattr(latency, "measure", refused)
    (result,) = run(tmp_path, 1)
    assert (result.status, result.reason) == ("failed", "others kept 2 of 2 CPUs busy")


def test_a_network_that_cannot_be_built(tmp_path: Path) -> None:
    (result,) = run(tmp_path, 1, word="vovnet99")
    assert result.status == "failed" and str(result.reason).startswith("build: model 'vovnet99' is not known")


def test_the_device_is_described_or_refused() -> None:
    device, (fp32, bf16) = describe("cpu", (QUICK, MeasureSettings(precision="bf16")))
    assert device.agreed.kind == "cpu" and (fp32.precision, bf16.precision) == ("fp32", "bf16")
    with pytest.raises(InputError, match=r"precisions: tf32 cannot be used on device=cpu: TF32 is .*; take it out"):
        describe("cpu", (MeasureSettings(precision="tf32"),))
