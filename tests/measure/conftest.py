from __future__ import annotations

from pathlib import Path

import pytest
import torch
from simulated import UUID, PowercapTree, SimulatedBoard, SimulatedNvml

from nas.measure import fingerprint, nvml, rapl, sensor


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> SimulatedBoard:
    """The board that torch calls cuda:0; NVML knows another one too."""
    mine = SimulatedBoard()
    driver = SimulatedNvml({"GPU-another": SimulatedBoard(energy_mj=7), UUID: mine})
    driver.install(monkeypatch)
    for module in (nvml, fingerprint):
        monkeypatch.setattr(module, "cuda_uuid", lambda device: UUID)
    monkeypatch.setattr(sensor, "_hold_context", lambda device: None)
    return mine


@pytest.fixture
def cuda() -> torch.device:
    return torch.device("cuda", 0)


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PowercapTree:
    monkeypatch.setattr(rapl, "ROOT", tmp_path)
    (tmp_path / "intel-rapl").mkdir()
    return PowercapTree(tmp_path)
