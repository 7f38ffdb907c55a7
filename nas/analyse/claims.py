"""The claims of the VoVNet paper (arXiv 1904.09730) and its users, judged by a benchmark's rows on one device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from nas.analyse.columns import digits
from nas.analyse.judging import (
    Claim,
    Judgement,
    Network,
    Quantity,
    at_paper_batch,
    judge_order,
    overall,
    repeatability,
    times,
)
from nas.analyse.rows import Row, at, batch_sizes, number, plain

_SLIM = Network("VoVNet-27-slim", ("vovnet27_slim",))
_V39 = Network("VoVNet-39", ("vovnet39", "vovnet39a"))
_V57 = Network("VoVNet-57", ("vovnet57", "vovnet57a"))
_R50, _R101 = Network("ResNet-50", ("resnet50",)), Network("ResNet-101", ("resnet101",))
_D67, _D121 = Network("DenseNet-67", ("densenet67",)), Network("DenseNet-121", ("densenet121",))
_D161, _D201 = Network("DenseNet-161", ("densenet161",)), Network("DenseNet-201", ("densenet201",))

_TITAN = "detectors on a Titan Xp"

# Time: the paper gives frames per second for DSOD300 only, for the others the abstract's factor.
_DENSE_PAIRS = (
    (
        _V39,
        _D201,
        f"detectors on VoVNet run 2× faster than on DenseNet ({_TITAN})",
        "4.8 against 9.9 J per image (2.06×), RefineDet320",
    ),
    (
        _V57,
        _D161,
        f"detectors on VoVNet run 2× faster than on DenseNet ({_TITAN})",
        "5.9 against 10.0 J per image (1.69×), RefineDet320",
    ),
    (_V39, _D121, "no figure for this pair; 2× faster for others", "no figure for this pair; 1.6 to 4.1× less for others"),
    (_SLIM, _D67, "71 against 35 images/s (2.03×), DSOD300", "0.9 against 3.7 J per image (4.1×), DSOD300"),
)
_ORDERS = (
    ((_V39, _R50, _D201), "815 > 591 > 297 GFLOP/s, RefineDet320", "4.8 < 5.3 < 9.9 J, RefineDet320"),
    ((_V57, _R101, _D161), "776 > 579 > 420 GFLOP/s, RefineDet320", "5.9 < 7.5 < 10.0 J, RefineDet320"),
)
_MEMORY_FLOOR = 0.01


def judge(rows: Iterable[Row], precision: str, kind: str | None = None) -> list[Claim]:
    """Judge every claim in one precision, at every batch size that was measured in it.

    Args:
        rows: One per model, precision and batch size, of any status.
        precision: The one whose rows are compared; rows of different precisions are never set against each other.
        kind: ``cuda`` or ``cpu``: it sets how far two runs of a latency may lie apart and still be a tie.

    Returns:
        The claims in the page's order; none if nothing was measured in this precision. A verdict is that of the least batch
        size that allows one.
    """
    rows = list(rows)
    sizes = batch_sizes(at(rows, precision))
    if not sizes:
        return []
    time = Quantity("latency_ms", "ms", floor=repeatability(kind))
    rate = Quantity("flops_per_s", "GFLOP/s", 1e-9, more_is_better=True, floor=repeatability(kind))
    energy = Quantity("energy_j", "J", floor=0.01)

    def ordered(group: str, statement: str, paper: str, networks: Sequence[Network], quantity: Quantity) -> Claim:
        judgements = [judge_order(rows, networks, quantity, precision, size) for size in sizes]
        return _claim(group, statement, paper, precision, judgements)

    dense = "OSA against dense connections"
    claims = []
    for osa, other, paper_time, paper_energy in _DENSE_PAIRS:
        claims.append(ordered(dense, f"{osa.label} takes less time than {other.label}.", paper_time, (osa, other), time))
        statement = f"{osa.label} takes less energy per image than {other.label}."
        claims.append(ordered(dense, statement, f"{paper_energy} ({_TITAN})", (osa, other), energy))
    for networks, paper_rate, paper_energy in _ORDERS:
        names = ", then ".join(network.label for network in networks)
        statement = f"Most FLOP/s: {names}."
        claims.append(ordered("Use of the device", statement, f"{paper_rate} ({_TITAN})", networks, rate))
        statement = f"Least energy per image: {names}."
        claims.append(ordered("Use of the device", statement, f"{paper_energy} ({_TITAN})", networks, energy))
    claims += _bottlenecks(rows, precision, sizes, time)
    claims.append(_fading(rows, precision, sizes, time))
    claims.append(_accuracy(rows))
    return claims


def _claim(group: str, statement: str, paper: str, precision: str, judgements: Sequence[Judgement]) -> Claim:
    judged = at_paper_batch(judgements)
    where = f"{precision}, batch {judged.batch_size}"
    told = tuple(judgements) if len(judgements) > 1 else ()
    return Claim(group, statement, paper, judged.verdict, judged.told, where, told)


_DIRECTION = "direction only, from a secondary source"


def _bottlenecks(rows: Sequence[Row], precision: str, sizes: Sequence[int], time: Quantity) -> list[Claim]:
    """Judge that 1×1 bottlenecks lower FLOPs and parameters and raise time and memory, for each pair that is there."""
    group = "1×1 bottlenecks"
    known = {plain(row["model"]) for row in rows}
    plains = [name for name in sorted(known) if f"{name}_bottleneck" in known] or ["vovnet39"]
    memory = Quantity("peak_memory_mb", "MB", floor=_MEMORY_FLOOR)
    claims = []
    for name in plains:
        whole, thin = Network(name, (name,)), Network(f"{name}_bottleneck", (f"{name}_bottleneck",))
        counts = [
            judge_order(rows, (thin, whole), quantity, precision, sizes[0])
            for quantity in (Quantity("flops", "GFLOPs", 1e-9), Quantity("params", "M parameters", 1e-6))
        ]
        claims.append(
            Claim(
                group,
                f"Bottlenecks lower the FLOPs and the parameters of {name}.",
                _DIRECTION,
                overall(judgement.verdict for judgement in counts),
                " · ".join(dict.fromkeys(judgement.told for judgement in counts)),
                "counted, the same on every device",
            )
        )
        for quantity, word in ((time, "time"), (memory, "peak memory")):
            judgements = [judge_order(rows, (whole, thin), quantity, precision, size) for size in sizes]
            claims.append(_claim(group, f"Bottlenecks raise the {word} of {name}.", _DIRECTION, precision, judgements))
    return claims


def _fading(rows: Sequence[Row], precision: str, sizes: Sequence[int], time: Quantity) -> Claim:
    """Find the batch size from which VoVNet-39 is no longer faster than ResNet-50."""
    judgements = [judge_order(rows, (_V39, _R50), time, precision, size) for size in sizes]
    known = [judgement for judgement in judgements if judgement.verdict != "cannot be said"]
    claim = Claim(
        "Batch size and accuracy",
        "VoVNet-39's advantage over ResNet-50 in time fades as the batch grows.",
        "13.0 against 15.5 ms at batch 1 (1.19×), 24.5 against 24.4 ms at batch 16 (1.00×): a user's Titan Xp",
        "cannot be said",
        "",
        f"{precision}, by batch size",
        tuple(judgements),
    )
    if len(known) < 2:
        return replace(claim, told=f"two batch sizes are needed; {judgements[0].told}")
    first, last = known[0], known[-1]
    if first.verdict != "holds":
        told = f"there is no advantage to fade: at batch {first.batch_size}, {first.told}"
        return replace(claim, verdict=first.verdict, told=told)
    faded = next((judgement for judgement in known if judgement.verdict != "holds"), None)
    began = f"{_times(first)} at batch {first.batch_size}"
    if faded is None:
        told = f"{began}, still {_times(last)} at batch {last.batch_size}: never within the measurements' spread"
        return replace(claim, verdict="does not hold", told=told)
    how = "a tie" if faded.verdict == "tie" else "turned round"
    back = [str(later.batch_size) for later in known[known.index(faded) :] if later.verdict == "holds"]
    told = f"{began}; gone at batch {faded.batch_size}: {_times(faded)}, {how}"
    return replace(claim, verdict="holds", told=told + (f"; back at batch {', '.join(back)}" if back else ""))


def _times(judgement: Judgement) -> str:
    return "" if judgement.ratio is None else times(judgement.ratio)


def _accuracy(rows: Sequence[Row]) -> Claim:
    """State what no benchmark of speed can judge: ImageNet accuracy is published by others."""
    networks = (_V39, _V57, _R50, _R101, _D201, _D161)
    published = []
    for network in networks:
        known = [row for row in rows if plain(row["model"]) in network.models and number(row, "top1_published") is not None]
        if known:
            published.append(f"{network.label} {digits(100 - 100 * (number(known[0], 'top1_published') or 0), 4)} %")
    beside = f"; published in the table: {', '.join(published)} top-1 error" if published else ""
    return Claim(
        "Batch size and accuracy",
        "VoVNet-39 and -57 err less on ImageNet than ResNet-50 and -101 and about as much as DenseNet-201 and -161.",
        "top-1 error 23.23 and 22.27 % against 23.85 and 22.63 %, 22.80 and 22.35 %",
        "cannot be said",
        f"accuracy on ImageNet is not measured here{beside}",
        "published by others",
    )
