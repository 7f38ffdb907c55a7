"""The benchmark's page: what it says about its rows, and that it is legible on a screen and on a phone."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import Rows, lost, row
from browser import ask, needs_chromium

from nas.benchmark_page import benchmark_page, write_benchmark_page
from nas.page import Absent, Cards, Chart, Choice, Facts, Items, Page, Section, Table, Text, write_page

DEVICE = {
    "agreed": {"kind": "cuda", "name": "Board X", "memory_mb": 80000, "threads": None},
    "host": {"cpu": "Model Y", "affinity": [0, 1]},
    "board": None,
}

_MODELS = (
    *(
        "vovnet27_slim",
        "vovnet39",
        "vovnet39_bottleneck",
        "vovnet57",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
    ),
    *("densenet121", "densenet161", "densenet169", "densenet201", "vgg11", "vgg13", "vgg16", "vgg19", "alexnet", "googlenet"),
    *("mobilenet_v2", "squeezenet1_0", "legacy_seresnext101_32x4d", "inception_resnet_v2", "legacy_senet154", "dpn98"),
)


def representative() -> Rows:
    """Many networks of every family, at several batch sizes in two precisions, with some that failed."""
    rows: Rows = []
    for index, name in enumerate(_MODELS):
        flops = int(5e8 * 1.22**index)
        for precision, speed in (("fp32", 4e12), ("bf16", 2e13)):
            for size in (1, 4, 16, 64):
                latency_ms = 1.0 + 0.1 * (index % 7) + 1000 * flops * size / speed
                cells: dict[str, Any] = {
                    "source": "preset" if name.startswith("vovnet") else "torchvision",
                    "flops": flops,
                    "params": int(1.5e6 * 1.2**index),
                    "parameters_mb": 6 * 1.2**index,
                    "latency_ms": latency_ms,
                    "latency_iqr_ms": latency_ms / 50,
                    "latency_graph_ms": latency_ms * 0.7,
                    "energy_j": latency_ms / size / 3,
                    "energy_uncertainty_j": latency_ms / size / 100,
                    "energy_method": "counter",
                    "peak_memory_mb": 20 * 1.15**index + 5 * size,
                    "process_memory_mb": 500 + 20 * 1.15**index + 7 * size,
                    "mem_access": int(1e7 * 1.15**index),
                    "mem_access_bound": int(8e6 * 1.14**index),
                    "top1_published": 0.56 + 0.011 * ((index * 7) % 25),
                }
                rows.append(row(name, size, precision, **cells))
    rows.append(row("trial 7", 1, source="study", top1_published=None, top1_validation=0.91))
    rows.append(lost("nasnetalarge", "out_of_memory", "2 GiB more than there is", 64))
    rows.append(lost("nasnetalarge", "out_of_memory", "2 GiB more than there is", 16))
    rows.append(lost("shufflenet_v1", "missing", "in no library", None, None))
    return rows


@cache
def whole_page() -> Page:
    return benchmark_page(representative(), DEVICE, "T", ["own caveat"])


def section(anchor: str, page: Page | None = None) -> Section:
    (found,) = [part for part in (page or whole_page()).sections if part.anchor == anchor]
    return found


def test_the_lead_counts_what_there_is() -> None:
    networks, rows = len(_MODELS) + 1, len(_MODELS) * 8 + 1
    assert whole_page().lead == (
        f"{networks} networks on Board X; fp32, bf16, batch 1 to 64; {rows} rows measured, 2 out of memory, 1 missing."
    )


def test_every_precision_has_its_verdicts_and_figures() -> None:
    for anchor, kind in (("claims", Cards), ("figures", (Chart, Absent))):
        (choice,) = [block for block in section(anchor).blocks if isinstance(block, Choice)]
        assert list(choice.options) == ["fp32", "bf16"]
        assert all(any(isinstance(block, kind) for block in blocks) for blocks in choice.options.values())
    charts = [block.title for block in choice.options["fp32"] if isinstance(block, Chart)]
    assert charts.count("Throughput by precision at batch 64") == 1


def test_verdicts_follow_the_kind_of_device() -> None:
    rows = [row("vovnet39"), row("densenet201", latency_ms=10.35)]

    def badge(device: dict[str, Any]) -> str:
        (choice,) = section("claims", benchmark_page(rows, device, "T")).blocks
        assert isinstance(choice, Choice)
        return next(block.cards[0].badge for block in choice.options["fp32"] if isinstance(block, Cards))

    assert badge({"identity": {"kind": "cuda"}}) == "holds" and badge({"kind": "cpu"}) == "tie"


def test_the_table_has_every_row_and_names_what_none_has() -> None:
    blocks = section("table").blocks
    table = blocks[0]
    assert isinstance(table, Table)
    assert len(table.rows) == len(representative()) and len(table.faint) == 3
    titles = [column.title for column in table.columns]
    assert titles[0] == "model" and "latency of the batch (ms)" in titles and "power (W)" not in titles
    told = [item for block in blocks if isinstance(block, Items) for item in block.items]
    assert "nasnetalarge (fp32 batch 64, 16): out of memory: 2 GiB more than there is" in told
    assert "shufflenet_v1: missing: in no library" in told
    assert any("power" in item and "none says why" in item for item in told)


def test_a_value_is_sorted_by_its_number() -> None:
    table = section("table", benchmark_page([row("a", params=1_234_567)], {}, "T")).blocks[0]
    assert isinstance(table, Table)
    index = [column.title for column in table.columns].index("parameters (M)")
    assert (table.rows[0][index].text, table.rows[0][index].value) == ("1.235", pytest.approx(1.234567))


def test_conditions_and_caveats() -> None:
    facts = section("conditions").blocks[0]
    assert isinstance(facts, Facts)
    assert facts.facts == (
        ("kind", "cuda"),
        ("name", "Board X"),
        ("memory (MB)", "80000"),
        ("cpu", "Model Y"),
        ("affinity", "0, 1"),
    )
    caveats = section("caveats").blocks[0]
    assert isinstance(caveats, Items)
    assert caveats.items[0] == "own caveat" and len(caveats.items) == 4
    doubted = section("caveats", benchmark_page([row("a", flags="others kept 2 CPUs busy"), row("b")], {}, "T")).blocks[0]
    assert isinstance(doubted, Items) and doubted.items[0].startswith("1 of 2 measured rows carry a doubt")
    bare = benchmark_page([row("a", energy_j=None, top1_published=None)], {}, "T", ["own caveat"])
    alone = section("caveats", bare).blocks[0]
    assert isinstance(alone, Items) and alone.items == ("own caveat",)


def test_a_run_in_which_nothing_was_measured_has_a_page(tmp_path: Path) -> None:
    rows = [lost("a", "failed", "no device")]
    write_benchmark_page(tmp_path / "page.html", rows, {}, "T")
    assert "no device" in (tmp_path / "page.html").read_text(encoding="utf-8")
    write_benchmark_page(tmp_path / "none.html", [], {}, "T")
    (told,) = section("figures", benchmark_page([], {}, "T")).blocks
    assert isinstance(told, Text) and "Nothing was measured" in told.text


@needs_chromium
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_it_is_legible(tmp_path: Path, width: int, height: int) -> None:
    page = tmp_path / "page.html"
    write_page(page, whole_page())
    assert page.stat().st_size < 8e6
    answers = ask(page, tmp_path, width=width, height=height)
    assert answers["width"] == width and answers["scroll"] <= width
    assert answers["drawn"] == answers["plots"] >= 13
    assert answers["meetings"] == [] and answers["outside"] == []
    assert answers["turned"] == 0
    assert {"vovnet39", "vovnet57"} <= set(answers["names"])
