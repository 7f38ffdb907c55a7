"""How many workers there are, and where: as many as the devices bear, and a sentence where more are asked for."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas import staffing
from nas.config.search import EngineSettings, SearchConfig
from nas.errors import InputError
from nas.local import Place
from nas.measure.device import resolve_conditions
from nas.measure.settings import MeasureSettings
from nas.staffing import packing, places
from tests.conftest import Search

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
CPUS = [0, 1, 2, 3, 6, 7]


@pytest.fixture(autouse=True)
def cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(CPUS))


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four GPUs, of which the second is of another kind, and the last one has another power limit."""
    told = [{"name": name, "power_limit_w": limit_w} for name, limit_w in (("A", 700), ("B", 700), ("A", 700), ("A", 500))]
    monkeypatch.setattr(staffing, "fingerprint", lambda board: SimpleNamespace(identity=lambda: told[board.index]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(staffing, "free_mb", lambda device: 80e3)


def config(workers: Any = "auto", packing: Any = 1, device: str = "auto") -> SearchConfig:
    found = SearchConfig.__new__(SearchConfig)
    for name, value in {"engine": EngineSettings(workers=workers), "packing": packing, "device": device}.items():
        object.__setattr__(found, name, value)
    return found


def staff(on: torch.device, memory_mb: float = 1000.0, threads: int | None = None, **keys: Any) -> tuple[Place, ...]:
    conditions = replace(resolve_conditions(MeasureSettings(), CPU), threads=threads)
    return places(config(**keys), on, conditions, lambda: memory_mb)


def test_on_cpus_each_worker_has_its_own() -> None:
    assert staff(CPU) == (Place("cpu"),)
    assert staff(CPU, workers=0) == ()
    assert staff(CPU, workers=3) == (Place("cpu", (0, 1)), Place("cpu", (2, 3)), Place("cpu", (6, 7)))
    assert staff(CPU, workers=4)[3] == Place("cpu", (3,)), "what is left over is left free"
    with pytest.raises(InputError, match=r"engine\.workers=7 is more than the 6 CPUs"):
        staff(CPU, workers=7)
    with pytest.raises(InputError, match=r"measure\.threads=3 is more than the 2 CPUs that each of engine\.workers=3 has"):
        staff(CPU, workers=3, threads=3)


def test_on_gpus_one_each_of_their_kind_times_the_packing(boards: None) -> None:
    assert [place.device for place in staff(GPU)] == ["cuda:0", "cuda:2"]
    assert [place.device for place in staff(torch.device("cuda:3"))] == ["cuda:3"]
    assert [place.device for place in staff(GPU, device="cuda:0")] == ["cuda:0"]
    assert [place.device for place in staff(GPU, packing=2)] == ["cuda:0", "cuda:2"] * 2
    assert [place.device for place in staff(GPU, workers=3)] == ["cuda:0", "cuda:2", "cuda:0"]
    assert len(staff(GPU, packing="auto")) == 2 * 3, "three CPUs per GPU launch for three trainings"
    assert len(staff(GPU, packing="auto", memory_mb=30e3)) == 2 * 1
    with pytest.raises(InputError, match=r"engine\.workers=17 is more than 2 GPU\(s\) allow: give at most 16"):
        staff(GPU, workers=17)


def test_packing_keeps_within_memory_and_never_below_one() -> None:
    assert packing(1000.0, 80e3, cpus=64) == staffing.MOST_PER_GPU
    assert packing(10e3, 80e3, cpus=64) == 4
    assert packing(float("inf"), 80e3, cpus=64) == 1
    assert packing(1000.0, 80e3, cpus=2) == 2
    for memory_mb in (100.0, 1e3, 1e4, 1e5):
        count = packing(memory_mb, 80e3, cpus=64)
        assert count == 1 or count * (memory_mb + 600) <= 80e3


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("engine.workers=-1", "engine.workers=-1 cannot be used"),
        ("engine.workers=many", "engine.workers='many' cannot be used"),
        ("engine.worker=2", "engine.worker is not a known key; did you mean"),
        ("engine.timeout.train=0", "engine.timeout.train=0 cannot be used: it should be"),
        ("engine.timeout.training=5", "engine.timeout.training is not a known key"),
        ("train.packing=0", "train.packing=0 cannot be used"),
        ("engine=slurm", "engine=slurm does not exist"),
    ],
)
def test_keys_that_cannot_be_used(search: Search, key: str, message: str) -> None:
    code, _, err = search("conf=osa_digits", key)
    assert code == 2 and message in err and err.count("\n") == 1
