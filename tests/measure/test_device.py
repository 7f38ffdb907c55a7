from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch
from simulated import UUID, PowercapTree, SimulatedBoard

from nas.errors import InputError
from nas.measure import device
from nas.measure.fingerprint import DeviceFingerprint, cgroup_cpus
from nas.measure.settings import MeasureSettings

CPU = torch.device("cpu")


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("gpus", "name", "expected"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_device_names(monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, expected: str) -> None:
    pretend_gpus(monkeypatch, gpus)
    assert device.resolve_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("gpus", "name", "message"),
    [
        (0, "cuda:3", "device=cuda:3 .* no CUDA device"),
        (2, "cuda:3", "device=cuda:3 .* last .* cuda:1"),
        (2, "cuda:-1", "device=cuda:-1 is unknown"),
        (2, "cudaa", "device=cudaa is unknown"),
        (0, "", "device= is unknown"),
    ],
)
def test_bad_device_names(monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, message: str) -> None:
    pretend_gpus(monkeypatch, gpus)
    with pytest.raises(InputError, match=message):
        device.resolve_device(name)


def test_conditions_on_a_cpu() -> None:
    conditions = device.resolve_conditions(MeasureSettings(batch_size=4, threads=1), CPU)
    assert (conditions.device, conditions.batch_size, conditions.threads) == ("cpu", 4, 1)
    assert (conditions.precision, conditions.memory_format) == ("fp32", "channels_last")
    assert conditions.energy_window_seconds == 1.0
    assert device.resolve_conditions(MeasureSettings(energy_window_seconds=3.0), CPU).energy_window_seconds == 3.0


@pytest.mark.parametrize(
    ("torchs", "usable", "quota", "threads"),
    [(4, 8, None, 4), (8, 4, None, 4), (8, 8, 1.5, 1), (8, 8, 2.9, 2), (8, 8, 0.2, 1), (2, 8, 4.0, 2), (8, 3, 4.0, 3)],
)
def test_threads_are_no_more_than_affinity_and_quota_feed(
    monkeypatch: pytest.MonkeyPatch, torchs: int, usable: int, quota: float | None, threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: torchs)
    monkeypatch.setattr(device, "usable_cpus", lambda: tuple(range(usable)))
    monkeypatch.setattr(device, "cgroup_cpus", lambda: quota)
    assert device.resolve_conditions(MeasureSettings(), CPU).threads == threads
    limit = min(usable, max(1, math.floor(quota)) if quota else usable)
    assert device.resolve_conditions(MeasureSettings(threads=limit), CPU).threads == limit
    with pytest.raises(InputError, match=rf"measure\.threads={limit + 1} .*at most {limit}"):
        device.resolve_conditions(MeasureSettings(threads=limit + 1), CPU)


@pytest.mark.parametrize(
    ("capability", "bf16", "wanted", "got"),
    [
        ((9, 0), True, "auto", "bf16"),
        ((7, 5), False, "auto", "fp32"),
        ((8, 0), True, "tf32", "tf32"),
        ((7, 5), False, "fp16", "fp16"),
    ],
)
def test_precision_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, cuda: torch.device, capability: tuple[int, int], bf16: bool, wanted: str, got: str
) -> None:
    pretend_board(monkeypatch, capability, bf16)
    conditions = device.resolve_conditions(MeasureSettings(precision=wanted), cuda)  # type: ignore[arg-type]
    assert (conditions.precision, conditions.threads, conditions.device) == (got, None, "cuda:0")
    assert conditions.energy_window_seconds == 5.0


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_precision_that_a_gpu_lacks(monkeypatch: pytest.MonkeyPatch, cuda: torch.device, precision: str) -> None:
    pretend_board(monkeypatch, (7, 5), bf16=False)
    with pytest.raises(InputError, match=f"measure.precision={precision} .*device=cuda:0.*Simulated"):
        device.resolve_conditions(MeasureSettings(precision=precision), cuda)  # type: ignore[arg-type]


def pretend_board(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Simulated T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cuda.device, "__init__", lambda self, device: None)
    monkeypatch.setattr(torch.cuda.device, "__enter__", lambda self: None)
    monkeypatch.setattr(torch.cuda.device, "__exit__", lambda self, *exc: None)


def test_precision_that_a_cpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"measure\.precision=tf32 .*device=cpu.*measure\.precision=fp32"):
        device.resolve_conditions(MeasureSettings(precision="tf32"), CPU)

    def refuse(dtype: torch.dtype) -> None:
        raise RuntimeError(f'"slow_conv2d_cpu" not implemented for {dtype}\nand a C++ trace')

    monkeypatch.setattr(device, "_run_sample", refuse)
    with pytest.raises(InputError, match=r"measure\.precision=fp16 .*slow_conv2d_cpu.*float16\)") as caught:
        device.resolve_conditions(MeasureSettings(precision="fp16"), CPU)
    assert "trace" not in str(caught.value)


def test_more_threads_than_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    many = 1 + len(os.sched_getaffinity(0))
    monkeypatch.setattr(device, "cgroup_cpus", lambda: None)
    with pytest.raises(InputError, match=rf"measure\.threads={many} .*at most {many - 1}"):
        device.resolve_conditions(MeasureSettings(threads=many), CPU)


def flags() -> tuple[object, ...]:
    backends = torch.backends
    return (
        backends.cudnn.benchmark,
        backends.cudnn.conv.fp32_precision,
        backends.cuda.matmul.fp32_precision,
        torch.get_num_threads(),
        torch.is_inference_mode_enabled(),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_context_sets_flags_and_restores_them(fails: bool) -> None:
    conditions = device.resolve_conditions(MeasureSettings(threads=1), CPU)
    before = flags()
    try:
        with device.numeric_context(conditions):
            assert flags() == (True, "ieee", "ieee", 1, True)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert flags() == before
    # The older switches refuse to be read where old and new ways are mixed.
    assert isinstance(torch.backends.cuda.matmul.allow_tf32, bool)


def test_cpu_fingerprint_survives_json_and_names_what_must_agree() -> None:
    found = device.fingerprint(CPU, threads=1)
    assert DeviceFingerprint.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert found.identity()["kind"] == "cpu"
    assert found.identity()["threads"] == 1
    assert found.identity()["torch"] == torch.__version__
    assert found.identity() != device.fingerprint(CPU, threads=2).identity()
    assert found.recorded["board"] is None
    assert found.recorded["host"]["affinity"] == sorted(os.sched_getaffinity(0))


def properties(device: torch.device) -> SimpleNamespace:
    return SimpleNamespace(name="Simulated H100", total_memory=80_000_000_000, uuid=UUID.removeprefix("GPU-"))


def test_gpu_fingerprint(monkeypatch: pytest.MonkeyPatch, board: SimulatedBoard, cuda: torch.device) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    found = device.fingerprint(cuda)
    agreed = found.identity()
    assert (agreed["name"], agreed["memory_mb"], agreed["power_limit_w"], agreed["driver"]) == (
        "Simulated H100",
        80_000,
        700.0,
        "575.57",
    )
    assert found.recorded["board"] == {
        "uuid": UUID,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 1980,
        "temperature_c": 41,
        "nvml_reason": None,
    }
    assert UUID not in json.dumps(agreed)
    assert DeviceFingerprint.from_dict(json.loads(json.dumps(found.to_dict()))) == found

    board.temperature_c = pynvml.NVMLError_NotSupported()
    board.clocks_mhz = 1200
    assert device.fingerprint(cuda).identity() == agreed
    assert device.fingerprint(cuda).board != found.board


def test_gpu_fingerprint_without_nvml(monkeypatch: pytest.MonkeyPatch, board: SimulatedBoard, cuda: torch.device) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(pynvml, "nvmlInit", raiser(pynvml.NVMLError_LibraryNotFound()))
    found = device.fingerprint(cuda)
    assert (found.agreed.driver, found.agreed.power_limit_w) == (None, None)
    assert found.board is not None
    assert "no NVIDIA driver" in str(found.board.nvml_reason)


def raiser(error: Exception) -> object:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], cpus: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert cgroup_cpus(tmp_path, tmp_path / "no such file") == cpus


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        ("0::/batch/job/step", {"batch/job/cpu.max": "150000 100000"}, 1.5),
        ("0::/batch/job/step", {"batch/cpu.max": "800000 100000", "batch/job/step/cpu.max": "200000 100000"}, 2.0),
        ("0::/batch/job/step", {"batch/cpu.max": "100000 100000", "batch/job/step/cpu.max": "200000 100000"}, 1.0),
        ("0::/batch/job/step", {"batch/job/step/cpu.max": "max 100000", "batch/cpu.max": "300000 100000"}, 3.0),
        ("0::/another/job", {"batch/job/cpu.max": "150000 100000"}, None),
        ("0::/not/here", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/../../host", {"cpu.max": "150000 100000"}, 1.5),
        ("4:cpuset:/x\n3:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "50000", "cpu/job/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)
def test_the_least_quota_of_all_groups_above_counts(tmp_path: Path, own: str, files: dict[str, str], cpus: float | None) -> None:
    (tmp_path / "own").write_text(f"{own}\n")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert cgroup_cpus(tmp_path / "cgroup", tmp_path / "own") == cpus


def test_availability_on_a_cpu(powercap: PowercapTree) -> None:
    assert device.unavailable("latency_ms", CPU) is None
    assert device.unavailable("top1", CPU) is None
    assert "GPU only" in str(device.unavailable("peak_memory_mb", CPU))
    assert "no RAPL counter" in str(device.unavailable("energy_j", CPU))
    powercap.zone("intel-rapl:0", "package-0", 5)
    assert device.unavailable("energy_j", CPU) is None
    with pytest.raises(InputError, match=r"'energy_jj' is unknown; did you mean 'energy_j'"):
        device.unavailable("energy_jj", CPU)


def test_availability_on_a_gpu(board: SimulatedBoard, cuda: torch.device) -> None:
    assert device.unavailable("energy_j", cuda) is None
    assert device.unavailable("peak_memory_mb", cuda) is None
    board.mig = (1, 1)
    assert "MIG" in str(device.unavailable("energy_j", cuda))
