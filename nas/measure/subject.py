"""A network as it is measured: a copy on the device, under the conditions, with the batch that it is run on. For all meters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.measure.device import DTYPES, assigned, cast, numeric_context, resolve_conditions, resolve_device
from nas.measure.settings import MeasureConditions, MeasureSettings

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Those of the representative-architecture study (Bianco et al. 2018, arXiv 1810.00736)."""

_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Subject:
    """What a meter takes.

    Attributes:
        model: In evaluation mode, on the device, in the conditions' precision and layout.
        example: A batch ``[batch_size, C, H, W]`` of noise, likewise.
        conditions: What holds while it is measured; run it within ``device.numeric_context(conditions)``.
    """

    model: nn.Module
    example: Tensor
    conditions: MeasureConditions

    def run(self) -> Any:
        """Run one forward pass of the batch."""
        return self.model(self.example)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.example.device

    def at_batch(self, batch_size: int) -> Subject:
        """Return the same network, not copied, on a batch of another size."""
        conditions = replace(self.conditions, batch_size=batch_size)
        channels, height, width = self.example.shape[1:]
        return Subject(self.model, _example((channels, height, width), conditions), conditions)

    def sweep(self, batch_sizes: Sequence[int] = BATCH_SIZES) -> Iterator[Subject]:
        """Yield the same network on one batch size after the other: ``for net in subject.sweep(): latency.measure(net)``."""
        for batch_size in batch_sizes:
            yield self.at_batch(batch_size)


def make(model: nn.Module, input_shape: tuple[int, int, int], device: str = "auto", **settings: Any) -> Subject:
    """Make a subject of a network by a few words, for use outside a study; ``model`` itself is left as it is.

    Args:
        model: Takes a batch of images.
        input_shape: One image: (channels, height, width).
        device: ``auto``, ``cpu`` or ``cuda:N``.
        settings: Fields of ``MeasureSettings``, such as ``batch_size=16, precision="bf16"``.

    Raises:
        InputError: There is no such device, or it does not have the precision.
    """
    return of(model, input_shape, resolve_conditions(MeasureSettings(**settings), resolve_device(device)))


def of(model: nn.Module, input_shape: tuple[int, int, int], conditions: MeasureConditions) -> Subject:
    """Make a subject of a network under settled conditions; ``model`` itself is left as it is."""
    subject = Subject(_prepare(copy.deepcopy(model), conditions), _example(input_shape, conditions), conditions)
    # One pass does not repay a search for the fastest algorithms, of a batch size that nobody times.
    with numeric_context(conditions), assigned(torch.backends.cudnn, "benchmark", False):
        _settle_norms(subject.model, subject.example)
    return subject


def _prepare(model: nn.Module, conditions: MeasureConditions) -> nn.Module:
    # Batch norms keep their parameters and statistics in fp32, as mixed precision trains and scores them; their inputs and
    # outputs have the precision.
    model.requires_grad_(False).eval()
    cast(model.to(device=conditions.device), DTYPES[conditions.precision])
    return model.to(memory_format=_LAYOUTS[conditions.memory_format])


def _example(input_shape: tuple[int, int, int], conditions: MeasureConditions) -> Tensor:
    """Return a batch ``[batch_size, C, H, W]`` of normal noise, the same in each process, on the device and in its format.

    Noise, because a GPU draws less power on constant data.
    """
    noise = torch.randn(conditions.batch_size, *input_shape, generator=torch.Generator().manual_seed(0))
    return noise.to(
        device=conditions.device, dtype=DTYPES[conditions.precision], memory_format=_LAYOUTS[conditions.memory_format]
    )


def _settle_norms(model: nn.Module, example: Tensor) -> None:
    """Give batch norms that never saw a batch the statistics of ``example``; trained ones keep theirs.

    In an untrained network activations fade to zero with depth, and a GPU computing zeros draws less power and clocks higher
    than with the unit-variance activations of a trained network.
    """
    fresh = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and _untrained(norm)]
    if not fresh:
        return
    with ExitStack() as stack:
        for norm in fresh:
            stack.callback(setattr, norm, "momentum", norm.momentum)
            stack.callback(norm.eval)
            norm.momentum = None
            norm.train()
        # Two images at least: one has no variance where its map has shrunk to a single position.
        model(torch.cat([example[:8], -example[:8]]))


def _untrained(norm: _BatchNorm) -> bool:
    return norm.num_batches_tracked is not None and int(norm.num_batches_tracked) == 0
