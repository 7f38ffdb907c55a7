"""The keys of ``nas.dashboard``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Interval

from nas.config.common import STUDY_ROOT, Plain, StudyKeys, reject_unknown
from nas.typed import typed


@dataclass(frozen=True)
class DashboardConfig:
    """All keys of ``nas.dashboard``.

    Attributes:
        study: See ``StudyKeys``; likewise ``run_dir`` and ``storage``.
        host: Address to listen on; the default is reached from this machine alone.
        port: Port to listen on; 0 takes a free one.
    """

    study: str | None = None
    run_dir: str | None = None
    storage: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Interval(ge=0, le=65535)] = 8080

    @property
    def keys(self) -> StudyKeys:
        """Which study."""
        return StudyKeys(self.study, self.run_dir, self.storage)


DASHBOARD_ROOT: Plain = {**STUDY_ROOT, "host": "127.0.0.1", "port": 8080}
"""What holds before any file of ``conf/`` is read."""


def parse_dashboard(plain: Mapping[str, Any]) -> DashboardConfig:
    """Check a composed configuration and return it typed.

    Raises:
        InputError: On the first unknown key or value that cannot be used.
    """
    reject_unknown("", plain, {f.name for f in dataclasses.fields(DashboardConfig)})
    config: DashboardConfig = typed(DashboardConfig, dict(plain))
    return config
