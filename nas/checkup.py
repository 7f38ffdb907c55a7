"""What a machine can measure and how well, found by trying it; how it is shown is the doctor's."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from nas.failures import first_line
from nas.measure import energy, latency, subject
from nas.measure.device import lacks_precision, resolve_conditions, resolve_device, unavailable
from nas.measure.fingerprint import DeviceFingerprint, fingerprint
from nas.measure.lock import exclusive
from nas.measure.record import SensorError
from nas.measure.sensor import OTHERS_SHARE, open_sensors
from nas.measure.settings import MeasureConditions, MeasureSettings, Precision
from nas.measure.watch import Watched
from search_spaces import osa

NETWORK = "vovnet27_slim"
_SIDES = {"cuda": 224, "cpu": 32}
"""Enough work for a GPU not to be bound by launches, and a fraction of a second on a CPU."""
_GOALS = {"cuda": 0.02, "cpu": 0.03}
"""Spread of a median between runs that can be had on a quiet machine."""
_PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")
MISSING = "not installed"
"""In place of a version."""

_FIGURES = ("latency_ms", "latency_graph_ms", "latency_enqueue_ms", "energy_j", "peak_memory_mb")


@dataclass(frozen=True)
class Ability:
    """A figure or a precision, and why it cannot be had; ``None`` if it can."""

    name: str
    lack: str | None


@dataclass(frozen=True)
class Repeats:
    """The same quantity, measured several times.

    Attributes:
        metric: Its name in ``nas.metrics``.
        values: One per run; empty if it cannot be measured, and then ``reason`` says why.
        goal: Spread that can be had on a quiet machine.
    """

    metric: str
    values: tuple[float, ...]
    goal: float
    reason: str | None = None

    @property
    def spread(self) -> float | None:
        """Greatest minus least value over the median."""
        return (max(self.values) - min(self.values)) / statistics.median(self.values) if self.values else None


@dataclass(frozen=True)
class Checkup:
    """Everything that was found.

    Attributes:
        input_shape: Of the built-in network.
        software: Versions by name.
        figures: What can be measured.
        sensors: The energy sensors that answered, best first.
        sensor_refusals: Why the others did not.
        counter_over_power: Energy by the counter over integrated power, by run, where a device has both.
        flags: What casts doubt on the last run of each.
        datasets: Data sets by name, and where they are or what has to happen.
    """

    device: DeviceFingerprint
    conditions: MeasureConditions
    input_shape: tuple[int, int, int]
    software: dict[str, str]
    figures: tuple[Ability, ...]
    precisions: tuple[Ability, ...]
    sensors: tuple[str, ...]
    sensor_refusals: tuple[str, ...]
    repeats: tuple[Repeats, ...]
    counter_over_power: tuple[float, ...]
    watched: Watched | None
    flags: tuple[str, ...]
    datasets: dict[str, str]


def check_up(device_name: str, settings: MeasureSettings, runs: int, data_root: str, on_stage: Callable[[str], None]) -> Checkup:
    """Try everything on one device.

    Args:
        device_name: ``auto``, ``cpu`` or ``cuda:N``.
        settings: How to measure.
        runs: How often to measure the built-in network.
        data_root: Folder that data sets are looked for in.
        on_stage: Called with what is being tried.

    Raises:
        InputError: There is no such device, or it does not have the precision.
    """
    device = resolve_device(device_name)
    conditions = resolve_conditions(settings, device)
    on_stage("looking at the device")
    sensors, refusals = _sensors(device)
    shape = (3, _SIDES[device.type], _SIDES[device.type])
    timed, spent, trouble = _measure(conditions, shape, runs, on_stage)
    goal = _GOALS[device.type]
    no_energy = next((found.reason for found in spent if found.reason), trouble)
    medians_ms = tuple(found.eager.median_ms for found in timed) if len(timed) == runs else ()
    joules = tuple(found.energy_j for found in spent if found.energy_j is not None)
    return Checkup(
        device=fingerprint(device, conditions.threads),
        conditions=conditions,
        input_shape=shape,
        software=_software(),
        figures=tuple(Ability(name, unavailable(name, device, "flag")) for name in _FIGURES),
        precisions=tuple(Ability(name, lacks_precision(name, device)) for name in _PRECISIONS),
        sensors=sensors,
        sensor_refusals=refusals,
        repeats=(
            Repeats("latency_ms", medians_ms, goal, None if medians_ms else trouble),
            Repeats("energy_j", joules if len(joules) == runs else (), 0.01, no_energy),
        ),
        counter_over_power=tuple(found.counter_over_power for found in spent if found.counter_over_power is not None),
        watched=timed[-1].watched if timed else None,
        flags=(*(timed[-1].flags if timed else ()), *(spent[-1].flags if spent else ())),
        datasets=_datasets(Path(data_root)),
    )


def _software() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "lightning", "optuna", "thop", "nvidia-ml-py")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}, "cuda": torch.version.cuda or "none"}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING


def _sensors(device: torch.device) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        with open_sensors(device, "flag") as sensors:
            return tuple(sensor.method for sensor in sensors.working), sensors.refusals
    except SensorError as reason:
        return (), (str(reason),)


def _measure(
    conditions: MeasureConditions, shape: tuple[int, int, int], runs: int, on_stage: Callable[[str], None]
) -> tuple[list[latency.Latency], list[energy.Energy], str | None]:
    """Measure the built-in network ``runs`` times, and return the reason if it could not be done to the end."""
    timed: list[latency.Latency] = []
    spent: list[energy.Energy] = []
    torch.manual_seed(0)
    model = osa.build(osa.preset(NETWORK), in_channels=shape[0], num_classes=1000)
    on_stage("waiting for the device")
    try:
        with exclusive(torch.device(conditions.device), conditions.lock_seconds):
            net = subject.of(model, shape, conditions)
            for run in range(runs):
                on_stage(f"latency, run {run + 1} of {runs}")
                timed.append(latency.measure(net))
            for run in range(runs if conditions.energy else 0):
                on_stage(f"energy, run {run + 1} of {runs}")
                spent.append(energy.measure(net))
                if spent[-1].energy_j is None:
                    break
    except SensorError as refusal:
        return timed, spent, str(refusal)
    except (RuntimeError, MemoryError) as error:  # a device in a state that a doctor is asked about, such as a full one
        return timed, spent, first_line(error)
    return timed, spent, None if conditions.energy else "measure.energy is false"


def _datasets(root: Path) -> dict[str, str]:
    found = {"digits": "comes with scikit-learn"}
    for name, parts in (
        ("CIFAR-10", ("cifar-10-batches-py", "cifar-10-python.tar.gz")),
        ("CIFAR-100", ("cifar-100-python", "cifar-100-python.tar.gz")),
    ):
        there = [part for part in parts if os.path.exists(root / part)]
        found[name] = f"in {root / there[0]}" if there else f"not in {root}: the first search downloads it"
    return found


def remedies(found: Checkup) -> Iterator[str]:
    """Yield what to fix, the most important first."""
    host, board, watched = found.device.host, found.device.board, found.watched
    if board is None and not torch.cuda.is_available() and Path("/proc/driver/nvidia").exists():
        if torch.version.cuda:
            yield "there is an NVIDIA driver but torch finds no GPU: check CUDA_VISIBLE_DEVICES and the driver's age"
        else:
            yield "there is an NVIDIA driver but this torch was built for CPUs only: install a build for CUDA"
    for repeats in found.repeats:
        if repeats.metric == "latency_ms" and repeats.reason:
            yield f"{NETWORK} could not be measured ({repeats.reason}): free the device, or raise measure.lock_seconds"
    missing = [name for name, told in found.software.items() if told == MISSING]
    if missing:
        yield f"install what is missing: {', '.join(missing)}"
    if watched is not None and watched.foreign_processes:
        ids = ", ".join(map(str, watched.foreign_processes))
        yield f"stop the other processes on the GPU ({ids}): they distort times, and joules are refused"
    used = found.conditions.threads or 1
    if watched is not None and watched.others_cpus is not None and watched.others_cpus > OTHERS_SHARE * used:
        yield f"others keep {watched.others_cpus:.1f} CPUs busy: stop them while measuring"
    if board is None and host.governor not in (None, "performance"):
        yield f"the CPU's frequency governor is {host.governor}: set performance (cpupower frequency-set -g performance)"
    for reason in found.sensor_refusals:
        if "read permission" in reason:
            yield f"energy: {reason}"
    for ratio in found.counter_over_power[:1]:
        if abs(ratio - 1) > 0.02:
            yield f"the energy counter is {ratio:.3f} of integrated power: take joules of this board as a ranking only"
    for repeats in found.repeats:
        if repeats.spread is not None and repeats.spread > repeats.goal:
            yield (
                f"{repeats.metric} varied by {repeats.spread:.1%} between runs, more than {repeats.goal:.0%}: quiet the machine, "
                "or give each measurement longer (measure=thorough)"
            )
    throttled = [reason for reason in (watched.clock_reasons if watched else ()) if "thermal" in reason or "slowdown" in reason]
    if throttled:
        yield f"the GPU throttles ({', '.join(throttled)}): improve its cooling, or lock a lower clock (nvidia-smi -lgc)"


def describe_lacks(abilities: Sequence[Ability]) -> list[str]:
    """Return one line per reason, with everything that it rules out."""
    by_reason: dict[str, list[str]] = {}
    for ability in abilities:
        if ability.lack is not None:
            by_reason.setdefault(ability.lack, []).append(ability.name)
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
