"""The simulated engine answers as an evaluation would, costs what the table says, and ends things in virtual order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml

from nas.errors import InputError
from nas.evaluate import Evaluation, EvaluationRequest, evaluate
from nas.lookup import COLUMNS, COUNTED, MADE, TIMED, Table, schema
from nas.measure.device import resolve_conditions
from nas.measure.settings import MeasureSettings
from nas.simulate import SimulatedEngine
from nas.train.data import DataRequest
from nas.train.datasets import Digits
from nas.train.settings import DataSettings, NumericFormat, TrainSettings
from tests.toy import ToyArchitecture, ToySpace

ROOT = Path(__file__).resolve().parents[1]
RECIPE = TrainSettings(epochs=6, batch_size=64, peak_lr=0.2)
COUNT, BRIEF, MEASURE, SETUP, SCORE = 0.0625, 0.03125, 0.5, 0.25, 0.125
"""Costs in seconds that floats of 32 bits hold exactly; an epoch takes as many seconds as the network is wide."""


def row(width: int, **changed: Any) -> dict[str, Any]:
    architecture = ToyArchitecture(width, "a")
    cells = {
        "architecture_id": architecture.id,
        "params_json": json.dumps({"width": width, "kind": "a"}),
        "architecture_json": json.dumps(architecture.to_dict()),
        "params": 100 * width,
        "mult_adds": 1000 * width,
        "flops": 2000 * width,
        "mem_access": 10 * width,
        "latency_ms": float(width),
        "latency_iqr_ms": 0.5,
        "brief_latency_ms": 2.0 * width,
        "brief_latency_iqr_ms": 0.75,
        "images_per_s": 64e3 / width,
        "flops_per_s": 1e9,
        "top1": [0.1 * epoch for epoch in range(1, 7)],
        "validation_loss": [2.0] * 6,
        "train_loss": [2.5 - 0.25 * epoch for epoch in range(6)],
        "top1_seeds": [[0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]],
        "train_loss_seeds": [[1.0] * 6, [0.5] * 6],
        "count_seconds": COUNT,
        "brief_measure_seconds": BRIEF,
        "measure_seconds": MEASURE,
        "setup_seconds": SETUP,
        "epoch_seconds": float(width),
        "score_seconds": SCORE,
        "naive_measure_seconds": 1.0,
        "naive_setup_seconds": 2.0,
        "naive_epoch_seconds": 4.0 * width,
        "naive_score_seconds": 0.5,
    }
    return {**cells, **changed}


def write(path: Path, rows: list[dict[str, Any]], made: Mapping[str, Any] | None = None) -> Path:
    made = {"recipe": asdict(RECIPE), "space": "toy", "brief_latency_seconds": 0.25} if made is None else made
    columns = schema().with_metadata({MADE: json.dumps(made).encode()})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=columns), path)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.read(write(tmp_path / "toy.parquet", [row(width) for width in (1, 2, 3, 4)]))


def request(width: int = 2, **changed: Any) -> EvaluationRequest:
    asked = EvaluationRequest(
        space=ToySpace(),
        architecture=ToyArchitecture(width, "a"),
        data=DataRequest(Digits(), DataSettings(), seed=0),
        train=RECIPE,
        numeric=NumericFormat("fp32", "contiguous"),
        measure=resolve_conditions(MeasureSettings(), torch.device("cpu")),
        device="cpu",
        seed=0,
        required=("top1", "latency_ms"),
    )
    return replace(asked, **changed)


def told(number: int, stage: str) -> None:
    pass


def answered(engine: SimulatedEngine, asked: EvaluationRequest) -> Evaluation:
    return engine.submit(0, asked, told).result()


def test_it_answers_what_the_table_holds(table: Table) -> None:
    engine = SimulatedEngine(table)
    found = answered(engine, request(2, scored=(5, 3)))
    metrics = found.metrics
    assert (metrics.architecture_id, metrics.params, metrics.latency_ms, metrics.latency_iqr_ms) == ("a2", 200, 2.0, 0.5)
    assert metrics.top1 == pytest.approx(0.6) and metrics.epochs == 6
    assert metrics.curve == ((3, pytest.approx(0.3)), (5, pytest.approx(0.5)), (6, pytest.approx(0.6)))
    assert metrics.top1_mean == pytest.approx(0.55), "of the epochs after two thirds that were scored"
    assert metrics.train_loss == (2.5, 2.25, 2.0, 1.75, 1.5, 1.25) and metrics.train_loss_area == 1.875
    assert metrics.measure_seconds == MEASURE and metrics.train_seconds == SETUP + 6 * 2 + 3 * SCORE
    assert engine.now_s == engine.spent_s == MEASURE + SETUP + 6 * 2 + 3 * SCORE
    assert found.state is None and found.failure is None and found.measurement is None
    assert metrics.energy_j is None and "energy_j" in found.reasons and "top5" in found.reasons


def test_it_answers_as_an_evaluation_does(tmp_path: Path) -> None:
    """The table is made of a real evaluation, and then asked for the same; for a part of it; and with a gate."""
    recipe = replace(RECIPE, epochs=2, batch_size=256)
    conditions = resolve_conditions(MeasureSettings(batch_size=4, latency_max_seconds=0.05, energy=False), torch.device("cpu"))
    asked = request(2, train=recipe, measure=conditions, scored=(1,))
    real = evaluate(asked).metrics
    assert real.curve is not None
    figures = {name: getattr(real, name) for name in (*COUNTED, *TIMED, "train_loss", "measure_seconds")}
    lists = {"top1": [top1 for _, top1 in real.curve], "validation_loss": [1.0] * 2}
    cells = row(2, **figures, **lists, top1_seeds=None, train_loss_seeds=None)
    table = Table.read(write(tmp_path / "real.parquet", [cells], made={"recipe": asdict(recipe)}))
    same = ("architecture_id", *COUNTED, "top1", "top1_mean", "curve", "epochs")
    for changed in ({}, {"scored": ()}, {"until_epoch": 1}, {"gate": {"params": 1.0}}, {"gate": {"latency_ms": 1e-9}}):
        there, here = evaluate(replace(asked, **changed)), answered(SimulatedEngine(table), replace(asked, **changed))
        assert there.gated_by == here.gated_by
        assert {name: getattr(there.metrics, name) for name in same} == {name: getattr(here.metrics, name) for name in same}
        for name in (*TIMED, "train_loss", "train_loss_area", "train_seconds", "measure_seconds"):
            assert (getattr(there.metrics, name) is None) == (getattr(here.metrics, name) is None), name
        assert here.metrics.train_loss == (there.metrics.train_loss and pytest.approx(there.metrics.train_loss))


def test_costs_add_up(table: Table) -> None:
    engine = SimulatedEngine(table)
    for width in (1, 2, 3):
        answered(engine, request(width))
    assert engine.now_s == 3 * (MEASURE + SETUP + SCORE) + 6 * (1 + 2 + 3)


def test_legs_come_to_what_one_go_comes_to(table: Table) -> None:
    engine = SimulatedEngine(table)
    first = answered(engine, request(2, until_epoch=2, keep_state=True))
    assert (first.metrics.epochs, first.metrics.top1) == (2, pytest.approx(0.2))
    assert first.metrics.top1_mean == first.metrics.top1 and len(first.metrics.train_loss or ()) == 2
    second = answered(engine, request(2, until_epoch=5, begun=first, keep_state=True))
    third = answered(engine, request(2, begun=second))
    legs_s = engine.now_s
    whole = answered(engine, request(2, scored=(2, 5)))
    assert third.state is None and whole.metrics.train_seconds is not None
    assert third.metrics == replace(whole.metrics, train_seconds=whole.metrics.train_seconds + 2 * SETUP)
    assert legs_s == engine.now_s - legs_s + 2 * SETUP, "each further leg is set up anew, and nothing is measured twice"


def test_a_leg_that_goes_nowhere_is_scored_again(table: Table) -> None:
    engine = SimulatedEngine(table)
    first = answered(engine, request(2, until_epoch=2, keep_state=True))
    before_s = engine.now_s
    again = answered(engine, request(2, until_epoch=2, begun=first))
    assert again.metrics.curve == first.metrics.curve and engine.now_s - before_s == SETUP + SCORE
    with pytest.raises(ValueError, match="until_epoch=1"):
        answered(engine, request(2, until_epoch=1, begun=first))
    anew = answered(engine, request(2, until_epoch=1, begun=replace(first, state=None)))
    assert anew.metrics.epochs == 1, "without a state, it trains from the start"


def test_a_latency_is_timed_briefly_until_it_is_asked_for_in_full(table: Table) -> None:
    engine = SimulatedEngine(table)
    first = answered(engine, request(2, until_epoch=2, first_latency_seconds=0.25, keep_state=True))
    assert (first.metrics.latency_ms, first.metrics.latency_iqr_ms) == (4.0, 0.75) and first.metrics.latency_brief
    assert first.metrics.flops_per_s == 0.5e9 and first.metrics.measure_seconds == COUNT + BRIEF
    assert engine.now_s == COUNT + BRIEF + SETUP + 2 * 2 + SCORE
    before_s = engine.now_s
    trained = answered(engine, request(2, first_latency_seconds=0.25, begun=first))
    assert trained.metrics.latency_ms == 4.0 and trained.metrics.epochs == 6
    assert engine.now_s - before_s == SETUP + 4 * 2 + SCORE
    before_s = engine.now_s
    last = answered(engine, request(2, first_latency_seconds=0.25, begun=trained, only_measure=True))
    assert (last.metrics.latency_ms, last.metrics.latency_iqr_ms, last.metrics.flops_per_s) == (2.0, 0.5, 1e9)
    assert last.metrics.measure_seconds == BRIEF + MEASURE and last.metrics.latency_brief is False
    assert last.metrics.curve == trained.metrics.curve
    assert engine.now_s - before_s == MEASURE - COUNT, "the networks are counted once, and trained once"
    straight = answered(engine, request(2, first_latency_seconds=0.25))
    assert straight.metrics.latency_ms == 2.0 and straight.metrics.measure_seconds == MEASURE
    with pytest.raises(InputError, match=r"scheduler\.first_latency_seconds=1 cannot be simulated.*were timed for 0\.25 s"):
        answered(engine, request(2, until_epoch=2, first_latency_seconds=1.0))


def test_a_gate_costs_what_was_measured_up_to_it(table: Table) -> None:
    engine = SimulatedEngine(table)
    counted = answered(engine, request(4, gate={"params": 300.0, "latency_ms": 1.0}))
    assert counted.gated_by == ("params",) and engine.now_s == COUNT
    assert counted.metrics.latency_ms is None and "bound of params" in counted.reasons["latency_ms"]
    timed = answered(engine, request(3, gate={"params": 300.0, "latency_ms": 1.0, "top1": 0.9}))
    assert timed.gated_by == ("latency_ms",) and engine.now_s == COUNT + MEASURE
    assert timed.metrics.latency_ms == 3.0 and timed.metrics.top1 is None and timed.metrics.epochs is None
    kept = answered(engine, request(1, gate={"params": 300.0, "latency_ms": 1.0}))
    assert not kept.gated_by and kept.metrics.epochs == 6


def test_the_naive_way_has_its_own_costs_and_no_gate(table: Table) -> None:
    engine = SimulatedEngine(table, way="naive")
    found = answered(engine, request(3, gate={"params": 100.0}))
    assert not found.gated_by and engine.now_s == 1.0 + 2.0 + 6 * 12.0 + 0.5


def test_evaluations_end_in_virtual_order(table: Table) -> None:
    engine = SimulatedEngine(table, workers=3)
    ended: list[tuple[str, float]] = []
    futures: list[Future[Evaluation]] = []
    for width in (4, 1, 2, 3):
        future = engine.submit(width, request(width), told)
        future.add_done_callback(lambda f: ended.append((f.result().metrics.architecture_id, engine.now_s)))
        futures.append(future)
    fixed_s = MEASURE + SETUP + SCORE
    assert ended == [("a1", 6 + fixed_s), ("a2", 12 + fixed_s)], "a1 made room for a3"
    engine.advance()
    assert ended[2] == ("a4", 24 + fixed_s) and not futures[3].done()
    engine.advance()
    engine.advance()
    assert ended[3] == ("a3", 6 + 18 + 2 * fixed_s) and engine.now_s == ended[3][1]
    assert engine.spent_s == 6 * (4 + 1 + 2 + 3) + 4 * fixed_s


def test_a_driver_never_waits(table: Table) -> None:
    engine = SimulatedEngine(table, workers=2)
    left, pending, order = [4, 1, 1, 1, 2], set[Future[Evaluation]](), []
    while left or pending:
        while left and len(pending) < engine.capacity:
            pending.add(engine.submit(0, request(left.pop(0)), told))
        if not any(future.done() for future in pending):
            engine.advance()
        done, pending = wait(pending, timeout=5, return_when=FIRST_COMPLETED)
        assert len(done) == 1
        order += [future.result().metrics.architecture_id for future in done]
    assert order == ["a1", "a1", "a1", "a4", "a2"]


def test_a_result_that_is_asked_for_lets_time_pass(table: Table) -> None:
    engine = SimulatedEngine(table, workers=4)
    first, second = engine.submit(0, request(2), told), engine.submit(1, request(1), told)
    assert not first.done() and first.result().metrics.architecture_id == "a2"
    assert second.done() and engine.now_s == MEASURE + SETUP + SCORE + 12


def test_further_seeds(table: Table) -> None:
    engine = SimulatedEngine(table, first_seed=5)
    assert answered(engine, request(2, seed=5)).metrics.top1 == pytest.approx(0.6)
    further = answered(engine, request(2, seed=7, scored=(3,))).metrics
    assert (further.top1, further.curve, further.train_loss) == (0.8, ((3, 0.5), (6, 0.8)), (0.5,) * 6)
    assert answered(engine, request(2, seed=6, until_epoch=2)).metrics.top1 == 0.3
    assert answered(SimulatedEngine(table), request(2, seed=7)).metrics.top1 == pytest.approx(0.6), "any seed is the first"
    with pytest.raises(InputError, match="its table knows 3 seeds of the network a2, not number 4"):
        answered(engine, request(2, seed=8))


def test_a_confirmation_is_trained_and_not_measured(table: Table) -> None:
    engine = SimulatedEngine(table, first_seed=0)
    first = answered(engine, request(2))
    before_s = engine.now_s
    again = answered(engine, request(2, seed=1, begun=Evaluation(first.metrics)))
    assert again.metrics.top1 == 0.7 and again.metrics.latency_ms == 2.0 and again.metrics.curve == ((6, 0.7),)
    assert engine.now_s - before_s == SETUP + 12 + SCORE == again.metrics.train_seconds


def test_what_the_table_cannot_answer_is_refused(table: Table) -> None:
    engine = SimulatedEngine(table)
    for asked, sentence in (
        (request(9), "does not hold the network a9: search the space toy"),
        (request(2, required=("top1", "energy_j")), "knows no energy_j: take it out of objectives"),
        (request(2, train=replace(RECIPE, epochs=9)), "train.epochs=9 cannot be simulated: .* set train.epochs=6"),
        (request(2, train=replace(RECIPE, peak_lr=0.1)), "set train.peak_lr=0.2"),
    ):
        with pytest.raises(InputError, match=sentence):
            engine.submit(0, asked, told)
    assert engine.now_s == engine.spent_s == 0
    answered(engine, request(2, train=replace(RECIPE, precision="fp32")))


@pytest.mark.parametrize(
    "state",
    [
        *(b"\x80", b"[]", b'{"format": 1}', b'{"format": 1, "row": "a3"}'),
        b'{"format": 1, "row": "a3", "epochs": 2, "curve": [], "train_seconds": 1}',
        b'{"format": 9, "row": "a2", "epochs": 2, "curve": [], "train_seconds": 1}',
        b'{"format": 1, "row": "a2", "epochs": 7, "curve": [], "train_seconds": 1}',
    ],
)
def test_a_foreign_state_is_begun_anew(table: Table, state: bytes) -> None:
    engine = SimulatedEngine(table)
    begun = answered(engine, request(2, until_epoch=2, keep_state=True))
    again = answered(engine, request(2, begun=replace(begun, state=state)))
    assert again.metrics == answered(engine, request(2)).metrics


def test_a_figure_that_is_there_has_no_reason(table: Table) -> None:
    found = answered(SimulatedEngine(table), request(2, scored=(5,)))
    assert found.metrics.top1_mean is not None and "top1_mean" not in found.reasons
    briefly = answered(SimulatedEngine(table), request(2))
    assert briefly.metrics.top1_mean is None and "top1_mean" in briefly.reasons


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "toy.parquet", [row(1)])
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns([column]), path)
    with pytest.raises(InputError, match=rf"table={path} has no column {column}: make it anew with benchmarks/make_table.py"):
        Table.read(path)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"top1": [0.1, 0.2]}, r"in column top1 of network a1 \[0.1, 0.2\]"),
        ({"train_loss": [float("nan")] * 6}, "in column train_loss"),
        ({"setup_seconds": None}, "in column setup_seconds of network a1 nothing"),
        ({"epoch_seconds": -1.0}, "in column epoch_seconds of network a1 -1.0"),
        ({"params_json": "[1]"}, "in column params_json"),
        ({"top1_seeds": [[0.1]]}, r"in column top1_seeds of network a1 \[\[0.1\]\]"),
        ({"architecture_id": ""}, "in column architecture_id"),
    ],
)
def test_a_value_that_cannot_be_is_named(tmp_path: Path, changed: dict[str, Any], sentence: str) -> None:
    path = write(tmp_path / "toy.parquet", [row(1, **changed)])
    with pytest.raises(InputError, match=sentence):
        Table.read(path)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist: name a table"):
        Table.read(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="is no readable Parquet file"):
        Table.read(tmp_path)
    text = tmp_path / "text.parquet"
    text.write_text("top1")
    with pytest.raises(InputError, match="is no readable Parquet file"):
        Table.read(text)
    with pytest.raises(InputError, match="holds no network"):
        Table.read(write(tmp_path / "empty.parquet", []))
    with pytest.raises(InputError, match="holds the network a1 twice"):
        Table.read(write(tmp_path / "twice.parquet", [row(1), row(1)]))
    with pytest.raises(InputError, match="does not say in its metadata"):
        Table.read(write(tmp_path / "unsaid.parquet", [row(1)], made={"recipe": {"depth": 3}}))
    other = pyarrow.parquet.read_table(write(tmp_path / "other.parquet", [row(1)]))
    index = other.schema.get_field_index("top1")
    pyarrow.parquet.write_table(other.set_column(index, "top1", pyarrow.array(["high"])), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="has a column top1 of string, not list"):
        Table.read(tmp_path / "other.parquet")


@pytest.mark.parametrize(("name", "fewest"), [("digits", 600), ("cifar", 100)])
def test_the_studies_fit_the_shipped_tables(name: str, fewest: int) -> None:
    study = yaml.safe_load((ROOT / "conf" / "simulated" / f"{name}.yaml").read_text(encoding="utf-8"))
    table = Table.read(ROOT / study["table"])
    assert len(table.rows) >= fewest
    table.check_recipe(replace(table.recipe, **study["train"]))
    assert {"override /space": table.made["space"]} in study["defaults"]
    sizes = [row.figures["params"] for row in table.rows.values()]
    assert max(sizes) >= 10 * min(sizes)


def test_a_brief_latency_close_to_a_bound_is_taken_in_full(table: Table) -> None:
    engine = SimulatedEngine(table)
    # Briefly 4 ms, in full 2: at a bound of 4.2 the brief figure does not tell, at 8 it does.
    close = answered(engine, request(2, until_epoch=2, first_latency_seconds=0.25, gate={"latency_ms": 4.2}))
    assert close.metrics.latency_ms == 2.0 and not close.gated_by
    assert close.metrics.measure_seconds == BRIEF + MEASURE
    far = answered(engine, request(2, until_epoch=2, first_latency_seconds=0.25, gate={"latency_ms": 8.0}, keep_state=True))
    assert far.metrics.latency_ms == 4.0
