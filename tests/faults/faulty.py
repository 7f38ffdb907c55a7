"""A space in which a network can be told to go wrong, at which stage of its way and how."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from search_spaces.base import Trial

STAGES = ("build", "complexity", "latency", "energy", "train", "tell")
FAULTS = ("exception", "out_of_memory", "hang", "exit", "sigkill", "nan")


def exception() -> None:
    raise RuntimeError("injected")


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("injected: out of memory")


def hang() -> None:
    while True:
        time.sleep(1)


def leave() -> None:
    print("about to leave", flush=True)
    os._exit(3)


def leave_as_if_done() -> None:
    os._exit(0)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


DO: dict[str, Callable[[], None]] = {
    "exception": exception,
    "out_of_memory": out_of_memory,
    "hang": hang,
    "exit": leave,
    "exit_0": leave_as_if_done,
    "sigkill": kill,
    "crash": crash,
}


@dataclass(frozen=True)
class FaultyArchitecture:
    width: int
    stage: str = ""
    fault: str = ""
    stride: int = 1

    @property
    def id(self) -> str:
        return f"{self.width}{self.stage}{self.fault}"

    def to_dict(self) -> dict[str, Any]:
        return {"family": "faulty", "width": self.width, "stage": self.stage, "fault": self.fault}


class _NaN(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("nan")


@dataclass(frozen=True)
class FaultySpace:
    """Convolutions of some width; the ``at``-th to be suggested, by its width, goes wrong at ``stage`` by ``fault``."""

    stage: str = ""
    fault: str = ""
    widths: int = 8
    faulty_width: int = 0

    def suggest(self, trial: Trial) -> FaultyArchitecture:
        width = trial.suggest_int("width", 1, self.widths)
        return self._architecture(width)

    def _architecture(self, width: int) -> FaultyArchitecture:
        if width == self.faulty_width:
            return FaultyArchitecture(width, self.stage, self.fault)
        return FaultyArchitecture(width)

    def build(self, architecture: FaultyArchitecture, in_channels: int, num_classes: int) -> nn.Module:
        _mend()
        width = architecture.width
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, num_classes),
        ]
        # Meta tensors: somebody tries out what can be built, which is no candidate's way.
        if architecture.fault and torch.empty(0).device.type != "meta":
            if architecture.fault == "nan":
                _nan(architecture.stage, layers)
            elif architecture.stage == "build":
                DO[architecture.fault]()
            else:
                _spoil(architecture.stage, DO[architecture.fault])
        return nn.Sequential(*layers)

    def preset(self, name: str) -> FaultyArchitecture:
        return FaultyArchitecture(8)

    def from_dict(self, mapping: Mapping[str, Any]) -> FaultyArchitecture:
        return FaultyArchitecture(mapping["width"], mapping["stage"], mapping["fault"])


_spoilt: list[tuple[Any, str, Any]] = []


def _mend() -> None:
    while _spoilt:
        module, name, value = _spoilt.pop()
        setattr(module, name, value)


def _spoil(stage: str, fault: Callable[[], None]) -> None:
    """Let the fault happen where this process would do the stage's work; ``tell`` is not this process's."""
    from nas import evaluate
    from nas.measure import complexity, energy, latency

    module, name = {
        "complexity": (complexity, "count"),
        "latency": (latency, "measure"),
        "energy": (energy, "measure"),
        "train": (evaluate, "fit"),
        "tell": (evaluate, "_packed"),
    }[stage]

    def go_wrong(*arguments: Any, **more: Any) -> None:
        fault()

    _spoilt.append((module, name, getattr(module, name)))
    setattr(module, name, go_wrong)


def _nan(stage: str, layers: list[nn.Module]) -> None:
    """Let the stage's figure come out as NaN."""
    if stage in ("build", "train"):
        layers.append(_NaN())
        return
    from nas.evaluate import _Way

    figure = {"complexity": "flops", "latency": "latency_ms", "energy": "energy_j", "tell": "top1"}[stage]
    whole = _Way.result

    def spoilt(way: _Way) -> Any:
        way.found[figure] = float("nan")
        return whole(way)

    _spoilt.append((_Way, "result", whole))
    _Way.result = spoilt  # type: ignore[method-assign]
