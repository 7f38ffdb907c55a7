"""Answers about a study are kept while its file stays as it is, and nothing else is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas.serving import KeptAnswers

FINE, BROKEN = "200 OK", "500 Internal Server Error"


class Application:
    """Answers with its own number of answers so far."""

    def __init__(self) -> None:
        self.status, self.answers = FINE, 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.answers += 1
        if self.status == "raises":
            raise RuntimeError("deep inside")
        start_response(self.status, [("Content-Type", "text/plain")])
        return [str(self.answers).encode()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.db"
    path.write_text("trials")
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def ask(kept: KeptAnswers, query: str = "", path: str = "/api/studies/1") -> tuple[str, int]:
    began: list[str] = []
    environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET", "QUERY_STRING": query}
    body = b"".join(kept(environ, lambda status, headers: began.append(status)))
    return began[0], int(body)


def test_an_answer_is_kept_until_the_file_changes(file: Path) -> None:
    kept = KeptAnswers(Application(), file)
    assert [ask(kept), ask(kept), ask(kept, path="/api/other"), ask(kept)] == [(FINE, 1), (FINE, 1), (FINE, 2), (FINE, 1)]
    file.write_text("more trials")
    assert ask(kept) == (FINE, 3)


def test_an_error_is_not_kept(file: Path) -> None:
    application = Application()
    kept = KeptAnswers(application, file)
    application.status = BROKEN
    assert [ask(kept), ask(kept)] == [(BROKEN, 1), (BROKEN, 2)]
    application.status = FINE
    assert [ask(kept), ask(kept)] == [(FINE, 3), (FINE, 3)]
    file.write_text("more trials")
    application.status = BROKEN
    assert ask(kept) == (BROKEN, 4)
    application.status = FINE
    assert ask(kept) == (FINE, 5), "nor is the answer before it, of another moment"


def test_locks_are_kept_with_their_answers_alone(file: Path) -> None:
    application = Application()
    kept = KeptAnswers(application, file)
    for number in range(20):
        ask(kept, f"after={number}")
    application.status = "raises"
    with pytest.raises(RuntimeError, match="deep inside"):
        ask(kept, "after=99")
    assert kept._locks.keys() == kept._answers.keys() and len(kept._answers) == KeptAnswers._MOST
