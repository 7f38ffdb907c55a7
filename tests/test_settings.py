"""Numbers in the settings of training and measuring are finite and in their bounds."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pydantic
import pytest

from nas.measure.settings import MeasureSettings
from nas.train.settings import DataSettings, TrainSettings

KINDS = (TrainSettings, DataSettings, MeasureSettings)
NUMBERS = [(kind, f.name) for kind in KINDS for f in fields(kind) if isinstance(f.default, float)]


@pytest.mark.parametrize(("kind", "key"), [*NUMBERS, (MeasureSettings, "energy_window_seconds")])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
def test_numbers_are_finite(kind: type[Any], key: str, value: float) -> None:
    check = pydantic.TypeAdapter(kind)
    assert check.validate_python({key: 0.5}) == kind(**{key: 0.5})
    with pytest.raises(pydantic.ValidationError, match=key):
        check.validate_python({key: value})
