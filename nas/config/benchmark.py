"""The keys of ``nas.benchmark``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from nas.config.common import Plain, check_measure, check_name, reject_unknown
from nas.errors import InputError
from nas.measure.settings import MeasureSettings
from nas.typed import typed


@dataclass(frozen=True)
class BenchmarkConfig:
    """All keys of ``nas.benchmark``.

    Attributes:
        name: Names the run folder and the page.
        models: What is measured: names of torchvision, timm and our presets (``timm:…``, ``torchvision:…``, ``preset:…`` where
            a name is ambiguous), ``<path>.yaml`` for an architecture, ``study:<run folder>`` for the front of a study.
        batch_sizes: Images per forward pass.
        precisions: Arithmetics, each measured apart.
        measure: The measuring conditions; ``batch_size`` and ``precision`` are the two above.
        input_size: Side of the square images; ``None`` takes each network's own.
        num_classes: Classes of the networks that come without weights and data of their own.
        run_dir: Folder of everything that the benchmark leaves behind.
        device: ``auto``, ``cpu`` or ``cuda:N``.
    """

    name: str
    models: Annotated[tuple[str, ...], MinLen(1)]
    batch_sizes: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]
    precisions: Annotated[tuple[Literal["auto", "fp32", "tf32", "bf16", "fp16"], ...], MinLen(1)]
    measure: MeasureSettings
    run_dir: str
    input_size: Annotated[int, Ge(1)] | None = None
    num_classes: Annotated[int, Ge(1)] = 1000
    device: str = "auto"


BENCHMARK_GROUPS: Plain = {"measure": "thorough", "benchmark": "representative"}

BENCHMARK_ROOT: Plain = {
    "name": None,
    "models": [],
    "batch_sizes": [1, 2, 4, 8, 16, 32, 64],
    "precisions": ["fp32"],
    "input_size": None,
    "num_classes": 1000,
    "run_dir": "runs/benchmark/${name}",
    "device": "auto",
}


def parse_benchmark(plain: Mapping[str, Any]) -> BenchmarkConfig:
    """Check a composed configuration of ``nas.benchmark`` and return it typed; raises like ``parse_search``."""
    if "benchmark" in plain:
        raise InputError(
            "benchmark.<key> is not a known key: write <key> alone, and '# @package _global_' as the first line of a list's file."
        )
    reject_unknown("", plain, {f.name for f in dataclasses.fields(BenchmarkConfig)})
    check_measure(plain)
    config: BenchmarkConfig = typed(BenchmarkConfig, plain)
    for key, value, instead in (
        ("batch_size", config.measure.batch_size, "batch_sizes"),
        ("precision", config.measure.precision, "precisions"),
    ):
        if value != getattr(MeasureSettings, key):
            raise InputError(f"measure.{key}={value} cannot be used here: set {instead}=[{value}].")
    check_name("name", config.name)
    for key, values in (("models", config.models), ("batch_sizes", config.batch_sizes), ("precisions", config.precisions)):
        repeated = [value for value in values if list(values).count(value) > 1]
        if repeated:
            raise InputError(f"{key}: {repeated[0]} is named twice; name each once.")
    return config
