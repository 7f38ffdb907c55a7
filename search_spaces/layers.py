"""What the families share below their own blocks: convolutions with their norms, attention, the head, initial weights,
and the plan that a network is built from and known by. Leaves the choice of blocks to the families.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec

import torch
from torch import nn

from search_spaces.base import operations_id

P = ParamSpec("P")

# In place only where autograd needs nothing but the output, so that it costs no copy.
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "gelu": nn.GELU,
}
ACTIVATIONS = tuple(_ACTIVATIONS)


@dataclass(frozen=True)
class Operation:
    """One block of a network, not yet built: the class, and all that it is built from."""

    block: Callable[..., nn.Module]
    arguments: tuple[tuple[str, Any], ...]

    def build(self) -> nn.Module:
        """Return the block with torch's own initial weights."""
        return self.block(**dict(self.arguments))

    def record(self) -> tuple[str, dict[str, Any]]:
        """Return the block's name and arguments as JSON data."""
        return self.block.__name__, dict(self.arguments)


def operation(block: Callable[P, nn.Module], *args: P.args, **kwargs: P.kwargs) -> Operation:
    """Return the operation that builds ``block(*args, **kwargs)``."""
    return Operation(block, tuple(inspect.signature(block).bind(*args, **kwargs).arguments.items()))


@dataclass(frozen=True)
class Plan:
    """A network in the form that it is built from and known by: one operation after the other.

    The stages group the operations for who wants their outputs; borders between them change nothing.
    """

    stem: tuple[Operation, ...]
    stages: tuple[tuple[Operation, ...], ...]
    head: tuple[Operation, ...]

    @property
    def id(self) -> str:
        """The stable hash of the operations."""
        operations = (*self.stem, *(operation for stage in self.stages for operation in stage), *self.head)
        return operations_id(operation.record() for operation in operations)


class Network(nn.Module):
    """The network of a plan: (N, C, H, W) → (N, classes)."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.stem = sequence(plan.stem)
        self.stages = nn.Sequential(*(sequence(stage) for stage in plan.stages))
        self.head = sequence(plan.head)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes), of images (N, C, H, W)."""
        logits: torch.Tensor = self.head(self.stages(self.stem(x)))
        return logits


def sequence(operations: Iterable[Operation]) -> nn.Sequential:
    """Return the operations, built, one after the other."""
    return nn.Sequential(*(operation.build() for operation in operations))


def initialise(network: nn.Module) -> None:
    """Give every layer its initial weights, by one rule for all families.

    Convolutions: normal, variance 2 ÷ fan-out (He et al. 2015, arXiv 1502.01852, eq. 14), the fan-out being that of one
    input channel, which in a grouped convolution sees only its own group. Norms: identity. Linear layers: normal with a
    standard deviation of 0.01, so that training starts at uniform class probabilities. Biases: zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def activate(name: str) -> nn.Module:
    """Return the activation with this name, one of `ACTIVATIONS`."""
    return _ACTIVATIONS[name]()


class ConvNormAct(nn.Sequential):
    """Convolution ("same" padding, no bias), batch norm, activation; (N, in, H, W) → (N, out, ⌈H/stride⌉, ⌈W/stride⌉)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, activation: str) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            activate(activation),
        )


class SeparableConvNormAct(nn.Sequential):
    """`ConvNormAct` with its convolution parted into a depthwise one and a 1×1, nothing between them."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, activation: str) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, kernel, stride, kernel // 2, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            activate(activation),
        )


class EffectiveSE(nn.Module):
    """Channel attention with one 1×1 convolution (eSE; Lee and Park 2020, arXiv 1911.06667, section 3.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, C, H, W) weighted by channel."""
        weighted: torch.Tensor = x * self.gate(self.conv(self.pool(x)))
        return weighted


class Head(nn.Sequential):
    """Global average pool and linear classifier; (N, C, H, W) → (N, classes)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(channels, num_classes))
