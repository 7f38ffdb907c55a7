"""What is measured is not measured again; what is damaged, failed or from other conditions is. Processes are stood in for."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nas.benchmarking import job, runner
from nas.benchmarking.job import Job
from nas.benchmarking.results import Key, Result
from nas.compose import compose
from nas.config.benchmark import BENCHMARK_GROUPS, BENCHMARK_ROOT, BenchmarkConfig, parse_benchmark
from nas.errors import InputError
from nas.measure import latency
from search_spaces import osa
from search_spaces.base import to_yaml

QUICK = ("measure=default", "measure.latency_max_seconds=0.05", "measure.energy=false", "name=test", "input_size=16")


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
def inline(inline_processes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


def test_a_process_that_dies_costs_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = job.run

    def dies(wanted: Job) -> None:
        if wanted.word == "densenet40":
            whole(Job(**{**vars(wanted), "keys": wanted.keys[:1]}))
            raise BrokenProcessPool
        whole(wanted)

    monkeypatch.setattr(job, "run", dies)
    notebook = run("models=[densenet40,osa_densenet40]", "batch_sizes=[1,2,4]", "num_classes=10")
    assert notebook.done == [
        ("densenet40", 1, "measured"),
        ("densenet40", 2, "failed"),
        ("densenet40", 4, "measured"),
        ("osa_densenet40", 1, "measured"),
        ("osa_densenet40", 2, "measured"),
        ("osa_densenet40", 4, "measured"),
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


def test_a_process_that_gives_up_costs_its_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = job.run

    def spoilt(wanted: Job) -> None:
        if wanted.word == "densenet40":
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nand how to debug it")
        whole(wanted)

    monkeypatch.setattr(job, "run", spoilt)
    notebook = run("models=[densenet40,osa_densenet40]", "batch_sizes=[1]", "num_classes=10")
    assert notebook.done == [("densenet40", 1, "failed"), ("osa_densenet40", 1, "measured")]
    assert notebook.results[0].reason == "its process gave up: CUDA error: an illegal memory access was encountered"


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "best.yaml").write_text(to_yaml(osa.preset("osa_densenet40")))
    with pytest.raises(InputError, match="models: best comes from 2 of its entries"):
        runner.prepare(config("models=[a/best.yaml,b/best.yaml]"))


def test_a_file_that_names_a_missing_network(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("family: reference\nname: bninception\n")
    plan = runner.prepare(config("models=[x.yaml,osa_densenet40]", "batch_sizes=[1]"))
    assert "BN-Inception is in neither" in plan.missing[0].reason
