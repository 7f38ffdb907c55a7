"""How much memory a forward pass needs on a GPU. Sizes of weights and files are not its business."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.measure.device import NO_CPU_MEMORY, numeric_context
from nas.measure.nvml import open_gpu
from nas.measure.record import Record, SensorError
from nas.measure.settings import MeasureConditions

_GRAIN_BYTES = 512
"""The allocator gives out multiples of this (c10/cuda/CUDACachingAllocator, ``kMinBlockSize``)."""


@dataclass(frozen=True)
class Memory(Record):
    """Memory of one forward pass of a whole batch (MB = 10^6 bytes).

    Attributes:
        peak_memory_mb: Highest memory in use by the network, its input and its activations, or ``None``; what else the process
            keeps on the device, such as a data set, is subtracted.
        reason: Why ``peak_memory_mb`` is ``None``; ``None`` if it was measured.
        reserved_mb: Most that torch's allocator held for the whole process meanwhile.
        process_mb: All that the process holds by NVML's count, CUDA context included; ``None`` where NVML does not tell.
        process_reason: Why ``process_mb`` is ``None``; ``None`` if it was measured.
    """

    peak_memory_mb: float | None
    reason: str | None
    reserved_mb: float | None
    process_mb: float | None
    process_reason: str | None


def measure(model: nn.Module, example: Tensor, conditions: MeasureConditions) -> Memory:
    """Run ``model(example)``, both made by ``device.prepare`` and ``device.example_input``, and note the peak."""
    device = example.device
    if device.type == "cpu":
        return Memory(None, NO_CPU_MEMORY, None, None, NO_CPU_MEMORY)
    with numeric_context(conditions):
        model(example)  # picks algorithms, whose trial runs take memory that later passes do not need
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        others_bytes = torch.cuda.memory_allocated(device) - _own_bytes(model, example)
        torch.cuda.reset_peak_memory_stats(device)
        model(example)
        torch.cuda.synchronize()
    process_mb, process_reason = _process_mb(device)
    return Memory(
        peak_memory_mb=(torch.cuda.max_memory_allocated(device) - others_bytes) / 1e6,
        reason=None,
        reserved_mb=torch.cuda.max_memory_reserved(device) / 1e6,
        process_mb=process_mb,
        process_reason=process_reason,
    )


def _own_bytes(model: nn.Module, example: Tensor) -> int:
    tensors = itertools.chain(model.parameters(), model.buffers(), (example,))
    storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(-(-nbytes // _GRAIN_BYTES) * _GRAIN_BYTES for nbytes in storages.values())


def _process_mb(device: torch.device) -> tuple[float | None, str | None]:
    try:
        with open_gpu(device) as gpu:
            return gpu.process_memory_mb(), None
    except SensorError as reason:
        return None, str(reason)
