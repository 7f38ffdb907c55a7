"""Retraining end to end on a real search: the folder that it leaves, stopping and going on, and each thing that is refused."""

from __future__ import annotations

import csv
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import nas
from nas.choosing import choose
from nas.config.common import StudyKeys
from nas.measure.lock import lock_path
from nas.runs import read_run
from nas.train.data import load_bundle
from nas.train.recipe import score
from nas.train.settings import NumericFormat
from tests.conftest import QUICK

ROOT = Path(__file__).parent.parent
FAST = ("train.epochs=2", "measure=default", "measure.latency_max_seconds=0.05", "device=cpu")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nas.search import main

    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["conf=osa_digits", *QUICK, "study.trials=3", "objectives=[top1,latency_ms,params]"]) == 0
    return folder


@pytest.fixture
def retrain(searched: Path, workdir: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run ``nas.retrain`` in this process, in a folder with the search's run."""
    from nas.cli import run_command
    from nas.retrain import main

    shutil.copytree(searched / "runs", workdir / "runs")

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["nas.retrain", *arguments])
            run_command(main)
        written = capfd.readouterr()
        return int(str(ended.value.code)), written.out, written.err

    return run


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = load_file(one), load_file(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def read(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "metrics.json").read_text())
    return found


def test_what_it_leaves_behind(retrain: Command) -> None:
    code, out, err = retrain("study=osa_digits", "trial=1", *FAST)
    assert code == 0, err
    folder = Path("runs/osa_digits/retrain/1")
    assert f"python -m nas.export model={folder} format=onnx" in out
    assert {path.name for path in folder.iterdir()} == {
        *("model.safetensors", "model.json", "architecture.yaml", "metrics.json", "measurement.json", "config.yaml"),
        *("curves.csv", "curves.svg", "diagram.svg", "README.md"),
    }
    metrics = read(str(folder))
    assert metrics["train_images"] == 1438 and metrics["test_images"] == 359 and metrics["epochs"] == 2
    rows = list(csv.DictReader((folder / "curves.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert metrics["conditions"]["batch_size"] == 8, "figures compare with the search's only under its conditions"
    text = (folder / "README.md").read_text()
    assert f"{100 * metrics['test_top1']:.2f} % top-1" in text and "359 test images" in text
    assert "energy_j` | not measured |" in text or metrics["energy_j"] is not None
    # The weights that were shipped are those that were tested.
    from nas.targets import build_target
    from nas.train.data import DataRequest

    search = read_run(StudyKeys("osa_digits")).config()
    bundle = load_bundle(DataRequest(build_target("data", search.source), search.data, search.seed), "cpu")
    found = score(nas.load_model(folder), bundle.test_batches(256), NumericFormat("fp32", "contiguous"))
    assert found.top1 == metrics["test_top1"]
    raw = bundle.test_batches(256)
    pixels = torch.cat([x for x, _ in raw]) * torch.tensor(bundle.std)[:, None, None] + torch.tensor(bundle.mean)[:, None, None]
    with torch.inference_mode():
        guesses = nas.load_model(folder, normalise=True)(pixels).argmax(1)
    assert (guesses == raw.labels).double().mean().item() == pytest.approx(metrics["test_top1"], abs=0.003)


def test_done_is_done(retrain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert retrain("study=osa_digits", "trial=0", *FAST)[0] == 0
    before = (Path("runs/osa_digits/retrain/0/metrics.json")).read_bytes()
    monkeypatch.setattr("nas.retraining._test", lambda *_: pytest.fail("the test part was looked at again"))
    code, out, _ = retrain("study=osa_digits", "trial=0", *FAST)
    assert code == 0 and "it is done" in out
    code, _, err = retrain("study=osa_digits", "trial=0", *FAST, "train.epochs=3")
    assert code == 2 and "holds a retraining under another train" in err
    assert (Path("runs/osa_digits/retrain/0/metrics.json")).read_bytes() == before


def test_overwrite_another_seed_and_another_folder(retrain: Command) -> None:
    assert retrain("study=osa_digits", "trial=0", *FAST)[0] == 0
    assert retrain("study=osa_digits", "trial=0", *FAST, "train.epochs=1", "overwrite=true")[0] == 0
    assert read("runs/osa_digits/retrain/0")["epochs"] == 1
    assert retrain("study=osa_digits", "trial=0", *FAST, "seed=7", "train.epochs=1")[0] == 0
    assert read("runs/osa_digits/retrain/0-seed7")["seed"] == 7
    (Path("mine")).mkdir()
    (Path("mine") / "letter.txt").write_text("dear")
    code, _, err = retrain("study=osa_digits", "trial=0", *FAST, "out=mine")
    assert code == 2 and "mine is not empty and no retraining's" in err
    # Beginning anew deletes: it is for retrainings alone, and never for what else lies there.
    for other in ("mine", "runs/osa_digits", "runs/osa_digits/trials", "."):
        code, _, err = retrain("study=osa_digits", "trial=0", *FAST, f"out={other}", "overwrite=true")
        assert code == 2 and "is not empty and no retraining's" in err
    assert Path("mine/letter.txt").exists() and Path("runs/osa_digits/study.db").exists()
    code, _, err = retrain("study=osa_digits", "trial=0", *FAST, "out=mine/letter.txt")
    assert code == 2 and "out=mine/letter.txt is a file: give a folder's name" in err and err.count("\n") == 1


def test_fewer_cores_than_the_search_had_are_another_device(retrain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Path("runs/osa_digits/record.json")
    found = json.loads(record.read_text())
    found["conditions"]["measure"]["threads"] = found["conditions"]["device"]["threads"] = 512
    record.write_text(json.dumps(found))
    code, out, err = retrain("study=osa_digits", "trial=0", *FAST, "train.epochs=1")
    assert code == 0, err
    assert "this is another device" in out


def test_a_signal_to_the_main_process_ends_all_of_them(searched: Path, workdir: Path) -> None:
    shutil.copytree(searched / "runs", workdir / "runs")
    arguments = ("study=osa_digits", "trial=0", *FAST, "train.epochs=500", "train.devices=2")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-u", "-m", "nas.retrain", *arguments]
    with subprocess.Popen(
        command,
        cwd=workdir,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert any("  loss " in line for line in process.stdout)  # both are at work
        process.terminate()
        process.stdout.read()
        assert process.wait(timeout=60) == 130
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("some of its processes live on")


def test_an_architecture_from_a_file(retrain: Command) -> None:
    from search_spaces import dense
    from search_spaces.base import to_yaml

    Path("a.yaml").write_text(to_yaml(dense.preset("densenet40")).replace("layers: 12", "layers: 1"))
    code, out, err = retrain("study=osa_digits", "architecture=a.yaml", *FAST, "train.epochs=1", "out=dense")
    assert code == 0, err
    assert read("dense")["trial"] is None and "in the search" in out


def test_killed_it_goes_on(retrain: Command) -> None:
    """The process is killed once a checkpoint is there; the benchmark of kills does it at many random moments."""
    arguments = ["study=osa_digits", "trial=2", *FAST, "train.epochs=8"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "nas.retrain", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    checkpoints = Path("runs/osa_digits/retrain/2/checkpoints")
    deadline = time.monotonic() + 120
    while not any(checkpoints.glob("*.ckpt")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read() if process.stderr else ""
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert retrain(*arguments)[0] == 0
    assert retrain(*arguments, "out=whole")[0] == 0
    killed, whole = (Path(folder) / "model.safetensors" for folder in ("runs/osa_digits/retrain/2", "whole"))
    assert same_weights(killed, whole)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["study=nope"], "study=nope does not exist"),
        (["study=osa_digits", "trial=99"], "trial=99 is not in study osa_digits"),
        (["study=osa_digits", "pick=max tpo1"], "did you mean 'top1'?"),
        (["study=osa_digits", "train.epoch=3"], "train.epoch is not a known key; did you mean 'epochs'?"),
        (["study=osa_digits", "train.ema_decay=1"], "train.ema_decay=1 cannot be used"),
        (["study=osa_digits", "data.rot=x"], "data.rot is not a known key"),
        (["study=osa_digits", "data.validation_fraction=0.5"], "data.validation_fraction=0.5 divides the images otherwise"),
        (["study=osa_digits", "data.validation_fraction=0.5"], "than the search did with 0.2: set it back."),
        (["study=osa_digits", "data.image_size=9"], "the images are not those of the search (fingerprint"),
        (["study=osa_digits", "trial=0", "pick=knee"], "pick and trial are both set"),
        (["study=osa_digits", "device=cuda:7"], "device=cuda:7"),
        (["study=osa_digits", "train.devices=99"], "train.devices=99"),
        (["study=osa_digits", "audi=3"], "audi is not a known key"),
    ],
)
def test_what_is_refused(retrain: Command, arguments: list[str], told: str) -> None:
    code, _, err = retrain(*arguments)
    assert code == 2 and told in err and err.count("\n") == 1, err
    assert not Path("runs/osa_digits/retrain").exists() or not any(Path("runs/osa_digits/retrain").rglob("*.ckpt"))


def test_a_training_that_diverges_says_what_to_do(retrain: Command) -> None:
    code, _, err = retrain("study=osa_digits", "trial=0", *FAST, "train.peak_lr=1e30", "train.epochs=1")
    assert code == 1 and "diverged" in err and "lower train.peak_lr" in err


def test_what_is_refused_with_overwrite_deletes_nothing(retrain: Command) -> None:
    arguments = ("study=osa_digits", "trial=0", *FAST, "train.epochs=1")
    assert retrain(*arguments)[0] == 0
    folder = Path("runs/osa_digits/retrain/0")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    # A step shows 62 images: 64 are asked for at most, and 1438 make 23 steps.
    code, _, err = retrain(*arguments, "train.devices=32", "overwrite=true")
    assert code == 2 and "train.devices=32 leaves less than two images of a step to each, which shows 62" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    code, out, _ = retrain(*arguments)
    assert code == 0 and "it is done" in out
    # Nor does it leave a folder behind that refuses the corrected command.
    assert retrain(*arguments, "train.devices=32", "out=new")[0] == 2 and not Path("new").exists()
    assert retrain(*arguments, "out=new")[0] == 0


def test_beginning_anew_can_be_killed(retrain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("study=osa_digits", "trial=0", *FAST, "train.epochs=1")
    assert retrain(*arguments)[0] == 0
    folder = Path("runs/osa_digits/retrain/0")
    removed = shutil.rmtree

    def killed(path: Path, *rest: Any, **more: Any) -> None:
        monkeypatch.setattr(shutil, "rmtree", removed)
        (Path(path) / "0" / "metrics.json").unlink()  # it has just begun
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    assert retrain(*arguments, "train.epochs=2", "overwrite=true")[0] == 130
    assert not folder.exists() and list(folder.parent.glob(".0.overwritten-*"))
    assert retrain(*arguments, "train.epochs=2")[0] == 0
    assert read(str(folder))["epochs"] == 2 and not list(folder.parent.glob(".0.overwritten-*"))


def test_files_with_a_dot_are_no_content_and_never_deleted(retrain: Command) -> None:
    Path("mine").mkdir()
    Path("mine/.config.yaml.x1").write_text("half of it")
    code, _, err = retrain("study=osa_digits", "trial=0", *FAST, "train.epochs=1", "out=mine", "overwrite=true")
    assert code == 0, err
    assert Path("mine/.config.yaml.x1").exists() and Path("mine/model.safetensors").exists()


def raising(error: Exception) -> Callable[..., Any]:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    return fails


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "ran out of memory on cpu (CUDA out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "lower train.batch_size and give overwrite=true, or free"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "cannot be written (No space left on device): make room there"),
    ],
)
def test_too_little_memory_or_disk(retrain: Command, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str) -> None:
    arguments = ("study=osa_digits", "trial=0", *FAST, "train.epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr("nas.train.full_module.run_full", raising(error))
        code, _, err = retrain(*arguments)
    assert code == 1 and told in err and "the same command goes on" in err and err.count("\n") == 1
    assert retrain(*arguments)[0] == 0


class Liar:
    """A space that calls its networks as ours and builds them with one layer more."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def build(self, architecture: Any, in_channels: int, num_classes: int) -> nn.Module:
        model: nn.Module = self.inner.build(architecture, in_channels, num_classes)
        return nn.Sequential(model, nn.Linear(num_classes, num_classes))


def test_a_space_that_calls_its_networks_as_ours(retrain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def liars(*arguments: Any) -> Any:
        chosen = choose(*arguments)
        return dataclasses.replace(chosen, space=Liar(chosen.space))

    monkeypatch.setattr("nas.retrain_plan.choose", liars)
    arguments = ("study=osa_digits", "trial=0", *FAST, "train.epochs=1")
    told = "builds something else for this architecture than search_spaces does: let its architectures have a family of their own"
    code, _, err = retrain(*arguments)
    assert code == 2 and told in err and err.count("\n") == 1
    assert not Path("runs/osa_digits/retrain").exists(), "nothing was trained"
    # What shapes do not tell shows when the network is read back.
    monkeypatch.setattr("nas.retrain_plan._check_family", lambda *_: None)
    code, _, err = retrain(*arguments)
    assert code == 1 and "retrain/0 does not hold the network that was trained: space" in err and told in err
    assert err.count("\n") == 1


def test_what_cannot_be_counted_is_not_trained(retrain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.measure.complexity.count", raising(nas.errors.RunError("three counts differ.")))
    monkeypatch.setattr("nas.retraining.fit_full", lambda *_, **__: pytest.fail("it was trained"))
    code, _, err = retrain("study=osa_digits", "trial=0", *FAST)
    assert code == 1 and "three counts differ" in err


def test_a_device_without_bf16_trains_in_fp32(retrain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Path("runs/osa_digits/record.json")
    found = json.loads(record.read_text())
    found["conditions"]["train"]["precision"] = "bf16"
    record.write_text(json.dumps(found))
    monkeypatch.setattr("nas.retrain_plan.lacks_precision", lambda precision, device: f"it has no {precision}")
    code, out, err = retrain("study=osa_digits", "trial=0", *FAST, "train.epochs=1")
    assert code == 0, err
    assert (
        "1 epochs in batches of 64, fp32 contiguous" in out
        and read("runs/osa_digits/retrain/0")["numeric"]["precision"] == "fp32"
    )


def test_nobody_measures_while_it_trains(retrain: Command, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.measure.lock._SHARED", workdir)  # a lock that no other test knows
    free: list[bool] = []

    def alone() -> bool:
        with lock_path(torch.device("cpu")).open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    monkeypatch.setattr("nas.retrain.Lines.epoch", lambda *_: free.append(alone()))
    assert retrain("study=osa_digits", "trial=0", *FAST)[0] == 0
    assert free == [False, False] and alone()


def test_a_gpu_is_the_current_one_before_data_goes_there(retrain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    def loads(request: object, device: object) -> None:
        done.append(("load", device))
        raise nas.errors.RunError("far enough.")

    second = torch.device("cuda", 1)
    monkeypatch.setattr("nas.retrain_plan.resolve_device", lambda name: second)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(("set", device)))
    monkeypatch.setattr("nas.retrain_plan.load_bundle", loads)
    for more in (("trial=0",), ("audit=2",)):
        done.clear()
        assert retrain("study=osa_digits", *more)[0] == 1
        assert done == [("set", second), ("load", second)]
