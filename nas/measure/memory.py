"""How much memory a network takes: its weights, its file, and on a GPU a forward pass of a whole batch."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas.measure.device import NO_CPU_MEMORY, no_garbage_collection, numeric_context
from nas.measure.nvml import open_gpu
from nas.measure.record import Record, SensorError
from nas.measure.subject import Subject


@dataclass(frozen=True)
class Memory(Record):
    """Memory of a network, and of one forward pass of a whole batch (MB = 10^6 bytes).

    The first two belong to the network as it is published and stored, in fp32 whatever precision it is measured in; the
    others to the measured precision, batch size and device.

    Attributes:
        parameters_mb: Learnable parameters of 4 bytes each, one that several modules share once.
        model_file_mb: What ``torch.save`` writes of the state dict: parameters, buffers, names and padding.
        peak_memory_mb: Highest memory asked for by the network, its input and its activations, or ``None``; what else the
            process keeps on the device, such as a data set, is subtracted, and so is the allocator's rounding, which depends
            on what ran before.
        reason: Why ``peak_memory_mb`` is ``None``; ``None`` if it was measured.
        allocated_mb: Most that was in use in the whole process meanwhile, rounding included
            (``torch.cuda.max_memory_allocated``).
        reserved_mb: Most that torch's allocator held for the whole process meanwhile
            (``torch.cuda.max_memory_reserved``).
        process_mb: All that the process holds by NVML's count, CUDA context included; ``None`` where NVML does not tell.
        process_reason: Why ``process_mb`` is ``None``; ``None`` if it was measured.
    """

    parameters_mb: float
    model_file_mb: float
    peak_memory_mb: float | None = None
    reason: str | None = None
    allocated_mb: float | None = None
    reserved_mb: float | None = None
    process_mb: float | None = None
    process_reason: str | None = None


def measure(subject: Subject) -> Memory:
    """Size the network and, on a GPU, run it and note the peak: ``memory.measure(subject.make(model, (3, 224, 224)))``."""
    model, device = subject.model, subject.device
    parameters_mb = 4 * sum(weight.numel() for weight in model.parameters()) / 1e6
    model_file_mb = _file_bytes(model) / 1e6
    if device.type == "cpu":
        return Memory(parameters_mb, model_file_mb, reason=NO_CPU_MEMORY, process_reason=NO_CPU_MEMORY)
    if torch.cuda.get_allocator_backend() != "native":
        reason = "torch counts the bytes that were asked for in its native allocator only (PYTORCH_CUDA_ALLOC_CONF)"
        return Memory(parameters_mb, model_file_mb, reason=reason, process_reason=reason)
    # A collection in between would free what others left behind, and it would be taken for the network's.
    with numeric_context(subject.conditions), no_garbage_collection():
        subject.run()  # picks algorithms, whose trial runs take memory that later passes do not need
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        others_bytes = _requested_bytes(device, "current") - _own_bytes(model, subject.example)
        torch.cuda.reset_peak_memory_stats(device)
        subject.run()
        torch.cuda.synchronize()
        peak_bytes = _requested_bytes(device, "peak")
    process_mb, process_reason = _process_mb(device)
    return Memory(
        parameters_mb,
        model_file_mb,
        peak_memory_mb=(peak_bytes - others_bytes) / 1e6,
        allocated_mb=torch.cuda.max_memory_allocated(device) / 1e6,
        reserved_mb=torch.cuda.max_memory_reserved(device) / 1e6,
        process_mb=process_mb,
        process_reason=process_reason,
    )


def _own_bytes(model: nn.Module, example: Tensor) -> int:
    tensors = itertools.chain(model.parameters(), model.buffers(), (example,))
    storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storages.values())


class _Counter(io.RawIOBase):
    """A file that keeps nothing of what is written to it but the length."""

    size = 0

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)


def _file_bytes(model: nn.Module) -> int:
    # Stand-ins of the same shapes: the length does not depend on the numbers, and pages never written take no memory.
    state: dict[str, Any] = model.state_dict()
    storages: dict[int, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            state[name] = _fp32_stand_in(value, storages)
    counter = _Counter()
    torch.save(state, counter)  # type: ignore[arg-type]
    return counter.size


def _fp32_stand_in(tensor: Tensor, storages: dict[int, Tensor]) -> Tensor:
    """Return a tensor of equal shape in fp32, on the CPU; tensors that share a storage, listed in ``storages``, still do."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    storage = tensor.untyped_storage()
    if storage.data_ptr() not in storages:
        storages[storage.data_ptr()] = torch.empty(storage.nbytes() // tensor.element_size(), dtype=dtype)
    return storages[storage.data_ptr()].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _requested_bytes(device: torch.device, which: Literal["current", "peak"]) -> int:
    # What was asked for, before the allocator rounds it up: bytes in use depend on how blocks happen to be split.
    return int(torch.cuda.memory_stats(device)[f"requested_bytes.all.{which}"])


def _process_mb(device: torch.device) -> tuple[float | None, str | None]:
    try:
        with open_gpu(device) as gpu:
            return gpu.process_memory_mb(), None
    except SensorError as reason:
        return None, str(reason)
