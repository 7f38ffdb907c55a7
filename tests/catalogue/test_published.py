from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

import nas.catalogue
from nas.catalogue import MISSING, find, published

TABLE = Path(nas.catalogue.__file__).with_name("published.csv")
ROWS = list(csv.DictReader(TABLE.read_text().splitlines()))
REPRESENTATIVE = yaml.safe_load((Path(__file__).parents[2] / "conf" / "benchmark" / "representative.yaml").read_text())["models"]
# Top-1 and top-5 in percent that timm measured with the same weights (its results-imagenet.csv), but other crops.
TIMM_ON_THE_SAME_WEIGHTS = {
    "legacy_seresnet50": (77.650, 93.732),
    "legacy_seresnet101": (78.370, 94.264),
    "legacy_seresnet152": (78.662, 94.370),
    "legacy_seresnext50_32x4d": (79.080, 94.428),
    "legacy_seresnext101_32x4d": (80.274, 95.032),
    "legacy_senet154": (81.320, 95.502),
    "inception_v4": (80.144, 94.982),
    "inception_resnet_v2": (80.434, 95.312),
    "legacy_xception": (79.058, 94.396),
    "dpn68": (76.304, 92.994),
    "dpn98": (79.664, 94.644),
    "dpn131": (79.836, 94.708),
    "nasnetalarge": (82.638, 96.066),
}


def test_the_table_is_whole() -> None:
    assert len({row["model"] for row in ROWS}) == len(ROWS) >= 20
    for row in ROWS:
        assert 0.5 < float(row["top1"]) < float(row["top5"]) < 1
        assert row["source"] and row["url"].startswith("https://github.com/")


@pytest.mark.parametrize("name", [row["model"] for row in ROWS])
def test_a_figure_belongs_to_a_model_that_we_build_at_the_size_that_it_was_published_for(name: str) -> None:
    row = published(name)
    assert row is not None
    if name not in MISSING:
        reference = find(name)
        assert reference.input_size == row.input_size
        # The table must not hide what torchvision publishes itself.
        assert reference.source != "torchvision"


@pytest.mark.parametrize("name", TIMM_ON_THE_SAME_WEIGHTS)
def test_the_table_is_near_to_another_measurement_of_the_same_weights(name: str) -> None:
    row, (top1, top5) = published(name), TIMM_ON_THE_SAME_WEIGHTS[name]
    assert row is not None
    assert row.top1 == pytest.approx(top1 / 100, abs=0.005) and row.top5 == pytest.approx(top5 / 100, abs=0.005)


def test_errors_of_the_paper_as_accuracies() -> None:
    for name, top1_error, top5_error in (("vovnet39", 0.2323, 0.0657), ("vovnet57", 0.2227, 0.0628)):
        row = published(name)
        assert row is not None and "1904.09730" in row.source
        assert (row.top1 + top1_error, row.top5 + top5_error) == (pytest.approx(1), pytest.approx(1))


def test_torchvisions_come_from_its_own_metadata() -> None:
    row = published("resnet18")
    assert row == published("torchvision:resnet18")
    assert row is not None
    assert (row.top1, row.top5, row.input_size, row.source) == (0.69758, 0.89078, 224, "torchvision IMAGENET1K_V1")
    assert row.url.startswith("https://github.com/pytorch/vision")


@pytest.mark.parametrize(
    "name",
    ["timm:resnet18", "preset:densenet121", "vovnet27_slim", "study/12", "runs/x/best.yaml", "vit_h_14", "ese_vovnet57b", ""],
)
def test_what_nobody_published_for_this_very_network_is_none(name: str) -> None:
    assert published(name) is None


def test_a_prefix_leads_to_the_same_row() -> None:
    assert published("timm:dpn68") == published("dpn68") is not None
    assert published("torchvision:dpn68") is None


def test_nearly_all_representative_models_have_a_figure() -> None:
    without = {name for name in REPRESENTATIVE if published(name) is None}
    assert without == {
        "shufflenet_v1",
        "vovnet27_slim",
        "ese_vovnet19b_slim_dw",
        "ese_vovnet19b_slim",
        "ese_vovnet57b",
        "ese_vovnet99b",
    }
