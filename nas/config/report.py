"""The keys of ``nas.report``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from nas.config.common import PICK_ROOT, STUDY_ROOT, Plain, StudyKeys, reject_unknown
from nas.typed import typed


@dataclass(frozen=True)
class ReportConfig:
    """All keys of ``nas.report``.

    Attributes:
        study: See ``StudyKeys``; likewise ``run_dir`` and ``storage``.
        pick: Which network stands first; see ``nas.choosing``; likewise ``trial`` and ``architecture``.
        networks: How many networks of the front get a sheet of their own, spread over it.
        layers: Whether their layers are timed, which takes the device for some seconds.
        layer_seconds: How long that may take in all.
        device: Where: ``auto``, ``cpu`` or ``cuda:N``; the search's own by default.
        good: Which networks the narrowed space is cut to: those of the least ``error``, as RegNet has it, or those on the
            ``front`` of the objectives.
        out: The file, ``<run folder>/report.html`` by default.
    """

    study: str | None = None
    run_dir: str | None = None
    storage: str | None = None
    pick: str | None = None
    trial: Annotated[int, Ge(0)] | None = None
    architecture: str | None = None
    networks: Annotated[int, Ge(1)] = 100
    layers: bool = True
    layer_seconds: Annotated[float, Ge(0)] = 5.0
    device: str | None = None
    good: Literal["error", "front"] = "error"
    out: str | None = None

    @property
    def keys(self) -> StudyKeys:
        """Which study."""
        return StudyKeys(self.study, self.run_dir, self.storage)


REPORT_ROOT: Plain = {
    **STUDY_ROOT,
    **PICK_ROOT,
    "networks": 100,
    "layers": True,
    "layer_seconds": 5.0,
    "device": None,
    "good": "error",
    "out": None,
}
"""What holds before any file of ``conf/`` is read."""


def parse_report(plain: Mapping[str, Any]) -> ReportConfig:
    """Check a composed configuration and return it typed.

    Raises:
        InputError: On the first unknown key or value that cannot be used.
    """
    reject_unknown("", plain, {f.name for f in dataclasses.fields(ReportConfig)})
    config: ReportConfig = typed(ReportConfig, dict(plain))
    return config
