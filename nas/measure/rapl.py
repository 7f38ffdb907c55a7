"""Energy of CPU packages from Linux's powercap tree (Intel RAPL, filled on AMD too). Windows are the energy meter's."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from nas.measure.record import SensorError

ROOT = Path("/sys/class/powercap")
"""Where the kernel shows its power zones (Linux, Documentation/power/powercap/powercap.rst)."""


@dataclass
class PackageCounter:
    """Joules of all CPU packages together since this object was made; memory modules are no part of them.

    Each package's counter starts again at zero after ``max_energy_range_uj``, minutes apart under load, so read it at least
    once a minute.
    """

    zones: tuple[Path, ...]
    _last_uj: dict[Path, int] = field(init=False)
    _total_uj: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._last_uj = {zone: _number(zone / "energy_uj") for zone in self.zones}

    def read_j(self) -> float:
        """Return the joules so far. Raises ``SensorError`` if a file cannot be read any more."""
        for zone, last_uj in self._last_uj.items():
            now_uj = _number(zone / "energy_uj")
            wrapped_uj = _number(zone / "max_energy_range_uj") if now_uj < last_uj else 0
            self._total_uj += now_uj - last_uj + wrapped_uj
            self._last_uj[zone] = now_uj
        return self._total_uj / 1e6


def open_packages() -> PackageCounter:
    """Open the counters of all CPU packages.

    Raises:
        SensorError: The machine shows no package, or its counters may not be read.
    """
    # Zones below a package are parts of it, "psys" contains it, and intel-rapl-mmio shows it a second time.
    candidates = sorted(path for path in ROOT.glob("intel-rapl:*") if re.fullmatch(r"intel-rapl:\d+", path.name))
    zones = tuple(path for path in candidates if _text(path / "name").startswith("package"))
    if not zones:
        raise SensorError(f"the system shows no RAPL counter under {ROOT}, as in most virtual machines and containers")
    return PackageCounter(zones)


def _number(path: Path) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError as error:
        raise SensorError(f"{path} holds {text!r} instead of a number") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except PermissionError as error:
        raise SensorError(f"{path} may be read by root only; give this user read permission to measure energy") from error
    except OSError as error:
        raise SensorError(f"{path} cannot be read: {error.strerror}") from error
