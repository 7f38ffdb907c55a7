from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pynvml
import pytest
import torch
from simulated import UUID, SimulatedBoard, SimulatedNvml

from nas.measure import watch as watching
from nas.measure.load import CpuLoad
from nas.measure.nvml import CLOCK_REASONS, THROTTLING, open_gpu
from nas.measure.record import SensorError
from nas.measure.watch import Look, Watch, Watched

UNSUPPORTED = pynvml.NVMLError_NotSupported()


def test_names_of_clock_reasons_are_those_of_the_driver() -> None:
    """NVML's own constants, ``nvmlClocksThrottleReasonSwPowerCap`` and so on, say the same with another spelling."""
    found = {}
    for name, bit in vars(pynvml).items():
        word = name.removeprefix("nvmlClocksThrottleReason")
        if word != name and word not in ("All", "None", "UserDefinedClocks"):
            found[bit] = word.lower()
    assert found.items() <= {bit: name.replace("_", "") for bit, name in CLOCK_REASONS.items()}.items()
    assert set(CLOCK_REASONS.values()) >= THROTTLING


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, ()),
        (pynvml.nvmlClocksThrottleReasonGpuIdle, ("gpu_idle",)),
        (
            pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
            ("sw_power_cap", "hw_thermal_slowdown"),
        ),
        (1 << 40, ("reason_0x10000000000",)),
    ],
)
def test_clock_reasons_by_name(board: SimulatedBoard, cuda: torch.device, bits: int, names: tuple[str, ...]) -> None:
    board.clock_reasons = bits
    with open_gpu(cuda) as gpu:
        assert gpu.clock_reasons() == names


def test_driver_that_knows_the_older_function_only(board: SimulatedBoard, cuda: torch.device) -> None:
    board.clock_reasons = pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    board.throttle_reasons = pynvml.nvmlClocksThrottleReasonHwSlowdown
    with open_gpu(cuda) as gpu:
        assert gpu.clock_reasons() == ("hw_slowdown",)
        board.throttle_reasons = pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        with pytest.raises(SensorError, match="reasons for the clock: Function Not Found"):
            gpu.clock_reasons()


def test_refusal_is_not_mistaken_for_an_older_driver(board: SimulatedBoard, cuda: torch.device) -> None:
    board.clock_reasons = pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
    with open_gpu(cuda) as gpu, pytest.raises(SensorError, match="Insufficient Permissions"):
        gpu.clock_reasons()


def test_looks_are_summed_up(board: SimulatedBoard, cuda: torch.device) -> None:
    board.processes = [(os.getpid(), 1), (77, 1)]
    with Watch.open(cuda) as watch:
        for clock, heat, reasons in ((1980, 60, 0), (1900, 71, 4), (1200, 70, 0x24)):
            board.clocks_mhz, board.temperature_c, board.clock_reasons = clock, heat, reasons
            look = watch.look()
        assert look == Look(1200, 1200, 70, ("sw_power_cap", "sw_thermal_slowdown"), (77,))
        board.processes = [(os.getpid(), 1), (5, 1)]
        watch.look()
        found = watch.summary()
    assert found.sm_clock_mhz == found.memory_clock_mhz == (1200, 1550, 1980)
    assert found.temperature_c == 71
    assert found.clock_reasons == ("sw_power_cap", "sw_thermal_slowdown")
    assert found.foreign_processes == (5, 77)
    assert found.reason is None
    assert Watched.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_what_the_device_does_not_tell_is_missing_with_a_reason(board: SimulatedBoard, cuda: torch.device) -> None:
    board.clocks_mhz = board.processes = UNSUPPORTED
    with Watch.open(cuda) as watch:
        assert watch.look() == watch.look() == Look(None, None, 41, (), ())
        found = watch.summary()
    assert (found.sm_clock_mhz, found.memory_clock_mhz, found.temperature_c) == (None, None, 41)
    assert found.reason == (
        "NVML refuses the SM clock: Not Supported; NVML refuses the MEM clock: Not Supported; "
        "NVML refuses the list of processes: Not Supported"
    )


def test_without_a_driver_it_watches_blindly(monkeypatch: pytest.MonkeyPatch, cuda: torch.device) -> None:
    SimulatedNvml({}, start_error=pynvml.NVMLError_LibraryNotFound()).install(monkeypatch)
    with Watch.open(cuda) as watch:
        assert watch.look() == Look()
        found = watch.summary()
    assert (found.sm_clock_mhz, found.clock_reasons, found.foreign_processes) == (None, (), ())
    assert found.reason == "NVML is not installed: this machine has no NVIDIA driver"


def test_board_that_is_never_looked_at_tells_nothing(board: SimulatedBoard, cuda: torch.device) -> None:
    with Watch.open(cuda) as watch:
        found = watch.summary()
    assert (found.sm_clock_mhz, found.temperature_c, found.clock_reasons, found.reason) == (None, None, (), None)


@pytest.mark.parametrize("error", [SensorError("mine"), ValueError("mine"), KeyboardInterrupt()])
def test_error_within_the_block_stays_the_blocks(
    monkeypatch: pytest.MonkeyPatch, cuda: torch.device, error: BaseException
) -> None:
    driver = SimulatedNvml({UUID: SimulatedBoard()})
    driver.install(monkeypatch)
    monkeypatch.setattr("nas.measure.nvml.cuda_uuid", lambda device: UUID)
    with pytest.raises(type(error)) as raised, Watch.open(cuda):
        assert driver.open_count == 1
        raise error
    assert raised.value is error
    assert driver.open_count == 0


@pytest.mark.parametrize(
    ("listed", "foreign"),
    [([], ()), (["self"], ()), (["self", 77, 5], (5, 77)), ([77, 5], (5, 77))],
)
def test_our_own_process_is_not_foreign(
    board: SimulatedBoard, cuda: torch.device, listed: list[str | int], foreign: tuple[int, ...]
) -> None:
    board.processes = [(os.getpid() if pid == "self" else pid, 1) for pid in listed]
    with Watch.open(cuda) as watch:
        assert watch.look().foreign_processes == foreign


def test_load_of_others_on_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([CpuLoad(100.0, 0.0, 10.0), CpuLoad(107.0, 1.0, 14.0)])
    times = iter([50.0, 55.0])
    monkeypatch.setattr(CpuLoad, "now", lambda everywhere: next(loads))
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with Watch.open(torch.device("cpu")) as watch:
        assert watch.look() == Look()
        found = watch.summary()
    # In 5 s the CPUs worked for 7 s, 4 of them for us, and 1 s was stolen.
    assert found == Watched(None, None, None, (), 0.8, (), None)


def test_system_that_does_not_tell_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuLoad, "now", lambda everywhere: CpuLoad(None, 0.0, 1.0))
    with Watch.open(torch.device("cpu")) as watch:
        assert watch.summary().others_cpus is None
