"""How numbers look, how a duration looks, and when a request to stop may strike."""

from __future__ import annotations

import os
import signal

import pytest

from nas.console import clock
from nas.interrupt import Interrupted, InterruptGate
from nas.metrics import METRICS, show
from nas.tables import front_columns


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("top1", 0.97421, "97.42 %"),
        ("latency_ms", 1.23456, "1.235 ms"),
        ("energy_j", 0.00123, "1.23 mJ"),
        ("energy_j", 4.5, "4.5 J"),
        ("flops_per_s", 1.234e12, "1.23 TFLOP/s"),
        ("flops", 4.353e9, "4.35 GFLOPs"),
        ("images_per_s", 512.0, "512 /s"),
        ("params", 3_525_736, "3.53 M"),
        ("params", 812, "812"),
        ("peak_memory_mb", 61.4, "61.4 MB"),
        ("energy_j", None, "–"),
    ],
)
def test_values(name: str, value: float | None, text: str) -> None:
    assert show(METRICS[name], value) == text


def test_front_columns_name_each_metric_once() -> None:
    columns = ["trial", "top1", "params", "flops", "architecture_id"]
    assert front_columns(["top1", "params"], ["params", "flops"]) == columns
    assert front_columns(["top1", "params"], ["params", "flops"], references=True) == [*columns, "dominates", "dominates_by"]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3661.2, "1:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_stop_waits_for_the_write_to_end() -> None:
    gate, written = InterruptGate(), []
    with gate.installed():
        os.kill(os.getpid(), signal.SIGINT)
        written.append("the write went on")
        with pytest.raises(Interrupted), gate.interruptible():
            written.append("but nothing new began")
    assert written == ["the write went on"]


def test_a_stop_strikes_at_once_where_it_may() -> None:
    gate = InterruptGate()
    before = signal.getsignal(signal.SIGTERM)
    with gate.installed(), pytest.raises(Interrupted), gate.interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 0)  # a moment in which the handler runs
        pytest.fail("the block went on")
    assert signal.getsignal(signal.SIGTERM) == before
