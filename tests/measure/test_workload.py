from __future__ import annotations

from typing import Any

import pytest
import torch
from simulated import SimulatedStream
from torch import nn

from nas.measure import subject, workload
from nas.measure.subject import Subject
from nas.measure.windows import EnergyWindow, Output, counter_span


def on_stream(stream: SimulatedStream) -> Subject:
    model: Any = stream.model
    conditions = subject.make(nn.Identity(), (1, 4, 4), device="cpu", batch_size=8).conditions
    return Subject(model, torch.zeros(8, 1), conditions)


@pytest.mark.parametrize("pass_s", [0.00002, 0.0002, 0.004, 0.25])
def test_gpu_never_idles_and_its_output_is_exact(monkeypatch: pytest.MonkeyPatch, pass_s: float) -> None:
    stream = SimulatedStream(pass_s)
    stream.install(monkeypatch, workload)
    poll = workload._gpu_poll(on_stream(stream))
    poll()
    stream.idle_s = 0.0

    def counter_j() -> float:
        return 300 * 0.1 * int(stream.now_s / 0.1 + 1e-9)

    output = Output(poll, stream.clock)
    window = EnergyWindow.of(counter_span(counter_j, output, 5.0, stream.clock), output)
    assert stream.idle_s == pytest.approx(0, abs=1e-9)
    assert window.seconds_per_image == pytest.approx(pass_s / 8, rel=1e-6)
    assert window.energy_j == pytest.approx(300 * pass_s / 8, rel=3e-3)


@pytest.mark.parametrize(("pass_s", "passes", "blocks"), [(0.00002, 500, 4), (0.004, 2, 5), (0.25, 1, 2)])
def test_a_few_blocks_of_ten_milliseconds_are_queued(
    monkeypatch: pytest.MonkeyPatch, pass_s: float, passes: int, blocks: int
) -> None:
    stream = SimulatedStream(pass_s)
    stream.install(monkeypatch, workload)
    assert workload._block(on_stream(stream)) == (passes, pytest.approx(passes * pass_s))
    assert stream.now_s <= max(0.04, 2 * pass_s)
    poll = workload._gpu_poll(on_stream(stream))
    before = stream.passes
    monkeypatch.setattr(workload.time, "sleep", lambda seconds: None)
    for _ in range(20):
        assert poll() is None
    assert stream.passes - before == passes * blocks


def test_cpu_runs_one_pass_a_poll() -> None:
    seen = []

    class Seen(nn.Identity):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            seen.append(input.shape)
            return input

    conditions = subject.make(nn.Identity(), (1, 4, 4), device="cpu", batch_size=2).conditions
    with workload.busy(Subject(Seen(), torch.zeros(2, 1, 4, 4), conditions)) as poll:
        first, second = poll(), poll()
    assert first is not None and second is not None
    assert (first.images, len(seen)) == (2, 2)
    assert second.at_s >= first.at_s
