"""Two processes never measure on one device at once, and a dead one does not keep it."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from nas.measure import lock
from nas.measure.record import SensorError

CPU = torch.device("cpu")
HOLDER = """
import sys, torch
from pathlib import Path
from nas.measure import lock
lock._SHARED = Path(sys.argv[1])
with lock.exclusive(torch.device("cpu"), 1):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "_SHARED", tmp_path)
    return tmp_path


def test_another_process_waits_until_the_first_is_done_or_dead(folder: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(SensorError, match=r"process measured or trained on cpu for all of measure\.lock_seconds=0\.05 s"),
        lock.exclusive(CPU, 0.05),
    ):
        pytest.fail("two at once")
    holder.kill()
    holder.communicate()
    with lock.exclusive(CPU, 5.0):
        pass


def test_one_thread_may_nest_and_another_waits() -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with lock.exclusive(CPU, 0.01):
                refused.append("no")
        except SensorError:
            refused.append("yes")

    with lock.exclusive(CPU, 1.0), lock.exclusive(CPU, 1.0):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused == ["yes"]


def test_all_users_may_take_it(folder: Path) -> None:
    with lock.exclusive(CPU, 1.0):
        path = lock.lock_path(CPU)
        assert path.parent.stat().st_mode & 0o7777 == 0o1777
        assert sorted(each.suffix for each in path.parent.iterdir()) == [".door", ".lock", ".queue"]
        assert all(each.stat().st_mode & 0o777 == 0o666 for each in path.parent.iterdir())


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    (folder / "osa-nas-locks").write_text("a file where the folder should be")
    with pytest.raises(SensorError, match="cannot be taken"), lock.exclusive(CPU, 1.0):
        pytest.fail("no lock was there")


def test_each_board_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "cuda_uuid", lambda device: f"GPU-{device.index}/../x")
    paths = {lock.lock_path(torch.device("cuda", index)) for index in (0, 1)} | {lock.lock_path(CPU)}
    assert len(paths) == 3 and len({path.parent for path in paths}) == 1


TRAINER = """
import sys, time, torch
from pathlib import Path
from nas.measure import lock
lock._SHARED = Path(sys.argv[1])
with lock.Shared(torch.device("cpu")) as hold:
    print("training", flush=True)
    while True:
        time.sleep(0.01)
        hold.give_way()
"""


def test_trainings_share_a_device_and_let_a_measurement_in_between_two_epochs(folder: Path) -> None:
    trainers = [subprocess.Popen([sys.executable, "-c", TRAINER, str(folder)], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for trainer in trainers:
            assert trainer.stdout is not None and trainer.stdout.readline() == b"training\n"
        for _ in range(3):
            with lock.exclusive(CPU, 20.0):
                pass
    finally:
        for trainer in trainers:
            trainer.kill()
            trainer.communicate()


ONE_OF_SEVERAL = """
import sys, torch
from pathlib import Path
from nas.measure import lock
name, lock._SHARED = sys.argv[1], Path(sys.argv[2])
say = lambda what: print(name, what, flush=True)
file_lock = lock.FileLock

def door(*arguments, **more):
    say("queues")
    return file_lock(*arguments, **more)

lock.FileLock = door
if name == "trainer":
    with lock.Shared(torch.device("cpu"), lambda: say("waits")) as hold:
        for epoch in range(2):
            say(f"trains, has waited: {hold.waited_s > 0}")
            sys.stdin.readline()
            hold.give_way()
else:
    with lock.exclusive(torch.device("cpu"), 60):
        say("measures")
        sys.stdin.readline()
"""
"""A process that says what it does and goes on when it is told."""


def test_all_who_wait_to_measure_come_before_the_next_epoch(folder: Path) -> None:
    ends = os.pipe()  # one for all: it shows what came first
    lines = queue.SimpleQueue[str]()
    processes: dict[str, subprocess.Popen[str]] = {}

    def listen() -> None:
        with os.fdopen(ends[0]) as told:
            for line in told:
                lines.put(line.strip())

    def start(name: str) -> None:
        command = [sys.executable, "-c", ONE_OF_SEVERAL, name, str(folder)]
        processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=ends[1], text=True)

    def next_line(*but: str) -> str:
        while (line := lines.get(timeout=60)) in but:
            pass
        return line

    def go_on(name: str) -> None:
        stdin = processes[name].stdin
        assert stdin is not None
        stdin.write("\n")
        stdin.flush()

    threading.Thread(target=listen, daemon=True).start()
    try:
        start("trainer")
        assert next_line() == "trainer trains, has waited: False"
        start("first")
        assert next_line() == "first queues"
        start("second")
        assert next_line("first queues") == "second queues"  # the first one does so at the door and inside
        go_on("trainer")
        ignored = ("first queues", "second queues", "trainer waits")
        measured = next_line(*ignored)
        assert measured in ("first measures", "second measures")
        go_on(measured.split()[0])
        other = ({"first measures", "second measures"} - {measured}).pop()
        assert next_line(*ignored) == other, "the training did not come between the two"
        go_on(other.split()[0])
        assert next_line(*ignored) == "trainer trains, has waited: True"
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
        os.close(ends[1])


def test_a_training_does_not_wait_for_ever_where_somebody_always_measures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_QUEUE_SECONDS", 0.05)
    with lock.exclusive(CPU, 1.0):
        pass
    waits: list[str] = []
    with lock._queueing(lock._queue(lock.lock_path(CPU)), 0.0), lock.Shared(CPU, lambda: waits.append("once")) as hold:
        assert hold.waited_s >= 0.05 and waits == ["once"]


def test_a_process_that_was_forked_meanwhile_keeps_nothing() -> None:
    ends = os.pipe()
    with lock.Shared(CPU):
        child = os.fork()
        if not child:  # it has all descriptors, and lives until it is told
            os.close(ends[1])
            os.read(ends[0], 1)
            os._exit(0)
    with lock.exclusive(CPU, 5.0):
        pass
    with lock.Shared(CPU, lambda: pytest.fail("somebody holds it")):
        pass
    os.close(ends[1])
    os.waitpid(child, 0)
    os.close(ends[0])


def test_who_is_stopped_while_it_waits_leaves_nothing_behind() -> None:
    class Stop(BaseException):
        pass

    def stop() -> None:
        raise Stop

    with lock.exclusive(CPU, 1.0), pytest.raises(Stop), lock.Shared(CPU, stop):
        pytest.fail("it was measured")
    with lock.exclusive(CPU, 1.0):
        pass


def test_nothing_is_measured_during_an_epoch_and_nothing_is_trained_during_a_measurement() -> None:
    with lock.Shared(CPU), pytest.raises(SensorError, match="measured or trained"), lock.exclusive(CPU, 0.05):
        pytest.fail("measured beside a training")
    came: list[str] = []

    def train() -> None:
        with lock.Shared(CPU):
            came.append("trained")

    with lock.exclusive(CPU, 1.0):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join(0.2)
        came.append("measured")
    thread.join()
    assert came == ["measured", "trained"]


def test_a_training_goes_on_where_no_lock_can_be_made(folder: Path) -> None:
    (folder / "osa-nas-locks").write_text("in the way")
    with lock.Shared(CPU) as hold:
        hold.give_way()
