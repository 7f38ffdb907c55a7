"""Watches which operations a network runs while it is counted, and which of them do a layer's work outside any layer.

Leaves the layers' own costs to `complexity`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_CONVOLUTIONS = frozenset(
    (
        torch.ops.aten.convolution,
        torch.ops.aten._convolution,
        torch.ops.aten.cudnn_convolution,
        torch.ops.aten.convolution_overrideable,
        torch.ops.aten._slow_conv2d_forward,
    )
)
_BATCH_NORM, _TRAINING = torch.ops.aten.native_batch_norm.default, 5  # the operator, and the place of this argument
_PRODUCTS = frozenset((torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm))


def shape_only(tensor: Tensor) -> Tensor:
    """Return a tensor without data, alike in shape, layout and type."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _takes_tensors(func: OpOverload[..., Any]) -> bool:
    return any("Tensor" in str(argument.type) for argument in func._schema.arguments)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operator that computes or copies something (views and allocations do neither), and what escapes the layers.

    Attributes:
        outside_layers: FLOPs of convolutions, and of products with the network's own weights, that no layer has done; by module.
    """

    def __init__(self, counter: FlopCounterMode, model: nn.Module, inside_layer: Callable[[], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.outside_layers: Counter[str] = Counter()
        self._counter = counter
        self._inside_layer = inside_layer
        self._weights = {_storage(weight) for weight in model.parameters() if not is_lazy(weight)}
        self._root = type(model).__name__
        self._seen: set[Any] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self._counter.get_total_flops()
        if func is _BATCH_NORM and args[0].is_meta and not args[_TRAINING]:
            # Nearly half the time of a shape-only pass would go into working out, in Python, that the shape stays.
            result = (shape_only(args[0]), args[0].new_empty(0), args[0].new_empty(0))
        else:
            result = func(*args, **(kwargs or {}))
        flops = self._counter.get_total_flops() - before
        if not isinstance(func, OpOverload) or func.is_view or not _takes_tensors(func):
            return result
        if not flops:
            self._seen.add(func.overloadpacket)
        elif not self._inside_layer():
            if self._applies_weights(func.overloadpacket, args):
                self.outside_layers[self._place()] += flops
            else:
                self._seen.add(func.overloadpacket)
        return result

    def _applies_weights(self, packet: Any, args: tuple[Any, ...]) -> bool:
        factors = args[-2:]  # what stands before them is added
        return packet in _CONVOLUTIONS or (packet in _PRODUCTS and any(_storage(factor) in self._weights for factor in factors))

    def _place(self) -> str:
        """Return the path of the innermost module that runs; the root's is its class."""
        innermost = max(self._counter.mod_tracker.parents - {"Global"}, key=len, default=self._root)
        return innermost.removeprefix(f"{self._root}.")

    def uncounted(self) -> tuple[str, ...]:
        """Return the sorted names of the operators that are in no figure; ``relu_`` and ``relu`` are one."""
        return tuple(sorted({packet.__name__.removesuffix("_") for packet in self._seen}))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
