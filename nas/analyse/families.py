"""Which family a network belongs to, and the colour and sign that the family has in every figure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nas.analyse.rows import Row, plain


@dataclass(frozen=True)
class Family:
    """A family of networks.

    Attributes:
        symbol: A Plotly marker.
        stands_out: Drawn strong and labelled first: what this project is about.
    """

    name: str
    colour: str
    symbol: str
    stands_out: bool = False


# Okabe and Ito's colours (told apart with any colour vision), darkened where they would be faint on white.
FOUND = Family("own and found networks", "#000000", "star", stands_out=True)
VOVNET = Family("VoVNet (OSA)", "#d55e00", "circle", stands_out=True)
BOTTLENECK = Family("VoVNet with 1×1 bottlenecks", "#d55e00", "circle-open", stands_out=True)
RESNET = Family("ResNet", "#0072b2", "square")
RESNEXT = Family("ResNeXt, DPN", "#3b9ddd", "square-open")
SE = Family("SE networks", "#00805c", "diamond")
DENSENET = Family("DenseNet", "#7b3fa0", "triangle-up")
INCEPTION = Family("Inception, Xception", "#a87900", "diamond-open")
VGG = Family("VGG, AlexNet", "#7a7a7a", "triangle-down")
MOBILE = Family("mobile networks", "#c2528b", "triangle-up-open")
OTHER = Family("others", "#555555", "triangle-left")

FAMILIES = (FOUND, VOVNET, BOTTLENECK, RESNET, RESNEXT, SE, DENSENET, INCEPTION, VGG, MOBILE, OTHER)

# The first that matches holds: `inception_resnet_v2` is an Inception, and `densenet` would match `senet`.
_PATTERNS = (
    (r"vovnet.*bottleneck|osa.*bottleneck", BOTTLENECK),
    (r"vovnet|^osa", VOVNET),
    (r"inception|googlenet|xception", INCEPTION),
    (r"mobile|squeeze|shuffle|mnasnet|efficientnet|ghostnet", MOBILE),
    (r"dense", DENSENET),
    (r"senet|seresne|se_resne", SE),
    (r"resnext|dpn", RESNEXT),
    (r"resnet", RESNET),
    (r"vgg|alexnet", VGG),
)


def family(row: Row) -> Family:
    """Return the family of the row's model; networks from architecture files and studies are one family."""
    if row.get("source") in ("file", "study"):
        return FOUND
    name = plain(row["model"]).lower()
    return next((family for pattern, family in _PATTERNS if re.search(pattern, name)), OTHER)
