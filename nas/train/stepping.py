"""How a brief training takes its steps: one by one, or on a GPU recorded once as a CUDA graph and replayed.

A small network's step is some hundred short kernels, and launching them from Python takes longer than they run; a replay is a
single launch. ``benchmarks/compile_or_not.py`` says what it is worth, and what ``torch.compile`` would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch
from torch import Tensor, nn

from nas.train.recipe import train_step
from nas.train.settings import NumericFormat, TrainSettings

_Step = Callable[[Tensor, Tensor, Tensor], None]

_EAGER_STEPS = 3
"""Steps before the recording: they make the optimiser's buffers and choose kernels, which a recording cannot."""


class Steps:
    """Takes the steps of one training.

    Attributes:
        loss_sum: Sum of the steps' losses, a scalar on the device; whoever reads it sets it back.
        not_recorded: Why the steps were not recorded although they could have been, if so.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.SGD,
        settings: TrainSettings,
        numeric: NumericFormat,
        device: torch.device,
        recorded: bool,
    ) -> None:
        self.loss_sum = torch.zeros((), device=device)
        self.not_recorded: str | None = None
        self._model, self._optimizer, self._settings, self._numeric = model, optimizer, settings, numeric
        self._eager_left = _EAGER_STEPS if recorded else None
        self._recording: _Recording | None = None

    def take(self, x: Tensor, y: Tensor, lr: float) -> None:
        """Take one step; nothing here waits for the device, but for the recording once."""
        if self._recording is not None and self._recording.fits(x, y):
            self._recording.replay(x, y, lr)
            return
        self._step(x, y, lr)
        if self._eager_left is not None:
            self._eager_left -= 1
            if self._eager_left == 0:
                self._eager_left = None
                self._record(x, y)

    def close(self) -> None:
        """Give back what the recording holds, the gradients with it."""
        self._recording = None
        self._optimizer.zero_grad(set_to_none=True)
        for group in self._optimizer.param_groups:
            group["lr"] = float(group["lr"])  # a recorded step reads it from the device

    def _step(self, x: Tensor, y: Tensor, lr: float | Tensor) -> None:
        self.loss_sum += train_step(self._model, self._optimizer, x, y, lr, self._settings, self._numeric)

    def _record(self, x: Tensor, y: Tensor) -> None:
        # What cannot be recorded (a network that looks at values while it runs; no room for the recording's own memory) is
        # still trained, step by step.
        try:
            self._recording = _Recording(self._step, x, y)
        except RuntimeError as error:  # OutOfMemoryError is one
            self.not_recorded = str(error).splitlines()[0]
        # Not within the handler: by now all that the broken recording held is gone.
        if self.not_recorded is not None and x.device.type == "cuda":
            _recover(x.device)


class _Recording:
    """One step as a graph, with the places that it reads its batch and its learning rate from."""

    def __init__(self, step: _Step, x: Tensor, y: Tensor) -> None:
        self._x, self._y = torch.empty_like(x), torch.empty_like(y)
        self._lr = torch.zeros((), device=x.device)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: a meter, or whoever holds the data.
        stream = torch.cuda.current_stream(x.device)
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            step(self._x, self._y, self._lr)

    def fits(self, x: Tensor, y: Tensor) -> bool:
        return x.shape == self._x.shape and y.shape == self._y.shape

    def replay(self, x: Tensor, y: Tensor, lr: float) -> None:
        self._x.copy_(x)
        self._y.copy_(y)
        self._lr.fill_(lr)
        self._graph.replay()


def _recover(device: torch.device) -> None:
    """Record next to nothing after a recording that broke off: its end puts the random generator back into its usual state.

    A broken recording may leave the generator waiting for a recording that is over, and the next dropout would raise.
    """
    with suppress(RuntimeError):  # nor can this be recorded: the next step will tell
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(device), capture_error_mode="thread_local"):
            torch.zeros((), device=device).add_(1)


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Let the block's work on a GPU run on a stream other than the default one, which cannot be recorded."""
    if device.type != "cuda":
        yield
        return
    stream, outer = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(outer)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        outer.wait_stream(stream)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    # One for all trainings: the memory that one leaves in the allocator's cache is of use to the next on the same stream only.
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
