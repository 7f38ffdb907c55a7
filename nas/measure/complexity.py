"""What a network costs on paper: parameters, multiply-adds and memory access, counted in three ways that must agree.

Time, energy and memory in use are the other meters'.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nas.errors import RunError
from nas.measure.record import Record


@dataclass(frozen=True)
class LayerCost(Record):
    """One call of a convolution or linear layer, on one image.

    Attributes:
        name: The layer's path in the network; a layer that is called twice gives two entries.
        kind: ``conv`` or ``linear``.
        input_shape: Without the batch.
        output_shape: Without the batch.
        params: Weights and biases of the layer.
        mult_adds: Multiply-accumulates; a bias costs none.
        mem_access: Elements read and written (see ``Complexity``); defined for convolutions only, else ``None``.
    """

    name: str
    kind: Literal["conv", "linear"]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    params: int
    mult_adds: int
    mem_access: int | None


@dataclass(frozen=True)
class Complexity(Record):
    """What one image costs.

    Attributes:
        params: Parameters of the whole network, each counted once.
        mult_adds: Multiply-accumulates of convolutions and linear layers.
        flops: ``2 * mult_adds``.
        mem_access: Sum over all convolutions of ``h_in w_in c_in + h_out w_out c_out + k^2 c_in c_out / groups``, in elements
            (memory access cost: Ma et al. 2018, arXiv 1807.11164, eq. 1; Lee et al. 2019, arXiv 1904.09730).
        layers: Every call of a convolution or linear layer, in the order of execution.
        uncounted: Names of the other operations that ran; they cost time and are in none of the figures above.
    """

    params: int
    mult_adds: int
    flops: int
    mem_access: int
    layers: tuple[LayerCost, ...]
    uncounted: tuple[str, ...]


def count(model: nn.Module, input_shape: tuple[int, int, int]) -> Complexity:
    """Count ``model`` on one image of ``input_shape`` (channels, height, width); the model itself is left as it is.

    Runs on a shape-only copy where the network allows it, and on a CPU copy otherwise.

    Raises:
        RunError: thop, torch's FlopCounterMode and the closed form differ; the message gives the three figures and the place.
    """
    # torch takes fused paths, which hide operations from the counters, where no gradient can be asked for.
    with torch.inference_mode(False), torch.enable_grad():
        try:
            return _count(_replica(model, "meta"), torch.zeros(1, *input_shape, device="meta"))
        except RunError:
            raise
        except Exception:  # noqa: BLE001 - a network that looks at values cannot run shape-only; a broken one fails again here
            return _count(_replica(model, "cpu"), torch.zeros(1, *input_shape))


def _replica(model: nn.Module, device: str) -> nn.Module:
    replica = copy.deepcopy(model).to(device).float().eval()
    for parameter in replica.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return replica


def _count(model: nn.Module, image: Tensor) -> Complexity:
    layers: list[LayerCost] = []
    operations = _OperationNames()
    counter = FlopCounterMode(display=False)
    with ExitStack() as stack:
        for name, layer in _counted_layers(model).items():
            handle = layer.register_forward_hook(_cost_hook(name, layers))
            stack.callback(handle.remove)
        stack.enter_context(counter)
        stack.enter_context(operations)
        model(image)

    closed: Counter[str] = Counter()
    for cost in layers:
        closed[cost.name] += cost.mult_adds
    by_thop = _thop_mult_adds(model, image)
    by_torch = counter.get_total_flops() // 2
    mult_adds = closed.total()
    if not sum(by_thop.values()) == by_torch == mult_adds:
        where = _places(model, closed, by_thop, counter.get_flop_counts())
        raise RunError(
            f"the counts of multiply-adds disagree: thop {sum(by_thop.values()):,}, FlopCounterMode {by_torch:,}, closed form "
            f"{mult_adds:,}, in {where}; use convolution and linear modules there instead of functional calls"
        )
    return Complexity(
        params=sum(parameter.numel() for parameter in model.parameters()),
        mult_adds=mult_adds,
        flops=2 * mult_adds,
        mem_access=sum(cost.mem_access or 0 for cost in layers),
        layers=tuple(layers),
        uncounted=operations.beyond(counter.flop_registry),
    )


def _counted_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _ConvNd | nn.Linear)}


def _cost_hook(name: str, layers: list[LayerCost]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layers.append(_layer_cost(name, layer, inputs[0], output))

    return hook


def _layer_cost(name: str, layer: nn.Module, x: Tensor, y: Tensor) -> LayerCost:
    """Closed forms for one image: every weight meets each output position, or each input position if transposed."""
    params = sum(parameter.numel() for parameter in layer.parameters())
    shapes = tuple(x.shape[1:]), tuple(y.shape[1:])
    if isinstance(layer, nn.Linear):
        return LayerCost(name, "linear", *shapes, params, layer.in_features * y.numel(), None)
    assert isinstance(layer, _ConvNd)
    positions = math.prod((x if isinstance(layer, _ConvTransposeNd) else y).shape[2:])
    weights = math.prod(layer.kernel_size) * layer.in_channels * layer.out_channels // layer.groups
    return LayerCost(name, "conv", *shapes, params, positions * weights, x.numel() + y.numel() + weights)


def _thop_mult_adds(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Return thop's count for each convolution and linear layer, by the layer's path."""
    import thop
    from thop.vision import basic_hooks, calc_func

    def count_transposed(layer: _ConvNd, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # thop's own rule takes a transposed convolution for a plain one; it is one from the output to the input.
        layer.total_ops += calc_func.calculate_conv2d_flops(
            input_size=list(output.shape),
            output_size=list(inputs[0].shape),
            kernel_size=list(layer.weight.shape),
            groups=layer.groups,
        )

    replica = copy.deepcopy(model)
    layers = _counted_layers(replica)
    # thop looks rules up by exact type, so that a subclass, such as timm's Conv2dSame, would count as nothing.
    rules: dict[type[nn.Module], Callable[..., None]] = {}
    for layer in layers.values():
        if isinstance(layer, nn.Linear):
            rules[type(layer)] = basic_hooks.count_linear
        else:
            rules[type(layer)] = count_transposed if isinstance(layer, _ConvTransposeNd) else basic_hooks.count_convNd
    total, _, tree = thop.profile(replica, inputs=(image,), custom_ops=rules, verbose=False, ret_layer_info=True)
    visits = _visits(replica)
    return {name: round((_at(tree, name) if name else total) / visits[id(layer)]) for name, layer in layers.items()}


def _at(tree: Mapping[str, tuple[float, float, Any]], path: str) -> float:
    ops = 0.0
    for part in path.split("."):
        ops, _, tree = tree[part]
    return ops


def _visits(model: nn.Module) -> Counter[int]:
    """Count how often a walk over all children meets each module: thop hooks a shared module that many times."""
    visits = Counter([id(model)])
    for child in model.children():
        visits += _visits(child)
    return visits


def _places(
    model: nn.Module, closed: Mapping[str, int], by_thop: Mapping[str, int], by_torch: Mapping[str, Mapping[Any, int]]
) -> str:
    """Name the innermost modules in which the three counts differ."""
    root = type(model).__name__

    def differ(name: str) -> bool:
        prefix = f"{name}." if name else ""
        inside = [layer for layer in {*closed, *by_thop} if layer == name or layer.startswith(prefix)]
        ours = sum(closed.get(layer, 0) for layer in inside)
        torchs = sum(by_torch.get(f"{root}.{name}" if name else root, {}).values()) // 2
        return not sum(by_thop.get(layer, 0) for layer in inside) == torchs == ours

    wrong = [name for name, _ in model.named_modules() if differ(name)]
    innermost = [
        name for name in wrong if not any(other.startswith(f"{name}." if name else "") and other != name for other in wrong)
    ]
    return ", ".join(repr(name) if name else root for name in innermost) or root


def _takes_tensors(func: OpOverload[..., Any]) -> bool:
    return any("Tensor" in str(argument.type) for argument in func._schema.arguments)


class _OperationNames(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operator that computes or copies something: views and allocations do neither."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: set[Any] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, OpOverload) and not func.is_view and _takes_tensors(func):
            self._seen.add(func.overloadpacket)
        return func(*args, **(kwargs or {}))

    def beyond(self, counted: Mapping[Any, Any]) -> tuple[str, ...]:
        """Return the sorted names of the operators that ``counted`` does not know; ``relu_`` and ``relu`` are one."""
        return tuple(sorted({packet.__name__.removesuffix("_") for packet in self._seen if packet not in counted}))
