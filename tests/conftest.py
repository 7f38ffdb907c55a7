"""What all tests share: a quiet process, one thread, and a way to run the search command in a folder of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

QUICK = (
    "train.epochs=1",
    "train.precision=fp32",
    "train.memory_format=contiguous",
    "measure.latency_max_seconds=0.05",
    "measure.batch_size=8",
)
"""Overrides that make a trial on the digits take a fraction of a second."""

Search = Callable[..., tuple[int, str, str]]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that the test runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def search(workdir: Path, capsys: pytest.CaptureFixture[str]) -> Search:
    """Run ``nas.search``, its candidates too, in this process; returns its exit code and what it wrote to stdout and stderr.

    With a key of ``engine`` among the arguments the candidates run as that says.
    """
    from nas.cli import run_command
    from nas.search import main

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        here = () if any(argument.startswith("engine") for argument in arguments) else ("engine.workers=0",)
        with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["nas.search", *arguments, *here])
            run_command(main)
        written = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, written.out, written.err

    return run


class InlineProcess:
    """Stands in for a process of its own: does the work at once, in this one."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


@pytest.fixture
def inline_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a benchmark do its work in this process."""
    from nas.benchmarking import runner

    monkeypatch.setattr(runner, "fresh_process", lambda: contextlib.nullcontext(InlineProcess()))
