"""The benchmark of searches: when a front was how good, and that every method is played to the same time by the same rules."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import optuna
import pytest
from scipy import stats

from nas.compose import compose
from nas.config.search import SEARCH_GROUPS, SEARCH_ROOT, parse_search
from nas.errors import InputError
from nas.lookup import Costs, Row, Table
from nas.train.settings import TrainSettings
from tests.toy import ToyArchitecture, ToySpace

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
EPOCHS = 6
WIDEST = 10


@pytest.fixture
def yardstick(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("yardstick")


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module = importlib.import_module("playing")
    monkeypatch.setattr(module, "MOST_ASKS", 12)
    return module


@pytest.fixture
def efficiency(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("search_efficiency")


@pytest.fixture
def searching(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("searching")


# ---- arithmetic


def test_the_share_grows_with_what_is_found_and_not_with_what_is_dominated(yardstick: ModuleType) -> None:
    values = np.array([[0.0, 8.0], [2.0, 4.0], [4.0, 0.0], [4.0, 8.0]])
    measure = yardstick.Yardstick.of(values)
    # Scaled: (0, 1), (0.5, 0.5), (1, 0), and the reference (1, 1): one square of a half.
    assert measure.best == 0.25
    trace = yardstick.Trace(measure)
    for seconds, point in ((1.0, (4.0, 0.0)), (2.0, (3.0, 6.0)), (3.0, (3.0, 7.0)), (4.0, (2.0, 4.0)), (5.0, (2.0, 4.0))):
        trace.add(seconds, point)
    assert trace.steps == [(2.0, 0.25), (4.0, 1.0)] and trace.share == 1.0
    assert yardstick.time_to(0.2, trace.steps) == yardstick.time_to(0.25, trace.steps) == 2.0
    assert yardstick.time_to(0.26, trace.steps) == 4.0 and yardstick.time_to(1.1, trace.steps) is None
    assert yardstick.Trace(measure).share == 0.0


def test_a_reference_beyond_the_front_counts_its_ends(yardstick: ModuleType) -> None:
    values = np.array([[0.0, 8.0], [2.0, 4.0], [4.0, 0.0], [8.0, 16.0]])
    near, far = (yardstick.Yardstick.of(values, values[:3], reference) for reference in ("front", "table"))
    assert near.reference.tolist() == [0.55, 0.55] and far.reference.tolist() == [1.0, 1.0]
    assert near.best == pytest.approx(0.55 * 0.05 + 0.3 * 0.25 + 0.05 * 0.25)
    trace = yardstick.Trace(near)
    trace.add(1.0, (4.0, 0.0))
    assert trace.share == pytest.approx(0.05 * 0.55 / near.best)
    trace.add(2.0, (8.0, 0.0))
    assert len(trace.steps) == 1, "what lies beyond the reference adds nothing"


def test_what_does_not_differ_cannot_be_measured_by(yardstick: ModuleType) -> None:
    with pytest.raises(InputError, match="equal in an objective"):
        yardstick.Yardstick.of(np.array([[1.0, 2.0], [1.0, 3.0]]))


def test_what_is_not_reached_takes_all_the_time_there_was(yardstick: ModuleType) -> None:
    assert yardstick.taken([8.0, None, 3.0], [10.0, 11.0, 12.0]) == [8.0, 11.0, 3.0]
    assert yardstick.least_final_ratio([0.9, 1.0], [[0.8, 0.5], [1.0, 0.5]]) == 0.9
    assert yardstick.least_final_ratio([0.9], []) is None
    # Theirs is not there: at least so many times. Ours is not: no faster than anything, whether theirs is there or not.
    assert yardstick.speedups([8.0, None, 3.0, None], [10.0, 12.0, 9.0, 9.0], [4.0, 4.0, None, None]) == [2.0, 3.0, 0.0, 0.0]


def test_what_is_lost_again_was_not_reached(yardstick: ModuleType) -> None:
    steps = ((1.0, 0.5), (2.0, 0.9), (3.0, 0.7), (5.0, 0.95), (6.0, 0.9))
    assert [yardstick.time_to(share, steps) for share in (0.5, 0.7, 0.8, 0.9, 0.95)] == [1.0, 2.0, 5.0, 5.0, None]


def test_the_interval_of_a_median_is_as_scipy_has_it(yardstick: ModuleType) -> None:
    values = np.random.default_rng(1).lognormal(size=40)
    theirs = stats.bootstrap((values,), np.median, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert yardstick.median_interval(values) == pytest.approx(tuple(theirs), rel=0.05)
    assert yardstick.median_interval([3.0]) == (3.0, 3.0)


def test_the_summary_says_nothing_of_what_was_not_run(efficiency: ModuleType, searching: ModuleType) -> None:
    def runs(times: list[float | None], budget_s: float = 10.0) -> list[object]:
        return [searching.Traced(() if seconds is None else ((seconds, 0.99),), budget_s) for seconds in times]

    ours = {"ours": runs([2.0, 4.0, 1.0])}
    alone = efficiency.summary(ours)
    assert alone == dict.fromkeys(("speedup_vs_naive_99", "speedup_vs_best_99", "final_hypervolume_ratio_min", "best"))
    others = {"naive": runs([8.0, None, 9.0], 18.0), "nsga2": runs([2.0, 4.0, 5.0]), "tpe": runs([1.0, 9.0, 9.0])}
    found = efficiency.summary({**others, **ours})
    # Paired by seed: 4, 4.5 (of its own eighteen seconds) and 9 times.
    assert found == {
        "speedup_vs_naive_99": 4.5,
        "speedup_vs_naive_99_interval": (4.0, 9.0),
        "speedup_vs_best_99": 1.0,
        "speedup_vs_best_99_interval": (1.0, 5.0),
        "final_hypervolume_ratio_min": 1.0,
        "best": "nsga2",
    }
    assert efficiency.summary(others)["speedup_vs_naive_99"] is None


def test_of_two_rivals_that_are_not_there_the_best_has_come_further(efficiency: ModuleType, searching: ModuleType) -> None:
    def ended(share: float) -> list[object]:
        return [searching.Traced(((1.0, share),), 10.0)]

    found = efficiency.summary({"nsga2": ended(0.8), "tpe": ended(0.9), "ours": ended(0.99)})
    assert found["best"] == "tpe" and found["speedup_vs_best_99"] == 10.0


def test_proxies_are_those_of_a_training_that_ended_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    proxies = importlib.import_module("proxies").proxies
    row = network(4, "a")
    after = {epoch: proxies(row, epoch) for epoch in (1, 3, 6)}
    loss = -row.train_loss[0]
    assert after[1] == {"top1": row.top1[0], "top1_mean": row.top1[0], "train_loss": loss, "train_loss_area": loss}
    assert after[3]["train_loss"] == -row.train_loss[2]
    assert after[3]["top1_mean"] == row.top1[2] and after[3]["train_loss_area"] == -sum(row.train_loss[:3]) / 3
    assert after[6]["top1_mean"] == pytest.approx((row.top1[4] + row.top1[5]) / 2)


# ---- for real


def test_what_is_run_for_real_is_a_search_that_can_be_had(efficiency: ModuleType, searching: ModuleType, tmp_path: Path) -> None:
    """By the words of its configuration: running it takes minutes."""
    settings = {}
    for name, method in searching.METHODS.items():
        if method.bounded or not method.reuse:
            with pytest.raises(InputError, match=f"--methods={name} is compared on a table only"):
                searching.check(name)
            continue
        searching.check(name)
        if method.way != "naive":
            overrides = searching._overrides(method, tmp_path)
            config = parse_search(compose("search", SEARCH_ROOT, SEARCH_GROUPS, overrides).plain)
            assert config.seed == 0 and config.scheduler.kind == ("none" if method.eta is None else "mo_asha")
            settings[name] = config.scheduler, config.sampler, config.measure.latency_max_seconds, config.engine.workers
    # But for this pair, of which one is a plain loop, no two are the same.
    assert settings["nsga2"] == settings["nsga2_no_scheduler"]
    assert len({str(setting) for setting in settings.values()}) == len(settings) - 1


def test_a_front_is_judged_by_what_was_measured_and_by_other_seeds(
    searching: ModuleType, playing: ModuleType, yardstick: ModuleType, tmp_path: Path
) -> None:
    rows = [
        dataclasses.replace(network(width, "a"), top1_seeds=((0.1, last), (0.1, last + 0.1)))
        for width, last in ((1, 0.1), (6, 0.3))
    ]
    table = Table(tmp_path, TrainSettings(epochs=EPOCHS), {}, {row.architecture_id: row for row in rows})
    small, large = (row.architecture_id for row in rows)
    value = searching.by_table(table, playing.unseen)
    # The large network's first training was unlucky, and the small one's lucky: together they hide what the large one is worth.
    # And a second timing of the small one, luckier than its first, makes it no other network.
    told = ((3.0, large, (-0.2, 6.0)), (5.0, small, (-0.9, 1.0)), (7.0, small, (-0.9, 0.5)))
    points = tuple(searching.Point(*one) for one in told)
    assert value(points[0]) == (pytest.approx(-0.35), 6.0) and value(points[1]) == (pytest.approx(-0.15), 1.0)
    searched = searching.Searched(9.0, points, 0, 0)
    measure = yardstick.Yardstick.of(np.array([[-1.0, 0.0], [0.0, 10.0]]))
    found = searching.as_measured([searched])
    measured = searching.all_trained(searched, measure, lambda point: found[point.architecture_id])
    assert measured.steps == ((3.0, pytest.approx(0.2 * 0.4)), (5.0, pytest.approx(0.9 * 0.9))) and measured.budget_s == 9.0
    # Of what several searches measured the medians count, so that no search's luck with a timing makes a better network.
    again = [searching.Searched(9.0, (searching.Point(1.0, small, (-0.8, latency_ms)),), 0, 0) for latency_ms in (3.0, 5.0)]
    assert searching.as_measured([searched, *again])[small] == (-0.8, 3.0)
    assert searching.agreement([searched], table) == 0.0
    assert (
        searching.agreement([searching.Searched(9.0, (searching.Point(1.0, small, (-rows[0].top1[-1], 7.0)),), 0, 0)], table)
        == 1.0
    )
    trained = searching.all_trained(searched, measure, value)
    assert trained.steps[0] == (3.0, pytest.approx(0.35 * 0.4)) and trained.final == pytest.approx(0.15 * 0.9 + 0.2 * 0.4)
    own = searching.own_front(searched, measure, value)
    assert own.steps == ((3.0, pytest.approx(0.35 * 0.4)), (5.0, pytest.approx(0.15 * 0.9)))
    assert own.final < own.steps[0][1], "luck drove the better one from the front"


def test_real_methods_go_by_turns(
    efficiency: ModuleType,
    searching: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What each would do is another test's: here a search is whatever says what it was asked for."""
    table = Table.read("benchmarks/tables/digits.parquet")
    names = sorted(table.rows, key=lambda name: -table.rows[name].top1[-1])
    asked = []

    def search(name: str, seed: int, trials: int, seconds: float | None, folder: Path) -> object:
        asked.append((name, seed, seconds))
        values = [(-0.9 - 0.01 * seed - 0.02 * n, 1.0 + n) for n in range(3)]
        points = tuple(searching.Point(10.0 * n + 5, names[n], value) for n, value in enumerate(values))
        return searching.Searched(100.0 if name == "naive" else seconds or 0.0, points, 0, 0)

    def summary(*arguments: str) -> dict[str, object]:
        asked.clear()
        monkeypatch.setattr("sys.argv", ["search_efficiency.py", "--seeds", "2", *arguments])
        efficiency.main()
        found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert isinstance(found, dict)
        return found

    monkeypatch.setattr(efficiency, "search", search)
    monkeypatch.setenv("OUT", str(tmp_path))
    found = summary()
    assert asked == [("naive", 0, None), ("ours", 0, 100.0), ("naive", 1, None), ("ours", 1, 100.0)]
    assert found["speedup_to_naive_end"] == 1.0 and found["speedup_vs_best_99"] is None
    assert found["speedup_vs_naive_99"] == 0.0, "three networks are no front of hundreds"
    assert found["speedup_to_naive_end_by_other_seeds"] == 1.0
    assert summary("--again", str(tmp_path / "search_efficiency.json")) == found and asked == []
    found = summary("--methods", "tpe,ours", "--seconds", "50")
    assert asked == [("tpe", 0, 50.0), ("ours", 0, 50.0), ("ours", 1, 50.0), ("tpe", 1, 50.0)]
    assert found["best"] == "tpe" and found["speedup_vs_naive_99"] is None
    with pytest.raises(InputError, match="say with --seconds"):
        summary("--methods", "tpe,ours")


# ---- playing


def network(width: int, kind: str) -> Row:
    """A toy whose accuracy is worth the time for some kinds only."""
    architecture = ToyArchitecture(width, kind)
    full = width / (width + 4) * {"a": 1.0, "b": 0.8, "c": 0.6}[kind]
    return Row(
        architecture_id=architecture.id,
        params={"width": width, "kind": kind},
        architecture=architecture.to_dict(),
        figures={
            **dict.fromkeys(("mult_adds", "flops", "mem_access", "images_per_s", "flops_per_s", "latency_iqr_ms"), 1.0),
            "params": width,
            "latency_ms": float(width),
            "brief_latency_ms": 1.01 * width,
            "brief_latency_iqr_ms": 1.0,
        },
        top1=tuple(full * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)),
        validation_loss=(1.0,) * EPOCHS,
        train_loss=tuple(2.0 - full * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)),
        top1_seeds=(),
        train_loss_seeds=(),
        count_seconds=0.125,
        brief_measure_seconds=0.0625,
        ours=Costs(0.5, 0.125, 1.0, 0.125),
        naive=Costs(0.5, 0.25, 2.0, 0.25),
    )


@pytest.fixture
def ground(playing: ModuleType, tmp_path: Path) -> object:
    rows = [network(width, kind) for width in range(1, WIDEST + 1) for kind in "abc"]
    table = Table(
        tmp_path, TrainSettings(epochs=EPOCHS), {"brief_latency_seconds": 0.1}, {row.architecture_id: row for row in rows}
    )
    return importlib.import_module("ground").ground_of(table, ToySpace(high=WIDEST), trials=6)


def test_every_method_has_the_same_time(playing: ModuleType, ground: object) -> None:
    assert ground.budget_s == 6 * 13.0 and ground.bound == 5 and ground.bounded is not None  # type: ignore[attr-defined]
    for name, method in playing.METHODS.items():
        found = playing.play(name, ground, seed=1)
        # What is under way when time is up comes to its next rung or end, and counts no more.
        assert found.end != "time" or 78.0 <= found.seconds <= 78.0 + 13.0
        assert found.steps and found.steps[-1][0] <= 78.0 and 0 < found.final <= 1 + 1e-9
        assert found.full > 0 and found.sampler_s > 0
        if method.way != "ours":
            assert (found.stopped, found.resumed, found.gated) == (0, 0, 0) and found.asked == found.full
        elif method.reuse:
            assert found.asked - found.repeated <= 3 * WIDEST, "no network is evaluated twice"
            assert found.full - found.resumed + found.stopped + found.gated <= 3 * WIDEST
        if name == "naive":
            assert found.seconds == 13.0 * found.full
        assert (found.gated > 0) == (name == "bound_ours")
        assert (found.stopped + found.resumed > 0) == (method.eta is not None)


def test_a_seed_decides_and_the_sampler_can_be_charged(playing: ModuleType, ground: object) -> None:
    one, same, other = (playing.play("ours", ground, seed) for seed in (3, 3, 4))
    assert dataclasses.replace(one, sampler_s=0.0) == dataclasses.replace(same, sampler_s=0.0)
    assert one.steps != other.steps
    free, charged = playing.play("naive", ground, 0), playing.play("naive", ground, 0, charged=True)
    assert charged.steps[0][0] > free.steps[0][0] and charged.seconds == pytest.approx(
        13.0 * charged.full + charged.sampler_s, abs=1e-6
    )


def test_what_a_noisy_machine_tells_is_judged_by_what_is_true(playing: ModuleType, ground: object) -> None:
    quiet, noisy = (playing.play("ours", ground, 3, latency_noise=noise) for noise in (0.0, 0.5))
    again, other = (playing.play("ours", ground, seed, latency_noise=0.5) for seed in (3, 4))
    assert noisy.steps == again.steps != quiet.steps and other.steps != noisy.steps
    assert all(0 < share <= 1 + 1e-9 for _, share in noisy.steps)


def test_each_timing_is_off_anew_and_nothing_else(playing: ModuleType, ground: object) -> None:
    engine = playing.NoisyEngine(ground.table, "ours", 0.1, seed=0)  # type: ignore[attr-defined]
    asked = dataclasses.replace(ground.request, architecture=ToyArchitecture(4, "a"))  # type: ignore[attr-defined]
    timed = [engine.submit(0, asked, lambda number, stage: None).result().metrics for _ in range(400)]
    off = np.log([metrics.latency_ms / 4.0 for metrics in timed])
    assert off.std() == pytest.approx(0.1, rel=0.1) and abs(off.mean()) < 0.02
    assert {metrics.top1 for metrics in timed} == {ground.table.rows["a4"].top1[-1]}  # type: ignore[attr-defined]
    first = engine.submit(1, dataclasses.replace(asked, until_epoch=1), lambda number, stage: None).result()
    on = dataclasses.replace(asked, begun=first, until_epoch=2)
    assert engine.submit(1, on, lambda number, stage: None).result().metrics.latency_ms == first.metrics.latency_ms


def test_the_script_ends_with_one_json_object(
    efficiency: ModuleType, ground: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(efficiency, "_ground", lambda *_: ground)
    monkeypatch.setattr(
        "sys.argv", ["search_efficiency.py", "--simulated", "--seeds", "2", "--methods", "naive,tpe,ours,bound_ours"]
    )
    efficiency.main()
    lines = capsys.readouterr().out.strip().splitlines()
    summary = json.loads(lines[-1])
    assert {"speedup_vs_naive_99", "speedup_vs_best_99", "final_hypervolume_ratio_min"} <= summary.keys()
    assert summary["best"] == "tpe" and summary["seeds"] == 2 and summary["final_hypervolume_ratio_min"] > 0
    assert any(line.lstrip().startswith("bound_ours") for line in lines)
