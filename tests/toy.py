"""A design space and evaluations that cost nothing, to test the study apart from building, measuring and training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from nas.evaluate import Evaluation, Metrics
from search_spaces.base import Trial


@dataclass(frozen=True)
class ToyArchitecture:
    width: int
    kind: str
    stride: int = 1

    @property
    def id(self) -> str:
        return f"{self.kind}{self.width}"

    def to_dict(self) -> dict[str, Any]:
        return {"family": "toy", "width": self.width, "kind": self.kind}


@dataclass(frozen=True)
class ToySpace:
    """One convolution; ``kind`` is there so that a parameter is categorical."""

    high: int = 1000

    def suggest(self, trial: Trial) -> ToyArchitecture:
        return ToyArchitecture(trial.suggest_int("width", 1, self.high), trial.suggest_categorical("kind", ["a", "b", "c"]))

    def build(self, architecture: ToyArchitecture, in_channels: int, num_classes: int) -> nn.Module:
        width = architecture.width
        return nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
        )

    def preset(self, name: str) -> ToyArchitecture:
        return ToyArchitecture(8, name)

    def from_dict(self, mapping: Mapping[str, Any]) -> ToyArchitecture:
        return ToyArchitecture(mapping["width"], mapping["kind"])


def toy_evaluation(architecture: ToyArchitecture) -> Evaluation:
    """A trade-off along the width: wider is better and slower; deterministic."""
    return Evaluation(
        Metrics(
            architecture_id=architecture.id,
            top1=architecture.width / (architecture.width + 100),
            latency_ms=float(architecture.width),
            params=architecture.width,
        )
    )
