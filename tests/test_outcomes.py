"""Which found networks dominate which references, against a definition written out, and how a table says it."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nas.metrics import METRICS
from nas.outcomes import Outcome, dominations
from nas.tables import front_row, front_table, show_gain

OBJECTIVES = (METRICS["top1"], METRICS["latency_ms"])


def network(number: int, top1: float, latency_ms: float) -> Outcome:
    return Outcome(str(number), number, "complete", {"top1": top1, "latency_ms": latency_ms, "params": 1000})


def reference(name: str, top1: float, latency_ms: float) -> Outcome:
    return Outcome(name, None, "complete", {"top1": top1, "latency_ms": latency_ms})


pairs = st.tuples(st.sampled_from([0.5, 0.7, 0.9]), st.sampled_from([1.0, 2.0, 4.0]))


@given(st.lists(pairs, max_size=6), st.lists(pairs, max_size=3))
def test_dominations_by_their_definition(found: list[tuple[float, float]], known: list[tuple[float, float]]) -> None:
    networks = [network(number, *values) for number, values in enumerate(found)]
    references = [reference(f"r{number}", *values) for number, values in enumerate(known)]
    expected = {
        (f"r{j}", str(i))
        for j, (top1_r, ms_r) in enumerate(known)
        for i, (top1, ms) in enumerate(found)
        if top1 >= top1_r and ms <= ms_r and (top1, ms) != (top1_r, ms_r)
    }
    assert {(d.reference.name, d.network.name) for d in dominations(networks, references, OBJECTIVES)} == expected


def test_by_how_much() -> None:
    (one,) = dominations([network(3, 0.9, 2.0)], [reference("resnet18", 0.88, 5.0)], OBJECTIVES)
    assert [show_gain(metric, one) for metric in OBJECTIVES] == ["top1 +2.00 points", "latency_ms -60%"]
    assert front_row(one.network, [one])["dominates"] == "resnet18"
    assert front_row(one.network, [one])["dominates_by"] == "resnet18: top1 +2.00 points, latency_ms -60%"
    assert front_row(network(4, 0.9, 9.0), [one])["dominates"] == ""


def test_a_reference_that_failed_takes_no_part() -> None:
    failed = Outcome("vgg11", None, "failed", {"failure_reason": "build: too small"})
    assert dominations([network(1, 0.9, 1.0)], [failed], OBJECTIVES) == []
    assert failed.failure_reason == "build: too small"


def test_the_table_holds_references_below_the_front() -> None:
    found, known = network(3, 0.9, 2.0), reference("resnet18", 0.88, 5.0)
    table = front_table([found], ["top1", "latency_ms"], {}, None, [known], dominations([found], [known], OBJECTIVES))
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines[1][0] == "3" and lines[1][-1] == "resnet18"
    assert lines[2][0] == "ref" and "resnet18" in lines[2]
