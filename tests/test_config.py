"""Composing and checking a configuration: what works, and the sentence that everything else earns."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nas.compose import Composed, compose, studies
from nas.config.search import SEARCH_GROUPS, SEARCH_ROOT, SearchConfig, parse_search
from nas.errors import InputError


def composed(*arguments: str) -> Composed:
    return compose("search", SEARCH_ROOT, SEARCH_GROUPS, arguments)


def parsed(*arguments: str) -> SearchConfig:
    return parse_search(composed(*arguments).plain)


@pytest.mark.parametrize("name", studies())
def test_every_shipped_study_fits_the_schema(name: str) -> None:
    config = parsed(f"conf={name}", "data.root=somewhere") if name == "osa_images" else parsed(f"conf={name}")
    assert config.study.name == name.replace("/", "_")
    assert config.run_dir == f"runs/{config.study.name}"


def test_shipped_studies_are_found() -> None:
    assert {"osa_digits", "osa_cifar", "osa_images", "simulated/digits", "studies/osa_or_dense"} <= set(studies())


@pytest.mark.parametrize("form", ["constraints={latency_ms: 2.0}", "constraints.latency_ms=2.0", "+constraints.latency_ms=2"])
def test_constraints_in_every_form(form: str) -> None:
    assert parsed("conf=osa_digits", form).constraints == {"latency_ms": 2.0}


def test_no_constraints() -> None:
    assert parsed("conf=osa_digits", "constraints=null").constraints == {}


def test_sampler_by_name_and_by_target() -> None:
    assert parsed("conf=osa_digits", "sampler=nsga2").sampler["_target_"].endswith("NSGAIISampler")
    by_target = parsed("conf=osa_digits", "sampler._target_=optuna.samplers.NSGAIIISampler", "sampler.population_size=10")
    # The arguments of the default sampler's file belong to another class and must not reach this one.
    assert by_target.sampler == {"_target_": "optuna.samplers.NSGAIIISampler", "population_size": 10}


def test_the_samplers_seed_is_no_argument_of_its_class(workdir: Path) -> None:
    assert parsed("conf=osa_digits").sampler_seed is None
    assert parsed("conf=osa_digits", "sampler.seed=3", "seed=4").sampler_seed == 3
    (workdir / "conf").mkdir()
    (workdir / "conf" / "own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: digits\n  - override /space: osa_digits\nsampler: {seed: 5}\n"
    )
    config = parsed("conf=own", "sampler._target_=optuna.samplers.NSGAIISampler")
    assert config.sampler == {"_target_": "optuna.samplers.NSGAIISampler"} and config.sampler_seed == 5


def test_a_domain_is_replaced_as_a_whole() -> None:
    config = parsed("conf=osa_digits", "space.layers={low: 2, high: 3}")
    assert config.space["layers"] == {"low": 2, "high": 3}


def test_a_file_stands_for_all_that_the_study_says_of_a_group(workdir: Path) -> None:
    (workdir / "conf").mkdir()
    (workdir / "conf" / "own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: digits\n"
        "space: {_target_: search_spaces.osa.OSASpace, layers: {each: [2, 3]}, stages: 2}\n"
    )
    (workdir / "mine.yaml").write_text("_target_: search_spaces.osa.OSASpace\nlayers: {low: 2, high: 4}\nese: [false, true]\n")
    (workdir / "numbers.yaml").write_text("_target_: search_spaces.rivals.Rivals\nmult_adds: [1e6, 5e-4]\n")
    assert parsed("conf=own", "space=numbers.yaml").space["mult_adds"] == [1e6, 5e-4]
    wanted = {"_target_": "search_spaces.osa.OSASpace", "layers": {"low": 2, "high": 4}, "ese": [False, True]}
    assert parsed("conf=own", "space=mine.yaml").space == wanted
    # The command line's keys hold over the file, wherever they stand.
    changed = parsed("space.layers=[4,5]", "conf=own", "space=./mine.yaml", "~space.ese", "space.stages=1").space
    assert changed == {"_target_": wanted["_target_"], "layers": [4, 5], "stages": 1}
    (workdir / "broken.yaml").write_text("layers: [1")
    (workdir / "list.yaml").write_text("[1, 2]")
    for argument, names in (
        ("space=none.yaml", ["space=none.yaml", "No such file", "osa_digits"]),
        ("space=broken.yaml", ["space=broken.yaml", "line 1", "mend"]),
        ("space=list.yaml", ["space=list.yaml", "mapping"]),
    ):
        with pytest.raises(InputError) as refused:
            parsed("conf=own", argument)
        assert all(name in str(refused.value) for name in names) and "\n" not in str(refused.value)
    with pytest.raises(InputError, match="space is given twice"):
        parsed("conf=own", "space=mine.yaml", "space=list.yaml")


@pytest.mark.parametrize(
    "form", ["question={factor: bottleneck, equal: flops}", "question.factor=bottleneck question.equal=flops"]
)
def test_a_question_in_every_form(form: str) -> None:
    asked = parsed("conf=osa_digits", *(form.split() if "{" not in form else [form])).question
    assert asked is not None and (asked.factor, asked.equal, asked.within, asked.values) == ("bottleneck", "flops", 0.1, None)
    assert parsed("conf=osa_digits").question is None


def test_data_keys_are_parted() -> None:
    config = parsed("conf=osa_images", "data.root=here", "data.flip=false", "data.on_bad_image=skip")
    assert config.data.flip is False
    assert config.source["root"] == "here" and config.source["on_bad_image"] == "skip"
    assert "flip" not in config.source


@pytest.mark.parametrize(
    ("argument", "names"),
    [
        ("train.epoch=3", ["train.epoch", "'epochs'"]),
        ("+train.epoch=3", ["train.epoch", "'epochs'"]),
        ("+bogus=1", ["bogus"]),
        ("trian.epochs=1", ["trian", "'train'"]),
        ("train.epochs=two", ["train.epochs", "two", "whole number"]),
        ("train.epochs=2.5", ["train.epochs", "2.5"]),
        ("train.epochs=true", ["train.epochs", "whole number"]),
        ("train.epochs=-1", ["train.epochs", "-1"]),
        ("train.epochs=1,2", ["train.epochs=1,2", "several"]),
        ("train.epochs=[1", ["train.epochs=[1"]),
        ("train.precision=fp7", ["train.precision", "fp7"]),
        ("study=x", ["study=x", "study.name=x"]),
        ("study.trials=0", ["study.trials", "0"]),
        ("study.name=../up", ["study.name", "../up"]),
        ("study.name=''", ["study.name"]),
        ("seed=-1", ["seed", "-1"]),
        ("objectives=[]", ["objectives", "at least one"]),
        ("objectives=[top1,latncy_ms]", ["latncy_ms", "'latency_ms'"]),
        ("objectives=[top1,top1]", ["top1", "twice"]),
        ("objectives=top1", ["objectives", "a list"]),
        ("constraints={speed: 1}", ["constraints", "speed"]),
        ("constraints.top1=90", ["constraints.top1", "90", "fraction"]),
        ("constraints.params=-5", ["constraints.params", "-5"]),
        ("constraints.latency_ms=nan", ["constraints.latency_ms", "nan"]),
        ("constraints.latency_ms=abc", ["constraints.latency_ms", "abc", "number"]),
        ("constraints=3", ["constraints", "mapping"]),
        ("measure.require=[joules]", ["measure.require", "joules"]),
        ("measure.batch_size=0", ["measure.batch_size", "0"]),
        ("data.resident_budget_mb=-1", ["data.resident_budget_mb", "-1"]),
        ("data.validation_fraction=1.0", ["data.validation_fraction", "1.0"]),
        ("data.flip=1", ["data.flip", "true or false"]),
        ("data=nothing", ["data=nothing", "digits"]),
        ("data=null", ["data", "digits"]),
        ("sampler=tpf", ["sampler=tpf", "'tpe'"]),
        ("sampler._target_=null", ["sampler._target_"]),
        ("space=5", ["space=5"]),
        ("~space", ["space is not set"]),
        ("~nothing", ["nothing"]),
        ("run_dir=${oc.env:SURELY_NOT_SET_X}", ["run_dir", "SURELY_NOT_SET_X"]),
        ("study.name=${oc.env:SURELY_NOT_SET_X}", ["study.name", "SURELY_NOT_SET_X"]),
        ("run_dir=a,b", ["run_dir", "several"]),
        ("run_dir=${nothing}", ["run_dir", "nothing"]),
        ("nonsense", ["nonsense"]),
        ("question=why", ["question='why'", "a mapping with the keys factor"]),
        ("question={equal: flops}", ["question.factor is not set", "question=null"]),
        ("question={factor: bottleneck, equals: flops}", ["question.equals", "'equal'"]),
        ("question={factor: bottleneck, equal: flop}", ["question.equal", "'flop'", "'flops'"]),
        ("question={factor: bottleneck, within: 0}", ["question.within=0", "greater than 0"]),
        ("question={factor: bottleneck, within: -0.1}", ["question.within=-0.1", "greater than 0"]),
        ("question={factor: bottleneck, within: wide}", ["question.within='wide'", "a number"]),
        ("question={factor: 3}", ["question.factor=3", "text"]),
        ("question={factor: bottleneck, values: on}", ["question.values", "a list"]),
    ],
)
def test_bad_input_is_one_sentence(argument: str, names: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        parsed("conf=osa_digits", argument)
    text = str(refused.value)
    assert "\n" not in text and text[-1] in ".?" and text[-2] not in ".?"
    assert "sesame" not in text
    for name in names:
        assert name in text


def test_a_study_that_does_not_exist() -> None:
    with pytest.raises(InputError, match=r"conf=osa_digit does not exist; did you mean 'osa_digits'\?"):
        parsed("conf=osa_digit")


def test_no_study_lists_them() -> None:
    with pytest.raises(InputError, match=r"osa_cifar.*osa_digits"):
        parsed("seed=1")


def test_a_missing_root_is_named() -> None:
    with pytest.raises(InputError, match=r"data\.root is not set"):
        parsed("conf=osa_images")


def test_secrets_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "sesame")
    result = composed(
        "conf=osa_digits",
        "study.storage='postgresql://me:${oc.env:DB_PASSWORD}@host/db'",
        "+data.copy=${study.storage}",
        "+data.plain='mysql://you:secret@host/db'",
        "+data.decoded='${oc.decode:${oc.env:DB_PASSWORD}}'",
        "+data.fallback='${oc.env:UNSET_NAME_X,sesame-open}'",
    )
    assert result.plain["study"]["storage"] == "postgresql://me:sesame@host/db"
    assert result.plain["data"]["decoded"] == "sesame"
    text = yaml.safe_dump(result.written)
    assert "sesame" not in text.replace("sesame-open", "") and "secret" not in text
    assert "${oc.env:DB_PASSWORD}" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"# @package _global_\nstudy: {trials: 3\n", "mine.yaml, line"),
        (b"# @package _global_\nstudy:\n\ttrials: 3\n", "mine.yaml, line"),
        (b"# @package _global_\nseed: 1\nseed: 2\n", "duplicate key"),
        (b"# @package _global_\nrun_dir: caf\xe9\n", "conf=mine is no readable YAML"),
        (b"seed: 1\n", "@package _global_"),
    ],
)
def test_a_broken_study_file(workdir: Path, text: bytes, says: str) -> None:
    (workdir / "conf").mkdir()
    (workdir / "conf" / "mine.yaml").write_bytes(text)
    with pytest.raises(InputError, match=says):
        parsed("conf=mine")


def test_other_stem_keys_stay() -> None:
    assert parsed("conf=osa_digits", "space.stem={width: 32}").space["stem"] == {"kind": "cifar", "width": 32}


def test_own_conf_folder_comes_first(workdir: Path) -> None:
    (workdir / "conf" / "space").mkdir(parents=True)
    (workdir / "conf" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: digits\n  - override /space: small\nstudy: {trials: 3}\n"
    )
    (workdir / "conf" / "space" / "small.yaml").write_text("_target_: search_spaces.osa.OSASpace\nlayers: [2, 3]\n")
    assert "mine" in studies() and "osa_digits" in studies()
    config = parsed("conf=mine")
    assert config.study.trials == 3 and config.space["layers"] == [2, 3]


@pytest.mark.parametrize("folder", ["references", "objectives", "seed", "measure"])
def test_a_folder_of_the_users_is_no_group(workdir: Path, folder: str) -> None:
    (workdir / "conf").mkdir()
    (workdir / folder).mkdir()
    (workdir / "conf" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: digits\nspace: {_target_: x}\n"
    )
    config = parsed("conf=mine", "references=[resnet18]", "objectives=[top1]", "seed=3", "measure.batch_size=5")
    assert (config.references, config.objectives, config.seed, config.measure.batch_size) == (("resnet18",), ("top1",), 3, 5)


@pytest.mark.parametrize("text", ["max top1 where latency_ms<=1.5 and energy_j<=0.02", "knee", "it's \\ 100%", "a=b, {c}", "[1"])
def test_free_text_is_taken_as_it_stands(text: str) -> None:
    assert compose("x", {"pick": None}, {}, [f"pick={text}"], study=False).plain == {"pick": text}
