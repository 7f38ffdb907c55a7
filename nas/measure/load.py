"""What else keeps the CPUs busy while something is measured on them. What follows from it is the meters' to say."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nas.measure.fingerprint import usable_cpus

STAT = Path("/proc/stat")
"""Ticks that each CPU spent in each state since boot (Linux, Documentation/filesystems/proc.rst, 1.7)."""

_IDLE, _IOWAIT, _STEAL = 3, 4, 7


@dataclass(frozen=True)
class CpuLoad:
    """CPU time up to one instant; take one before and one after.

    Attributes:
        busy_s: Time that CPUs were busy with anything, ``None`` where the system does not tell.
        stolen_s: Time that a virtual machine's host gave to others while it was wanted here.
        own_s: CPU time of this process and of its children that have ended.
    """

    busy_s: float | None
    stolen_s: float
    own_s: float

    @classmethod
    def now(cls, everywhere: bool = False) -> CpuLoad:
        """Read the system's counters, whose ticks are 10 ms long.

        Args:
            everywhere: Whether of all CPUs, or of those that this process may use.
        """
        times = os.times()
        own_s = times.user + times.system + times.children_user + times.children_system
        try:
            lines = STAT.read_text(encoding="ascii").splitlines()
        except OSError:
            return cls(None, 0.0, own_s)
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        usable = {f"cpu{number}" for number in usable_cpus()}
        each = {name: fields for name, *fields in map(str.split, filter(str.strip, lines)) if re.fullmatch(r"cpu\d+", name)}
        rows = [[int(ticks) for ticks in fields] for name, fields in each.items() if everywhere or name in usable]
        if not rows:
            return cls(None, 0.0, own_s)
        stolen = sum(row[_STEAL] for row in rows if len(row) > _STEAL)
        busy = sum(sum(row[:_STEAL]) - row[_IDLE] - row[_IOWAIT] for row in rows)
        return cls(busy * tick_s, stolen * tick_s, own_s)

    def others_cpus(self, later: CpuLoad, seconds: float) -> float | None:
        """Return how many CPUs others kept busy on average between two readings ``seconds`` apart, stolen time included."""
        if self.busy_s is None or later.busy_s is None or seconds <= 0:
            return None
        others_s = later.busy_s - self.busy_s + later.stolen_s - self.stolen_s - (later.own_s - self.own_s)
        return max(0.0, others_s / seconds)
