from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from nas.measure import idle, watch
from nas.measure.record import SensorError
from nas.measure.sensor import UNSEEN, Sensor, Sensors

CPU, OTHER = torch.device("cpu"), torch.device("cuda", 1)


class Room:
    """A clock, and power that may change with it."""

    def __init__(self, power_w: Callable[[float], float]) -> None:
        self.now_s = 0.0
        self.power_w = power_w
        self.reads = 0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def read(self) -> float:
        self.reads += 1
        return self.power_w(self.now_s)

    def sensors(self) -> Sensors:
        return Sensors((Sensor("nvml_power", "power", self.read),), check=lambda watched: ())


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    room = Room(lambda now_s: 70.0)
    monkeypatch.setattr(idle, "time", SimpleNamespace(monotonic=room.clock, sleep=room.sleep))
    monkeypatch.setattr(idle, "_known", {})
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(watch, "open_gpu", refused)
    return room


@contextmanager
def refused(device: torch.device) -> Iterator[None]:
    yield from ()
    raise SensorError("no board is looked at here")


def test_a_load_meanwhile_is_no_idle_and_is_known_for_a_minute(room: Room) -> None:
    told = iter([("others kept 1.0 CPUs busy",), ()])
    sensors = Sensors(room.sensors().working, check=lambda watched: next(told))
    found = idle.idle_power(CPU, sensors)
    assert (found.power_w, found.reason) == (None, "while the device was meant to rest, others kept 1.0 CPUs busy")
    reads = room.reads
    room.now_s += idle.REFUSED_SECONDS
    assert idle.idle_power(CPU, sensors) is found and room.reads == reads, "each try would take seconds, the lock held"
    room.now_s += 0.1
    assert idle.idle_power(CPU, sensors).power_w == pytest.approx(70)


def test_what_a_gpu_draws_beside_others_is_given_and_not_kept(room: Room) -> None:
    told = iter([("other compute processes on the board (pid 7)",), (UNSEEN,)])
    sensors = Sensors(room.sensors().working, check=lambda watched: next(told))
    room.power_w = lambda now_s: 300.0
    assert idle.idle_power(OTHER, sensors).power_w == pytest.approx(300)
    room.power_w = lambda now_s: 70.0
    found = idle.idle_power(OTHER, sensors)
    assert found.power_w == pytest.approx(70)
    assert idle.idle_power(OTHER, sensors) is found, "that others could not be seen is no load"


def test_device_at_rest_takes_three_seconds(room: Room) -> None:
    found = idle.idle_power(CPU, room.sensors())
    assert (found.power_w, found.reason, found.method, found.age_s) == (pytest.approx(70), None, "nvml_power", 0)
    assert room.now_s == pytest.approx(3, abs=0.1)


def test_known_idle_is_used_while_fresh_and_per_device(room: Room) -> None:
    found = idle.idle_power(CPU, room.sensors())
    reads = room.reads
    room.power_w = lambda now_s: 80.0
    room.now_s += idle.FRESH_SECONDS
    assert idle.idle_power(CPU, room.sensors()) == found
    assert (room.reads, found.age_s) == (reads, idle.FRESH_SECONDS)
    assert idle.idle_power(OTHER, room.sensors()).power_w == pytest.approx(80)
    room.now_s += 0.1
    renewed = idle.idle_power(CPU, room.sensors())
    assert (renewed.power_w, renewed.age_s) == (pytest.approx(80), 0)


def test_power_after_a_load_is_waited_out(room: Room) -> None:
    room.power_w = lambda now_s: 70 + 230 * 0.5**now_s
    assert idle.idle_power(CPU, room.sensors()).power_w == pytest.approx(70, rel=0.05)


def test_power_that_never_settles_is_a_reason_kept_as_long(room: Room) -> None:
    room.power_w = lambda now_s: 70 * 1.1**now_s
    found = idle.idle_power(CPU, room.sensors())
    assert (found.power_w, found.reason) == (None, "idle power did not settle to 3 % within 12 s")
    assert room.now_s < 12.5
    assert idle.idle_power(CPU, room.sensors()) is found


def test_next_sensor_is_tried(room: Room) -> None:
    def lost() -> float:
        raise SensorError("GPU is lost")

    broken = Sensor("nvml_counter", "counter", lost)
    sensors = Sensors((broken, *room.sensors().working), check=lambda watched: ())
    assert idle.idle_power(CPU, sensors).method == "nvml_power"
    found = idle.idle_power(OTHER, Sensors((broken, broken), check=lambda watched: ()))
    assert (found.power_w, found.reason, found.method) == (None, "GPU is lost; GPU is lost", None)


def test_process_that_comes_meanwhile_spoils_it(room: Room) -> None:
    def shared(watched: object) -> tuple[str, ...]:
        raise SensorError("other compute processes on the board")

    with pytest.raises(SensorError, match="other compute"):
        idle.idle_power(CPU, Sensors(room.sensors().working, check=shared))
    assert not idle._known
