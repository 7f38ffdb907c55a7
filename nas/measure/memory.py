"""How much memory a forward pass needs on a GPU. Sizes of weights and files are not its business."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nas.measure.device import NO_CPU_MEMORY, no_garbage_collection, numeric_context
from nas.measure.nvml import open_gpu
from nas.measure.record import Record, SensorError
from nas.measure.settings import MeasureConditions


@dataclass(frozen=True)
class Memory(Record):
    """Memory of one forward pass of a whole batch (MB = 10^6 bytes).

    Attributes:
        peak_memory_mb: Highest memory asked for by the network, its input and its activations, or ``None``; what else the
            process keeps on the device, such as a data set, is subtracted, and so is the allocator's rounding.
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
    if torch.cuda.get_allocator_backend() != "native":
        reason = "torch counts the bytes that were asked for in its native allocator only (PYTORCH_CUDA_ALLOC_CONF)"
        return Memory(None, reason, None, None, reason)
    # A collection in between would free what others left behind, and it would be taken for the network's.
    with numeric_context(conditions), no_garbage_collection():
        model(example)  # picks algorithms, whose trial runs take memory that later passes do not need
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        others_bytes = _requested_bytes(device, "current") - _own_bytes(model, example)
        torch.cuda.reset_peak_memory_stats(device)
        model(example)
        torch.cuda.synchronize()
        peak_bytes = _requested_bytes(device, "peak")
    process_mb, process_reason = _process_mb(device)
    return Memory(
        peak_memory_mb=(peak_bytes - others_bytes) / 1e6,
        reason=None,
        reserved_mb=torch.cuda.max_memory_reserved(device) / 1e6,
        process_mb=process_mb,
        process_reason=process_reason,
    )


def _own_bytes(model: nn.Module, example: Tensor) -> int:
    tensors = itertools.chain(model.parameters(), model.buffers(), (example,))
    storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storages.values())


def _requested_bytes(device: torch.device, which: Literal["current", "peak"]) -> int:
    # What was asked for, before the allocator rounds it up: bytes in use depend on how blocks happen to be split.
    return int(torch.cuda.memory_stats(device)[f"requested_bytes.all.{which}"])


def _process_mb(device: torch.device) -> tuple[float | None, str | None]:
    try:
        with open_gpu(device) as gpu:
            return gpu.process_memory_mb(), None
    except SensorError as reason:
        return None, str(reason)
