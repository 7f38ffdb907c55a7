"""The one place that talks to NVML: a board found by its UUID and its sensors in plain units. Their use is the meters'."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from nas.measure.record import SensorError

T = TypeVar("T")

_family: int | None = None
_contexts = 1

CLOCK_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
"""What may hold a clock where it is (NVML API Reference, "NvmlClocksEventReasons"); older drivers know fewer."""
THROTTLING = frozenset({"hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown"})
"""Those that slow a board below what it holds for good. A power cap does not count: a loaded board sits at it for ever."""


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine. Each method raises ``SensorError`` if the device or the driver does not give the figure."""

    _library: Any
    _handle: Any

    def energy_j(self) -> float:
        """Joules since the driver was loaded (``nvmlDeviceGetTotalEnergyConsumption``, mJ); Volta and later."""
        return self._ask("the energy counter", "nvmlDeviceGetTotalEnergyConsumption", lambda mj: float(mj) / 1e3)

    def instant_power_w(self) -> float:
        """Power now (field ``NVML_FI_DEV_POWER_INSTANT``, mW)."""
        field = self._library.NVML_FI_DEV_POWER_INSTANT
        value = self._ask("instant power", "nvmlDeviceGetFieldValues", lambda values: values[0], [field])
        if value.nvmlReturn != self._library.NVML_SUCCESS:
            raise SensorError(f"NVML refuses instant power: {self._library.NVMLError(value.nvmlReturn)}")
        return float(value.value.uiVal) / 1e3

    def power_w(self) -> float:
        """Power usage (``nvmlDeviceGetPowerUsage``, mW), which newer boards average over a second."""
        return self._ask("power usage", "nvmlDeviceGetPowerUsage", lambda mw: float(mw) / 1e3)

    def power_limit_w(self) -> float:
        """The board's power limit as set."""
        return self._ask("the power limit", "nvmlDeviceGetPowerManagementLimit", lambda mw: float(mw) / 1e3)

    def clock_mhz(self, domain: str) -> int:
        """Clock of ``SM`` or ``MEM`` now."""
        kind = getattr(self._library, f"NVML_CLOCK_{domain}")
        return self._ask(f"the {domain} clock", "nvmlDeviceGetClockInfo", int, kind)

    def clock_reasons(self) -> tuple[str, ...]:
        """What holds the clock where it is now, by the names of ``CLOCK_REASONS``; a bit that has no name is ``reason_0x…``."""
        what = "the reasons for the clock"
        try:
            bits = self._ask(what, "nvmlDeviceGetCurrentClocksEventReasons", int)
        except SensorError as refusal:
            if not isinstance(refusal.__cause__, self._library.NVMLError_FunctionNotFound):
                raise
            bits = self._ask(what, "nvmlDeviceGetCurrentClocksThrottleReasons", int)  # its name before driver 535
        set_bits = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
        return tuple(CLOCK_REASONS.get(bit, f"reason_{bit:#x}") for bit in set_bits)

    def temperature_c(self) -> int:
        """Temperature of the GPU die."""
        return self._ask("the temperature", "nvmlDeviceGetTemperature", int, self._library.NVML_TEMPERATURE_GPU)

    def driver(self) -> str:
        """Version of the driver."""
        try:
            return str(self._library.nvmlSystemGetDriverVersion())
        except self._library.NVMLError as error:
            raise SensorError(f"NVML refuses the driver version: {error}") from error

    def mig(self) -> bool:
        """Whether the board is split by MIG; a board that does not know MIG is not."""
        try:
            return bool(self._library.nvmlDeviceGetMigMode(self._handle)[0])
        except (self._library.NVMLError_NotSupported, self._library.NVMLError_FunctionNotFound):
            return False
        except self._library.NVMLError as error:
            raise SensorError(f"NVML refuses the MIG mode: {error}") from error

    def foreign_processes(self) -> tuple[int, ...]:
        """Process ids of the other compute processes on the board, as far as NVML lists them (``lists_processes``).

        The other workers of the same search are no strangers (``count_as_ours``): they do nothing while one of them holds
        the device's lock. In a container NVML may number processes as the host does. One entry is this process as soon as it
        holds a CUDA context, so if none has our id, one unknown id is taken for ours, or as many as there are workers.
        """
        processes = sorted(process.pid for process in self._processes())
        if os.getpid() in processes:
            return tuple(pid for pid in processes if pid != os.getpid() and not _is_ours(pid))
        ours = _contexts if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]
        return tuple(processes[ours:])

    def lists_processes(self) -> bool:
        """Whether NVML lists any compute process; a container may see none, its own neither."""
        return bool(self._processes())

    def process_memory_mb(self) -> float:
        """All of the board's memory that this process holds, CUDA context included (MB = 10^6 bytes)."""
        processes = self._processes()
        own = [process for process in processes if process.pid == os.getpid()] or processes
        if len(own) != 1:
            raise SensorError(f"NVML lists {len(own)} processes and none under this process's id")
        if own[0].usedGpuMemory is None:
            raise SensorError("NVML does not give the memory of single processes here")
        return float(own[0].usedGpuMemory) / 1e6

    def _processes(self) -> list[Any]:
        return self._ask("the list of processes", "nvmlDeviceGetComputeRunningProcesses", list)

    def _ask(self, what: str, function: str, convert: Callable[[Any], T], *args: Any) -> T:
        try:
            return convert(getattr(self._library, function)(self._handle, *args))
        except (self._library.NVMLError, self._library.NVMLLibraryMismatchError) as error:
            raise SensorError(f"NVML refuses {what}: {error}") from error


def count_as_ours(family: int, contexts: int) -> None:
    """Take the process ``family`` and all that descends from it for one program with this process.

    Args:
        family: The process that started this one, or that one's, and so on.
        contexts: How many processes of the program may hold a CUDA context on one board.
    """
    global _family, _contexts
    _family, _contexts = family, contexts


def _is_ours(pid: int) -> bool:
    while pid > 1 and _family is not None:
        if pid == _family:
            return True
        try:
            # The command's name stands in brackets and may hold anything; the parent is the second field after it.
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        pid = int(status.rpartition(")")[2].split()[1])
    return False


@contextmanager
def open_gpu(device: torch.device) -> Iterator[Gpu]:
    """Open the board that torch calls ``device``, by UUID: CUDA and NVML number boards in different orders.

    Raises:
        SensorError: There is no driver, no permission, or no such board (a MIG slice is none).
    """
    library = importlib.import_module("pynvml")
    try:
        library.nvmlInit()
    except library.NVMLError_LibraryNotFound as error:
        raise SensorError("NVML is not installed: this machine has no NVIDIA driver") from error
    except library.NVMLError as error:
        raise SensorError(f"NVML does not start: {error}") from error
    try:
        uuid = cuda_uuid(device)
        try:
            handle = library.nvmlDeviceGetHandleByUUID(uuid)
        except library.NVMLError as error:
            raise SensorError(f"NVML gives no board with the UUID of {device}, {uuid}: {error}") from error
        yield Gpu(library, handle)
    finally:
        library.nvmlShutdown()


def cuda_uuid(device: torch.device) -> str:
    """Return the UUID of a CUDA device in NVML's spelling, ``GPU-…``."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
