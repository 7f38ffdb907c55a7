"""All meters on one network: their order, and what is kept where one of them does not come to its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from nas.measure import complexity, energy, latency, measurement, subject
from nas.measure.measurement import Measurement, Measuring
from nas.measure.record import SensorError
from nas.measure.settings import MeasureConditions

SHAPE = (3, 8, 8)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))


def conditions(**settings: Any) -> MeasureConditions:
    settings = {"batch_size": 2, "threads": 1, "latency_max_seconds": 0.02} | settings
    return subject.make(nn.Identity(), SHAPE, "cpu", **settings).conditions


@pytest.fixture(autouse=True)
def joules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Energy as it is where there is a sensor."""
    found = energy.Energy(0.5, None, method="rapl", power_w=4.0, idle_reason="never at rest", flags=("doubt",))
    monkeypatch.setattr(energy, "measure", lambda net: found)


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for other tests that measure."""

    @contextmanager
    def exclusive(device: torch.device, seconds: float) -> Iterator[None]:
        yield

    monkeypatch.setattr(measurement, "exclusive", exclusive)


def test_every_meter_in_turn_and_all_of_it_as_flat_figures() -> None:
    stages: list[str] = []
    measuring = Measuring(SHAPE, conditions(), stages.append)
    measuring.count(network())
    measuring.measure(network())
    result = measuring.result()
    assert stages == ["complexity", "waiting for the device", "latency", "memory", "energy"]
    assert Measurement.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert result.latency is not None
    figures = result.figures()
    assert figures["mult_adds"] == 36 * 4 * 27 + 144 * 2
    assert figures["images_per_s"] == pytest.approx(2 / (figures["latency_ms"] / 1e3))
    assert figures["flops_per_s"] == pytest.approx(2 * figures["mult_adds"] * figures["images_per_s"])
    assert (figures["energy_j"], figures["power_w"]) == (0.5, 4.0)
    assert figures["measure_flags"] == (*result.latency.flags, "doubt")
    reasons = result.reasons()
    assert reasons["energy_net_j"] == "never at rest" and "energy_j" not in reasons
    assert {"peak_memory_mb", "process_memory_mb"} <= reasons.keys()


def test_known_complexity_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = complexity.count(network(), SHAPE)
    monkeypatch.setattr(complexity, "count", lambda model, shape: pytest.fail("counted again"))
    measuring = Measuring(SHAPE, conditions(), counted=counted)
    measuring.count(network())
    assert measuring.result().complexity is counted


def test_of_what_is_known_the_latency_alone_is_taken_anew() -> None:
    def stages_of(known: Measurement | None) -> tuple[list[str], Measurement]:
        stages: list[str] = []
        measuring = Measuring(SHAPE, conditions(), stages.append, known=known)
        measuring.count(network())
        measuring.measure(network())
        return stages, measuring.result()

    _, before = stages_of(None)
    stages, after = stages_of(before)
    assert stages == ["waiting for the device", "latency"]
    assert (after.complexity, after.memory, after.energy) == (before.complexity, before.memory, before.energy)
    assert after.latency is not None and after.latency is not before.latency


def test_device_that_stays_taken_costs_all_but_the_counts_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(measurement, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))

    def taken(device: torch.device, seconds: float) -> None:
        clock.now_s += seconds
        raise SensorError("another process measured")

    monkeypatch.setattr(measurement, "exclusive", taken)
    measuring = Measuring(SHAPE, conditions(lock_seconds=600.0))
    measuring.count(network())
    clock.now_s += 2.0
    measuring.measure(network())
    result = measuring.result()
    assert (result.latency, result.memory, result.energy) == (None, None, None)
    lost = ("latency_ms", "latency_iqr_ms", "images_per_s", "flops_per_s", "energy_j", "energy_net_j", "power_w")
    lost = (*lost, "peak_memory_mb", "process_memory_mb", "parameters_mb", "model_file_mb")
    assert result.reasons() == dict.fromkeys(lost, "another process measured")
    assert result.complexity is not None and "latency_ms" not in result.figures()
    assert result.seconds == pytest.approx(2.0)


def test_refused_latency_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(net: subject.Subject) -> latency.Latency:
        raise SensorError("cpu was not alone")

    monkeypatch.setattr(latency, "measure", refuse)
    measuring = Measuring(SHAPE, conditions())
    measuring.measure(network())
    result = measuring.result()
    assert result.reasons()["latency_ms"] == "cpu was not alone"
    assert result.memory is not None and result.figures()["energy_j"] == 0.5


def test_network_that_breaks_keeps_what_was_found_before() -> None:
    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    measuring = Measuring(SHAPE, conditions(energy=False))
    measuring.count(network())
    with pytest.raises(RuntimeError, match="broken"):
        measuring.measure(Breaks())
    result = measuring.result()
    assert result.complexity is not None and result.latency is None
    assert Measurement.from_dict(result.to_dict()) == result


def test_energy_that_is_not_wanted_has_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "measure", lambda net: pytest.fail("measured all the same"))
    measuring = Measuring(SHAPE, conditions(energy=False))
    measuring.measure(network())
    assert measuring.result().reasons()["energy_j"] == "measure.energy is false"
