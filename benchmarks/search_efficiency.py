"""What a search costs until its front is as good as the best known one: ours, ours without each of its parts, and others.

With ``--simulated`` every candidate is looked up in a table of really evaluated networks (``make_table.py``) and time is virtual;
the study, the driver and the samplers are the real ones. A front's worth is the hypervolume of (top1, latency_ms) as a share of
that of the whole table's front; a point counts from the moment at which its trial was told. Every method has the same virtual
time, as long as ``--trials`` candidates take on the naive way on average. A seed that does not come so far has taken all of it.

    python benchmarks/search_efficiency.py --simulated --seeds 50 [--methods naive,tpe,ours] [--jobs 2] [--charge-sampler]
    python benchmarks/search_efficiency.py --seeds 5 --trials 40     # for real, on digits: naive.py against nas.search

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import yaml
from closing import keep, show
from optuna.trial import TrialState
from playing import GROUPS, METHODS, MOST_ASKS, ROOT, Ground, Played, counted, ground_of, play
from rich.table import Table as Printed
from yardstick import Reference, Trace, Yardstick, least_final_ratio, ratios, time_to

from nas.analyse.ranking import Proxy, judge
from nas.errors import InputError
from nas.simulate import Row, Table
from nas.targets import build_target

SHARES = (0.95, 0.99)
RIVALS = ("nsga2", "tpe")
"""Of which ours shall be faster than the best: what a plain user of our way of evaluating would take."""

DEVICE = torch.device("cpu")


# ---- many seeds


@lru_cache(maxsize=1)
def _ground(table: str, trials: int, reference: Reference) -> Ground:
    read = Table.read(table)
    space = yaml.safe_load((ROOT / "conf" / "space" / f"{read.made['space']}.yaml").read_text(encoding="utf-8"))
    return ground_of(read, build_target("space", space), trials, reference)


def _play_seed(ground: tuple[str, int, Reference], methods: Sequence[str], seed: int, charged: bool) -> list[Played]:
    """Play every method with one seed; runs in any process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    torch.set_num_threads(1)
    turn = seed % len(methods)  # no method is always the first
    played = [play(name, _ground(*ground), seed, charged) for name in (*methods[turn:], *methods[:turn])]
    return sorted(played, key=lambda one: methods.index(one.method))


def play_all(
    ground: tuple[str, int, Reference], methods: Sequence[str], seeds: int, charged: bool, jobs: int
) -> dict[str, list[Played]]:
    """Return what each method came to, by seed."""
    found: list[list[Played]] = []
    began_s = time.perf_counter()

    def take(played: list[Played]) -> None:
        found.append(played)
        print(f"seed {len(found)} of {seeds}, {time.perf_counter() - began_s:.0f} s", file=sys.stderr, flush=True)

    if jobs == 1:
        for seed in range(seeds):
            take(_play_seed(ground, methods, seed, charged))
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(_play_seed, ground, methods, seed, charged) for seed in range(seeds)]:
                take(future.result())
    return {name: [played[place] for played in found] for place, name in enumerate(methods)}


def quartiles(values: Sequence[float], digits: int = 0) -> str:
    """Return the median, and between which quartiles it lies, as short text."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def _reached(played: Sequence[Played], share: float, budget_s: float) -> str:
    times = [time_to(share, one.steps) for one in played]
    missed = times.count(None)
    return quartiles([budget_s if seconds is None else seconds for seconds in times]) + (f" {missed} not" if missed else "")


def _times(played: Sequence[Played], share: float = SHARES[-1]) -> list[float | None]:
    return [time_to(share, one.steps) for one in played]


def _comparison(played: Mapping[str, Sequence[Played]], ours: str, budget_s: float) -> Printed:
    shares = [f"s to {share:.0%}" for share in SHARES]
    printed = Printed(
        *("method", *shares, f"{SHARES[-1]:.0%}: × ours", "final share", "least"),
        *("in full", "resumed", "stopped", "gated", "repeats", "ended", "ask+tell", "ms each"),
        box=None,
    )
    for name, runs in played.items():
        against = ratios(_times(runs), _times(played[ours]), budget_s) if ours in played else None
        ends = {end: sum(one.end == end for one in runs) for end in ("time", "front", "known")}
        printed.add_row(
            f"{name}: {METHODS[name].told}",
            *(_reached(runs, share, budget_s) for share in SHARES),
            "–" if against is None else quartiles(against, 2),
            f"{statistics.median(one.final for one in runs):.4f}",
            f"{min(one.final for one in runs):.4f}",
            *(
                f"{statistics.median(getattr(one, count) for one in runs):g}"
                for count in ("full", "resumed", "stopped", "gated", "repeated")
            ),
            ", ".join(f"{end} {count}" for end, count in ends.items() if count),
            f"{statistics.median(one.sampler_s / one.seconds for one in runs):.2%}",
            f"{statistics.median(1e3 * one.sampler_s / max(1, one.asked) for one in runs):.1f}",
        )
    return printed


def summary(played: Mapping[str, Sequence[Played]], budget_s: float) -> dict[str, float | str | None]:
    """Return the figures by which a search is judged; ``None`` where a method that one needs was not played."""
    found: dict[str, float | str | None] = dict.fromkeys(
        ("speedup_vs_naive_99", "speedup_vs_best_99", "final_hypervolume_ratio_min", "best")
    )
    if "ours" not in played:
        return found
    ours = _times(played["ours"])

    def speedup(name: str) -> float:
        return statistics.median(ratios(_times(played[name]), ours, budget_s))

    if "naive" in played:
        found["speedup_vs_naive_99"] = speedup("naive")
    if rivals := [name for name in RIVALS if name in played]:
        # The one that is faster by itself: taken seed by seed, the best of several draws would stand against one draw.
        best = min(rivals, key=lambda name: statistics.median(budget_s if t is None else t for t in _times(played[name])))
        found |= {"speedup_vs_best_99": speedup(best), "best": best}
    others = [[one.final for one in played[name]] for name in ("naive", "random", *RIVALS) if name in played]
    found["final_hypervolume_ratio_min"] = least_final_ratio([one.final for one in played["ours"]], others)
    return found


# ---- whether the order of the brief proxies is right


def proxies(row: Row, epoch: int) -> dict[str, float]:
    """Return each proxy's score after an epoch of the first training, higher is better."""
    late = [row.top1[past - 1] for past in range(1, epoch + 1) if past > epoch * 2 / 3]
    return {
        "top1": row.top1[epoch - 1],
        "top1_mean": statistics.fmean(late),
        "train_loss_area": -statistics.fmean(row.train_loss[:epoch]),
    }


def _proxies(table: Table) -> tuple[str, Printed]:
    several = [row for row in table.rows.values() if row.top1_seeds]
    rows = several or list(table.rows.values())
    # The proxies are the first seed's: where there are others, they alone are the truth.
    truth = [statistics.fmean(course[-1] for course in (row.top1_seeds or [row.top1])) for row in rows]
    printed = Printed(
        *("epochs", "proxy", "Spearman", "95 % interval", "Kendall", "95 % interval"),
        *("above top1 of that epoch", "points lost by its first"),
        box=None,
    )
    for epoch in range(1, table.recipe.epochs + 1):
        scores = [proxies(row, epoch) for row in rows]
        candidates = [Proxy(name, epoch / table.recipe.epochs, None, tuple(s[name] for s in scores)) for name in scores[0]]
        for one in judge(candidates, truth):
            rho, tau = (
                ("–", "–") if found is None else (f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}")
                for found in (one.spearman, one.kendall)
            )
            better = "–" if one.better is None else f"{one.better:.0%} of draws"
            printed.add_row(str(epoch), one.proxy.name, *rho, *tau, better, f"{100 * one.regret:.2f}")
    against = (
        f"the mean final top1 of further seeds ({min(len(row.top1_seeds) for row in rows)} or more)"
        if several
        else "the final top1 of the same training, for want of further seeds: the later epochs are compared with themselves"
    )
    told = f"\nIs the order of the brief proxies right? Those of the first seed against {against}, over {len(rows)} networks"
    return told, printed


def simulated(options: argparse.Namespace) -> dict[str, Any]:
    """Play the methods on the table, print what they came to, and return the summary."""
    key: tuple[str, int, Reference] = (str(options.table), options.trials, options.reference)
    ground = _ground(*key)
    methods = [name for name in options.methods if not METHODS[name].bounded or ground.bounded is not None]
    played = play_all(key, methods, options.seeds, options.charge_sampler, options.jobs)
    keep("search_efficiency.json", {name: [dataclasses.asdict(one) for one in runs] for name, runs in played.items()})
    free = {name: runs for name, runs in played.items() if not METHODS[name].bounded}
    bounded = {name: runs for name, runs in played.items() if METHODS[name].bounded}
    table, budget_s = ground.table, ground.budget_s
    found = {**summary(free, budget_s), "seeds": options.seeds, "budget_s": round(budget_s, 1)}
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
    )
    show(DEVICE, told, _comparison(free, "ours", budget_s), options.width)
    if bounded and ground.bounded is not None:
        told = f"\nwith a hard bound, params ≤ {ground.bound:,.0f} (the table's median); hypervolume of what keeps it"
        show(DEVICE, told, _comparison(bounded, "bound_ours", budget_s), options.width)
    if not options.no_proxies:
        show(DEVICE, *_proxies(table), options.width)
    return found


# ---- for real


@dataclass(frozen=True)
class Searched:
    """A search that was run for real.

    Attributes:
        points: Seconds since its process was launched, and the objectives, minimised, of each network trained in full.
        repeated: ``None`` where nobody counts them.
    """

    points: tuple[tuple[float, tuple[float, float]], ...]
    stopped: int = 0
    repeated: int | None = None


def search_naively(seed: int, trials: int, folder: Path) -> Searched:
    """Run ``naive.py`` on digits."""
    launched_s = time.time()
    command = [sys.executable, str(ROOT / "benchmarks" / "naive.py"), "--trials", str(trials), "--seed", str(seed)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OUT": str(folder)}, cwd=ROOT)
    path = folder / "naive.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    # The file is written as the search ends; what lies before the search is the start of the process.
    start_s = path.stat().st_mtime - found[-1]["ended_s"] - launched_s
    points = tuple((start_s + one["ended_s"], (-one["top1"], one["latency_ms"])) for one in found)
    return Searched(points)


def search_ours(seed: int, budget_s: float, folder: Path) -> Searched:
    """Run ``nas.search`` on digits for so long."""
    launched_s = time.time()
    command = [sys.executable, "-m", "nas.search", "conf=osa_digits", "space=osa_digits_table", "scheduler=mo_asha"]
    command += ["objectives=[top1,latency_ms]", "study.name=real", "study.trials=1000000", f"seed={seed}", f"run_dir={folder}"]
    command += ["measure.energy=false", "measure.latency_max_seconds=0.6", "checkpoints=none"]
    command += ["train.precision=fp32", "train.memory_format=channels_last"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    try:
        process.wait(budget_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # what has ended is told, and nothing more is begun
        process.wait()
    study = optuna.load_study(study_name="real", storage=f"sqlite:///{folder}/study.db")
    trials = [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    points = []
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.datetime_complete is not None and "reused_from" not in trial.user_attrs:
            top1, latency_ms = trial.values
            points.append((trial.datetime_complete.timestamp() - launched_s, (-top1, latency_ms)))
    counts = counted(trials)
    within = tuple((ended_s, values) for ended_s, values in sorted(points) if ended_s <= budget_s)
    return Searched(within, counts["stopped"], counts["repeated"])


def for_real(options: argparse.Namespace) -> dict[str, Any]:
    """Run naive searches and ours by turns, print what they came to, and return the summary."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    searched: dict[str, list[Searched]] = {"naive": [], "ours": []}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            searched["naive"].append(search_naively(seed, options.trials, Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            # Both have the time of the naive one.
            searched["ours"].append(search_ours(seed, searched["naive"][-1].points[-1][0], Path(folder) / "run"))
        print(f"seed {seed + 1} of {options.seeds}", file=sys.stderr, flush=True)
    keep("search_efficiency.json", {way: [dataclasses.asdict(one) for one in found] for way, found in searched.items()})
    values = np.array([values for found in searched.values() for one in found for _, values in one.points])
    yardstick = Yardstick.of(values, None, options.reference)
    budgets = [one.points[-1][0] for one in searched["naive"]]
    traces = {way: [_trace(one, yardstick) for one in found] for way, found in searched.items()}
    printed = Printed(
        *("method", *(f"s to {share:.0%}" for share in SHARES), "final share", "least"),
        *("in full", "stopped", "repeats"),
        box=None,
    )
    times: dict[str, list[float | None]] = {}
    for way, found in searched.items():
        columns = []
        for share in SHARES:
            times[way] = [time_to(share, trace.steps) for trace in traces[way]]
            missed = times[way].count(None)
            reached = [budget if seconds is None else seconds for seconds, budget in zip(times[way], budgets, strict=True)]
            columns.append(quartiles(reached, 1) + (f" {missed} not" if missed else ""))
        finals = [trace.share for trace in traces[way]]
        counts = [[len(one.points), one.stopped, one.repeated] for one in found]
        printed.add_row(
            *(way, *columns, f"{statistics.median(finals):.4f}", f"{min(finals):.4f}"),
            *("–" if None in count else f"{statistics.median(count):g}" for count in zip(*counts, strict=True)),
        )
    told = (
        f"digits, conf/space/osa_digits_table.yaml, medians (quartiles) over {options.seeds} seeds, by turns; each has the "
        f"time that naive.py takes for {options.trials} candidates ({quartiles(budgets, 1)} s), from the launch of its process\n"
        "best known: the front of all that both found, each accuracy as it was trained and each latency as that way measured it "
        "(nothing is measured again, so a difference between the two ways of measuring counts as one of the networks)"
    )
    show(DEVICE, told, printed, options.width)
    paired = [
        ratios([theirs], [mine], budget)[0] for theirs, mine, budget in zip(times["naive"], times["ours"], budgets, strict=True)
    ]
    return {
        "speedup_vs_naive_99": statistics.median(paired),
        "speedup_vs_best_99": None,  # the others are compared on the table alone
        "final_hypervolume_ratio_min": least_final_ratio(
            [trace.share for trace in traces["ours"]], [[trace.share for trace in traces["naive"]]]
        ),
        "seeds": options.seeds,
    }


def _trace(searched: Searched, yardstick: Yardstick) -> Trace:
    trace = Trace(yardstick)
    for seconds, values in searched.points:
        trace.add(seconds, values)
    return trace


def _chosen(methods: str) -> list[str]:
    wanted: set[str] = set()
    for name in methods.split(","):
        if name not in (*METHODS, *GROUPS, "all"):
            raise InputError(f"--methods={name} is none of them: {', '.join((*GROUPS, *METHODS))}.")
        wanted |= set(METHODS) if name == "all" else set(GROUPS.get(name, (name,)))
    return [name for name in METHODS if name in wanted]


def main() -> None:
    """Print the comparison, and the summary as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulated", action="store_true", help="look candidates up in --table, in virtual time")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, help="naive candidates that set the time of every method; 60, for real 40")
    parser.add_argument("--table", type=Path, default=Path("benchmarks/tables/digits.parquet"))
    groups = "; ".join(f"{group}: {', '.join(names)}" for group, names in GROUPS.items())
    parser.add_argument("--methods", default="main,parts,bound", help=f"names or groups of them, {groups}; or all")
    parser.add_argument("--reference", choices=("table", "front"), default="table", help="where the reference point lies")
    parser.add_argument("--charge-sampler", action="store_true", help="what asking and telling takes counts as virtual time")
    parser.add_argument("--no-proxies", action="store_true", help="leave out the section on brief proxies")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds")
    parser.add_argument("--width", type=int, default=230)
    options = parser.parse_args()
    options.methods = _chosen(options.methods)
    for name in ("seeds", "trials", "jobs"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InputError(f"--{name}={value} is not 1 or more.")
    options.trials = options.trials or (60 if options.simulated else 40)
    found = simulated(options) if options.simulated else for_real(options)
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
