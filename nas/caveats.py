"""Everything that makes a figure of a study doubtful, as sentences for its report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from nas.config.common import study_key
from nas.reporting import Report

_MOST_DOUBTS = 10


def caveats(report: Report) -> Iterable[str]:
    """Yield each doubt, the one that always holds first."""
    population, run = report.population, report.run
    how_far = (
        "see Audit"
        if report.audit is not None
        else f"python -m nas.retrain {study_key(run.name, run.folder)} audit=8 measures it"
    )
    confirmed = sum(len(o.attributes.get("seeds") or ()) > 1 for o in population.complete)
    seeds = f"one seed ({confirmed} networks: means over several)" if confirmed else "one seed"
    yield (
        f"Accuracies are those of a brief training with {seeds}, on the validation part: they order networks, and say little of "
        f"what a full training reaches. How far that order holds: {how_far}."
    )
    for name, reason in (run.record.get("objectives_dropped") or {}).items():
        yield f"The objective {name} was dropped: {reason}."
    outcomes = population.outcomes
    measured = [o for o in outcomes if o.state != "repeated" and o.attributes.get("measure_seconds") is not None]
    doubts = Counter(re.sub(r"\d+(\.\d+)?", "…", flag) for o in measured for flag in set(o.attributes.get("measure_flags") or ()))
    for doubt, count in doubts.most_common(_MOST_DOUBTS):
        yield f"{count} of {len(measured)} measured trials carry the doubt “{doubt}”."
    if len(doubts) > _MOST_DOUBTS:
        yield f"{len(doubts) - _MOST_DOUBTS} rarer doubts are in the trials' measure_flags."
    looked = [o for o in population.complete if o.attributes.get("latency_brief")]
    if looked:
        contenders = [o.name for o in (*population.front, *population.tied) if o in looked]
        among = f" Trial {', '.join(contenders)} on the front or tied with it is among them." if contenders else ""
        yield (
            f"The latencies of {len(looked)} of {len(population.complete)} networks are those of a first, brief look: another "
            f"network was clearly ahead, or the meter refused more.{among}"
        )
    if run.record["conditions"]["device"].get("kind") == "cuda":
        yield "The GPU's clocks are not locked by a search: what they did while measuring is in each measurement.json."
    missing = Counter(
        (name, str(o.attributes[f"{name}_reason"]))
        for o in outcomes
        for name in ("latency_ms", "energy_j", "peak_memory_mb")
        if o.attributes.get(f"{name}_reason") and name not in (run.record.get("objectives_dropped") or {})
    )
    for (name, reason), count in missing.most_common(_MOST_DOUBTS):
        yield f"{name} is missing in {count} trials: {reason}."
    failures = Counter(o.attributes.get("failure") for o in outcomes if o.state == "failed")
    for failure, count in failures.items():
        first = next(o for o in outcomes if o.state == "failed" and o.attributes.get("failure") == failure)
        kind = str(failure).replace("_", " ")
        yield f"{count} trials failed ({kind}), the first, trial {first.name}, for: {first.failure_reason}"
    distinct = len({o.attributes.get("architecture_id") for o in population.complete})
    if distinct < len(population.complete):
        yield f"{len(population.complete) - distinct} trials built a network that another had built: their differences are noise."
    for reference in run.references:
        if reference.state == "failed":
            yield f"The reference {reference.name} failed: {reference.failure_reason}"
    if any(o.attributes.get("energy_j") is not None for o in outcomes):
        yield "Absolute joules carry the sensor's bias of 5 to 10 %; ranking on one board is sound."
    if skipped := run.record["data"].get("skipped"):
        yield f"{len(skipped)} images could not be read and are left out, the first is {skipped[0]}."
    if run.running:
        yield f"{run.running} trials are under way, or their process died: this is not the last word."
