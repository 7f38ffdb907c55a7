"""The keys of a benchmark: what composes, and the sentence that everything else earns."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.compose import compose, packaged_conf
from nas.config.benchmark import BENCHMARK_GROUPS, BENCHMARK_ROOT, BenchmarkConfig, parse_benchmark
from nas.errors import InputError


def parsed(*arguments: str) -> BenchmarkConfig:
    return parse_benchmark(compose("benchmark", BENCHMARK_ROOT, BENCHMARK_GROUPS, arguments, study=False).plain)


@pytest.mark.parametrize("name", [path.stem for path in (packaged_conf() / "benchmark").glob("*.yaml")])
def test_every_shipped_list_fits_the_schema(name: str) -> None:
    config = parsed(f"benchmark={name}")
    assert config.name == name and config.run_dir == f"runs/benchmark/{name}"
    assert config.measure.energy_windows == 3 and config.measure.energy_window_seconds == 10.0


def test_the_representative_list_is_the_default() -> None:
    assert parsed().name == "representative"


def test_the_command_line_of_the_readme() -> None:
    config = parsed("models=[resnet18,vovnet39]", "batch_sizes=[1,16]", "run_dir=here")
    assert (config.models, config.batch_sizes, config.run_dir) == (("resnet18", "vovnet39"), (1, 16), "here")


def test_a_list_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "benchmark").mkdir(parents=True)
    (tmp_path / "conf" / "benchmark" / "mine.yaml").write_text("# @package _global_\nname: mine\nmodels: [resnet18]\n")
    assert parsed("benchmark=mine", "measure=default").models == ("resnet18",)


def test_a_list_without_its_first_line_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "benchmark").mkdir(parents=True)
    (tmp_path / "conf" / "benchmark" / "mine.yaml").write_text("name: mine\nmodels: [resnet18]\n")
    with pytest.raises(InputError, match="'# @package _global_' as the first line"):
        parsed("benchmark=mine")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("benchmark=represent", "benchmark=represent does not exist; did you mean 'representative'"),
        ("model=[resnet18]", "model is not a known key; did you mean 'models'"),
        ("models=[]", "models=.* a list with at least one entry"),
        ("batch_sizes=[0]", r"batch_sizes.*0.*greater than or equal to 1"),
        ("batch_sizes=[1,1]", "batch_sizes: 1 is named twice"),
        ("precisions=[int8]", "precisions.*int8"),
        ("measure.batch_size=8", r"measure\.batch_size=8 cannot be used here: set batch_sizes=\[8\]"),
        ("measure.precision=bf16", r"set precisions=\[bf16\]"),
        ("measure.variants=[graf]", "measure.variants.*graf"),
        ("measure.energy_window=3", "measure.energy_window is not a known key; did you mean"),
        ("name=a/b", "name='a/b' cannot be used"),
        ("measure.require=[energy_j]", "measure.require=.* only a search has it"),
    ],
)
def test_bad_input_is_one_sentence(argument: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parsed(argument)
