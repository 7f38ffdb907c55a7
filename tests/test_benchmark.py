"""The command from its arguments to its files and its exit code; the work is done in this process."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from nas import benchmark
from nas.benchmarking import results
from nas.cli import run_command
from nas.measure import latency
from nas.measure.subject import Subject

QUICK = ("measure=default", "measure.latency_max_seconds=0.05", "measure.energy=false", "input_size=32", "num_classes=10")
ONE = (*QUICK, "name=one", "models=[osa_densenet40,bninception]", "batch_sizes=[1,2]", "run_dir=out")

Benchmark = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(inline_processes: None, workdir: Path, capsys: pytest.CaptureFixture[str]) -> Benchmark:
    """Run the command; returns its exit code and what it wrote to stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["nas.benchmark", *arguments])
            run_command(benchmark.main)
        written = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, written.out, written.err

    return run


def table(run_dir: Path) -> list[tuple[str, str, str]]:
    with (run_dir / "results.csv").open() as file:
        return [(row["model"], row["batch_size"], row["status"]) for row in csv.DictReader(file)]


def test_what_is_left_behind_and_not_done_twice(command: Benchmark, workdir: Path) -> None:
    code, out, err = command(*ONE)
    assert (code, err) == (0, "")
    assert table(workdir / "out") == [
        ("osa_densenet40", "1", "measured"),
        ("osa_densenet40", "2", "measured"),
        ("bninception", "", "missing"),
    ]
    assert "2/2  osa_densenet40  fp32  batch 2" in out
    page = (workdir / "out" / "benchmark.html").read_text(encoding="utf-8")
    # Each row has a batch size and a precision of its own, so they are no conditions of the whole.
    assert "<dt>memory format</dt>" in page and "<dt>batch size</dt>" not in page and "<dt>precision</dt>" not in page
    assert yaml.safe_load((workdir / "out" / "config.yaml").read_text())["models"] == ["osa_densenet40", "bninception"]
    code, out, _ = command(*ONE)
    assert code == 0 and "2/2" not in out and len(table(workdir / "out")) == 3


def test_an_interrupted_benchmark_keeps_what_it_has(command: Benchmark, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = latency.measure, list[Subject]()

    def interrupted(net: Subject) -> latency.Latency:
        calls.append(net)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return measure(net)

    with monkeypatch.context() as patch:
        patch.setattr(latency, "measure", interrupted)
        code, out, _ = command(*ONE)
    assert code == 130 and "interrupted: the same command goes on" in out
    code, out, _ = command(*ONE)
    assert code == 0 and "1/2" not in out and "2/2" in out


@pytest.mark.parametrize("text", ["study: {name: small}\nspace: {}\n", "{", "- 1\n"])
def test_a_folder_of_something_else_is_left_alone(command: Benchmark, workdir: Path, text: str) -> None:
    (workdir / "out").mkdir()
    (workdir / "out" / "config.yaml").write_text(text)
    code, _, err = command(*ONE)
    assert code == 2 and err.startswith("error: run_dir=out holds a config.yaml that is no benchmark's")
    assert [path.name for path in (workdir / "out").iterdir()] == ["config.yaml"]
    assert (workdir / "out" / "config.yaml").read_text() == text


def test_a_folder_in_use_is_refused(command: Benchmark, workdir: Path) -> None:
    (workdir / "out" / "measurements").mkdir(parents=True)
    with FileLock(workdir / "out" / "measurements" / ".lock"):
        code, _, err = command(*ONE)
    assert code == 2 and "run_dir=out is in use by another benchmark" in err


def test_a_run_dir_that_is_a_file(command: Benchmark, workdir: Path) -> None:
    (workdir / "out").write_text("mine")
    code, _, err = command(*ONE)
    assert code == 2 and err.startswith("error: run_dir=out cannot be written") and (workdir / "out").read_text() == "mine"


def test_a_full_disk_ends_it_in_a_sentence(command: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_bytes", full)
    code, _, err = command(*ONE)
    assert code == 1 and err.startswith("error: out: No space left on device; what was measured is kept") and err.count("\n") == 1


def test_nothing_measured_is_a_failed_run(command: Benchmark, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "measure", lambda net: 1 / 0)
    code, _, err = command(*ONE)
    assert code == 1 and err == "error: none of 3 could be measured; the first (osa_densenet40): latency: division by zero.\n"
    assert (workdir / "out" / "benchmark.html").exists()


@pytest.mark.parametrize(
    ("arguments", "name", "run_dir"),
    [
        ((), "representative", "runs/benchmark/representative"),
        (("models=[resnet18]",), "custom", "runs/benchmark/custom"),
        (("models=[resnet18]", "run_dir=out/42"), "42", "out/42"),
        (("models=[resnet18]", "run_dir='a b'"), "custom", "a b"),
        (("models=[resnet18]", "name=mine"), "mine", "runs/benchmark/mine"),
    ],
)
def test_a_list_of_ones_own_has_a_name_of_its_own(
    command: Benchmark, arguments: tuple[str, ...], name: str, run_dir: str
) -> None:
    code, out, _ = command(*arguments, "--cfg")
    shown = yaml.safe_load(out)
    assert (code, shown["name"], shown["run_dir"]) == (0, name, run_dir)
