"""What a study costs itself as it grows: asking and telling, coming back to it, its front; on SQLite, with four objectives.

Suggestions are real draws of a sampler from osa_digits' space; what they come to is invented, and nothing is built or trained.

    python benchmarks/ask_and_tell.py [--trials 1000] [--sampler ehvi] [--every 100]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path

import optuna
import torch
import yaml
from closing import show
from rich.table import Table

from nas.errors import InputError
from nas.evaluate import Evaluation, Metrics
from nas.metrics import METRICS
from nas.owner import Owner
from nas.plan import Asked, StudyPlan
from nas.samplers import make_sampler
from nas.storage import open_storage, storage_spec
from nas.study import Study
from nas.targets import build_target
from search_spaces.osa import Architecture

ROOT = Path(__file__).resolve().parents[1]
OBJECTIVES = ("top1", "latency_ms", "flops_per_s", "energy_j")


def invented(asked: Asked) -> Evaluation:
    """Return figures that depend on the network as real ones do: more work, more accuracy, more time, each with some noise.

    How many networks are on the front, and so what a sampler has to do, hangs on that.
    """
    architecture = asked.architecture
    assert isinstance(architecture, Architecture)
    draw = random.Random(architecture.id)
    layers = sum(stage.layers * stage.depth for stage in architecture.stages)
    work = sum(stage.layers * stage.depth * stage.conv_channels**2 / 4**at for at, stage in enumerate(architecture.stages))
    latency_ms = (0.2 * layers + work / 400) * draw.uniform(0.95, 1.05)
    power_w = 50 + 20 * math.log(work) * draw.uniform(0.9, 1.1)
    return Evaluation(
        Metrics(
            architecture.id,
            top1=0.99 - 0.5 * work**-0.3 + draw.gauss(0, 0.005),
            latency_ms=latency_ms,
            flops_per_s=1e6 * work / latency_ms,
            energy_j=power_w * latency_ms / 1e3,
            train_loss=(1.0,) * 7,
            epochs=7,
        )
    )


def main() -> None:
    """Print what it costs, trial after trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="ehvi")
    parser.add_argument("--every", type=int, default=100)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def node(group: str, name: str) -> dict[str, object]:
        found = yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8"))
        assert isinstance(found, dict)
        return found

    sampler = node("sampler", options.sampler)
    space = build_target("space", node("space", "osa_digits"))
    plan = StudyPlan("costs", options.trials, 0, tuple(METRICS[name] for name in OBJECTIVES), {}, {})
    ask_s: list[float] = []
    tell_s: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)

        def opened() -> Study:
            made = make_sampler(sampler, space, 0)
            return Study(open_storage(storage_spec(None, path)), plan, space, made, Owner(path / "owners"))

        study = opened()
        while True:
            began_s = time.perf_counter()
            asked = study.ask()
            asked_s = time.perf_counter()
            if asked is None:
                break
            evaluation = invented(asked)
            told_s = time.perf_counter()
            study.tell(asked.number, evaluation)
            ask_s.append(asked_s - began_s)
            tell_s.append(time.perf_counter() - told_s)
        # Of a search; with what follows there are two of them.
        memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        began_s = time.perf_counter()
        again = opened()
        assert again.ask() is None
        resume_s = time.perf_counter() - began_s
        began_s = time.perf_counter()
        front = again.front()
        front_s = time.perf_counter() - began_s
        size_mb = (path / "study.db").stat().st_size / 1e6
    table = Table("trials", "ask, ms", "tell, ms", "together", box=None)
    for end in range(options.every, len(ask_s) + 1, options.every):
        part = slice(end - options.every, end)
        ask_ms, tell_ms = (1e3 * statistics.median(values[part]) for values in (ask_s, tell_s))
        table.add_row(f"{end - options.every} to {end}", f"{ask_ms:.1f}", f"{tell_ms:.1f}", f"{ask_ms + tell_ms:.1f}")
    repeats = sum("reused_from" in trial.user_attrs for trial in again.trials)
    told = (
        f"{options.sampler}, medians ({repeats} suggestions were repeats, told while asking for the next); {memory_mb:.0f} MB "
        f"of memory; afterwards: come back to it in {resume_s:.2f} s, its front of {len(front)} in {front_s:.2f} s, "
        f"{size_mb:.1f} MB of SQLite"
    )
    show(torch.device("cpu"), told, table, 100)
    last = slice(-options.every, None)
    print(
        json.dumps(
            {
                "ask_ms": round(1e3 * statistics.median(ask_s[last]), 2),
                "tell_ms": round(1e3 * statistics.median(tell_s[last]), 2),
                "resume_s": round(resume_s, 2),
                "front_s": round(front_s, 3),
                "storage_mb": round(size_mb, 1),
                "memory_mb": round(memory_mb),
            }
        )
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
