from __future__ import annotations

import json

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


def test_own_tensors_are_counted_once_and_in_the_allocators_grain() -> None:
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.BatchNorm1d(3))
    model.add_module("tied", nn.Linear(100, 100, bias=False))
    model.tied.weight = model[0].weight
    model.register_buffer("view", model[0].weight.detach()[:50])
    # 40,000 B of weights, five little tensors of the norm, 4 B of input.
    assert memory._own_bytes(model, torch.zeros(1)) == 79 * 512 + 5 * 512 + 512
