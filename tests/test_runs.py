"""A run folder read back whole, and the sentence for each way in which it is not there or not whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from nas.config.common import StudyKeys
from nas.errors import InputError
from nas.runs import read_run
from tests.conftest import QUICK


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a search of three trials was run, whose bound the front keeps."""
    from nas.search import main

    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["study.trials=3", "constraints.params=1e9", "references=[preset:osa_densenet40]"]
        assert main(["conf=osa_digits", *QUICK, *arguments]) == 0
    return folder


@pytest.fixture
def copy(runs: Path, workdir: Path) -> Path:
    """A copy of it in the working directory, to be damaged."""
    shutil.copytree(runs / "runs", workdir / "runs")
    return workdir / "runs" / "osa_digits"


def test_a_run_is_what_the_search_left(copy: Path) -> None:
    run = read_run(StudyKeys("osa_digits"))
    assert run.name == "osa_digits" and run.folder == Path("runs/osa_digits")
    assert [outcome.number for outcome in run.outcomes] == [0, 1, 2] and run.running == 0
    assert [reference.name for reference in run.references] == ["preset:osa_densenet40"]
    assert run.input_shape == (1, 8, 8) and run.classes == tuple("0123456789")
    assert run.constraints == {"params": 1e9}
    rows = (copy / "front.csv").read_text().splitlines()[1:]
    assert [outcome.name for outcome in run.front] == [row.split(",")[0] for row in rows]
    for outcome in run.outcomes:
        assert run.architecture(outcome).id == outcome.attributes["architecture_id"]
        assert outcome.params["stages"] in (1, 2, 3)
        assert outcome.started_at is not None and outcome.ended_at is not None and outcome.started_at < outcome.ended_at
    config = run.config({"workers": 0})
    assert config.data.workers == 0 and config.train.epochs == 1 and config.source["_target_"].endswith("Digits")


def test_a_moved_folder_is_read_where_it_is(copy: Path, workdir: Path) -> None:
    shutil.move(copy, workdir / "elsewhere")
    assert len(read_run(StudyKeys(run_dir="elsewhere")).outcomes) == 3


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (StudyKeys(), "study is not set: name one with study=<name>; there are osa_digits."),
        (StudyKeys("osa_digit"), "study=osa_digit does not exist; did you mean 'osa_digits'?"),
        (StudyKeys("x", "runs/osa_digits"), "holds the study 'osa_digits' and not 'x'"),
        (StudyKeys(run_dir="nowhere"), "run_dir=nowhere is no run folder"),
        (StudyKeys("osa_digits", storage="nonsense"), "study.storage=nonsense cannot be used"),
    ],
)
@pytest.mark.usefixtures("copy")
def test_which_study_is_meant(keys: StudyKeys, told: str) -> None:
    with pytest.raises(InputError) as error:
        read_run(keys)
    assert told in str(error.value)


def test_nothing_is_there(workdir: Path) -> None:
    with pytest.raises(InputError, match="there is none under runs/; run a search first"):
        read_run(StudyKeys("osa_digits"))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("config.yaml", "a: [", "config.yaml cannot be read"),
        ("config.yaml", "a: 1", "is no whole run folder"),
        ("record.json", "{", "record.json cannot be read"),
        ("record.json", "{}", "is no whole run folder"),
        ("study.db", "no database", "study.db cannot be opened"),
    ],
)
def test_a_damaged_file_is_named(copy: Path, name: str, text: str, told: str) -> None:
    for side in ("-wal", "-shm"):
        (copy / f"{name}{side}").unlink(missing_ok=True)
    (copy / name).write_text(text)
    with pytest.raises(InputError) as error:
        read_run(StudyKeys("osa_digits"))
    assert told in str(error.value)


def test_a_missing_database_is_not_made(copy: Path) -> None:
    (copy / "study.db").unlink()
    with pytest.raises(InputError, match=r"study\.db is missing"):
        read_run(StudyKeys("osa_digits"))
    assert not (copy / "study.db").exists()


def test_a_password_that_was_masked_is_asked_for(copy: Path) -> None:
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["study"]["storage"] = "postgresql+psycopg://me:***@host/db"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"give storage=<URL>"):
        read_run(StudyKeys("osa_digits"))


def test_a_storage_that_is_given_stands_for_one_that_is_not_known_here(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAS_STORAGE", raising=False)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["study"]["storage"] = "${oc.env:NAS_STORAGE}"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="NAS_STORAGE"):
        read_run(StudyKeys("osa_digits"))
    assert len(read_run(StudyKeys("osa_digits", storage=f"sqlite:///{copy}/study.db")).outcomes) == 3


@pytest.mark.usefixtures("copy")
def test_trials_by_number() -> None:
    run = read_run(StudyKeys("osa_digits"))
    assert run.trial(1).number == 1
    with pytest.raises(InputError, match="trial=3 is not in study osa_digits: its trials are 0 to 2"):
        run.trial(3)
