from __future__ import annotations

from typing import Any

import pytest
import torch
from simulated import SimulatedStream

from nas.measure import energy, latency


def test_each_pass_is_timed_by_its_own_events(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimulatedStream(pass_s=0.003)
    stream.install(monkeypatch, latency)
    model: Any = stream.model
    result = latency._measure_gpu(model, torch.zeros(8, 1), max_seconds=2.0)
    assert (result.stop_reason, result.warm, result.passes_per_sample) == ("converged", True, 1)
    assert result.samples_ms == pytest.approx([3.0] * len(result.samples_ms))
    assert (result.median_ms, result.iqr_ms) == (pytest.approx(3.0), pytest.approx(0.0, abs=1e-9))
    # Three pairs of events to learn how long a pass takes, then one block's pairs, used again and again.
    assert stream.events == 2 * (3 + round(0.05 / 0.003)) < len(result.samples_ms)
    # Half a second of warming up, half a second of samples.
    assert stream.now_s == pytest.approx(1.05, abs=0.1)


def test_slow_network_is_not_timed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimulatedStream(pass_s=1.0)
    stream.install(monkeypatch, latency)
    model: Any = stream.model
    result = latency._measure_gpu(model, torch.zeros(8, 1), max_seconds=2.0)
    assert len(result.samples_ms) == 10
    assert stream.passes <= 4 + 3 + 10


@pytest.mark.parametrize("pass_s", [0.0002, 0.004, 0.25])
def test_energy_load_never_lets_the_device_idle(monkeypatch: pytest.MonkeyPatch, pass_s: float) -> None:
    stream = SimulatedStream(pass_s)
    stream.install(monkeypatch, energy)
    model: Any = stream.model
    poll = energy.gpu_load(model, torch.zeros(8, 1))
    poll()
    stream.idle_s = 0.0

    def counter_j() -> float:
        return 300 * 0.1 * int(stream.now_s / 0.1 + 1e-9)

    window = energy.counter_window(counter_j, poll, 5.0, stream.clock)
    assert stream.idle_s == pytest.approx(0, abs=1e-9)
    assert window.joules_per_image == pytest.approx(300 * pass_s / 8, rel=3e-3)
