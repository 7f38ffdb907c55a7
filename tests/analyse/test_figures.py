"""Figures: what is drawn from which rows, in which units, and the sentence in place of what cannot be drawn."""

from __future__ import annotations

import math
from typing import Any

import pytest
from benchmark_rows import Rows, lost, row

from nas.analyse.columns import digits, shown
from nas.analyse.families import (
    BOTTLENECK,
    DENSENET,
    FAMILIES,
    FOUND,
    INCEPTION,
    MOBILE,
    RESNET,
    RESNEXT,
    SE,
    VGG,
    VOVNET,
    family,
)
from nas.analyse.figures import by_precision, figures
from nas.analyse.rows import batch_sizes, named, number, precisions, why_missing
from nas.analyse.scene import Figure


def figure(rows: Rows, title: str, precision: str = "fp32") -> Figure:
    (found,) = [figure for figure in figures(rows, precision) if figure.title.startswith(title)]
    return found


def drawn(figure: Figure) -> dict[str, tuple[Any, Any]]:
    """The points by name; the last of a name where it has several."""
    assert figure.plot is not None and figure.reason is None
    return {
        name: (x, y)
        for trace in figure.plot.data
        if trace.customdata is not None
        for name, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }


ROWS = [
    row(
        "vovnet39",
        source="preset",
        flops=14_000_000_000,
        params=22_500_000,
        top1_published=0.768,
        latency_ms=8.0,
        latency_iqr_ms=0.8,
    ),
    row("vovnet39", 4, source="preset", flops=14_000_000_000, params=22_500_000, latency_ms=16.0, latency_iqr_ms=0.8),
    row("densenet201", flops=8_600_000_000, params=20_000_000, top1_published=0.769, latency_ms=20.0, energy_j=2.0),
    row("densenet201", 4, latency_ms=30.0),
    row("mobilenet_v2", flops=600_000_000, params=3_500_000, top1_published=None, latency_ms=5.0),
    lost("densenet201", "out_of_memory", "too large", 16),
    lost("shufflenet_v1", "missing", "in no library", None, None),
]


def test_accuracy_against_operations_has_balls_whose_area_is_the_parameters() -> None:
    told = figure(ROWS, "Accuracy against operations")
    assert drawn(told) == {
        "vovnet39": (pytest.approx(14), pytest.approx(76.8)),
        "densenet201": (pytest.approx(8.6), pytest.approx(76.9)),
    }
    sizes = {trace.customdata[0]: trace.marker.size[0] for trace in told.plot.data}
    assert (sizes["vovnet39"] / sizes["densenet201"]) ** 2 == pytest.approx(22.5 / 20, rel=0.02)
    assert [sign.label for sign in told.signs] == ["2 M parameters", "20 M parameters"]
    assert "mobilenet_v2" in told.note and "shufflenet_v1" in told.note
    assert told.plot.layout.xaxis.title.text == "FLOPs per image (GFLOPs)"


def test_accuracy_density_is_percent_per_million_parameters() -> None:
    told = figure(ROWS, "Accuracy density")
    assert {name: x for name, (x, _) in drawn(told).items()} == pytest.approx({"vovnet39": 76.8 / 22.5, "densenet201": 76.9 / 20})
    # The best is on top: names are numbered from the top of a reversed axis.
    assert list(told.plot.layout.yaxis.ticktext) == ["densenet201", "<b>vovnet39</b>"]
    assert told.plot.layout.yaxis.range[0] > told.plot.layout.yaxis.range[1]


def test_throughput_has_the_interquartile_range_as_its_error() -> None:
    told = figure(ROWS, "Accuracy against throughput")
    assert told.title.endswith("batch 1")
    (vovnet,) = [trace for trace in told.plot.data if trace.name == VOVNET.name]
    assert vovnet.x[0] == pytest.approx(125) and vovnet.error_x.array[0] == pytest.approx(125 * 0.4 / 8)


def test_the_stair_joins_what_nothing_beats() -> None:
    rows = [
        row(name, latency_ms=ms, top1_published=top1) for name, ms, top1 in (("a", 1.0, 0.6), ("b", 2.0, 0.7), ("c", 4.0, 0.65))
    ]
    stair = figure(rows, "Accuracy against throughput").plot.data[0]
    assert (list(stair.x), list(stair.y)) == (pytest.approx([500, 1000]), pytest.approx([70, 60]))


def test_time_per_image_divides_by_the_batch() -> None:
    told = figure(ROWS, "Time per image")
    (vovnet,) = [trace for trace in told.plot.data if trace.customdata[-1] == "vovnet39"]
    assert (list(vovnet.x), list(vovnet.y)) == ([1, 4], [8, 4])
    assert list(vovnet.error_y.array) == pytest.approx([0.4, 0.1])
    assert vovnet.customdata[0] == "" and "batch 4: 4 ms time per image" in vovnet.hovertext[1]
    assert list(told.plot.layout.xaxis.tickvals) == [1, 4] and told.plot.layout.xaxis.type == "log"


def test_what_a_device_lacks_is_a_sentence() -> None:
    reason = "energy: the system shows no counter; memory: not counted on a CPU"
    nothing = {"energy_j": None, "peak_memory_mb": None, "process_memory_mb": None, "reason": reason}
    rows = [row("resnet18", **nothing), row("resnet50", **nothing)]
    assert figure(rows, "Energy").plot is None
    assert figure(rows, "Energy").reason == "energy per image: the system shows no counter"
    assert figure(rows, "Peak memory").reason == "peak memory: not counted on a CPU"
    assert figure(rows, "Memory against").plot is None and figure(rows, "Eager").plot is None


def test_energy_and_rate_show_the_least_and_the_greatest_batch() -> None:
    told = figure(ROWS, "Energy per image")
    assert [sign.label for sign in told.signs] == ["batch 1", "batch 4"]
    assert list(told.plot.layout.yaxis.ticktext) == ["<b>vovnet39</b>", "mobilenet_v2", "densenet201"]
    rate = figure(ROWS, "Computation rate")
    assert rate.plot.layout.yaxis.ticktext[0] == "<b>vovnet39</b>"
    assert drawn(rate)["mobilenet_v2"][0] == pytest.approx(0.6 / 0.005)


def test_memory_access_and_its_ratio() -> None:
    rows = [row("resnet50", mem_access=30, mem_access_bound=20), row("vgg16", mem_access=40, mem_access_bound=None)]
    assert drawn(figure(rows, "Memory access cost over"))["resnet50"][0] == pytest.approx(1.5)
    assert set(drawn(figure(rows, "Memory access cost and"))) == {"resnet50", "vgg16"}


def test_ways_of_running_are_shown_where_one_was_taken() -> None:
    rows = [row("resnet50", latency_graph_ms=4.0, latency_enqueue_ms=9.0), row("vgg16")]
    told = figure(rows, "Eager")
    assert [sign.label for sign in told.signs] == ["eager", "CUDA graph", "enqueue (host)"]
    assert set(drawn(told)) == {"resnet50"} and "vgg16" in told.note


def test_precisions_are_drawn_apart_and_once_together() -> None:
    rows = [row("resnet50", 8), row("resnet50", 8, "bf16", latency_ms=2.0), row("vgg16", 16)]
    assert precisions(rows) == ["fp32", "bf16"]
    assert set(drawn(figure(rows, "Time per image", "bf16"))) == {"resnet50"}
    together = by_precision(rows)
    assert together is not None and together.title == "Throughput by precision at batch 8"
    assert drawn(together)["resnet50"][0] == pytest.approx(4000)
    assert by_precision(rows[:1]) is None
    apart = by_precision([row("a", 1), row("a", 2, "bf16")])
    assert apart is not None and apart.plot is None and "common batch" in (apart.reason or "")


def test_nothing_measured_draws_nothing() -> None:
    assert figures([lost("a", "failed", "x")], "fp32") == [] == figures([], "fp32")


def test_names_cannot_smuggle_markup_into_a_figure() -> None:
    told = figure([row("<img src=x>", top1_published=0.5)], "Accuracy density")
    assert told.plot.layout.yaxis.ticktext[0] == "&lt;img src=x&gt;"
    assert "<img" not in told.plot.data[0].hovertext[0]


def test_values_that_are_not_numbers_are_missing() -> None:
    assert number({"a": math.nan}, "a") is None and number({"a": None}, "a") is None and number({}, "a") is None
    assert number({"a": True}, "a") is None and number({"a": "3"}, "a") is None and number({"a": 3}, "a") == 3.0
    assert batch_sizes([row("a", 4), row("a", 1), lost("b", "failed", "x", 2)]) == [1, 4]


def test_a_name_in_two_sources_is_told_apart() -> None:
    rows = [row("resnet50"), row("resnet50", source="timm"), row("vgg16")]
    assert [told["name"] for told in named(rows)] == ["resnet50 (torchvision)", "resnet50 (timm)", "vgg16"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("energy: no counter; at all; memory: off", "no counter; at all"),
        ("energy_j: denied", "denied"),
        ("no driver", "no driver"),
        ("memory: off", "no row has this figure, and none says why"),
        (None, "no row has this figure, and none says why"),
    ],
)
def test_the_reason_of_one_quantity(reason: str | None, told: str) -> None:
    assert why_missing([row("a", energy_j=None, reason=reason)], "energy_j") == told


def test_energy_and_memory_share_their_reasons_and_latencies_do_not() -> None:
    text = "latency_graph_ms: not on a CPU; energy_j: no RAPL: none at all; peak_memory_mb: a shared heap"
    bare = row("a", reason=text) | dict.fromkeys(("power_w", "latency_compiled_ms", "reserved_memory_mb", "latency_graph_ms"))
    assert why_missing([bare], "power_w") == why_missing([bare], "energy_net_j") == "no RAPL: none at all"
    assert why_missing([bare], "reserved_memory_mb") == "a shared heap"
    assert why_missing([bare], "latency_graph_ms") == "not on a CPU"
    assert "none says why" in why_missing([bare], "latency_compiled_ms")


def test_families() -> None:
    told = {
        "vovnet39": VOVNET,
        "ese_vovnet19b_dw": VOVNET,
        "vovnet39_bottleneck": BOTTLENECK,
        "timm:legacy_seresnext50_32x4d": SE,
        "legacy_senet154": SE,
        "densenet121": DENSENET,
        "resnext101_64x4d": RESNEXT,
        "dpn68": RESNEXT,
        "resnet50": RESNET,
        "inception_resnet_v2": INCEPTION,
        "googlenet": INCEPTION,
        "vgg16_bn": VGG,
        "mobilenet_v2": MOBILE,
    }
    assert {name: family(row(name)) for name in told} == told
    assert family(row("vovnet39", source="study")) == FOUND
    assert family(row("vovnet39", source="file")) == FOUND
    assert len({(kind.colour, kind.symbol) for kind in FAMILIES}) == len({kind.name for kind in FAMILIES}) == len(FAMILIES)


def test_numbers_read_well() -> None:
    assert [digits(value) for value in (12345.6, 0.01234, 5.001, 72, 0)] == ["12,346", "0.0123", "5.00", "72", "0"]
    assert shown({"energy_j": 0.25}, "energy_j") == "250 mJ" and shown({}, "energy_j") == "–"
