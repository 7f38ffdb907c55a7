from __future__ import annotations

import io
import json

import pytest
import torch
import torchvision
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
