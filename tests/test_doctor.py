"""The doctor's screen on this machine, and the remedy that each finding earns."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from nas.checkup import Checkup, Repeats, check_up, describe_lacks, remedies
from nas.measure import latency
from nas.measure.record import SensorError
from nas.measure.settings import MeasureSettings
from nas.measure.subject import Subject
from nas.measure.watch import Watched

QUIET = Watched(None, None, None, (), 0.0, (), None)


@pytest.fixture(scope="module")
def checkup() -> Checkup:
    settings = MeasureSettings(batch_size=1, latency_max_seconds=0.05)
    found = check_up("cpu", settings, 2, "data", lambda stage: None)
    host = replace(found.device.host, governor=None)
    repeats = (Repeats("latency_ms", (1.0, 1.01), 0.03), Repeats("energy_j", (), 0.01, "no sensor"))
    return replace(found, watched=QUIET, repeats=repeats, sensor_refusals=(), device=replace(found.device, host=host))


def test_a_healthy_machine_needs_nothing(checkup: Checkup) -> None:
    assert list(remedies(checkup)) == []
    assert {ability.name for ability in checkup.precisions if ability.lack is None} >= {"fp32"}
    assert any("tf32: TF32 is an arithmetic of NVIDIA GPUs" in line for line in describe_lacks(checkup.precisions))


def test_spread_by_its_definition() -> None:
    assert Repeats("latency_ms", (9.0, 10.0, 12.0), 0.03).spread == pytest.approx(0.3)
    assert Repeats("energy_j", (), 0.03).spread is None


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"watched": replace(QUIET, others_cpus=1.5)}, "others keep 1.5 CPUs busy: stop them"),
        ({"watched": replace(QUIET, foreign_processes=(41, 42))}, r"stop the other processes on the GPU \(41, 42\)"),
        ({"watched": replace(QUIET, clock_reasons=("sw_thermal_slowdown",))}, r"the GPU throttles \(sw_thermal_slowdown\)"),
        ({"repeats": (Repeats("latency_ms", (1.0, 1.2), 0.03),)}, "latency_ms varied by 18.2% between runs"),
        ({"counter_over_power": (1.07, 1.07)}, "the energy counter is 1.070 of integrated power"),
        ({"sensor_refusals": ("x may be read by root only; give this user read permission",)}, "energy: x may be read by root"),
    ],
)
def test_each_finding_has_its_remedy(checkup: Checkup, change: dict[str, object], remedy: str) -> None:
    (found,) = remedies(replace(checkup, **change))  # type: ignore[arg-type]
    assert re.search(remedy, found), found


def test_the_governor(checkup: Checkup) -> None:
    device = replace(checkup.device, host=replace(checkup.device.host, governor="powersave"))
    (found,) = remedies(replace(checkup, device=device))
    assert "governor is powersave" in found


@pytest.mark.parametrize(
    "trouble", [SensorError("another process measured on cpu"), torch.OutOfMemoryError("it is full\nand so on")]
)
def test_a_device_that_cannot_be_measured_on_is_a_finding(trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(net: Subject) -> None:
        raise trouble

    monkeypatch.setattr(latency, "measure", refuse)
    found = check_up("cpu", MeasureSettings(batch_size=1), 2, "data", lambda stage: None)
    told = str(trouble).splitlines()[0]
    assert [(repeats.values, repeats.reason) for repeats in found.repeats] == [((), told), ((), told)]
    assert any(f"could not be measured ({told})" in remedy for remedy in remedies(found))


def test_energy_is_left_out_on_request() -> None:
    settings = MeasureSettings(batch_size=1, latency_max_seconds=0.05, energy=False)
    timed, spent = check_up("cpu", settings, 2, "data", lambda stage: None).repeats
    assert len(timed.values) == 2 and (spent.values, spent.reason) == ((), "measure.energy is false")


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nas.doctor", *arguments], capture_output=True, text=True)


def test_the_screen() -> None:
    done = doctor("device=cpu", "runs=2", "measure.batch_size=1", "measure.latency_max_seconds=0.05")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("software", "host", "device", "figures", "precisions", "not here", "2 runs of", "latency_ms", "data"):
        assert any(line.startswith(word) for line in done.stdout.splitlines()), (word, done.stdout)
    assert "to fix:" in done.stdout or "nothing to fix" in done.stdout


def test_bad_input() -> None:
    done = doctor("devise=cpu")
    assert done.returncode == 2 and done.stderr == "error: devise is not a known key; did you mean 'device'?\n"
