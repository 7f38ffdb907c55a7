"""The built wheel works elsewhere: another working directory, none of this checkout on the path, its studies inside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nas.compose import studies

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, workdir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "nas.search", *arguments]
    return subprocess.run(command, cwd=workdir, env=environment, capture_output=True, text=True)


def test_it_holds_the_code_the_types_and_the_studies(installed: Path) -> None:
    assert (installed / "nas" / "py.typed").exists() and (installed / "search_spaces" / "py.typed").exists()
    shipped = installed / "nas" / "conf"
    assert all((shipped / f"{name}.yaml").exists() for name in studies())
    assert sorted(path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")) == ["nas", "search_spaces"]


def test_it_searches(installed: Path, tmp_path: Path) -> None:
    helped = run(installed, tmp_path, "--help")
    assert helped.returncode == 0 and str(installed / "nas" / "conf") in helped.stdout and "osa_digits" in helped.stdout
    quick = ("train.epochs=1", "train.precision=fp32", "train.memory_format=contiguous", "measure.latency_max_seconds=0.05")
    searched = run(installed, tmp_path, "conf=osa_digits", "study.trials=1", *quick)
    assert searched.returncode == 0, searched.stderr
    assert (tmp_path / "runs" / "osa_digits" / "front.csv").exists()
