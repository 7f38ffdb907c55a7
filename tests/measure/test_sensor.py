from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest
import torch
from simulated import UUID, PowercapTree, SimulatedBoard, SimulatedNvml

from nas.measure import rapl
from nas.measure.nvml import open_gpu
from nas.measure.record import SensorError
from nas.measure.sensor import open_sensors
from nas.measure.watch import Watched

UNSUPPORTED = pynvml.NVMLError_NotSupported()


def methods(device: torch.device) -> list[str]:
    with open_sensors(device) as sensors:
        return [sensor.method for sensor in sensors.working]


def test_all_sensors_in_order_of_trust(board: SimulatedBoard, cuda: torch.device) -> None:
    assert methods(cuda) == ["nvml_counter", "nvml_instant_power", "nvml_power"]
    with open_sensors(cuda) as sensors:
        assert [sensor.read() for sensor in sensors.working] == [1000.0, 200.0, 190.0]
        assert [sensor.kind for sensor in sensors.working] == ["counter", "power", "power"]
        assert sensors.refusals == ()


def test_fallbacks(board: SimulatedBoard, cuda: torch.device) -> None:
    board.energy_mj = UNSUPPORTED
    assert methods(cuda) == ["nvml_instant_power", "nvml_power"]
    board.instant_power_mw = UNSUPPORTED
    assert methods(cuda) == ["nvml_power"]
    with open_sensors(cuda) as sensors:
        assert sensors.refusals == ("NVML refuses the energy counter: Not Supported", "NVML refuses instant power: Not Supported")
    board.power_mw = pynvml.NVMLError_NoPermission()
    with pytest.raises(
        SensorError, match=r"energy counter: Not Supported; .*instant power: Not Supp.*usage: Insufficient Permissions"
    ):
        methods(cuda)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (pynvml.NVMLError_LibraryNotFound(), "no NVIDIA driver"),
        (pynvml.NVMLError_DriverNotLoaded(), "does not start: Driver Not Loaded"),
        (pynvml.NVMLError_NoPermission(), "does not start: Insufficient Permissions"),
    ],
)
def test_no_driver(monkeypatch: pytest.MonkeyPatch, cuda: torch.device, error: Exception, reason: str) -> None:
    SimulatedNvml({}, start_error=error).install(monkeypatch)
    with pytest.raises(SensorError, match=reason):
        methods(cuda)


def test_real_library_without_a_driver(cuda: torch.device) -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(SensorError, match="NVML"):
            methods(cuda)
    else:
        pynvml.nvmlShutdown()
        pytest.skip("has a driver: the gpu tests read its sensors")


def test_board_is_found_by_uuid_and_not_by_index(board: SimulatedBoard, cuda: torch.device) -> None:
    board.energy_mj = 42_000
    with open_gpu(cuda) as gpu:  # the other board comes first in NVML's order
        assert gpu.energy_j() == 42.0


def test_unknown_uuid(monkeypatch: pytest.MonkeyPatch, board: SimulatedBoard, cuda: torch.device) -> None:
    monkeypatch.setattr("nas.measure.nvml.cuda_uuid", lambda device: "GPU-elsewhere")
    with pytest.raises(SensorError, match=r"UUID of cuda:0, GPU-elsewhere: Not Found"):
        methods(cuda)


def test_nvml_is_closed_whatever_happens(monkeypatch: pytest.MonkeyPatch, cuda: torch.device) -> None:
    driver = SimulatedNvml({UUID: SimulatedBoard()})
    driver.install(monkeypatch)
    monkeypatch.setattr("nas.measure.nvml.cuda_uuid", lambda device: UUID)
    with pytest.raises(KeyboardInterrupt), open_gpu(cuda):
        assert driver.open_count == 1
        raise KeyboardInterrupt
    driver.boards.clear()
    with pytest.raises(SensorError):
        methods(cuda)
    assert driver.open_count == 0


@pytest.mark.parametrize(("mode", "shared"), [((0, 0), False), ((0, 1), False), ((1, 1), True), (UNSUPPORTED, False)])
def test_mig(board: SimulatedBoard, cuda: torch.device, mode: object, shared: bool) -> None:
    board.mig = mode
    if shared:
        with pytest.raises(SensorError, match="MIG"):
            methods(cuda)
    else:
        assert methods(cuda)


ME = os.getpid()


@pytest.mark.parametrize(
    ("processes", "context", "foreign"),
    [
        ([(ME, 1)], True, ()),
        ([(ME, 1), (1, 1)], True, (1,)),
        ([], True, ()),
        ([(1, 1)], False, (1,)),
        ([(1, 1)], True, ()),  # a container: our only context under the host's number
        ([(1, 1), (2, 1)], True, (2,)),
    ],
)
def test_foreign_processes(
    monkeypatch: pytest.MonkeyPatch,
    board: SimulatedBoard,
    cuda: torch.device,
    processes: list[tuple[int, int]],
    context: bool,
    foreign: tuple[int, ...],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: context)
    board.processes = processes
    with open_gpu(cuda) as gpu:
        assert gpu.foreign_processes() == foreign
    if foreign:
        with pytest.raises(SensorError, match="other compute processes"):
            methods(cuda)


def test_own_context_is_there_before_others_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, board: SimulatedBoard, cuda: torch.device
) -> None:
    """Under a container's numbering the one process listed is this one only if it holds a context."""
    held: list[torch.device] = []
    monkeypatch.setattr("nas.measure.sensor._hold_context", held.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: held == [cuda])
    board.processes = [(1, 1)]
    assert methods(cuda)
    assert held == [cuda]


SEEN = Watched(None, None, None, (), others_cpus=1.0, foreign_processes=(ME + 2,), reason=None)


def test_process_that_comes_later_is_noticed(board: SimulatedBoard, cuda: torch.device) -> None:
    with open_sensors(cuda) as sensors:
        assert sensors.check(None) == ()
        board.processes = [(ME, 1), (ME + 1, 1)]
        with pytest.raises(SensorError, match=rf"pid {ME + 1}\)"):
            sensors.check(None)
        with pytest.raises(SensorError, match=rf"pid {ME + 1}, {ME + 2}\)"):
            sensors.check(SEEN)


def test_sharers_are_flagged_if_the_user_asks_for_it(board: SimulatedBoard, cuda: torch.device) -> None:
    board.mig, board.processes = (1, 1), [(ME, 1), (ME + 1, 1)]
    with open_sensors(cuda, "flag") as sensors:
        assert [sensor.method for sensor in sensors.working] == ["nvml_counter", "nvml_instant_power", "nvml_power"]
        foreign = f"other compute processes on the board (pid {ME + 1}, {ME + 2})"
        assert sensors.check(SEEN) == ("MIG has split the board", foreign)
    for when_loaded in ("auto", "refuse"):
        with pytest.raises(SensorError, match="whole board: MIG has split the board; other"), open_sensors(cuda, when_loaded):
            pytest.fail("the board is shared")


def test_others_on_the_cpu_forbid_only_where_the_user_says_so(monkeypatch: pytest.MonkeyPatch, powercap: PowercapTree) -> None:
    powercap.zone("intel-rapl:0", "package-0", 5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for when_loaded in ("auto", "flag"):
        with open_sensors(torch.device("cpu"), when_loaded) as sensors:
            assert sensors.check(SEEN) == ("others kept 1.0 CPUs busy beside the 4 used",)
            assert sensors.check(None) == sensors.check(replace(SEEN, others_cpus=None)) == ()
            assert sensors.check(replace(SEEN, others_cpus=0.4)) == ()
    with open_sensors(torch.device("cpu"), "refuse") as sensors, pytest.raises(SensorError, match=r"others kept 1\.0 CPUs busy"):
        sensors.check(SEEN)


@pytest.mark.parametrize("error", [pynvml.NVMLError_NoPermission(), pynvml.NVMLLibraryMismatchError()])
def test_processes_that_may_not_be_listed_forbid_a_measurement(
    board: SimulatedBoard, cuda: torch.device, error: Exception
) -> None:
    board.processes = error
    with pytest.raises(SensorError, match="list of processes"):
        methods(cuda)


def test_memory_of_the_process(board: SimulatedBoard, cuda: torch.device) -> None:
    with open_gpu(cuda) as gpu:
        board.processes = [(1, 5_000_000), (ME, 600_000_000)]
        assert gpu.process_memory_mb() == 600.0
        board.processes = [(1, 5_000_000)]
        assert gpu.process_memory_mb() == 5.0
        for processes, reason in (([], "lists 0"), ([(1, 1), (2, 1)], "lists 2"), ([(ME, None)], "does not give")):
            board.processes = processes
            with pytest.raises(SensorError, match=reason):
                gpu.process_memory_mb()


def test_rapl_sums_packages_only(powercap: PowercapTree) -> None:
    zones = [powercap.zone(f"intel-rapl:{i}", f"package-{i}", 1_000_000 * i) for i in range(2)]
    others = [
        powercap.zone("intel-rapl:0:0", "core", 5),
        powercap.zone("intel-rapl:0:1", "dram", 5),
        powercap.zone("intel-rapl:2", "psys", 5),
        powercap.zone("intel-rapl-mmio:0", "package-0", 5),
    ]
    counter = rapl.open_packages()
    assert counter.read_j() == 0
    for zone in others:
        (zone / "energy_uj").write_text("900000000")
    (zones[0] / "energy_uj").write_text("2500000")
    (zones[1] / "energy_uj").write_text("1500000")
    assert counter.read_j() == pytest.approx(3.0)


def test_rapl_wraps_around_each_package_at_its_own_range(powercap: PowercapTree) -> None:
    first = powercap.zone("intel-rapl:0", "package-0", 9_000_000, range_uj=10_000_000)
    second = powercap.zone("intel-rapl:1", "package-1", 1_000_000, range_uj=20_000_000)
    counter = rapl.open_packages()
    (first / "energy_uj").write_text("500000")
    (second / "energy_uj").write_text("2000000")
    assert counter.read_j() == pytest.approx(1.5 + 1.0)
    (first / "energy_uj").write_text("600000")
    assert counter.read_j() == pytest.approx(2.6)


def test_rapl_that_only_root_may_read(powercap: PowercapTree, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = powercap.zone("intel-rapl:0", "package-0", 5)
    read_text = Path.read_text

    def as_a_user(path: Path, *args: str, **kwargs: str) -> str:
        if path == zone / "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    # Tests may run as root, who may read everything.
    monkeypatch.setattr(Path, "read_text", as_a_user)
    with pytest.raises(SensorError, match=r"intel-rapl:0/energy_uj may be read by root only"):
        methods(torch.device("cpu"))


@pytest.mark.parametrize("text", ["", "many"])
def test_rapl_that_holds_no_number(powercap: PowercapTree, text: str) -> None:
    (powercap.zone("intel-rapl:0", "package-0", 5) / "energy_uj").write_text(text)
    with pytest.raises(SensorError, match="instead of a number"):
        methods(torch.device("cpu"))


def test_rapl_that_vanishes(powercap: PowercapTree) -> None:
    zone = powercap.zone("intel-rapl:0", "package-0", 5)
    counter = rapl.open_packages()
    (zone / "energy_uj").unlink()
    with pytest.raises(SensorError, match="cannot be read"):
        counter.read_j()


def test_no_rapl(powercap: PowercapTree) -> None:
    with pytest.raises(SensorError, match="no RAPL counter"):
        methods(torch.device("cpu"))


def test_others_that_cannot_be_seen_are_a_flag(
    monkeypatch: pytest.MonkeyPatch, board: SimulatedBoard, cuda: torch.device
) -> None:
    """In many containers NVML lists nobody, this process neither."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    board.processes = []
    with open_sensors(cuda) as sensors:
        assert sensors.check(None) == ("NVML lists no process here, not even this one: others on the board cannot be seen",)
    board.mig = (1, 1)
    with pytest.raises(SensorError, match="MIG has split the board"), open_sensors(cuda):
        pytest.fail("a board that MIG has split is not measured")
