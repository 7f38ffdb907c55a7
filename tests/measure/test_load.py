"""What others do to the CPUs, from the kernel's counters of ticks."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.measure import load
from nas.measure.load import CpuLoad


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(load, "STAT", tmp_path / "stat")
    monkeypatch.setattr(load, "usable_cpus", lambda: (0, 2))
    monkeypatch.setattr(load.os, "sysconf", lambda name: 100)
    return tmp_path / "stat"


def test_only_usable_cpus_count_and_stolen_time_is_apart(stat: Path) -> None:
    stat.write_text(
        "cpu  9999 9 9 9 9 9 9 9 0 0\n"
        "cpu0 100 10 20 7000 50 1 2 30 0 0\n"
        "cpu1 8888 0 0 0 0 0 0 0 0 0\n"
        "cpu2 1 0 0 100 0 0 0 0 0 0\n"
        "intr 12\n"
    )
    now = CpuLoad.now()
    assert now.busy_s == pytest.approx((100 + 10 + 20 + 1 + 2 + 1) / 100)
    assert now.stolen_s == pytest.approx(0.3)


def test_what_others_kept_busy() -> None:
    before, later = CpuLoad(10.0, 1.0, 4.0), CpuLoad(16.0, 1.5, 8.0)
    assert before.others_cpus(later, 2.0) == pytest.approx((6 + 0.5 - 4) / 2)
    assert before.others_cpus(before, 2.0) == 0.0
    # The kernel's ticks lag behind this process's own clock.
    assert CpuLoad(1.0, 0.0, 1.0).others_cpus(CpuLoad(1.0, 0.0, 1.01), 1.0) == 0.0


def test_a_system_that_does_not_tell(stat: Path) -> None:
    now = CpuLoad.now()
    assert now.busy_s is None and now.own_s > 0
    assert now.others_cpus(now, 1.0) is None
    stat.write_text("cpu1 1 2 3 4\n")
    assert CpuLoad.now().busy_s is None


def test_a_package_has_more_cpus_than_this_process_may_use(stat: Path) -> None:
    stat.write_text("cpu  90 0 0 0 0 0 0 0\ncpu0 100 0 0 900 0 0 0 0\ncpu1 700 0 0 300 0 0 0 0\n\nintr 5 4\n")
    assert CpuLoad.now().busy_s == pytest.approx(1.0)
    assert CpuLoad.now(everywhere=True).busy_s == pytest.approx(8.0)
