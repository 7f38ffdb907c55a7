"""What runs in a process of its own: one network in one precision, from the smallest batch to the largest, a file for each."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from nas.benchmarking.entries import Entry, entry
from nas.benchmarking.results import Key, Result, Status
from nas.errors import InputError
from nas.failures import first_line, is_out_of_memory
from nas.measure.complexity import Complexity
from nas.measure.device import fingerprint, lacks_precision, resolve_conditions, resolve_device
from nas.measure.fingerprint import DeviceFingerprint
from nas.measure.measurement import Measurement, Measuring
from nas.measure.settings import MeasureConditions, MeasureSettings


@dataclass(frozen=True)
class Job:
    """What a process is to measure; plain data, so that it travels.

    Attributes:
        word: Where the network comes from: an entry of ``models``.
        keys: What is wanted, by growing batch size.
        settings: All but the batch size holds for each.
        folder: Where the results go.
    """

    word: str
    keys: tuple[Key, ...]
    input_size: int | None
    num_classes: int
    settings: MeasureSettings
    device: str
    folder: Path


def describe(device: str, settings: tuple[MeasureSettings, ...]) -> tuple[DeviceFingerprint, tuple[MeasureConditions, ...]]:
    """Return the device and what the settings come to on it.

    Raises:
        InputError: There is no such device, or it does not have a precision.
    """
    where = resolve_device(device)
    for precision in (each.precision for each in settings):
        if precision != "auto" and (lack := lacks_precision(precision, where)) is not None:
            raise InputError(f"precisions: {precision} cannot be used on device={where}: {lack}; take it out.")
    conditions = tuple(resolve_conditions(each, where) for each in settings)
    return fingerprint(where, conditions[0].threads), conditions


def run(job: Job) -> None:
    """Measure, and write each result as soon as it is there. A network that fails is a result with its reason."""
    try:
        network = entry(job.word, job.keys[0].model, job.input_size, job.num_classes)
        torch.manual_seed(0)
        model = network.build()
    except Exception as error:  # noqa: BLE001 - whatever keeps a network from being built is its row's reason
        for key in job.keys:
            Result(key, "failed", f"build: {first_line(error)}", None).write(job.folder)
        return
    counted: Complexity | None = None
    exhausted_at: int | None = None
    for key in job.keys:
        if exhausted_at is not None:
            reason = f"not tried: batch {exhausted_at} ran out of memory"
            Result(key, "out_of_memory", reason, None, network.top1_validation).write(job.folder)
            continue
        result = _measure(job, key, network, model, counted)
        result.write(job.folder)
        counted = result.measurement.complexity if result.measurement else None
        if result.status == "out_of_memory":
            exhausted_at = key.batch_size
        gc.collect()  # the copy that was measured, where reference cycles hold it: the next one's memory must not include it
        # On a CPU too torch.compile may have touched a GPU that is there.
        if job.device.startswith("cuda") and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize(job.device)  # raises if a faulty kernel has spoilt the process: the rest needs another
            torch.cuda.empty_cache()


def _measure(job: Job, key: Key, network: Entry, model: nn.Module, counted: Complexity | None) -> Result:
    conditions = resolve_conditions(replace(job.settings, batch_size=key.batch_size), resolve_device(job.device))
    stages = ["build"]
    measuring = Measuring(key.input_shape, conditions, stages.append, counted)
    status: Status = "measured"
    reason = None
    try:
        measuring.count(model)
        measuring.measure(model)
    except Exception as error:  # noqa: BLE001 - any network may break in any way, and the benchmark must go on
        status = "out_of_memory" if is_out_of_memory(error) else "failed"
        reason = f"{stages[-1]}: {first_line(error)}"
    measurement: Measurement = measuring.result()
    if status == "measured" and measurement.latency is None:
        status, reason = "failed", measurement.reasons()["latency_ms"]
    return Result(key, status, reason, measurement, network.top1_validation)
