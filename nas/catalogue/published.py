"""Accuracies on ImageNet as others published them, each with its source; nothing here was measured by this project."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Published:
    """What a source says about one network on ImageNet's validation images, one crop each.

    Attributes:
        top1: Share of images whose first guess is right.
        top5: Share of images with the right class among the first five guesses.
        input_size: Side of the crop, in pixels.
        source: Who published it, in one line.
        url: Where.
    """

    top1: float
    top5: float
    input_size: int
    source: str
    url: str


def published(name: str) -> Published | None:
    """Return the published accuracy of a model by the name that `find` takes; ``None`` if we know of none.

    torchvision's own come from the metadata of its first ImageNet weights, without a download; the others from the table
    ``published.csv``. A figure belongs to a training as well as to a network: timm's ``resnet18`` has none of torchvision's.
    """
    prefix, _, bare = name.rpartition(":")
    row = _table().get(name)
    if row is None and prefix != "torchvision":
        row = _table().get(bare)
    if row is None and prefix in ("", "torchvision"):
        row = _by_torchvision(bare)
    return row


@functools.cache
def _table() -> Mapping[str, Published]:
    text = resources.files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    return {
        row["model"]: Published(float(row["top1"]), float(row["top5"]), int(row["input_size"]), row["source"], row["url"])
        for row in csv.DictReader(text.splitlines())
    }


def _by_torchvision(bare: str) -> Published | None:
    from torchvision import models

    if bare not in models.list_models(module=models):
        return None
    weights = models.get_model_weights(bare).__members__.get("IMAGENET1K_V1")
    if weights is None:
        return None
    accuracy = weights.meta["_metrics"]["ImageNet-1K"]
    return Published(
        # Rounded to what is published, in percent with three decimals: 69.758 / 100 is no short binary fraction.
        top1=round(accuracy["acc@1"] / 100, 5),
        top5=round(accuracy["acc@5"] / 100, 5),
        input_size=weights.transforms.keywords["crop_size"],
        source="torchvision IMAGENET1K_V1",
        url=weights.meta["recipe"],
    )
