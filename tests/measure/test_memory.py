from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from nas.measure import device, memory
from nas.measure.settings import MeasureSettings


def test_cpu_gives_a_reason_and_no_number() -> None:
    held = device.resolve_conditions(MeasureSettings(batch_size=1), torch.device("cpu"))
    result = memory.measure(nn.Identity(), device.example_input((1, 4, 4), held), held)
    assert (result.peak_memory_mb, result.reserved_mb, result.process_mb) == (None, None, None)
    assert result.reason == device.unavailable("peak_memory_mb", torch.device("cpu"))
    assert memory.Memory.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_own_tensors_are_counted_once_and_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.BatchNorm1d(3))
    model.add_module("tied", nn.Linear(100, 100, bias=False))
    model.tied.weight = model[0].weight
    model.register_buffer("view", model[0].weight.detach()[:50])
    # Weights, the norm's four vectors of three and its counter, one number of input.
    assert memory._own_bytes(model, torch.zeros(1)) == 40_000 + 4 * 12 + 8 + 4


def test_peak_is_what_was_asked_for_on_top_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's own figures, as torch names them, with a data set of 5 MB and a rounding of 1 MB beside the network."""
    model, x = nn.Linear(100, 100, bias=False), torch.zeros(1000)
    own_bytes = 40_000 + 4_000
    asked = {"requested_bytes.all.current": 5_000_000 + own_bytes, "requested_bytes.all.peak": 7_000_000 + own_bytes}
    taken = {"allocated_bytes.all.current": 6_000_000 + own_bytes, "allocated_bytes.all.peak": 9_000_000 + own_bytes}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: asked | taken)
    peak = memory._requested_bytes(torch.device("cuda", 0), "peak")
    current = memory._requested_bytes(torch.device("cuda", 0), "current")
    assert peak - (current - memory._own_bytes(model, x)) == 2_000_000 + own_bytes
