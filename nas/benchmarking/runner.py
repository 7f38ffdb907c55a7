"""Keeps a benchmark going: finds what is measured already, gives each network a fresh process, survives those that die."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from nas.benchmarking import job as jobs
from nas.benchmarking.entries import Entry, Missing, entries
from nas.benchmarking.job import Job
from nas.benchmarking.results import Key, Result, read
from nas.config.benchmark import BenchmarkConfig
from nas.errors import InputError, RunError
from nas.failures import first_line
from nas.measure.fingerprint import DeviceFingerprint
from nas.measure.settings import MeasureConditions
from nas.processes import fresh_process

_POLL_SECONDS = 0.5


class Observer(Protocol):
    """Is told what happens."""

    def begins(self, key: Key) -> None:
        """A measurement is under way."""
        ...

    def ended(self, result: Result) -> None:
        """A measurement ended and is on disk."""
        ...

    def note(self, text: str) -> None:
        """Something that a user should read."""
        ...


@dataclass(frozen=True)
class Plan:
    """A benchmark that can begin.

    Attributes:
        device: Where it measures.
        conditions: How, but for the batch size and the precision.
        jobs: All that is wanted, measured or not.
        missing: Networks that no library has.
        folder: Where results under these conditions are.
        top1_validation: Of a study's networks, what their accuracy is by now: it may have been told since they were measured.
    """

    device: DeviceFingerprint
    conditions: MeasureConditions
    jobs: tuple[Job, ...]
    missing: tuple[Missing, ...]
    folder: Path
    top1_validation: Mapping[Key, float | None]

    @property
    def keys(self) -> tuple[Key, ...]:
        """Everything that is wanted, in order."""
        return tuple(key for job in self.jobs for key in job.keys)


def prepare(config: BenchmarkConfig) -> Plan:
    """Look at the device, in a process of its own, and find every network; writes nothing.

    Raises:
        InputError: A network does not exist, or the device lacks what is asked of it.
        RunError: The process that looks at the device dies of it.
    """
    found = [(word, entries(word, config.input_size, config.num_classes)) for word in config.models]
    _refuse_namesakes([network for _, networks in found if not isinstance(networks, Missing) for network in networks])
    settings = tuple(replace(config.measure, precision=precision) for precision in config.precisions)
    with fresh_process() as pool:
        try:
            device, conditions = pool.submit(jobs.describe, config.device, settings).result()
        except BrokenProcessPool:
            raise RunError(
                f"device={config.device} cannot be used: the process that looked at it died; try nas.doctor."
            ) from None
    folder = Path(config.run_dir) / "measurements" / _digest(device, conditions[0])
    precisions = [held.precision for held in conditions]
    networks = [(word, network) for word, networks in found if not isinstance(networks, Missing) for network in networks]
    batch_sizes = sorted(config.batch_sizes)
    wanted = [
        Job(
            word=word,
            keys=tuple(_key(network, precision, batch_size) for batch_size in batch_sizes),
            input_size=config.input_size,
            num_classes=config.num_classes,
            settings=replace(config.measure, precision=precision),
            device=conditions[0].device,
            folder=folder,
        )
        for word, network in networks
        for precision in dict.fromkeys(precisions)
    ]
    missing = tuple(networks for _, networks in found if isinstance(networks, Missing))
    validated = {
        _key(network, precision, batch_size): network.top1_validation
        for _, network in networks
        for precision in precisions
        for batch_size in batch_sizes
    }
    return Plan(device, conditions[0], tuple(wanted), missing, folder, validated)


def _refuse_namesakes(networks: Sequence[Entry]) -> None:
    # Tables and figures know a network by its name and source: two files of one name would be one line in a chart.
    for (model, _), count in Counter((network.model, network.source) for network in networks).items():
        if count > 1:
            raise InputError(f"models: {model} comes from {count} of its entries: name it once, or rename one of the files.")


def _key(network: Entry, precision: str, batch_size: int) -> Key:
    return Key(
        model=network.model,
        source=network.source,
        architecture_id=network.architecture_id,
        input_shape=network.input_shape,
        num_classes=network.num_classes,
        precision=precision,
        batch_size=batch_size,
    )


def _digest(device: DeviceFingerprint, conditions: MeasureConditions) -> str:
    """Name what must agree for a result to be taken as measured already: the device, how, and the libraries' networks."""
    apart = ("device", "batch_size", "precision", "when_loaded", "lock_seconds")
    how = {name: value for name, value in conditions.to_dict().items() if name not in apart} | {"tf32": False}  # a precision
    libraries = {name: version(name) for name in ("torchvision", "timm")}
    return hashlib.sha256(json.dumps([device.identity(), how, libraries], sort_keys=True).encode()).hexdigest()[:12]


def run(plan: Plan, observer: Observer) -> None:
    """Measure what is not measured yet; what failed is tried again. Every result is on disk as soon as it is there."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    for job in plan.jobs:
        left = tuple(key for key in job.keys if not _measured(plan.folder, key, observer))
        while left:
            left = _run_job(replace(job, keys=left), observer)


def _measured(folder: Path, key: Key, observer: Observer) -> bool:
    path = folder / key.file_name
    if not path.exists():
        return False
    try:
        result = read(path)
    except InputError as error:
        observer.note(f"measuring {key.model} at batch {key.batch_size} again: {error}")
        path.replace(path.with_suffix(".damaged"))
        return False
    return result.key == key and result.status == "measured"


def _run_job(job: Job, observer: Observer) -> tuple[Key, ...]:
    """Run a job in one process; return what it left undone when it died, but for the measurement that it died of."""
    left = list(job.keys)
    for key in left:
        (job.folder / key.file_name).unlink(missing_ok=True)  # an earlier failure would be taken for this run's
    # A process's memory on the GPU only grows: libraries load their kernels into it and keep them.
    with fresh_process() as pool:
        future: Future[None] = pool.submit(jobs.run, job)
        while left:
            observer.begins(left[0])
            over = bool(wait([future], timeout=_POLL_SECONDS).done)
            while left and (job.folder / left[0].file_name).exists():
                observer.ended(read(job.folder / left.pop(0).file_name))
            if over:
                break
        try:
            future.result()
            reason = "its process ended without a result"
        except BrokenProcessPool:
            reason = "its process died (killed, out of host memory, or a fault in a library)"
        except Exception as error:  # noqa: BLE001 - such as a CUDA context that a faulty kernel has spoilt; the rest go on
            reason = f"its process gave up: {first_line(error)}"
    if left:
        result = Result(left[0], "failed", reason, None)
        result.write(job.folder)
        observer.ended(result)
    return tuple(left[1:])


def stored(plan: Plan) -> list[Result]:
    """Return what is measured already, in the plan's order; damaged files are left to ``run``."""
    found = []
    for key in plan.keys:
        with contextlib.suppress(InputError):
            result = read(plan.folder / key.file_name)
            found.append(replace(result, top1_validation=plan.top1_validation.get(key)))
    return found
