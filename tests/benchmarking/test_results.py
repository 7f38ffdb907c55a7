"""A result is found again by what it is of, survives its file, and becomes a row of the table."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from torch import nn

from nas.benchmarking.results import COLUMNS, Key, Result, missing_row, read, row, write_table
from nas.errors import InputError
from nas.measure.device import resolve_conditions
from nas.measure.measurement import Measurement, Measuring
from nas.measure.settings import MeasureSettings

KEY = Key("resnet18", "torchvision", "torchvision:resnet18", (3, 224, 224), 1000, "fp32", 2)


@pytest.fixture(scope="module")
def measurement() -> Measurement:
    conditions = resolve_conditions(MeasureSettings(batch_size=2, latency_max_seconds=0.05), torch.device("cpu"))
    measuring = Measuring((3, 8, 8), conditions)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    measuring.count(model)
    measuring.measure(model)
    return measuring.result()


def test_a_measurement_survives_its_file(tmp_path: Path, measurement: Measurement) -> None:
    result = Result(KEY, "measured", None, measurement, 0.5)
    result.write(tmp_path)
    assert read(tmp_path / KEY.file_name) == result


@pytest.mark.parametrize("field", ["model", "source", "architecture_id", "precision", "num_classes", "batch_size", "input_shape"])
def test_every_part_of_a_key_has_a_file_of_its_own(field: str) -> None:
    value = getattr(KEY, field)
    other: object = f"{value}/" if isinstance(value, str) else (1, 2, 3) if isinstance(value, tuple) else value + 1
    name = replace(KEY, **{field: other}).file_name  # type: ignore[arg-type]
    assert name != KEY.file_name and "/" not in name


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": {}}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        read(path)


def test_closed_forms_of_a_row(measurement: Measurement) -> None:
    cells = row(Result(KEY, "measured", None, measurement))
    assert list(cells) == list(COLUMNS)
    assert cells["params"] == 28 * 4 + 145 * 2 and cells["flops"] == 2 * (36 * 27 * 4 + 288)
    assert cells["images_per_s"] == pytest.approx(2000 / cells["latency_ms"])
    assert cells["parameters_mb"] == pytest.approx(4 * cells["params"] / 1e6)
    assert cells["energy_j"] is not None or "RAPL" in cells["reason"]


def test_a_published_accuracy_belongs_to_its_form(measurement: Measurement) -> None:
    # torchvision's documentation of ResNet18_Weights.IMAGENET1K_V1
    assert row(Result(KEY, "failed", "x", None))["top1_published"] == pytest.approx(0.69758)
    assert row(Result(replace(KEY, input_shape=(3, 64, 64)), "failed", "x", None))["top1_published"] is None
    assert row(Result(replace(KEY, num_classes=10), "failed", "x", None))["top1_published"] is None
    assert row(Result(replace(KEY, source="study"), "failed", "x", None))["top1_published"] is None


def test_the_table_in_both_forms(tmp_path: Path, measurement: Measurement) -> None:
    rows = [
        row(Result(KEY, "measured", None, measurement)),
        row(Result(KEY, "failed", "latency: it broke", None)),
        missing_row("bninception", "no library has it"),
    ]
    write_table(tmp_path, rows)
    assert pyarrow.parquet.read_table(tmp_path / "results.parquet").to_pylist() == rows
    written = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [line["status"] for line in written] == ["measured", "failed", "missing"]
    assert float(written[0]["latency_ms"]) == rows[0]["latency_ms"] and written[1]["latency_ms"] == ""
    assert {path.name for path in tmp_path.iterdir()} == {"results.parquet", "results.csv"}


def test_a_missing_network_keeps_what_was_published_about_it() -> None:
    # Cadene's pretrained-models.pytorch, README
    assert missing_row("bninception", "no library has it")["top1_published"] == pytest.approx(0.73522)
    assert missing_row("shufflenet_v1", "no library has it")["top1_published"] is None
