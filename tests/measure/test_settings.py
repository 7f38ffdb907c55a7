from __future__ import annotations

import math
from typing import Any

import pytest

from nas.measure.settings import MeasureSettings


@pytest.mark.parametrize("key", ["latency_max_seconds", "energy_window_seconds"])
@pytest.mark.parametrize("value", [math.inf, math.nan, 0.0, -1.0])
def test_times_are_finite(key: str, value: float) -> None:
    pydantic: Any = pytest.importorskip("pydantic")
    check = pydantic.TypeAdapter(MeasureSettings)
    assert check.validate_python({key: 2.5}) == MeasureSettings(**{key: 2.5})
    with pytest.raises(pydantic.ValidationError, match=key):
        check.validate_python({key: value})
