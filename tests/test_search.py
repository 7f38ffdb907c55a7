"""Searches from end to end, as a user runs them: what they leave behind, how they go on, what they refuse."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import yaml
from PIL import Image

from search_spaces import osa
from tests.conftest import QUICK, Search

ATTRIBUTES = {
    "architecture",
    "architecture_id",
    "top1",
    "top5",
    "params",
    "mult_adds",
    "flops",
    "mem_access",
    "latency_ms",
    "latency_iqr_ms",
    "images_per_s",
    "flops_per_s",
    "energy_j",
    "peak_memory_mb",
    "epochs",
    "train_seconds",
    "measure_seconds",
}


def loaded(run_dir: Path, name: str = "osa_digits") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{run_dir}/study.db")


def test_a_search_leaves_what_others_rely_on(search: Search, workdir: Path) -> None:
    code, out, err = search("conf=osa_digits", *QUICK, "study.trials=3", "constraints={params: 1e6}")
    assert code == 0, err
    run_dir = workdir / "runs" / "osa_digits"
    study = loaded(run_dir)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    for trial in study.trials:
        found = trial.user_attrs
        assert set(found) >= ATTRIBUTES
        assert found["flops"] == 2 * found["mult_adds"]
        assert found["images_per_s"] == pytest.approx(8 / (found["latency_ms"] / 1000))
        assert found["flops_per_s"] == pytest.approx(found["flops"] * found["images_per_s"])
        assert 0 <= found["top1"] <= found["top5"] <= 1
        assert found["epochs"] == 1 and found["train_seconds"] > 0 and found["measure_seconds"] > 0
        assert found["energy_j"] is not None or found["energy_j_reason"]
        assert found["peak_memory_mb"] is not None or found["peak_memory_mb_reason"]
        architecture = osa.OSASpace(**plain_space(run_dir)).from_dict(json.loads(found["architecture"]))
        assert architecture.id == found["architecture_id"]
        text = (run_dir / "trials" / str(trial.number) / "architecture.yaml").read_text()
        assert yaml.safe_load(text) == json.loads(found["architecture"])
        built = osa.build(architecture, in_channels=1, num_classes=10)
        assert sum(parameter.numel() for parameter in built.parameters()) == found["params"]
    assert study.user_attrs["objectives"][:2] == ["top1", "latency_ms"]
    assert study.user_attrs["device"]
    with (run_dir / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows and set(rows[0]) == {"trial", *study.user_attrs["objectives"], "params", "architecture_id"}
    assert {int(row["trial"]) for row in rows} == {trial.number for trial in study.best_trials}
    for command in ("nas.report study=osa_digits", "nas.dashboard study=osa_digits", "nas.retrain study=osa_digits pick=knee"):
        assert f"python -m {command}\n" in out
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["train"]["epochs"] == 1


def plain_space(run_dir: Path) -> dict[str, object]:
    space = yaml.safe_load((run_dir / "config.yaml").read_text())["space"]
    return {key: value for key, value in space.items() if key != "_target_"}


def test_a_sensor_that_is_missing_drops_the_objective(search: Search, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas import grounds

    real = grounds.unavailable
    monkeypatch.setattr(grounds, "unavailable", lambda name, *how: "no meter" if name == "energy_j" else real(name, *how))
    code, out, _ = search("conf=osa_digits", *QUICK, "study.trials=1")
    assert code == 0 and "objective energy_j is dropped: no meter" in out
    study = loaded(workdir / "runs" / "osa_digits")
    assert study.user_attrs["objectives"] == ["top1", "latency_ms", "flops_per_s"]
    assert study.user_attrs["objectives_dropped"] == {"energy_j": "no meter"}
    for arguments, name in (
        (("measure.require=[energy_j]",), "measure.require"),
        (("constraints={energy_j: 1}",), "constraints"),
        (("objectives=[energy_j]",), "objectives"),
    ):
        code, _, err = search("conf=osa_digits", *QUICK, "study.name=other", *arguments)
        assert code == 2 and name in err and "no meter" in err
    assert not (workdir / "runs" / "other").exists()


def test_a_seed_of_the_samplers_own_changes_what_is_suggested_alone(search: Search, workdir: Path) -> None:
    found = {}
    for name, seeds in {"plain": (), "all": ("seed=1",), "own": ("sampler.seed=1",)}.items():
        arguments = ("conf=simulated/digits", f"study.name={name}", "study.trials=4", "sampler=random", *seeds)
        code, _, err = search(*arguments)
        assert code == 0, err
        found[name] = loaded(workdir / "runs" / name, name).trials
    suggested = {name: [trial.params for trial in trials] for name, trials in found.items()}
    assert suggested["own"] == suggested["all"] != suggested["plain"]
    assert {tuple(trial.user_attrs["seeds"]) for trial in found["own"]} == {(0,)}
    written = yaml.safe_load((workdir / "runs" / "own" / "config.yaml").read_text())
    assert written["seed"] == 0 and written["sampler"]["seed"] == 1


def test_the_same_command_goes_on_and_another_is_refused(search: Search, workdir: Path) -> None:
    base = ("conf=osa_digits", *QUICK, "objectives=[top1,params]", "sampler=random")
    assert search(*base, "study.trials=2")[0] == 0
    code, out, _ = search(*base, "study.trials=3")
    assert code == 0 and "3 trials, 2 of them done" in out
    study = loaded(workdir / "runs" / "osa_digits")
    assert len(study.trials) == 3 and len({str(trial.params) for trial in study.trials}) == 3
    before = (workdir / "runs" / "osa_digits" / "config.yaml").read_bytes()
    for change, says in (
        ("train.epochs=2", "train.epochs was 1, now 2"),
        ("space.ese=false", "space.ese"),
        ("objectives=[top1,flops]", "objectives"),
        ("data.validation_fraction=0.3", "data.validation_fraction was 0.2, now 0.3"),
        ("measure.batch_size=16", "measure.batch_size was 8, now 16"),
        ("train.precision=bf16", "train.precision was fp32, now bf16"),
        ("seed=3", "seed was 0, now 3"),
        ("constraints.params=5", "constraints.params was unset, now 5"),
    ):
        code, _, err = search(*base, "study.trials=4", change)
        assert code == 2 and says in err, err
    assert len(loaded(workdir / "runs" / "osa_digits").trials) == 3
    assert (workdir / "runs" / "osa_digits" / "config.yaml").read_bytes() == before


def test_candidates_that_fail_are_recorded_and_the_search_goes_on(
    search: Search, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas import evaluate
    from nas.train.fit import TrainingDiverged

    real, calls = evaluate.fit, []

    def fit(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise TrainingDiverged(3)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        if len(calls) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes")
        if len(calls) == 4:
            raise ValueError("something else\nwith a second line")
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate, "fit", fit)
    code, out, _ = search("conf=osa_digits", *QUICK, "study.trials=5")
    assert code == 0 and "trial 0 failed: train: TrainingDiverged" in out
    trials = loaded(workdir / "runs" / "osa_digits").trials
    assert [trial.user_attrs.get("failure") for trial in trials] == ["diverged", "out_of_memory", "out_of_memory", "error", None]
    assert [trial.state.name for trial in trials] == ["FAIL"] * 4 + ["COMPLETE"]
    assert trials[3].user_attrs["failure_reason"] == "train: ValueError: something else"
    assert trials[0].user_attrs["latency_ms"] > 0  # what was measured before is kept


def test_every_trial_failing_is_a_failed_run(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas import evaluate

    def fit(*_: object, **__: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(evaluate, "fit", fit)
    code, _, err = search("conf=osa_digits", *QUICK, "study.trials=2")
    assert code == 1 and "all 2 trials failed" in err and "broken" in err


def test_data_that_goes_away_stops_the_search_and_counts_nothing(
    search: Search, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas import evaluate
    from nas.errors import InputError

    def gone(*_: object) -> None:
        raise InputError("data.root=x is gone: restore it.")

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "load_bundle", gone)
        code, _, err = search("conf=osa_digits", *QUICK, "study.trials=2")
    assert code == 2 and err == "error: data.root=x is gone: restore it.\n"
    assert search("conf=osa_digits", *QUICK, "study.trials=2")[0] == 0
    assert [trial.state.name for trial in loaded(workdir / "runs" / "osa_digits").trials] == ["COMPLETE"] * 2


def test_a_space_of_which_only_a_part_can_be_built(search: Search, workdir: Path) -> None:
    # Eight pixels take three down-samplings. The probe, which the quick overrides leave out, must choose what can be built.
    arguments = ("space.stages=[3,6]", "space.downsample=maxpool", "train.precision=fp32", "train.memory_format=auto")
    code, out, err = search("conf=osa_digits", *QUICK, *arguments, "study.trials=6", "sampler=random")
    assert code == 0, err
    trials = loaded(workdir / "runs" / "osa_digits").trials
    assert {len(json.loads(t.user_attrs["architecture"])["stages"]) for t in trials if t.state.name == "COMPLETE"} == {3}
    assert {t.user_attrs["failure"] for t in trials if t.state.name == "FAIL"} == {"error"}
    assert "trains at" in out or "is left" in out


def test_a_folder_holds_one_study(search: Search, workdir: Path) -> None:
    assert search("conf=osa_digits", *QUICK, "study.trials=1", "run_dir=out")[0] == 0
    code, _, err = search("conf=osa_digits", *QUICK, "study.trials=1", "run_dir=out", "study.name=other")
    assert code == 2 and "holds the study 'osa_digits'" in err
    (workdir / "out" / "config.yaml").write_text("not: [yaml")
    code, _, err = search("conf=osa_digits", *QUICK, "study.trials=2", "run_dir=out")
    assert code == 2 and "config.yaml cannot be read" in err


def test_the_next_command_is_the_one_to_type(search: Search) -> None:
    arguments = ("conf=osa_digits", *QUICK, "objectives=[top1,params]", "run_dir=my runs", "study.trials=1")
    out = search(*arguments)[1]
    (line,) = [line for line in out.splitlines() if "python -m nas.search" in line]
    again = shlex.split(line)[3:]
    assert again == [*arguments[:-1], "engine.workers=0", "study.trials=2"]
    assert search(*again)[0] == 0


def test_constraints_that_nothing_keeps(search: Search) -> None:
    code, out, _ = search("conf=osa_digits", *QUICK, "study.trials=1", "constraints.params=10")
    assert code == 0 and "no network keeps every constraint" in out


def test_divergence_is_real(search: Search, workdir: Path) -> None:
    code, _, _ = search("conf=osa_digits", *QUICK, "study.trials=1", "train.peak_lr=1e38")
    assert code == 1
    assert loaded(workdir / "runs" / "osa_digits").trials[0].user_attrs["failure"] == "diverged"


@pytest.fixture
def folder_of_images(workdir: Path) -> Path:
    generator = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 2)):
        for kind in ("a", "b"):
            folder = workdir / "images" / part / kind
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
    return workdir / "images"


def test_own_images(search: Search, folder_of_images: Path, workdir: Path) -> None:
    (folder_of_images / "train" / "a" / "bad.jpg").write_bytes(b"this is no image")
    base = (
        "conf=osa_images",
        f"data.root={folder_of_images}",
        "data.image_size=16",
        *QUICK,
        "study.trials=1",
        "train.batch_size=8",
    )
    code, _, err = search(*base)
    assert code == 2 and "bad.jpg" in err
    assert not (workdir / "runs").exists()
    code, out, err = search(*base, "data.on_bad_image=skip")
    assert code == 0, err
    assert "1 " in out and "kept back for the test" in out


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("space.layers=[]",), ["space.layers"]),
        (("space.layer=3",), ["space.layer", "'layers'"]),
        (("space.layers={low: 5, high: 2}",), ["space.layers"]),
        (("space.conv_channels=-8",), ["space.conv_channels", "-8"]),
        (("space.stages=9", "space.downsample=maxpool"), ["8"]),
        (("sampler._target_=optuna.samplers.CmaEsSampler",), ["CmaEsSampler"]),
        (("sampler._target_=optuna.samplers.Nothing",), ["sampler._target_", "Nothing"]),
        (("sampler.seed=-3",), ["sampler.seed", "-3"]),
        (("sampler.seed=three",), ["sampler.seed", "three", "whole number"]),
        (("sampler._target_=optuna.samplers.PartialFixedSampler", "sampler.seed=3"), ["sampler.seed", "PartialFixedSampler"]),
        (("device=cuda:99",), ["cuda:99"]),
        (("device=tpu",), ["device", "tpu"]),
        (("study.storage=postgresql+psycopg2://me:sesame@127.0.0.1:1/db",), ["study.storage"]),
        (("study.storage=nonsense",), ["study.storage", "nonsense"]),
        (("study.storage=sqlite:////proc/study.db",), ["study.storage", "/proc/"]),
        (("study.storage=journal:/proc/j.log",), ["study.storage", "/proc/"]),
        (("space._target_=nas.train.datasets.Digits", "~space.stem"), ["space"]),
        (("data._target_=search_spaces.osa.OSASpace",), ["data._target_", "load"]),
        (("sampler._target_=optuna.samplers.PartialFixedSampler", "+sampler.base_sampler.seed=3"), ["sampler.base_sampler.seed"]),
        (("run_dir=/proc/nothing/here",), ["run_dir", "/proc/nothing/here"]),
        (("data=images", "data.root=nowhere"), ["nowhere"]),
        (("data=cifar10", "data.root=nowhere", "data.download=false"), ["data.root", "nowhere"]),
        (("measure.precision=tf32",), ["measure.precision", "tf32"]),
        (("space._target_=os.system",), ["space._target_"]),
    ],
)
def test_bad_input_ends_with_one_sentence(search: Search, workdir: Path, arguments: tuple[str, ...], names: list[str]) -> None:
    if "tf32" in str(arguments) and torch.cuda.is_available():
        arguments = (*arguments, "device=cpu")
    code, _, err = search("conf=osa_digits", *QUICK, *arguments)
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err and "sesame" not in err
    for name in names:
        assert name in err
    assert not list(workdir.iterdir())


def test_help_is_quick_because_it_imports_no_torch() -> None:
    code = "import sys, nas.search; nas.search.main(['--help']); sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.returncode == 0 and "osa_digits" in printed.stdout


def start(workdir: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "nas.search",
        "conf=osa_digits",
        *QUICK,
        "objectives=[top1,params]",
        "sampler=random",
        *arguments,
    ]
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(command, cwd=workdir, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_trials(process: subprocess.Popen[str], workdir: Path, count: int) -> None:
    # trials/<n>/ is made before trial n is evaluated; looking into the database meanwhile would disturb what is tested.
    deadline = time.monotonic() + 240
    while not (workdir / "runs" / "osa_digits" / "trials" / str(count) / "architecture.yaml").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_done_and_prints_the_front(workdir: Path, number: signal.Signals) -> None:
    process = start(workdir, "study.trials=500")
    wait_for_trials(process, workdir, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted after" in out and "that no other one beats" in out and "Traceback" not in err
    assert (workdir / "runs" / "osa_digits" / "front.csv").exists()


def test_a_kill_loses_and_doubles_nothing(search: Search, workdir: Path) -> None:
    process = start(workdir, "study.trials=500")
    wait_for_trials(process, workdir, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = loaded(workdir / "runs" / "osa_digits").trials
    done = {trial.number: trial.params for trial in before if trial.state.is_finished()}
    total = len(before) + 1
    code, _, err = search("conf=osa_digits", *QUICK, "objectives=[top1,params]", "sampler=random", f"study.trials={total}")
    assert code == 0, err
    after = loaded(workdir / "runs" / "osa_digits").trials
    assert [trial.number for trial in after] == list(range(total))
    assert all(trial.state.is_finished() for trial in after)
    assert all(after[number].params == parameters for number, parameters in done.items())
    fresh = ("run_dir=undisturbed", "objectives=[top1,params]", "sampler=random", f"study.trials={total}")
    assert search("conf=osa_digits", *QUICK, *fresh)[0] == 0
    assert [t.params for t in loaded(workdir / "undisturbed").trials] == [t.params for t in after]
