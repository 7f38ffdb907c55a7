"""Where a network's time goes: each layer's share of a forward pass, taken by hooks around the innermost modules.

The hooks themselves take some microseconds each, so shares of very small layers are too large, and the whole pass is slower
than ``latency``'s: compare shares with shares, never with a latency.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch

from nas.measure.device import numeric_context
from nas.measure.record import Record
from nas.measure.subject import Subject

_LEAST_PASSES = 10


@dataclass(frozen=True)
class LayerTime(Record):
    """One call of an innermost module.

    Attributes:
        name: The module's path in the network; a module that is called twice gives two entries, in the order of the calls.
        share: Of the pass' time, 0 to 1.
    """

    name: str
    share: float


@dataclass(frozen=True)
class LayerTimes(Record):
    """A pass taken apart.

    Attributes:
        layers: In the order of the calls.
        between: Share of the time that was spent outside of them: concatenations, additions, Python.
        passes: How many passes the medians are of.
        batch_size: Images per pass.
    """

    layers: tuple[LayerTime, ...]
    between: float
    passes: int
    batch_size: int


def measure(net: Subject, seconds: float = 0.5) -> LayerTimes:
    """Take a network's pass apart.

    Args:
        net: The network; as many passes as fit into ``seconds`` are taken after a few to warm up, at least ten.
    """
    clock: Any = _Events() if net.device.type == "cuda" else _Clock()
    leaves = [(name, module) for name, module in net.model.named_modules() if not any(module.children())]
    calls: list[tuple[str, Any]] = []
    hooks = []
    for name, module in leaves:
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: calls.append((name, clock.mark()))))
        hooks.append(module.register_forward_hook(lambda *_: calls.append(("", clock.mark()))))
    spent: dict[int, list[float]] = defaultdict(list)
    outside: list[float] = []
    names: list[str] = []
    passes = 0
    try:
        with numeric_context(net.conditions), torch.inference_mode():
            for _ in range(3):
                net.run()
            until = time.perf_counter() + seconds
            while passes < _LEAST_PASSES or time.perf_counter() < until:
                calls.clear()
                begin = clock.mark()
                net.run()
                end = clock.mark()
                whole = clock.between(begin, end)
                pairs = list(zip(calls[::2], calls[1::2], strict=True))
                names = [entered[0] for entered, _ in pairs]
                shares = [clock.between(entered[1], left[1]) / whole for entered, left in pairs]
                for index, share in enumerate(shares):
                    spent[index].append(share)
                outside.append(1.0 - sum(shares))
                passes += 1
    finally:
        for hook in hooks:
            hook.remove()
    layers = tuple(LayerTime(name, statistics.median(spent[index])) for index, name in enumerate(names))
    return LayerTimes(layers, statistics.median(outside), passes, net.conditions.batch_size)


class _Clock:
    """The host's clock: on a CPU an operation is done when it returns."""

    mark = staticmethod(time.perf_counter)

    @staticmethod
    def between(begin: float, end: float) -> float:
        return end - begin


class _Events:
    """CUDA events in the stream, read after the pass."""

    @staticmethod
    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    @staticmethod
    def between(begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return float(begin.elapsed_time(end))
