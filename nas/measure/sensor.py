"""Which energy sensors a device has, best first, and whether others draw on them. Taking a window is the energy meter's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from nas.measure import rapl
from nas.measure.nvml import Gpu, open_gpu
from nas.measure.record import SensorError
from nas.measure.settings import WhenLoaded
from nas.measure.watch import Watched

Method = Literal["nvml_counter", "nvml_instant_power", "nvml_power", "rapl"]

OTHERS_SHARE = 0.1
"""Share of the CPUs in use that others may keep busy unmentioned."""

UNSEEN = "NVML lists no process here, not even this one: others on the board cannot be seen"
"""What is said of a board where it is not known whether others draw on its sensors, as in many containers."""


@dataclass(frozen=True)
class Sensor:
    """One way to energy.

    Attributes:
        method: Its name in results.
        kind: ``counter`` reads joules that only grow; ``power`` reads watts.
        read: Read it now. Raises ``SensorError``.
    """

    method: Method
    kind: Literal["counter", "power"]
    read: Callable[[], float]


@dataclass(frozen=True)
class Sensors:
    """The sensors that answered, and a check that nothing else draws on them.

    Attributes:
        working: Sensors in the order of preference, never empty.
        check: Says who else draws on them now, or did while the device was watched, in one phrase each. Raises
            ``SensorError`` in place of a phrase where that forbids a measurement.
        refusals: Why the others did not answer.
    """

    working: tuple[Sensor, ...]
    check: Callable[[Watched | None], tuple[str, ...]]
    refusals: tuple[str, ...] = ()


@contextmanager
def open_sensors(device: torch.device, when_loaded: WhenLoaded = "auto") -> Iterator[Sensors]:
    """Probe each energy sensor of ``device`` once and keep those that answer open for the block.

    A board that others compute on, or that MIG has split, is refused unless ``when_loaded`` is ``flag``: NVML measures all
    of it. RAPL measures all of a package, and a desktop is never silent: others' load on a CPU is refused under ``refuse``
    alone.

    Raises:
        SensorError: None of them answers, or the device is shared, with the reason.
    """
    if device.type == "cpu":
        counter = Sensor("rapl", "counter", rapl.open_packages().read_j)
        yield Sensors((counter,), check=lambda watched: _cpu_sharers(watched, forbidden=when_loaded == "refuse"))
        return
    with open_gpu(device) as gpu:
        # Without a context NVML does not list this process, and the only one listed could not be told from it.
        _hold_context(device)

        def check(watched: Watched | None = None) -> tuple[str, ...]:
            return _board_sharers(gpu, watched, forbidden=when_loaded != "flag")

        check()
        candidates = (
            Sensor("nvml_counter", "counter", gpu.energy_j),
            Sensor("nvml_instant_power", "power", gpu.instant_power_w),
            Sensor("nvml_power", "power", gpu.power_w),
        )
        working, refusals = _answering(candidates)
        yield Sensors(working, check, refusals)


def _hold_context(device: torch.device) -> None:
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:  # such as a GPU whose memory others have taken, or whose one process is another
        raise SensorError(f"{device} cannot be used now ({str(error).splitlines()[0]})") from None


def _answering(candidates: Collection[Sensor]) -> tuple[tuple[Sensor, ...], tuple[str, ...]]:
    working, refusals = [], []
    for sensor in candidates:
        try:
            sensor.read()
        except SensorError as refusal:
            refusals.append(str(refusal))
        else:
            working.append(sensor)
    if not working:
        raise SensorError("; ".join(refusals))
    return tuple(working), tuple(refusals)


def _cpu_sharers(watched: Watched | None, forbidden: bool) -> tuple[str, ...]:
    others = watched.others_cpus if watched else None
    used = torch.get_num_threads()
    if others is None or others <= OTHERS_SHARE * used:
        return ()
    phrase = f"others kept {others:.1f} CPUs busy beside the {used} used"
    if forbidden:
        raise SensorError(f"RAPL measures the whole package and {phrase}")
    return (phrase,)


def _board_sharers(gpu: Gpu, watched: Watched | None, forbidden: bool) -> tuple[str, ...]:
    phrases = []
    if gpu.mig():
        phrases.append("MIG has split the board")
    try:
        foreign = {*gpu.foreign_processes(), *(watched.foreign_processes if watched else ())}
    except SensorError as refusal:
        phrases.append(str(refusal))
    else:
        if foreign:
            phrases.append(f"other compute processes on the board (pid {', '.join(map(str, sorted(foreign)))})")
    if phrases and forbidden:
        raise SensorError(f"NVML measures the whole board: {'; '.join(phrases)}")
    if not phrases and not gpu.lists_processes() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        phrases.append(UNSEEN)  # to refuse would leave many containers without any energy
    return tuple(phrases)
