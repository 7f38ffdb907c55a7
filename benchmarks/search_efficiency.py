"""What a search costs until its front is as good as the best known one: ours, ours without each of its parts, and others.

With ``--simulated`` every candidate is looked up in a table of really evaluated networks (``make_table.py``) and time is virtual;
the study, the driver and the samplers are the real ones. A front's worth is the hypervolume of (top1, latency_ms) as a share of
that of the whole table's front; a point counts from the moment at which its trial was told. Every method has the same virtual
time, as long as ``--trials`` candidates take on the naive way on average. A seed that does not come so far has taken all
of it; one of ours counts as no faster at all then.

Without it every method is a process that searches digits for real, by turns, with the table's recipe and, but for the naive way,
its very trainings. A front is judged by the table too, whose luck all methods share; by the accuracies of other seeds; and by
what the searches measured.

    python benchmarks/search_efficiency.py --simulated --seeds 50 [--methods naive,tpe,ours] [--jobs 2] [--charge-sampler]
        [--latency-noise 0.1]
    python benchmarks/search_efficiency.py --seeds 5 --trials 40 [--methods main] [--seconds 90]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import yaml
from closing import keep, show
from ground import Ground, ground_of, minimised, unseen
from judging import SHARES, against, quartiles, reached, speedup, summary
from methods import GROUPS, METHODS, ROOT
from playing import MOST_ASKS, Played, play
from proxies import order
from rich.table import Table as Printed
from searching import (
    TABLE,
    Searched,
    Traced,
    agreement,
    all_trained,
    as_measured,
    by_table,
    check,
    own_front,
    read_searched,
    search,
)
from yardstick import Reference, Yardstick

from nas.errors import InputError
from nas.lookup import Table
from nas.targets import build_target

DEVICE = torch.device("cpu")


# ---- many seeds


@lru_cache(maxsize=1)
def _ground(table: str, trials: int, reference: Reference) -> Ground:
    read = Table.read(table)
    space = yaml.safe_load((ROOT / "conf" / "space" / f"{read.made['space']}.yaml").read_text(encoding="utf-8"))
    return ground_of(read, build_target("space", space), trials, reference)


def _play_seed(
    ground: tuple[str, int, Reference], methods: Sequence[str], seed: int, charged: bool, noise: float
) -> list[Played]:
    """Play every method with one seed; runs in any process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    torch.set_num_threads(1)
    turn = seed % len(methods)  # no method is always the first
    played = [play(name, _ground(*ground), seed, charged, noise) for name in (*methods[turn:], *methods[:turn])]
    return sorted(played, key=lambda one: methods.index(one.method))


def play_all(
    ground: tuple[str, int, Reference], methods: Sequence[str], seeds: int, charged: bool, jobs: int, noise: float
) -> dict[str, list[Played]]:
    """Return what each method came to, by seed."""
    found: list[list[Played]] = []
    began_s = time.perf_counter()

    def take(played: list[Played]) -> None:
        found.append(played)
        print(f"seed {len(found)} of {seeds}, {time.perf_counter() - began_s:.0f} s", file=sys.stderr, flush=True)

    if jobs == 1:
        for seed in range(seeds):
            take(_play_seed(ground, methods, seed, charged, noise))
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(_play_seed, ground, methods, seed, charged, noise) for seed in range(seeds)]:
                take(future.result())
    return {name: [played[place] for played in found] for place, name in enumerate(methods)}


def _comparison(played: Mapping[str, Sequence[Played]], ours: str) -> Printed:
    shares = [f"s to {share:.0%}" for share in SHARES]
    printed = Printed(
        *("method", *shares, f"{SHARES[-1]:.0%}: × ours", "final share", "least", "its front by other seeds"),
        *("in full", "resumed", "stopped", "gated", "repeats", "ended", "ask+tell", "ms each"),
        box=None,
    )
    for name, runs in played.items():
        ends = {end: sum(one.end == end for one in runs) for end in ("time", "front", "known")}
        worth = [one.worth for one in runs]
        printed.add_row(
            f"{name}: {METHODS[name].told}",
            *(reached(runs, share) for share in SHARES),
            against(name, runs, played.get(ours), ours),
            f"{statistics.median(one.final for one in runs):.4f}",
            f"{min(one.final for one in runs):.4f}",
            "–" if None in worth else quartiles([one or 0.0 for one in worth], 4),
            *(
                f"{statistics.median(getattr(one, count) for one in runs):g}"
                for count in ("full", "resumed", "stopped", "gated", "repeated")
            ),
            ", ".join(f"{end} {count}" for end, count in ends.items() if count),
            f"{statistics.median(one.sampler_s / one.seconds for one in runs):.2%}",
            f"{statistics.median(1e3 * one.sampler_s / max(1, one.asked) for one in runs):.1f}",
        )
    return printed


def simulated(options: argparse.Namespace) -> dict[str, Any]:
    """Play the methods on the table, print what they came to, and return the summary."""
    key: tuple[str, int, Reference] = (str(options.table), options.trials, options.reference)
    ground = _ground(*key)
    methods = [name for name in options.methods if not METHODS[name].bounded or ground.bounded is not None]
    played = play_all(key, methods, options.seeds, options.charge_sampler, options.jobs, options.latency_noise)
    keep("search_efficiency.json", {name: [dataclasses.asdict(one) for one in runs] for name, runs in played.items()})
    free = {name: runs for name, runs in played.items() if not METHODS[name].bounded}
    bounded = {name: runs for name, runs in played.items() if METHODS[name].bounded}
    table, budget_s = ground.table, ground.budget_s
    found = {**summary(free), "seeds": options.seeds, "budget_s": round(budget_s, 1), "latency_noise": options.latency_noise}
    point = "the worst of the table" if options.reference == "table" else "a tenth beyond the worst of the front"
    told = (
        f"{table.path}: {len(table.rows)} networks of {table.made.get('space')}, made on {table.made.get('date')} on "
        f"{json.dumps(table.made.get('device'))}\n"
        f"medians (quartiles) over {options.seeds} seeds, in virtual seconds; each method has {budget_s:,.0f} s, as long as "
        f"{options.trials} candidates take on the naive way on average; reference point: {point}; what is not reached has taken "
        f"all of it; a search ends before when it has the whole front, or suggests {MOST_ASKS} known networks in a row\n"
        "ask+tell: processor seconds, on a storage in memory, as a share of the virtual ones "
        + ("and part of them" if options.charge_sampler else "and no part of them")
        + "; ms each: per suggestion"
        + (
            f"\neach timing is off by a factor whose logarithm scatters by {options.latency_noise:g}"
            if options.latency_noise
            else ""
        )
    )
    show(DEVICE, told, _comparison(free, "ours"), options.width)
    if bounded and ground.bounded is not None:
        told = f"\nwith a hard bound, params ≤ {ground.bound:,.0f} (the table's median); hypervolume of what keeps it"
        show(DEVICE, told, _comparison(bounded, "bound_ours"), options.width)
    if not options.no_proxies:
        show(DEVICE, *order(table), options.width)
    return found


# ---- for real


def search_all(options: argparse.Namespace) -> dict[str, list[Searched]]:
    """Run every method with every seed, by turns; return what each came to, by seed."""
    methods: Sequence[str] = options.methods
    for name in methods:
        check(name)
    if options.seconds is None and methods[0] != "naive":
        raise InputError("without the naive way, whose time the others have, say with --seconds how long each shall search.")
    searched: dict[str, list[Searched]] = {name: [] for name in methods}
    for seed in range(options.seeds):
        seconds = options.seconds
        turn = seed % len(methods) if seconds is not None else 0  # the naive way's time is the others': it goes first
        for name in (*methods[turn:], *methods[:turn]):
            with tempfile.TemporaryDirectory() as folder:
                searched[name].append(search(name, seed, options.trials, seconds, Path(folder) / "search"))
            if seconds is None:
                seconds = searched[name][-1].seconds
            print(f"seed {seed + 1} of {options.seeds}: {name}", file=sys.stderr, flush=True)
            keep("search_efficiency.json", {way: [dataclasses.asdict(one) for one in runs] for way, runs in searched.items()})
    return searched


def for_real(options: argparse.Namespace) -> dict[str, Any]:
    """Run the methods for real, print what they came to, and return the summary."""
    table = Table.read(TABLE)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    searched = search_all(options) if options.again is None else read_searched(options.again)
    seeds = min(map(len, searched.values()))
    ours_and_plain = [one for name, runs in searched.items() if name != "naive" for one in runs]
    budgets = {name: quartiles([one.seconds for one in runs]) for name, runs in searched.items()}
    had = ", ".join(f"{name} {budget}" for name, budget in budgets.items())
    told = (
        f"digits, conf/space/osa_digits_table.yaml, medians (quartiles) over {seeds} seeds, by turns, one thread each; seconds "
        f"from the launch of each process, of which each had: {had}; what is not reached has taken all of them; "
        f"{agreement(ours_and_plain, table):.0%} of the accuracies came "
        f"out as in {table.path.name}, which was made on {table.made['device']['instructions']}: where that is not all, it says "
        "little of the networks of this machine"
    )
    counts = {name: [(len(one.points), one.stopped, one.repeated) for one in runs] for name, runs in searched.items()}
    found: dict[str, Any] = {"seeds": seeds}
    for suffix, (by, courses) in _courses(searched, table, options.reference).items():
        show(DEVICE, f"{told}\n{by}", _real_comparison(courses, counts), options.width)
        figures = summary(courses)
        if "naive" in courses and "ours" in courses:
            ends = [one.final for one in courses["naive"]]
            figures |= speedup("speedup_to_naive_end", courses["naive"], courses["ours"], ends)
        found |= {f"{key}{suffix}": figure for key, figure in figures.items()}
    return found


def _courses(
    searched: Mapping[str, Sequence[Searched]], table: Table, reference: Reference
) -> dict[str, tuple[str, dict[str, list[Traced]]]]:
    """Return, by what a summary's keys end in, how fronts are judged and the methods' ways to theirs."""
    rows = list(table.rows.values())
    found = Yardstick.of(np.array([minimised(row) for row in rows]), None, reference)
    others = Yardstick.of(np.array([unseen(row) for row in rows]), None, reference)
    measured = as_measured(one for runs in searched.values() for one in runs)
    joint = Yardstick.of(np.array(list(measured.values())), None, reference)
    as_found, by_others = by_table(table, minimised), by_table(table, unseen)
    return {
        "": (
            f"each network as {table.path} has it (latency, and the accuracy of that very training, but for the naive way), "
            f"against the front of its {len(rows)} networks",
            {name: [all_trained(one, found, as_found) for one in runs] for name, runs in searched.items()},
        ),
        "_by_other_seeds": (
            "the front that each search had by its own figures, each network on it with the mean accuracy of the table's other "
            "seeds, against the front of all its networks by those",
            {name: [own_front(one, others, by_others) for one in runs] for name, runs in searched.items()},
        ),
        "_as_measured": (
            "each network as the searches measured it, medians over all that did, against the front of all that they found",
            {
                name: [all_trained(one, joint, lambda point: measured[point.architecture_id]) for one in runs]
                for name, runs in searched.items()
            },
        ),
    }


def _real_comparison(courses: Mapping[str, Sequence[Traced]], counts: Mapping[str, Sequence[tuple[int, int, int]]]) -> Printed:
    printed = Printed(
        *(
            "method",
            *(f"s to {share:.0%}" for share in SHARES),
            *(f"{share:.0%}: × ours" for share in SHARES),
            "s to the naive end",
        ),
        *("final share", "least", "in full", "stopped", "repeats"),
        box=None,
    )
    for name, runs in courses.items():
        ends = [one.final for one in courses["naive"]] if "naive" in courses else None
        finals = [one.final for one in runs]
        printed.add_row(
            f"{name}: {METHODS[name].told}",
            *(reached(runs, share, 1) for share in SHARES),
            *(against(name, runs, courses.get("ours"), "ours", share) for share in SHARES),
            reached(runs, ends, 1) if ends else "–",
            *(f"{statistics.median(finals):.4f}", f"{min(finals):.4f}"),
            *(f"{statistics.median(count):g}" for count in zip(*counts[name], strict=True)),
        )
    return printed


def _rounded(figure: Any) -> Any:
    if isinstance(figure, tuple):
        return [_rounded(bound) for bound in figure]
    return round(figure, 4) if isinstance(figure, float) else figure


def _chosen(methods: str) -> list[str]:
    wanted: set[str] = set()
    for name in methods.split(","):
        if name not in (*METHODS, *GROUPS, "all"):
            raise InputError(f"--methods={name} is none of them: {', '.join((*GROUPS, *METHODS))}.")
        all_of_them = {other for other, method in METHODS.items() if not method.workers}
        wanted |= all_of_them if name == "all" else set(GROUPS.get(name, (name,)))
    return [name for name in METHODS if name in wanted]


def main() -> None:
    """Print the comparison, and the summary as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulated", action="store_true", help="look candidates up in --table, in virtual time")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, help="naive candidates that set the time of every method; 60, for real 40")
    parser.add_argument("--table", type=Path, default=TABLE, help="of the simulated ones")
    groups = "; ".join(f"{group}: {', '.join(names)}" for group, names in GROUPS.items())
    parser.add_argument("--methods", help=f"names or groups of them, {groups}; or all; main,parts,bound, for real naive,ours")
    parser.add_argument("--seconds", type=float, help="for real, that every method but the naive one has; those of the naive one")
    parser.add_argument("--again", type=Path, help="for real: search no more, judge what $OUT/search_efficiency.json kept")
    parser.add_argument("--reference", choices=("table", "front"), default="table", help="where the reference point lies")
    parser.add_argument("--charge-sampler", action="store_true", help="what asking and telling takes counts as virtual time")
    parser.add_argument(
        "--latency-noise", type=float, default=0.0, help="simulated: scatter of a timing's logarithm, such as 0.1"
    )
    parser.add_argument("--no-proxies", action="store_true", help="leave out the section on brief proxies")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds")
    parser.add_argument("--width", type=int, default=230)
    options = parser.parse_args()
    options.methods = _chosen(options.methods or ("main,parts,bound" if options.simulated else "naive,ours"))
    if options.simulated and (side_by_side := [name for name in options.methods if METHODS[name].workers]):
        raise InputError(f"--methods={side_by_side[0]} is compared for real only: take it out, or leave out --simulated.")
    for name in ("seeds", "trials", "jobs"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InputError(f"--{name}={value} is not 1 or more.")
    if not 0 <= options.latency_noise < 2:
        raise InputError(f"--latency-noise={options.latency_noise} is not from 0 to below 2.")
    if options.latency_noise and not options.simulated:
        raise InputError("--latency-noise is for --simulated alone: for real, timings scatter by themselves.")
    if options.seconds is not None and not options.seconds > 0:
        raise InputError(f"--seconds={options.seconds} is not above 0.")
    options.trials = options.trials or (60 if options.simulated else 40)
    found = simulated(options) if options.simulated else for_real(options)
    print(json.dumps({key: _rounded(value) for key, value in found.items()}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
