"""How far a brief look at a latency is off from the timing in full: what decides how clearly one network must beat another.

Random networks of a design space, each looked at, timed in full, and looked at again, with one thread. Raw results go to
``$OUT``, if that is set.

    python benchmarks/first_look.py [--space osa_digits_table] [--networks 120] [--look-seconds 0.1] [--seconds 0.6]
        [--batch-size 64] [--input-shape 1,8,8] [--device cpu]
"""

from __future__ import annotations

import argparse
import random
import time

import numpy as np
import optuna
import torch
import yaml
from closing import keep, show
from methods import ROOT
from optuna.samplers import RandomSampler
from rich.table import Table

from nas.errors import InputError
from nas.first_look import CLEAR
from nas.measure import latency, subject
from nas.targets import build_target
from search_spaces.base import Architecture, SearchSpace


def drawn(space: SearchSpace, networks: int) -> list[Architecture]:
    """Return different random networks."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    found: dict[str, Architecture] = {}
    for _ in range(50 * networks):
        architecture = space.suggest(study.ask())
        found[architecture.id] = architecture
        if len(found) == networks:
            return list(found.values())
    raise InputError(f"--networks={networks} cannot be drawn: the space seems to have only about {len(found)}.")


def main() -> None:
    """Print by how much looks are off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="osa_digits_table", help="of conf/space")
    parser.add_argument("--networks", type=int, default=120)
    parser.add_argument("--look-seconds", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=0.6, help="of the timing in full")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--input-shape", default="1,8,8", help="channels,height,width")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device = torch.device(options.device)
    space = build_target("space", yaml.safe_load((ROOT / "conf" / "space" / f"{options.space}.yaml").read_text(encoding="utf-8")))
    channels, height, width = (int(size) for size in options.input_shape.split(","))

    def timed_ms(model: torch.nn.Module, seconds: float) -> float:
        settings = {"batch_size": options.batch_size, "threads": 1, "latency_max_seconds": seconds, "precision": "fp32"}
        return latency.measure(subject.make(model, (channels, height, width), options.device, **settings)).eager.median_ms

    rows = []
    for architecture in drawn(space, options.networks):
        torch.manual_seed(0)
        model = space.build(architecture, channels, 10)
        look_ms = timed_ms(model, options.look_seconds)
        time.sleep(random.uniform(0.1, 0.5))
        rows.append((look_ms, timed_ms(model, options.seconds), timed_ms(model, options.look_seconds)))
        keep("first_look.json", rows)
    looks = np.array(rows)[:, (0, 2)] / np.array(rows)[:, 1:2] - 1
    heads = ("look", "median", "5 % below", "5 % above", "least", "most", f"the look {CLEAR:.0%} slower", "the other")
    printed = Table(*heads, box=None)
    for name, off in (("before", looks[:, 0]), ("after", looks[:, 1]), ("the faster of both", looks.min(axis=1))):
        low, middle, high = np.percentile(off, [5, 50, 95])
        cells = (f"{share:+.1%}" for share in (middle, low, high, off.min(), off.max()))
        printed.add_row(name, *cells, f"{(off > CLEAR).mean():.1%}", f"{(1 / (1 + off) > 1 + CLEAR).mean():.1%}")
    told = f"{options.networks} networks of {options.space}: looks of {options.look_seconds:g} s against {options.seconds:g} s"
    show(device, told, printed, 120)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
