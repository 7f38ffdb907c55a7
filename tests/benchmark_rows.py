"""Rows of a benchmark as the tests want them: measured, with the figures that matter to a test and plausible others."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]


def row(model: str, batch_size: int | None = 1, precision: str | None = "fp32", **cells: Any) -> dict[str, Any]:
    """One measured row; ``latency_ms`` sets what follows from it."""
    latency_ms, size = cells.get("latency_ms", 10.0), batch_size or 1
    flops = cells.get("flops", 4_000_000_000)
    plain = {
        "model": model,
        "source": "torchvision",
        "precision": precision,
        "batch_size": batch_size,
        "input_size": 224,
        "params": 10_000_000,
        "mult_adds": flops // 2,
        "flops": flops,
        "mem_access": 30_000_000,
        "mem_access_bound": 20_000_000,
        "parameters_mb": 40.0,
        "latency_ms": latency_ms,
        "latency_iqr_ms": 0.0,
        "images_per_s": 1000 * size / latency_ms if latency_ms else None,
        "flops_per_s": flops * size / (latency_ms / 1000) if latency_ms else None,
        "energy_j": 1.0,
        "energy_uncertainty_j": 0.0,
        "peak_memory_mb": 100.0,
        "process_memory_mb": 600.0,
        "top1_published": 0.75,
        "status": "measured",
        "reason": None,
    }
    return plain | cells


def lost(model: str, status: str, reason: str, batch_size: int | None = 1, precision: str | None = "fp32") -> dict[str, Any]:
    """One row that holds no result."""
    nothing = dict.fromkeys(row(model))
    own = {"model": model, "source": "torchvision", "status": status, "reason": reason}
    return nothing | own | {"batch_size": batch_size, "precision": precision}
