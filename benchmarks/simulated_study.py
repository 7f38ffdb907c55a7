"""Writes a run folder of any number of trials within minutes, to time and look at what reads one: report, dashboard, resume.

The networks are real draws from osa_digits' space, of which the first ``--counted`` are really built and counted. Their
accuracies, latencies and energies come from a formula with noise and stand for nothing; the study's name and its device say so.

    python benchmarks/simulated_study.py --trials 1000 --run-dir runs/simulated
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from pathlib import Path

import optuna

from nas.compose import compose
from nas.config.search import SEARCH_GROUPS, SEARCH_ROOT, parse_search
from nas.evaluate import Evaluation, Metrics
from nas.files import make_run_dir, write_architecture, write_config, write_json, write_measurement
from nas.measure.measurement import Measurement, Measuring
from nas.metrics import METRICS
from nas.owner import Owner
from nas.plan import Asked
from nas.prepare import Prepared, prepare_search
from nas.recording import annotator_of
from nas.storage import open_storage
from nas.study import Study
from search_spaces.base import to_yaml

OBJECTIVES = ("top1", "latency_ms", "flops_per_s", "energy_j")


def count(prepared: Prepared, asked: Asked) -> Measurement:
    """Count a network really."""
    request = prepared.request_for(asked)
    measuring = Measuring((1, 8, 8), request.measure)
    measuring.count(request.space.build(asked.architecture, 1, 10))
    return measuring.result()


def evaluation(asked: Asked, measurement: Measurement, noise: random.Random) -> Evaluation:
    """Invent what is not counted."""
    counted = measurement.figures()
    size, work = counted["params"], counted["mult_adds"]
    top1 = max(0.1, min(1.0, 0.995 - 12 / size**0.55 - abs(noise.gauss(0, 0.01))))
    latency_ms = 0.4 + counted["mem_access"] / 4e5 * noise.uniform(0.85, 1.2)
    metrics = Metrics(
        architecture_id=asked.architecture.id,
        top1=top1,
        top5=min(1.0, top1 + 0.01),
        **{name: counted[name] for name in ("params", "mult_adds", "flops", "mem_access", "mem_access_bound")},
        latency_ms=latency_ms,
        latency_iqr_ms=latency_ms * noise.uniform(0.005, 0.03),
        images_per_s=64e3 / latency_ms,
        flops_per_s=counted["flops"] * 64e3 / latency_ms,
        energy_j=1e-5 * latency_ms + work * 2e-12,
        energy_uncertainty_j=1e-7 * latency_ms,
        epochs=7,
        train_loss=tuple(2.3 * (1 - top1) ** (epoch / 7) for epoch in range(1, 8)),
        train_seconds=1.0 + work / 1e6,
        measure_seconds=1.0,
    )
    if noise.random() < 0.01:
        return Evaluation(
            dataclasses.replace(metrics, top1=None, top5=None), {}, "diverged", "train: simulated failure", measurement
        )
    return Evaluation(metrics, measurement=measurement)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/simulated"))
    parser.add_argument("--counted", type=int, default=2000, help="networks; later ones are given the figures of one of them")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    arguments = [
        *("conf=osa_digits", "study.name=simulated", f"study.trials={options.trials}", f"run_dir={options.run_dir}"),
        *("sampler=random", "constraints.params=300000", "objectives=[top1,latency_ms]", "measure.energy=true"),
        *("train.precision=fp32", "train.memory_format=contiguous"),
    ]
    composed = compose("search", SEARCH_ROOT, SEARCH_GROUPS, arguments)
    prepared = prepare_search(parse_search(composed.plain), composed)
    # No machine measured this, so every objective is at hand, and the record names no device that could be taken for real.
    plan = dataclasses.replace(
        prepared.plan,
        objectives=tuple(METRICS[name] for name in OBJECTIVES),
        conditions={**prepared.plan.conditions, "objectives": list(OBJECTIVES)},
    )
    record = {**plan.record, "device": {"agreed": {"kind": "cpu", "name": "SIMULATED, measured on nothing"}}}
    plan = dataclasses.replace(plan, record=record)
    make_run_dir(prepared.run_dir)
    owner = Owner(prepared.storage.owners(prepared.run_dir))
    storage = open_storage(prepared.storage)
    study = Study(storage, plan, prepared.space, prepared.sampler, owner)
    annotator = annotator_of(plan, prepared.run_dir, storage, print)
    annotator.describe()
    study.verdict.before_tell = annotator.before_tell
    write_config(prepared.run_dir, {"conf": composed.name, **composed.written})
    write_json(prepared.run_dir / "record.json", {**record, "conditions": plan.conditions})
    counted: list[Measurement] = []
    while (asked := study.ask()) is not None:
        if len(counted) < options.counted:
            counted.append(count(prepared, asked))
        measurement = counted[asked.number % len(counted)] if len(counted) == options.counted else counted[-1]
        found = evaluation(asked, measurement, random.Random(f"{options.seed}/{asked.number}"))
        write_architecture(prepared.run_dir, asked.number, to_yaml(asked.architecture))
        write_measurement(prepared.run_dir, asked.number, measurement.to_dict())
        study.tell(asked.number, found)
    print(f"{len(study.finished)} simulated trials, {len(study.front())} on the front, in {prepared.run_dir}")


if __name__ == "__main__":
    main()
