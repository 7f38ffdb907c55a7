"""Claims against rows whose verdict is known beforehand, and the findings' statistics against SciPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from benchmark_rows import Rows, lost, row
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from nas.analyse import claims, findings
from nas.analyse.judging import Claim, Quantity, compare, overall, spread

FASTER = "VoVNet-39 takes less time than DenseNet-201."
LESS_ENERGY = "VoVNet-39 takes less energy per image than DenseNet-201."
FADES = "VoVNet-39's advantage over ResNet-50 in time fades as the batch grows."
RATE = "Most FLOP/s: VoVNet-39, then ResNet-50, then DenseNet-201."


def judged(rows: Rows, statement: str, kind: str = "cuda") -> Claim:
    (claim,) = [claim for claim in claims.judge(rows, "fp32", kind) if claim.statement == statement]
    return claim


def pair(vovnet: dict[str, Any], densenet: dict[str, Any]) -> Rows:
    return [row("vovnet39", source="preset", **vovnet), row("densenet201", **densenet)]


@pytest.mark.parametrize(("dense_ms", "verdict"), [(20.0, "holds"), (5.0, "does not hold"), (10.1, "tie"), (9.9, "tie")])
def test_time_is_judged_with_its_numbers(dense_ms: float, verdict: str) -> None:
    claim = judged(pair({"latency_ms": 10.0}, {"latency_ms": dense_ms}), FASTER)
    assert claim.verdict == verdict
    assert f"{dense_ms / 10:.2f}×" in claim.told and "VoVNet-39 10 ms" in claim.told
    assert claim.judged_at == "fp32, batch 1"


def test_a_wide_spread_makes_a_tie_of_what_held() -> None:
    rows = pair({"latency_ms": 10.0}, {"latency_ms": 12.0})
    assert judged(rows, FASTER).verdict == "holds"
    rows[1]["latency_iqr_ms"] = 6.0
    claim = judged(rows, FASTER)
    assert claim.verdict == "tie" and "tie: within ±25.2 %" in claim.told


def test_a_cpu_repeats_less_well_than_a_gpu() -> None:
    rows = pair({"latency_ms": 10.0}, {"latency_ms": 10.35})
    assert judged(rows, FASTER, "cuda").verdict == "holds"
    assert judged(rows, FASTER, "cpu").verdict == "tie"


def test_the_stated_uncertainty_of_energy_counts() -> None:
    rows = pair({"energy_j": 1.0}, {"energy_j": 1.1})
    assert judged(rows, LESS_ENERGY).verdict == "holds"
    rows[0]["energy_uncertainty_j"] = 0.12
    assert judged(rows, LESS_ENERGY).verdict == "tie"


def test_what_is_missing_is_named_with_its_reason() -> None:
    alone = judged([row("vovnet39")], FASTER)
    assert alone.verdict == "cannot be said" and "densenet201: not among the rows" in alone.told
    failed = judged([row("vovnet39"), lost("densenet201", "out_of_memory", "2 GiB more than there is")], FASTER)
    assert failed.verdict == "cannot be said" and "out of memory (2 GiB more than there is)" in failed.told
    unmeasured = pair(
        {"energy_j": None, "reason": "energy: no RAPL counter; memory: x"}, {"energy_j": None, "reason": "energy: off"}
    )
    claim = judged(unmeasured, LESS_ENERGY)
    assert claim.verdict == "cannot be said"
    assert (
        "vovnet39: no energy per image (no RAPL counter)" in claim.told and "densenet201: no energy per image (off)" in claim.told
    )


def test_a_batch_that_failed_moves_the_judgement_to_the_next() -> None:
    rows = [row("vovnet39"), lost("densenet201", "failed", "crash"), row("vovnet39", 2), row("densenet201", 2, latency_ms=30.0)]
    claim = judged(rows, FASTER)
    assert claim.verdict == "holds" and claim.judged_at == "fp32, batch 2"
    assert [part.verdict for part in claim.by_batch] == ["cannot be said", "holds"]


def test_precisions_and_input_sizes_are_never_mixed() -> None:
    mixed = [row("vovnet39"), row("densenet201", precision="bf16", latency_ms=30.0)]
    assert judged(mixed, FASTER).verdict == "cannot be said"
    sizes = pair({"input_size": 224}, {"input_size": 320, "latency_ms": 30.0})
    assert judged(sizes, FASTER).verdict == "cannot be said" and "inputs differ" in judged(sizes, FASTER).told


def test_libraries_names_stand_for_the_paper_s_and_found_networks_for_none() -> None:
    timm = [row("timm:vovnet39a", source="timm"), row("densenet201", latency_ms=20.0)]
    assert judged(timm, FASTER).verdict == "holds" and "VoVNet-39 (vovnet39a)" in judged(timm, FASTER).told
    both = [
        row("vovnet39a", source="timm", latency_ms=99.0),
        row("vovnet39", source="preset"),
        row("densenet201", latency_ms=20.0),
    ]
    assert judged(both, FASTER).verdict == "holds"
    found = [row("vovnet39", source="study"), row("densenet201", latency_ms=20.0)]
    assert judged(found, FASTER).verdict == "cannot be said"


@pytest.mark.parametrize(
    ("times_ms", "verdict"),
    [((10, 20, 40), "holds"), ((10, 10, 40), "tie"), ((10, 9, 40), "does not hold"), ((10, 20, 15), "does not hold")],
)
def test_an_order_is_judged_neighbour_by_neighbour(times_ms: tuple[float, ...], verdict: str) -> None:
    names = ("vovnet39", "resnet50", "densenet201")
    rows = [row(name, latency_ms=float(time)) for name, time in zip(names, times_ms, strict=True)]
    claim = judged(rows, RATE)
    assert claim.verdict == verdict
    # A contradiction stands also where a third network is missing; an agreement does not.
    without = judged(rows[:2], RATE)
    assert without.verdict == ("does not hold" if times_ms[1] < times_ms[0] else "cannot be said")


def advantage(*ratios: float) -> Rows:
    sizes = [2**power for power in range(len(ratios))]
    return [row("vovnet39", size) for size in sizes] + [
        row("resnet50", size, latency_ms=10.0 * ratio) for size, ratio in zip(sizes, ratios, strict=True)
    ]


@pytest.mark.parametrize(
    ("ratios", "verdict", "told"),
    [
        ((1.19, 1.1, 1.0, 0.9), "holds", "1.19× at batch 1; gone at batch 4: 1.00×, a tie"),
        ((1.2, 0.8, 1.3), "holds", "gone at batch 2: 0.80×, turned round; back at batch 4"),
        ((1.2, 1.2, 1.1), "does not hold", "still 1.10× at batch 4"),
        ((0.8, 1.2), "does not hold", "no advantage to fade"),
        ((1.0, 1.2), "tie", "no advantage to fade"),
        ((1.2,), "cannot be said", "two batch sizes are needed"),
    ],
)
def test_the_batch_at_which_the_advantage_fades(ratios: tuple[float, ...], verdict: str, told: str) -> None:
    claim = judged(advantage(*ratios), FADES)
    assert claim.verdict == verdict and told in claim.told
    assert [part.ratio for part in claim.by_batch] == pytest.approx(ratios)


def test_bottlenecks_are_paired_by_name() -> None:
    rows = [
        row("vovnet57", source="preset"),
        row("vovnet57_bottleneck", source="preset", flops=3_000_000_000, params=9_000_000, latency_ms=12.0, peak_memory_mb=100.5),
    ]
    told = {claim.statement: claim.verdict for claim in claims.judge(rows, "fp32", "cuda") if claim.group == "1×1 bottlenecks"}
    assert told == {
        "Bottlenecks lower the FLOPs and the parameters of vovnet57.": "holds",
        "Bottlenecks raise the time of vovnet57.": "holds",
        "Bottlenecks raise the peak memory of vovnet57.": "tie",
    }
    rows[1]["params"] = 11_000_000
    assert judged(rows, "Bottlenecks lower the FLOPs and the parameters of vovnet57.").verdict == "does not hold"
    nothing = [claim for claim in claims.judge([row("resnet50")], "fp32") if claim.group == "1×1 bottlenecks"]
    assert {claim.verdict for claim in nothing} == {"cannot be said"}


def test_accuracy_is_never_judged() -> None:
    (claim,) = [
        claim for claim in claims.judge([row("vovnet39", top1_published=0.7677)], "fp32") if "ImageNet" in claim.statement
    ]
    assert claim.verdict == "cannot be said" and "VoVNet-39 23.23 %" in claim.told


def test_nothing_measured_gives_no_claims() -> None:
    assert claims.judge([lost("vovnet39", "failed", "x")], "fp32") == [] == findings.judge([], "fp32")


values = st.floats(0.1, 1000)


@settings(deadline=None)
@given(values, values, st.floats(0, 0.5), st.booleans())
def test_comparing_is_antisymmetric(a: float, b: float, floor: float, more: bool) -> None:
    quantity = Quantity("flops_per_s" if more else "latency_ms", "", more_is_better=more, floor=floor)
    first, second = {quantity.column: a}, {quantity.column: b}
    verdict, ratio, _ = compare(first, second, quantity)
    turned, inverse, _ = compare(second, first, quantity)
    assert {verdict, turned} in ({"tie"}, {"holds", "does not hold"})
    assert ratio * inverse == pytest.approx(1)
    if verdict == "holds":
        assert (a > b) if more else (a < b)


def test_spreads_add_in_quadrature() -> None:
    told = {"latency_ms": 10.0, "latency_iqr_ms": 0.6}
    assert spread(told, Quantity("latency_ms", "ms", floor=0.04)) == pytest.approx(0.05)
    assert spread({"params": 3}, Quantity("params", "")) == 0


def test_a_part_that_fails_decides() -> None:
    assert overall(["holds", "tie", "cannot be said", "does not hold"]) == "does not hold"
    assert overall(["holds", "tie", "cannot be said"]) == "cannot be said"
    assert overall(["holds", "tie"]) == "tie" and overall(["holds"]) == "holds" and overall([]) == "cannot be said"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_is_scipy_s(pairs: list[tuple[int, int]]) -> None:
    x, y = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(findings.spearman(x, y))
    else:
        assert findings.spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def found(rows: Rows) -> dict[str, Claim]:
    return {claim.statement.split()[0]: claim for claim in findings.judge(rows, "fp32")}


def test_findings_on_networks_where_more_is_better() -> None:
    rows = [
        row(f"n{i}", flops=10**9 * (i + 1), params=10**6 * (i + 1), top1_published=0.5 + i / 100, latency_ms=1.0 + i)
        for i in range(12)
    ]
    told = found(rows)
    assert told["More"].verdict == "does not hold" and "ρ = 1.00, n = 12; in 0 of 66 pairs" in told["More"].told
    assert told["Size"].verdict == "does not hold" and "R² = 1.00" in told["Size"].told
    assert told["Throughput"].verdict == "holds"
    assert "n11 61.0 %" in told["Throughput"].told and "n3 53.0 %" in told["Throughput"].told


def test_findings_on_networks_where_size_says_nothing() -> None:
    accuracies = [0.7, 0.6] * 6
    rows = [
        row(f"n{i}", flops=10**9 * (i + 1), params=10**6 * (i + 1), top1_published=accuracy, latency_ms=20.0 - i)
        for i, accuracy in enumerate(accuracies)
    ]
    told = found(rows)
    assert told["More"].verdict == "holds" == told["Size"].verdict
    assert "farthest: n11 spends 12.0× the operations of n0 for 10.0 points less" in told["More"].told
    assert told["Throughput"].verdict == "tie"


@pytest.mark.parametrize(("memory_mb", "verdict"), [(600.0, "holds"), (60.0, "does not hold"), (None, "cannot be said")])
def test_the_memory_of_the_smallest_network_s_process(memory_mb: float | None, verdict: str) -> None:
    rows = [row("tiny", params=1_000_000, process_memory_mb=memory_mb), row("huge", process_memory_mb=memory_mb and 9000.0)]
    told = found(rows)
    assert told["Even"].verdict == verdict
    assert told["More"].verdict == "cannot be said" and "2 networks" in told["More"].told
