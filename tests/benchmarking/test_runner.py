"""What is measured is not measured again; what is damaged, failed or from other conditions is. Processes are stood in for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nas.benchmarking import job, runner
from nas.benchmarking.job import Job
from nas.benchmarking.results import Key, Result
from nas.compose import compose
from nas.config import BENCHMARK_GROUPS, BENCHMARK_ROOT, BenchmarkConfig, parse_benchmark
from nas.errors import InputError
from nas.measure import latency

QUICK = ("measure=default", "measure.latency_max_seconds=0.05", "measure.energy=false", "name=test", "input_size=16")


class Inline:
    """Stands in for a process of its own: does the work at once."""

    def submit(self, work: Any, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


@dataclass
class Notebook:
    """Notes what happens."""

    begun: list[Key] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def begins(self, key: Key) -> None:
        self.begun.append(key)

    def ended(self, result: Result) -> None:
        self.results.append(result)

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def done(self) -> list[tuple[str, int, str]]:
        return [(result.key.model, result.key.batch_size, result.status) for result in self.results]


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextlib.contextmanager
    def fresh_process() -> Iterator[Inline]:
        yield Inline()

    monkeypatch.setattr(runner, "fresh_process", fresh_process)
    monkeypatch.chdir(tmp_path)


def config(*arguments: str) -> BenchmarkConfig:
    composed = compose("benchmark", BENCHMARK_ROOT, BENCHMARK_GROUPS, [*QUICK, *arguments], study=False)
    return parse_benchmark(composed.plain)


def run(*arguments: str) -> Notebook:
    notebook = Notebook()
    runner.run(runner.prepare(config(*arguments)), notebook)
    return notebook


ONE = ("models=[osa_densenet40]", "batch_sizes=[2,1]", "num_classes=10")


def test_each_thing_once_and_by_growing_batch() -> None:
    assert run(*ONE).done == [("osa_densenet40", 1, "measured"), ("osa_densenet40", 2, "measured")]
    assert run(*ONE).done == []
    assert run(*ONE, "batch_sizes=[1,2,4]").done == [("osa_densenet40", 4, "measured")]


@pytest.mark.parametrize(
    "change",
    ["precisions=[bf16]", "num_classes=5", "input_size=20", "measure.latency_max_seconds=0.06", "measure.variants=[cold]"],
)
def test_other_conditions_are_other_results(change: str) -> None:
    run(*ONE)
    assert len(run(*ONE, change).done) == 2
    assert run(*ONE).done == []


def test_what_only_says_when_to_measure_changes_nothing() -> None:
    run(*ONE)
    assert run(*ONE, "measure.when_loaded=flag", "measure.lock_seconds=5").done == []


def test_a_damaged_result_is_kept_and_measured_again() -> None:
    plan = runner.prepare(config(*ONE))
    runner.run(plan, Notebook())
    path = plan.folder / plan.keys[0].file_name
    path.write_text("{")
    notebook = run(*ONE)
    assert notebook.done == [("osa_densenet40", 1, "measured")]
    assert str(path) in notebook.notes[0]
    assert path.with_suffix(".damaged").read_text() == "{"


def test_what_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(latency, "measure", lambda net: 1 / 0)
        (first, second) = run(*ONE).results
        assert (first.status, second.status) == ("failed", "failed")
    assert [status for *_, status in run(*ONE).done] == ["measured", "measured"]


def test_a_process_that_dies_costs_its_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = job.run

    def dies(wanted: Job) -> None:
        if wanted.word == "densenet40":
            whole(Job(**{**vars(wanted), "keys": wanted.keys[:1]}))
            raise BrokenProcessPool
        whole(wanted)

    monkeypatch.setattr(job, "run", dies)
    notebook = run("models=[densenet40,osa_densenet40]", "batch_sizes=[1,2]", "num_classes=10")
    assert notebook.done == [
        ("densenet40", 1, "measured"),
        ("densenet40", 2, "failed"),
        ("osa_densenet40", 1, "measured"),
        ("osa_densenet40", 2, "measured"),
    ]
    assert "process died" in str(notebook.results[1].reason)


def test_missing_networks_and_precisions_that_are_one() -> None:
    plan = runner.prepare(config("models=[bninception,osa_densenet40]", "batch_sizes=[1]", "precisions=[auto,fp32]"))
    assert [network.model for network in plan.missing] == ["bninception"]
    assert len(plan.keys) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["models=[resnt18]"], "model 'resnt18' is not known; did you mean"),
        (["models=[gone.yaml]"], r"gone\.yaml cannot be read"),
        (["models=['study:gone']"], "study:gone is no run folder"),
        (["models=[resnet18,'torchvision:resnet18']", "batch_sizes=[1]"], None),
        (["models=[resnet18]", "precisions=[tf32]"], "tf32 cannot be used on device=cpu"),
        (["models=[resnet18]", "device=cuda:7"], "device=cuda:7 cannot be used"),
    ],
)
def test_bad_input_before_anything_is_written(arguments: list[str], sentence: str | None, tmp_path: Path) -> None:
    if sentence is None:
        assert len(runner.prepare(config(*arguments)).keys) == 2
    else:
        with pytest.raises(InputError, match=sentence):
            runner.prepare(config(*arguments))
    assert not any(tmp_path.iterdir())
