"""Evaluations that leave a record: which process began and ended which network when. What was done twice is seen there alone."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.faults import faulty
from tests.faults.faulty import FaultyArchitecture, FaultySpace


def note(path: str | Path, what: str, architecture_id: str) -> None:
    """Append ``begin`` or ``end`` of a network to a record that many processes write; a line is written whole or not at all."""
    line = f"{what} {architecture_id} {os.getpid()} {time.monotonic_ns()}\n".encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Evaluated:
    """One evaluation.

    Attributes:
        ended_ns: ``None`` if its process died in it. Instants are of the machine's monotonic clock, one for all processes.
    """

    architecture_id: str
    pid: int
    began_ns: int
    ended_ns: int | None


def read(path: Path) -> list[Evaluated]:
    """Return what a record holds, in the order of the beginnings."""
    under_way: dict[int, Evaluated] = {}
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        what, name, pid, instant = line.split()
        if what == "begin":
            if int(pid) in under_way:
                found.append(under_way.pop(int(pid)))
            under_way[int(pid)] = Evaluated(name, int(pid), int(instant), None)
        else:
            begun = under_way.pop(int(pid))
            found.append(Evaluated(begun.architecture_id, begun.pid, begun.began_ns, int(instant)))
    return sorted([*found, *under_way.values()], key=lambda evaluated: evaluated.began_ns)


def ended(record: Sequence[Evaluated]) -> Counter[str]:
    """Return how often each network was evaluated to the end."""
    return Counter(evaluated.architecture_id for evaluated in record if evaluated.ended_ns is not None)


def at_once(record: Sequence[Evaluated]) -> int:
    """Return how many evaluations began while another one of the same network, which came to its end, was under way."""
    of: dict[str, list[Evaluated]] = defaultdict(list)
    for evaluated in record:
        of[evaluated.architecture_id].append(evaluated)
    return sum(
        any(other.ended_ns is not None and later.began_ns < other.ended_ns for other in same[:index])
        for same in of.values()
        for index, later in enumerate(same)
    )


@dataclass(frozen=True)
class RecordedSpace(FaultySpace):
    """``FaultySpace`` whose evaluations are recorded in the file ``record`` by the worker that does them."""

    record: str = ""

    def build(self, architecture: FaultyArchitecture, in_channels: int, num_classes: int) -> nn.Module:
        network = super().build(architecture, in_channels, num_classes)
        if torch.empty(0).device.type != "meta":
            note(self.record, "begin", architecture.id)
            _note_end(self.record, architecture.id)
        return network

    def from_dict(self, mapping: Mapping[str, Any]) -> FaultyArchitecture:
        return self._architecture(mapping["width"])


def _note_end(record: str, architecture_id: str) -> None:
    """Let this evaluation note its end; the next ``build`` takes that back."""
    from nas.evaluate import Evaluation, _Way

    whole = _Way.result

    def result(way: _Way) -> Evaluation:
        found = whole(way)
        note(record, "end", architecture_id)
        return found

    faulty._spoilt.append((_Way, "result", whole))
    _Way.result = result  # type: ignore[method-assign, assignment]
