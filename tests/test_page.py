"""A page of blocks: escaped, self-contained, and alive in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import ask, needs_chromium

from nas.page import (
    Absent,
    Block,
    Card,
    Cards,
    Cell,
    Chart,
    Choice,
    Column,
    Facts,
    Items,
    Key,
    Page,
    Section,
    Table,
    Text,
    render,
    write_page,
)

EVIL = "</script><script>alert(1)</script>&\"'"


def page(*blocks: Block) -> Page:
    return Page(f"Title {EVIL}", "lead", (Section("one", "One", blocks), Section("none", "Empty", ())))


def chart(names: list[str], labels: str | None = "around", **layout: Any) -> dict[str, Any]:
    count = range(len(names))
    trace = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [10.0**i for i in count],
        "y": [float(i) for i in count],
        "customdata": names,
        "legendgroup": "family",
        "marker": {"size": 10},
        "textfont": {"size": 11, "color": "#000000"},
        "meta": {"labels": labels, "priority": 0},
    }
    axes = {"xaxis": {"type": "log", "title": {"text": "flops (G)"}}, "yaxis": {"title": {"text": "top-1 (%)"}}}
    return {"data": [trace], "layout": {"margin": {"r": 20}, "height": 300, **axes, **layout}}


TABLE = Table(
    (Column("model"), Column("ms", numeric=True), Column("status", pick=True)),
    (
        (Cell("b"), Cell("10", 10.0), Cell("measured")),
        (Cell("a"), Cell("9.5", 9.5), Cell("measured")),
        (Cell(EVIL), Cell(""), Cell("failed")),
        (Cell("c"), Cell("100", 100.0), Cell("measured")),
    ),
    frozenset({2}),
)


def test_text_is_escaped_everywhere() -> None:
    blocks: list[Block] = [
        Text(EVIL),
        Items((EVIL,)),
        Facts(((EVIL, EVIL),)),
        Cards(EVIL, (Card(EVIL, EVIL, "good", ((EVIL, EVIL),), EVIL, ((EVIL, "bad"),)),)),
        Absent(EVIL, EVIL),
        TABLE,
        Choice(EVIL, {EVIL: (Text(EVIL),), "other": ()}),
    ]
    html = render(page(*blocks))
    assert "alert(1)" in html and "<script>alert" not in html
    assert html.count("<script") == html.count("</script") == 1


def test_plotly_is_there_only_for_charts_and_its_data_cannot_end_its_script() -> None:
    assert len(render(page(Text("x")))) < 40_000
    html = render(page(Choice("precision", {"fp32": (Chart(EVIL, chart([EVIL]), (Key(EVIL, group=EVIL),), EVIL),)})))
    assert "plotly.js v" in html and len(html) < 6_000_000
    stored = re.search(r"<script type=application/json>(.*?)</script>", html)
    assert stored and json.loads(stored[1])["data"][0]["customdata"] == [EVIL]


def test_a_chart_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        render(page(Chart("x", {"data": [{"y": [float("nan")]}], "layout": {}})))


def test_what_is_no_block_is_refused() -> None:
    with pytest.raises(TypeError, match="str is no block"):
        render(page("text"))  # type: ignore[arg-type]


def test_a_section_without_blocks_and_a_choice_of_one_leave_no_trace() -> None:
    html = render(page(Choice("precision", {"fp32": (Text("x"),)})))
    assert "Empty" not in html and "class=switch" not in html
    assert "class=switch" in render(page(Choice("precision", {"fp32": (Text("x"),), "bf16": ()})))


def test_nothing_is_fetched() -> None:
    html = render(page(TABLE, Text("x")))
    assert re.findall(r"\b(?:src|href)\s*=\s*\"?([^\" >]*)", html) == ["data:,", "#one"]
    assert "default-src 'none'" in html and "http" not in html.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


QUESTIONS = """
    const cells = (index) => shown("tbody tr").map((row) => row.cells[index].textContent);
    const head = document.querySelectorAll("th button")[1];
    head.click(); answers.up = cells(1);
    head.click(); answers.down = cells(1); answers.sorted = head.closest("th").getAttribute("aria-sort");
    const search = document.querySelector(".tools input");
    search.value = "MEASURED 9.5"; search.dispatchEvent(new Event("input", { bubbles: true })); answers.found = cells(0);
    search.value = ""; const pick = document.querySelector(".tools select");
    pick.value = "failed"; pick.dispatchEvent(new Event("input", { bubbles: true })); answers.picked = cells(0);
    answers.before = shown(".option").map((node) => node.dataset.option);
    delete document.body.dataset.ready;
    document.querySelector('nav button[data-option="bf16"]').click(); await ready();
    answers.after = shown(".option").map((node) => node.dataset.option);
    answers.other = shown(".textpoint").map((node) => node.textContent);
    document.querySelector('button[data-group="family"]').click();
    await new Promise((done) => setTimeout(done, 500));
    answers.hidden = shown(".textpoint").length;
    answers.pressed = [...document.querySelectorAll("button[data-group]")].map((button) => button.getAttribute("aria-pressed"));
    document.querySelector('nav button[data-option="fp32"]').click();
    await new Promise((done) => setTimeout(done, 500));
    answers.hiddenThere = shown(".textpoint").length;
"""


@needs_chromium
def test_it_sorts_searches_switches_and_hides(tmp_path: Path) -> None:
    key = (Key("family", group="family"),)
    charts = {
        "fp32": (Chart("A", chart(["first", "second"]), key),),
        "bf16": (Chart("B", chart(["third", "fourth", "fifth"]), key),),
    }
    write_page(tmp_path / "page.html", page(Choice("precision", charts), TABLE))
    answers = ask(tmp_path / "page.html", tmp_path, QUESTIONS)
    # Numbers sort as numbers, and what has none stays last.
    assert answers["up"] == ["9.5", "10", "100", ""] and answers["down"] == ["100", "10", "9.5", ""]
    assert answers["sorted"] == "descending"
    assert answers["found"] == ["a"] and answers["picked"] == [EVIL]
    assert (answers["before"], answers["after"]) == (["fp32"], ["bf16"])
    assert answers["names"] == ["first", "second"] and answers["other"] == ["third", "fourth", "fifth"]
    assert answers["hidden"] == 0 == answers["hiddenThere"] and answers["pressed"] == ["false", "false"]
