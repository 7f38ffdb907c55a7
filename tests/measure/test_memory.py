from __future__ import annotations

import io
import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from simulated import SimulatedBoard
from torch import nn

from nas.measure import device, memory, subject


def test_cpu_gives_sizes_and_a_reason_for_the_rest() -> None:
    net = subject.make(nn.Conv2d(3, 10, 1), (3, 4, 4), device="cpu", batch_size=1)
    result = memory.measure(net)
    assert result.parameters_mb == 40 * 4 / 1e6
    assert result.model_file_mb > result.parameters_mb
    assert {result.peak_memory_mb, result.allocated_mb, result.reserved_mb, result.process_mb} == {None}
    assert result.reason == result.process_reason == device.unavailable("peak_memory_mb", torch.device("cpu"))
    assert memory.Memory.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_sizes_are_those_published_in_any_precision(name: str, precision: str) -> None:
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    model = torchvision.models.get_model(name)
    result = memory.measure(subject.make(model, (3, 64, 64), device="cpu", batch_size=1, precision=precision))
    assert result.parameters_mb == pytest.approx(4e-6 * published["num_params"], rel=1e-12)
    # The published files are of an older format, with less around each tensor.
    assert result.model_file_mb == pytest.approx(2**20 / 1e6 * published["_file_size"], rel=0.015)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert result.model_file_mb == pytest.approx(file.tell() / 1e6, rel=1e-3)


def test_shared_weights_are_stored_once() -> None:
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
    model[1].weight = model[0].weight
    model.register_buffer("view", model[0].weight.detach()[:50])
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert memory._file_bytes(model) == file.tell() < 2 * 40_000


def test_own_tensors_are_counted_once_and_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.BatchNorm1d(3))
    model.add_module("tied", nn.Linear(100, 100, bias=False))
    model.tied.weight = model[0].weight
    model.register_buffer("view", model[0].weight.detach()[:50])
    # Weights, the norm's four vectors of three and its counter, one number of input.
    assert memory._own_bytes(model, torch.zeros(1)) == 40_000 + 4 * 12 + 8 + 4


class SimulatedAllocator:
    """A GPU's allocator under a network and 5 MB of data; it rounds up by 1 MB, and the first pass looks for algorithms."""

    def __init__(self, own_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held_bytes = self.peak_bytes = 5_000_000 + own_bytes
        self.cached_bytes = self.most_cached_bytes = 90_000_000
        self.passes = 0
        for name, function in {
            "get_allocator_backend": lambda: "native",
            "synchronize": lambda: None,
            "empty_cache": self.empty,
            "reset_peak_memory_stats": self.reset,
            "memory_stats": self.stats,
            "max_memory_allocated": lambda device: self.peak_bytes + 1_000_000,
            "max_memory_reserved": lambda device: self.most_cached_bytes,
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)
        monkeypatch.setattr(memory, "numeric_context", lambda conditions: nullcontext())

    def run(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.held_bytes + (2_000_000 if self.passes else 50_000_000))
        self.cached_bytes = max(self.cached_bytes, self.peak_bytes + 3_000_000)
        self.most_cached_bytes = max(self.most_cached_bytes, self.cached_bytes)
        self.passes += 1

    def empty(self) -> None:
        self.cached_bytes = self.held_bytes

    def reset(self, device: torch.device) -> None:
        self.peak_bytes, self.most_cached_bytes = self.held_bytes, self.cached_bytes

    def stats(self, device: torch.device) -> dict[str, int]:
        return {
            "requested_bytes.all.current": self.held_bytes,
            "requested_bytes.all.peak": self.peak_bytes,
            "allocated_bytes.all.current": self.held_bytes + 1_000_000,
            "allocated_bytes.all.peak": self.peak_bytes + 1_000_000,
        }


def test_peak_is_what_a_second_pass_asks_for_on_top_of_the_others(
    monkeypatch: pytest.MonkeyPatch, board: SimulatedBoard, cuda: torch.device
) -> None:
    model, x = nn.Linear(100, 100, bias=False), torch.zeros(10, 100)
    own_bytes = 40_000 + 4_000
    allocator = SimulatedAllocator(own_bytes, monkeypatch)
    net: Any = SimpleNamespace(model=model, example=x, device=cuda, conditions=None, run=allocator.run)
    result = memory.measure(net)
    assert result.peak_memory_mb == pytest.approx((2_000_000 + own_bytes) / 1e6)
    assert result.allocated_mb == pytest.approx((8_000_000 + own_bytes) / 1e6)
    assert result.reserved_mb == pytest.approx((10_000_000 + own_bytes) / 1e6)
    assert (result.process_mb, result.reason, result.process_reason) == (600.0, None, None)
    board.processes = []
    assert memory.measure(net).process_reason == "NVML lists 0 processes and none under this process's id"


def test_allocator_that_does_not_tell_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, cuda: torch.device) -> None:
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    net: Any = SimpleNamespace(model=nn.Linear(2, 2), example=torch.zeros(1, 2), device=cuda)
    result = memory.measure(net)
    assert result.peak_memory_mb is None and "native allocator" in str(result.reason)
