"""The device that is measured on and the conditions there, the same for every meter: arithmetic, threads, flags.

The network under these conditions is ``subject``'s; what is measured, and how, is the meters'.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.errors import InputError, suggestion
from nas.measure.fingerprint import DeviceFingerprint, cgroup_cpus, fingerprint, usable_cpus
from nas.measure.record import SensorError
from nas.measure.sensor import open_sensors
from nas.measure.settings import MeasureConditions, MeasureSettings, Precision, WhenLoaded
from nas.metrics import METRICS

__all__ = [
    "DeviceFingerprint",
    "assigned",
    "cast",
    "fingerprint",
    "lacks_precision",
    "no_garbage_collection",
    "numeric_context",
    "resolve_conditions",
    "resolve_device",
    "unavailable",
]

NO_CPU_MEMORY = "peak memory is measured on a GPU only: a CPU process shares its heap with everything else in it"

NO_CPU_VARIANT = {
    "graph": "CUDA graphs are a GPU's",
    "enqueue": "on a CPU a pass runs within its call: nothing is queued",
}

_LATENCY_SECONDS = {"cuda": 1.5, "cpu": 2.0}
_ENERGY_WINDOW_SECONDS = {"cuda": 5.0, "cpu": 1.0}
"""A GPU's counter ticks every 20 to 100 ms, RAPL's every ms: a window's edges are then off by 2 % and 0.1 % of it at most."""

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """Return the device that ``name`` means: ``auto`` (the first GPU, or else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: The name is unknown, there is no GPU, or none has that number.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    if name == "auto":
        return torch.device("cuda", 0)
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise InputError(f"device={name} is unknown{suggestion(name, ('auto', 'cpu', 'cuda:N'), 'devices')}")
    if not gpus:
        raise InputError(f"device={name} cannot be used because torch finds no CUDA device here; use device=cpu or device=auto")
    index = int(match[1] or 0)
    if index >= gpus:
        last = torch.device("cuda", gpus - 1)
        raise InputError(f"device={name} is out of range, the last CUDA device here is {last}; use device={last} or device=auto")
    return torch.device("cuda", index)


def resolve_conditions(settings: MeasureSettings, device: torch.device) -> MeasureConditions:
    """Settle what ``settings`` leave open for ``device``.

    Raises:
        InputError: The device does not have the precision, or the process not that many CPUs.
    """
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and lacks_precision("bf16", device) is None else "fp32"
    lack = lacks_precision(precision, device)
    if lack is not None:
        raise InputError(f"measure.precision={precision} cannot be used on device={device}: {lack}; use measure.precision=fp32")
    return MeasureConditions(
        device=str(device),
        batch_size=settings.batch_size,
        precision=precision,
        memory_format="channels_last" if settings.memory_format == "auto" else settings.memory_format,
        tf32=precision == "tf32",
        cudnn_benchmark=True,  # as a deployed network of fixed shape would have it
        threads=_threads(settings.threads) if device.type == "cpu" else None,
        latency_max_seconds=settings.latency_max_seconds or _LATENCY_SECONDS[device.type],
        variants=settings.variants,
        energy=settings.energy,
        energy_windows=settings.energy_windows,
        energy_window_seconds=settings.energy_window_seconds or _ENERGY_WINDOW_SECONDS[device.type],
        when_loaded=settings.when_loaded,
        lock_seconds=settings.lock_seconds,
    )


def fed_cpus() -> int:
    """Return how many CPUs this process may use all the time, by its affinity and its cgroup's quota."""
    cpus, quota = len(usable_cpus()), cgroup_cpus()
    # More threads than the quota feeds spend it early in each period and are then stopped until the next.
    return cpus if quota is None else min(cpus, max(1, math.floor(quota)))


def _threads(wanted: int | None) -> int:
    cpus = fed_cpus()
    if wanted is None:
        return min(torch.get_num_threads(), cpus)
    if wanted > cpus:
        raise InputError(f"measure.threads={wanted} is more than the {cpus} CPUs that this process may use; use at most {cpus}")
    return wanted


def lacks_precision(precision: Precision, device: torch.device) -> str | None:
    """Return why ``device`` does not have ``precision``; ``None`` if it has it."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if precision == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
            return f"{name} has no TF32 units, which came with compute capability 8.0"
        with torch.cuda.device(device):
            if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
                return f"{name} has no bfloat16 units"
        return None
    if precision == "tf32":
        return "TF32 is an arithmetic of NVIDIA GPUs"
    try:
        _run_sample(DTYPES[precision])
    except (RuntimeError, NotImplementedError) as error:
        return f"torch cannot run a network in it here ({str(error).splitlines()[0]})"
    return None


def _run_sample(dtype: torch.dtype) -> None:
    """Run each kind of layer that matters once, in inference, on the CPU."""
    sample = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardsigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    with torch.inference_mode():
        cast(sample.eval(), dtype)(torch.zeros(1, 3, 8, 8, dtype=dtype))


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give ``model`` itself weights of ``dtype``, but for its batch norms, which stay in fp32."""
    model.to(dtype)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.float()
    return model


@contextmanager
def numeric_context(conditions: MeasureConditions) -> Iterator[None]:
    """Hold the conditions for the block and put everything back after it.

    Inference mode; the device current; TF32 on or off (torch's default is on for convolutions); ``cudnn.benchmark``; CPU
    threads.
    """
    fp32 = "tf32" if conditions.tf32 else "ieee"
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(assigned(torch.backends.cudnn, "benchmark", conditions.cudnn_benchmark))
        stack.enter_context(assigned(torch.backends.cudnn.conv, "fp32_precision", fp32))  # type: ignore[attr-defined]
        stack.enter_context(assigned(torch.backends.cuda.matmul, "fp32_precision", fp32))
        if conditions.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(conditions.threads)
        if conditions.device != "cpu":
            stack.enter_context(torch.cuda.device(conditions.device))
        yield


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep Python's cyclic collector from running within the block."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def assigned(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute of ``owner`` another value for the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def unavailable(metric: str, device: torch.device, when_loaded: WhenLoaded = "auto") -> str | None:
    """Return why ``metric`` cannot be measured on ``device``, ``None`` if it can. Asks the device's sensors once.

    Args:
        metric: Its name.
        device: Where.
        when_loaded: What shall be done about another load; see ``MeasureSettings``.

    Raises:
        InputError: There is no such metric.
    """
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} is unknown{suggestion(metric, METRICS, 'metrics')}")
    variant = METRICS[metric].variant
    if variant is not None:
        return NO_CPU_VARIANT.get(variant) if device.type == "cpu" else None
    stage = METRICS[metric].stage
    if stage == "energy":
        return _no_energy(device, when_loaded)
    return NO_CPU_MEMORY if stage == "memory" and device.type == "cpu" else None


def _no_energy(device: torch.device, when_loaded: WhenLoaded) -> str | None:
    try:
        with open_sensors(device, when_loaded):
            return None
    except SensorError as reason:
        return str(reason)
