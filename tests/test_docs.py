"""Every command, study and module that the documents show is run as it stands, made small by overrides."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.conftest import QUICK, Search

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


@dataclass(frozen=True)
class Block:
    document: str
    language: str
    tag: str
    text: str


def blocks(language: str) -> list[Block]:
    fence = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    texts = {document: (ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS}
    found = [Block(document, *match.groups()) for document, text in texts.items() for match in fence.finditer(text)]
    return [block for block in found if block.language == language]


def commands(*tags: str) -> list[str]:
    return [line for block in blocks("bash") if block.tag in tags for line in block.text.splitlines() if line]


def arguments(command: str) -> list[str]:
    assert command.startswith("python -m nas.search "), command
    return shlex.split(command)[3:]


def test_the_documents_use_known_tags() -> None:
    known = {
        "",
        "setup",
        "download",
        "images",
        "server",
        "gpu",
        "doctor",
        "benchmark",
        "after",
        "example",
        "space",
        "cluster",
        "ray",
        "ray-start",
        "simulated",
    }
    assert {block.tag for block in blocks("bash")} <= known


@pytest.fixture
def shown_studies(workdir: Path) -> None:
    """The YAML files that the documents write out, in the working directory."""
    for block in blocks("yaml"):
        path = workdir / block.tag
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")


@pytest.fixture
def photos(workdir: Path) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 2)):
        for kind in ("cat", "dog"):
            folder = workdir / "photos" / part / kind
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (60, 40 + index, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")


@pytest.mark.usefixtures("shown_studies", "photos")
@pytest.mark.parametrize("command", commands("", "images"))
def test_search_commands(search: Search, workdir: Path, command: str) -> None:
    code, out, err = search(*arguments(command), *QUICK, "study.trials=2", "train.batch_size=8", "constraints=null")
    assert code == 0, err
    assert "2 trials" in out
    assert [path.name for path in (workdir / "runs").iterdir()]


@pytest.mark.parametrize("command", commands("simulated"))
def test_simulated_searches(search: Search, command: str) -> None:
    code, out, err = search(*arguments(command), "study.trials=12")
    assert code == 0, err
    assert "12 trials" in out and "simulated:" in out


@pytest.mark.parametrize("command", commands("download"))
def test_commands_that_download_are_composed(search: Search, command: str) -> None:
    code, out, _ = search(*arguments(command), "--cfg")
    assert code == 0 and "space:" in out


SMALL = {
    "doctor": ["device=cpu", "runs=2", "measure.batch_size=1", "measure.latency_max_seconds=0.05"],
    "benchmark": ["device=cpu", "measure=default", "measure.latency_max_seconds=0.05", "input_size=32"],
}


@pytest.mark.parametrize(("tag", "command"), [(tag, command) for tag in SMALL for command in commands(tag)])
def test_other_commands(workdir: Path, tag: str, command: str) -> None:
    program, *rest = shlex.split(command)
    assert program == "python"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *rest, *SMALL[tag]], cwd=workdir, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if tag == "benchmark":
        made = {path.name for path in (workdir / "runs" / "benchmark" / "two").iterdir()}
        assert made == {"config.yaml", "results.csv", "results.parquet", "benchmark.html", "measurements"}


@pytest.mark.parametrize("command", commands("setup", "gpu"))
def test_make_commands_exist(command: str) -> None:
    printed = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    if command in commands("setup"):
        assert command in (ROOT / ".ci" / "run").read_text()


def test_a_space_is_narrowed_and_searched(search: Search, workdir: Path) -> None:
    from nas.report import main

    first, report, second = commands("space")
    for command, trials in ((first, 14), (report, None), (second, 2)):
        if trials is None:
            assert command.startswith("python -m nas.report ") and main([*shlex.split(command)[3:], "layers=false"]) == 0
            continue
        own = [argument for argument in arguments(command) if not argument.startswith("study.trials=")]
        code, _, err = search(*own, *QUICK, "objectives=[top1,latency_ms,params]", f"study.trials={trials}")
        assert code == 0, err
    searched = yaml.safe_load((workdir / "runs" / "narrowed" / "config.yaml").read_text(encoding="utf-8"))["space"]
    assert searched == yaml.safe_load((workdir / "runs" / "population" / "space_narrowed.yaml").read_text(encoding="utf-8"))


SEARCHED = ("conf=osa_digits", *QUICK, "study.trials=6", "objectives=[top1,latency_ms,params]")
AFTER = {
    "nas.report": [],
    "nas.retrain": [
        *("train.epochs=2", "device=cpu", "measure=default", "measure.latency_max_seconds=0.05", "measure.batch_size=8"),
    ],
    "nas.export": ["device=cpu", "measure.latency_max_seconds=0.05", "measure.batch_size=8"],
}
EXAMPLE = ["--steps", "2", "--batch-size", "2", "--latency-seconds", "0.05", "--device", "cpu"]
ON_A_STUDY = ("after", "example")
AUDIT = ["train.epochs=2", "audit=3", "audit_seeds=2", "audit_epochs_factor=2"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands that read a study find one, small and with every trial that the documents name."""
    from nas.search import main

    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(SEARCHED) == 0
    return folder


@pytest.mark.parametrize(
    "document", [name for name in DOCUMENTS if any(b.document == name and b.tag in ON_A_STUDY for b in blocks("bash"))]
)
def test_commands_on_a_study(searched: Path, tmp_path: Path, document: str) -> None:
    """All of a document's commands, one after the other in one folder, as a reader would run them."""
    shutil.copytree(searched / "runs", tmp_path / "runs")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for block in blocks("bash"):
        if block.document != document or block.tag not in ON_A_STUDY:
            continue
        for line in block.text.splitlines():
            retrained = _retrained(tmp_path)
            program, *rest = shlex.split(line)
            assert program == "python"
            rest = [re.sub(r"^trial=\d+$", f"trial={retrained}", argument) for argument in rest]
            rest = [re.sub(r"retrain/\d+$", f"retrain/{retrained}", argument) for argument in rest]
            command = [sys.executable, *rest, *_small(block.tag, rest)]
            if block.tag == "example":
                command[1] = str(ROOT / command[1])
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
    for block in blocks("python"):
        if (block.document, block.tag) == (document, "model"):
            code = re.sub(r"retrain/\d+", f"retrain/{_retrained(tmp_path)}", block.text)
            done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def _small(tag: str, rest: list[str]) -> list[str]:
    """What makes a command small."""
    if tag == "example":
        return EXAMPLE
    assert rest[0] == "-m"
    return AUDIT if any(argument.startswith("audit=") for argument in rest) else AFTER[rest[1]]


def _retrained(folder: Path) -> str:
    """The networks that the documents name were found elsewhere; here another one was retrained."""
    made = sorted(path.parent.name for path in folder.glob("runs/*/retrain/*/model.safetensors"))
    found = [name for name in made if name.isdigit()]  # another seed's folder bears its name too
    return found[0] if found else "0"


@pytest.mark.parametrize("command", commands("server"))
def test_the_dashboard_shows_the_study(search: Search, workdir: Path, command: str) -> None:
    assert search("conf=osa_digits", *QUICK, "study.trials=1")[0] == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program, *rest = shlex.split(command)
    where = [f"port={port}"] if program == "python" else ["--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    full = [str(Path(sys.executable).parent / program), *rest, *where]
    server = subprocess.Popen(full, cwd=workdir, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=5) as answer:
                    assert b"osa_digits" in answer.read()
                break
            except OSError:  # not there yet, or slow on a busy machine
                assert server.poll() is None
                time.sleep(0.1)
        else:
            pytest.fail("the dashboard did not answer within 30 s")
    finally:
        server.terminate()
        server.wait()


def test_benchmark_commands_name_scripts_and_options_that_there_are() -> None:
    """They take minutes to hours, so nobody would notice."""
    found = 0
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        text = re.sub(r"\s*\\?\n", " ", path.read_text(encoding="utf-8"))
        for script, arguments in re.findall(r"python (benchmarks/\w+\.py)([^`|]*)`", text):
            source = (ROOT / script).read_text(encoding="utf-8")
            for option in re.findall(r"(?<![\w-])--[a-z-]+", arguments):
                assert f'"{option}"' in source, f"{path.name}: {script} has no {option}"
            found += 1
    assert found > 20


@pytest.mark.parametrize("block", [block for block in blocks("python") if not block.tag], ids=lambda block: block.document)
def test_python_snippets(block: Block) -> None:
    exec(compile(block.text, block.document, "exec"), {})


def test_a_space_in_one_file(search: Search, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = [block for block in blocks("python") if block.tag == "tests/own_space.py"]
    (workdir / "own_space.py").write_text(shown.text, encoding="utf-8")
    (workdir / "conf").mkdir()
    (workdir / "conf" / "own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: digits\n"
        "allow_modules: [own_space]\nspace: {_target_: own_space.PlainSpace, max_depth: 3}\n"
    )
    monkeypatch.syspath_prepend(workdir)
    code, _, err = search("conf=own", *QUICK, "study.trials=2", "objectives=[top1,params]")
    assert code == 0, err
    assert (workdir / "runs" / "own" / "trials" / "1" / "architecture.yaml").read_text().startswith("depth") is False
    assert "family: plain" in (workdir / "runs" / "own" / "trials" / "1" / "architecture.yaml").read_text()
    code, _, err = search("conf=own", "space.max_dept=2")
    assert code == 2 and "space.max_dept" in err and "'max_depth'" in err
