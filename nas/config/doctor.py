"""The keys of ``nas.doctor``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from nas.config.common import Plain, check_measure, reject_unknown
from nas.measure.settings import MeasureSettings
from nas.typed import typed


@dataclass(frozen=True)
class DoctorConfig:
    """All keys of ``nas.doctor``.

    Attributes:
        measure: The measuring conditions.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        runs: How often the built-in network is measured.
        data_root: Folder that data sets are looked for in.
    """

    measure: MeasureSettings
    device: str = "auto"
    runs: Annotated[int, Ge(2)] = 3
    data_root: str = "data"


DOCTOR_GROUPS: Plain = {"measure": "default"}

DOCTOR_ROOT: Plain = {"device": "auto", "runs": 3, "data_root": "data"}


def parse_doctor(plain: Mapping[str, Any]) -> DoctorConfig:
    """Check a composed configuration of ``nas.doctor`` and return it typed; raises like ``parse_search``."""
    reject_unknown("", plain, {f.name for f in dataclasses.fields(DoctorConfig)})
    check_measure(plain)
    config: DoctorConfig = typed(DoctorConfig, plain)
    return config
