"""Whatever stands in a configuration or an architecture's file: it runs, or ends with one sentence and exit code 2.

No traceback, no hang, and no file outside the run folder. ``FUZZ_EXAMPLES`` says how many (a few, if it is not set).
"""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_spaces import dense, osa
from search_spaces.base import SpaceError, from_yaml
from tests.conftest import Search

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
CALM = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

KEYS = (
    *("study.name", "study.trials", "study.storage", "seed", "device", "objectives", "constraints", "gate", "proxy", "confirm"),
    *("checkpoints", "references", "start", "reuse", "table", "allow_modules", "data", "space", "train", "measure", "sampler"),
    *("scheduler", "scheduler.eta", "scheduler.rungs", "scheduler.score", "scheduler.first_latency_seconds", "engine"),
    *("engine.workers", "engine.timeout", "engine.timeout.train", "train.epochs", "train.batch_size", "train.peak_lr"),
    *("train.packing", "measure.batch_size", "measure.threads", "measure.energy", "space.layers", "space.stem", "space.stages"),
    *("space._target_", "sampler._target_", "data._target_", "data.validation_fraction", "question", "question.factor"),
    *("constraints.latency_ms", "constraints.top1", "run_dir", "conf", "no.such.key"),
)

WORDS = (
    *(
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1",
        "2",
        "1e400",
        "nan",
        "inf",
        "-.5",
        "1e-9",
        "[]",
        "{}",
        "[1,2]",
        "[top1,latency_ms]",
    ),
    *("{low: 1, high: 2}", "{each: [1,2]}", "{latency_ms: 1.0}", "auto", "cpu", "cuda:9", "tpe", "random", "none", "mo_asha"),
    *("top1", "os.system", "nas.search.main", "builtins.eval", "${oc.env:HOME}", "${nothing}", "${", "../../etc", "a/b", "ä€"),
    *(
        "'quoted'",
        '"',
        "\\",
        "=",
        "a=b",
        "x" * 300,
        "study",
        "postgresql://a:b@c/d",
        "sqlite:///x.db",
        "journal",
        "[[[[",
        "1_000",
    ),
)

values = st.one_of(
    st.sampled_from(WORDS),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.text(string.printable, max_size=12),
)
arguments = st.lists(
    st.one_of(st.builds("{}={}".format, st.sampled_from(KEYS), values), st.text(string.printable, max_size=20)), max_size=3
)


@pytest.fixture
def outside(workdir: Path) -> Path:
    """The folder around the working directory, in which nothing may appear."""
    (workdir / "inside").mkdir()
    os.chdir(workdir / "inside")
    return workdir


def test_any_configuration_runs_or_ends_with_one_sentence(outside: Path, search: Search) -> None:
    @CALM
    @given(arguments)
    def run(given_: list[str]) -> None:
        if any(argument.split("=")[0].strip("+~") in ("--help", "-h", "--cfg") for argument in given_):
            return
        code, out, err = search("conf=simulated/digits", "study.trials=1", *given_)
        assert code in (0, 2), (given_, err)
        assert "Traceback" not in out + err
        if code == 2:
            assert err.startswith("error: ") and err.count("\n") == 1, (given_, err)
        assert [path.name for path in outside.iterdir()] == ["inside"], given_

    run()


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**70), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


def _spoilt(data: Any, draw: Any) -> Any:
    """Replace one value of nested data by something else."""
    if isinstance(data, dict) and data and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(data)))
        return {**data, key: _spoilt(data[key], draw)}
    if isinstance(data, list) and data and draw(st.integers(0, 4)):
        index = draw(st.integers(0, len(data) - 1))
        return [*data[:index], _spoilt(data[index], draw), *data[index + 1 :]]
    return draw(plain)


@st.composite
def documents(draw: Any) -> str:
    family = draw(st.sampled_from([osa, dense]))
    data = family.preset(draw(st.sampled_from(sorted(family.PRESETS)))).to_dict()
    for _ in range(draw(st.integers(0, 2))):
        data = _spoilt(data, draw)
    text = yaml.safe_dump(data, allow_unicode=True)
    if draw(st.booleans()):
        return text
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.text(max_size=6)) + text[at:]


def test_any_architecture_is_read_or_refused_with_one_sentence() -> None:
    @settings(CALM, max_examples=10 * EXAMPLES)
    @given(documents(), st.sampled_from([osa.OSASpace(), dense.DenseSpace()]))
    def read(text: str, space: Any) -> None:
        try:
            architecture = from_yaml(space, text)
        except SpaceError as error:
            assert str(error).strip() and "\n" not in str(error)
            return
        assert from_yaml(space, yaml.safe_dump(architecture.to_dict())) == architecture and architecture.id

    read()
