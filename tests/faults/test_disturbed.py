"""The scripts that disturb a whole search, kills.py, many_workers.py and postgres_away.py, each briefly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import kills, many_workers, postgres_away, recorded
from tests.faults.recorded import Evaluated


def test_a_search_that_is_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    found = kills.show_kills(tmp_path, "qmc", trials=8, kills=1, seed=6)
    assert found.is_whole and found.kills == {"both": 1}, found


@pytest.mark.parametrize("storage", many_workers.STORAGES)
def test_many_processes_on_one_study(tmp_path: Path, storage: str) -> None:
    found = many_workers.show_workers(storage, tmp_path, workers=2, trials=30)
    assert found.is_whole and found.trials == 30, found


def test_a_server_that_is_away_for_a_while(tmp_path: Path) -> None:
    found = postgres_away.show_absence(tmp_path, away_s=3.0, trials=45)
    assert found.is_whole and found.trials == 45, found


def test_a_record_says_what_was_done_twice_and_what_at_once(tmp_path: Path) -> None:
    path = tmp_path / "record"
    assert recorded.read(path) == []
    path.write_text(
        "begin a 1 10\nbegin b 2 11\nend b 2 12\nbegin a 3 13\nend a 3 14\nbegin b 1 15\nend b 1 16\n", encoding="utf-8"
    )
    found = recorded.read(path)
    assert found[0] == Evaluated("a", 1, 10, None), "its process went on with another one: it was cut off"
    assert recorded.ended(found) == {"a": 1, "b": 2} and recorded.at_once(found) == 0
    path.write_text("begin a 1 10\nbegin a 2 11\nend a 1 12\nend a 2 13\n", encoding="utf-8")
    assert recorded.at_once(recorded.read(path)) == 1
