"""Which device a number was taken on: what must agree for numbers to be comparable, and what is only recorded beside them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from nas.measure.nvml import cuda_uuid, open_gpu
from nas.measure.record import Record, SensorError

T = TypeVar("T")


@dataclass(frozen=True)
class DeviceIdentity(Record):
    """What must agree for two measurements to be comparable; equal boards of a cluster have equal identities.

    Attributes:
        kind: ``cuda`` or ``cpu``.
        name: Model name of the board or of the CPU.
        memory_mb: The board's memory (MB = 10^6 bytes); ``None`` on a CPU, whose speed does not depend on it.
        power_limit_w: The board's power limit as set; ``None`` on a CPU or where NVML does not tell.
        driver: Version of the board's driver; ``None`` on a CPU or where NVML does not tell.
        cuda: CUDA version that torch was built for; ``None`` on a CPU.
        cudnn: cuDNN version; ``None`` on a CPU.
        torch: torch's version.
        threads: CPU threads while timing on a CPU; ``None`` on a GPU.
        instructions: torch's name for the CPU's vector instructions, as virtual machines hide the model; ``None`` on a GPU.
    """

    kind: str
    name: str
    memory_mb: int | None
    power_limit_w: float | None
    driver: str | None
    cuda: str | None
    cudnn: int | None
    torch: str
    threads: int | None
    instructions: str | None


@dataclass(frozen=True)
class BoardState(Record):
    """A GPU at the moment of asking; ``None`` is what NVML does not tell, and ``nvml_reason`` says why if it tells nothing."""

    uuid: str
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    nvml_reason: str | None


@dataclass(frozen=True)
class HostState(Record):
    """The machine around the device; ``None`` is what the system does not tell.

    Attributes:
        cpu: Model name of the CPU.
        affinity: CPUs that this process may run on.
        cgroup_cpus: CPUs' worth of time that the cgroup allows; ``None`` without a quota.
        governor: Frequency governor of the first CPU.
        system: Operating system and release.
    """

    cpu: str
    affinity: tuple[int, ...]
    cgroup_cpus: float | None
    governor: str | None
    system: str


@dataclass(frozen=True)
class DeviceFingerprint(Record):
    """A device as a study remembers it: ``agreed`` must stay the same within the study, ``host`` and ``board`` may differ."""

    agreed: DeviceIdentity
    host: HostState
    board: BoardState | None

    def identity(self) -> dict[str, Any]:
        """Return the fields that must agree within a study, as plain data."""
        return self.agreed.to_dict()

    @property
    def recorded(self) -> dict[str, Any]:
        """The fields that are only recorded, as plain data."""
        return {"host": self.host.to_dict(), "board": self.board.to_dict() if self.board else None}


def fingerprint(device: torch.device, threads: int | None = None) -> DeviceFingerprint:
    """Describe ``device``; ``threads`` are those used for timing on a CPU, torch's own number by default."""
    return _cpu_fingerprint(threads) if device.type == "cpu" else _gpu_fingerprint(device)


def _cpu_fingerprint(threads: int | None) -> DeviceFingerprint:
    host = _host_state()
    agreed = DeviceIdentity(
        kind="cpu",
        name=host.cpu,
        memory_mb=None,
        power_limit_w=None,
        driver=None,
        cuda=None,
        cudnn=None,
        torch=str(torch.__version__),
        threads=threads or torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
    )
    return DeviceFingerprint(agreed, host, board=None)


def _gpu_fingerprint(device: torch.device) -> DeviceFingerprint:
    properties = torch.cuda.get_device_properties(device)
    board = BoardState(cuda_uuid(device), None, None, None, None)
    power_limit_w = driver = None
    try:
        with open_gpu(device) as gpu:
            power_limit_w, driver = _told(gpu.power_limit_w), _told(gpu.driver)
            board = BoardState(
                uuid=board.uuid,
                sm_clock_mhz=_told(lambda: gpu.clock_mhz("SM")),
                memory_clock_mhz=_told(lambda: gpu.clock_mhz("MEM")),
                temperature_c=_told(gpu.temperature_c),
                nvml_reason=None,
            )
    except SensorError as reason:
        board = BoardState(board.uuid, None, None, None, nvml_reason=str(reason))
    agreed = DeviceIdentity(
        kind=device.type,
        name=properties.name,
        memory_mb=round(properties.total_memory / 1e6),
        power_limit_w=power_limit_w,
        driver=driver,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        torch=str(torch.__version__),
        threads=None,
        instructions=None,
    )
    return DeviceFingerprint(agreed, _host_state(), board)


def _told(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except SensorError:
        return None


def _host_state() -> HostState:
    return HostState(
        cpu=_cpu_model(),
        affinity=usable_cpus(),
        cgroup_cpus=cgroup_cpus(),
        governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        system=platform.platform(),
    )


def usable_cpus() -> tuple[int, ...]:
    """Return the numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _cpu_model() -> str:
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def cgroup_cpus(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return how many CPUs the quotas of this process's control group and of all above it leave; ``None`` without one.

    A quota is ``cpu.max`` of cgroup v2, or the ``cpu.cfs_*`` pair of v1 (Linux, admin-guide/cgroup-v2.rst).
    """
    v1 = v2 = ""
    for line in (_text(own) or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0":
            v2 = group
        elif "cpu" in controllers.split(","):
            v1 = group
    told = [(_text(folder / "cpu.max") or "").split() for folder in _upwards(root, v2)]
    pair = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    told += [[_text(folder / name) or "" for name in pair] for folder in _upwards(root / "cpu", v1)]
    limits = [each for each in told if len(each) == 2 and all(text.isdigit() for text in each)]
    return min((int(quota) / int(period) for quota, period in limits), default=None)


def _upwards(root: Path, group: str) -> list[Path]:
    """Return the folders of a control group and of all above it; in a container its path may be the host's, and not there."""
    own = root / group.strip("/")
    return [folder for folder in (own, *own.parents) if folder == root or root in folder.parents]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
