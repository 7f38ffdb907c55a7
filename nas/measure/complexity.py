"""What a network costs on paper: parameters, multiply-adds and memory access, counted in three ways that must agree.

Time, energy and memory in use are the other meters'.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from nas.errors import RunError
from nas.measure.operations import Operations, shape_only
from nas.measure.record import YOUNGER, Record

# Up to here a real pass on one core takes some hundredths of a second; torch's shape-only kernels are Python and take longer.
_QUICKLY_RUN = 4e9
_NAMED_AT_MOST = 3


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
        mem_access_bound: The least that ``mem_access`` could be at equal multiply-adds and weights; ``None`` where that is.
        kernel_size: Of a convolution, by axis; ``None`` of others, and in records that were made before it was kept.
        groups: Likewise.
    """

    name: str
    kind: Literal["conv", "linear"]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    params: int
    mult_adds: int
    mem_access: int | None
    mem_access_bound: float | None
    kernel_size: tuple[int, ...] | None = field(default=None, metadata=YOUNGER)
    groups: int | None = field(default=None, metadata=YOUNGER)


@dataclass(frozen=True)
class Complexity(Record):
    """What one image costs.

    Attributes:
        params: Parameters of the whole network, each counted once.
        mult_adds: Multiply-accumulates of convolutions and linear layers.
        flops: ``2 * mult_adds``.
        mem_access: Sum over all convolutions of ``h_in w_in c_in + h_out w_out c_out + k^2 c_in c_out / groups``, in elements
            (memory access cost: Ma et al. 2018, arXiv 1807.11164, eq. 1; Lee et al. 2019, arXiv 1904.09730).
        mem_access_bound: Sum over all convolutions of ``2 sqrt(h_in w_in c_in * h_out w_out c_out) + k^2 c_in c_out / groups``,
            in elements: by the inequality of arithmetic and geometric means no choice of ``c_in`` and ``c_out`` with the same
            product goes below, and at stride 1 ``c_in = c_out`` reaches it (the papers' bound: there, eq. 2).
        layers: Every call of a convolution or linear layer, in the order of execution.
        uncounted: Names of the other operations that ran; they cost time and are in none of the figures above.
    """

    params: int
    mult_adds: int
    flops: int
    mem_access: int
    mem_access_bound: float
    layers: tuple[LayerCost, ...]
    uncounted: tuple[str, ...]

    @property
    def mem_access_over_bound(self) -> float | None:
        """How far the network is from the least memory access for its work: 1 is the optimum; ``None`` without convolutions."""
        return self.mem_access / self.mem_access_bound if self.mem_access_bound else None


def count(model: nn.Module, input_shape: tuple[int, int, int]) -> Complexity:
    """Count ``model`` on one image of ``input_shape`` (channels, height, width); the model itself is left as it is.

    Runs on a CPU copy where that is quick, on a shape-only copy otherwise, and on a CPU copy again where a network cannot run
    shape-only. A network on the meta device is always counted by shapes.

    Raises:
        RunError: thop, torch's FlopCounterMode and the closed form differ in a layer, or weights are applied outside
            convolution and linear modules; the message names the places with the three figures.
    """
    # torch takes fused paths, which hide operations from the counters, where no gradient can be asked for.
    with torch.inference_mode(False), torch.enable_grad():
        if not _runs_quickly(model, input_shape):
            try:
                return _count(_replica(model, "meta"), torch.zeros(1, *input_shape, device="meta"))
            except RunError:
                raise
            except Exception:  # a network that looks at values cannot run shape-only; a broken one fails again on the CPU
                if any(tensor.is_meta for tensor in model.parameters()):
                    raise
        return _count(_replica(model, "cpu"), torch.zeros(1, *input_shape, device="cpu"))


def _runs_quickly(model: nn.Module, input_shape: tuple[int, int, int]) -> bool:
    """Tell by the most multiply-adds that the weights could do if none of the maps were smaller than the image."""
    weights = [parameter for parameter in model.parameters() if not is_lazy(parameter)]
    if any(weight.is_meta for weight in weights):
        return False
    return sum(weight.numel() for weight in weights) * math.prod(input_shape[1:]) <= _QUICKLY_RUN


def _replica(model: nn.Module, device: Literal["meta", "cpu"]) -> nn.Module:
    memo: dict[int, Any] = {}
    if device == "meta":  # what deepcopy finds in its memo it does not copy: there may be hundreds of megabytes of weights
        for tensor in (*model.parameters(), *model.buffers()):
            if not is_lazy(tensor):
                stand_in = shape_only(tensor)
                memo[id(tensor)] = nn.Parameter(stand_in, False) if isinstance(tensor, nn.Parameter) else stand_in
    replica = copy.deepcopy(model, memo).to(device).float().eval()
    for parameter in replica.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return replica


def _count(model: nn.Module, image: Tensor) -> Complexity:
    counter = FlopCounterMode(display=False)
    ledger = _Ledger(counter)
    operations = Operations(counter, model, lambda: ledger.inside_layer)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, _ConvNd | nn.Linear):
                stack.callback(module.register_forward_pre_hook(ledger.enter).remove)
                leave = module.register_forward_hook(ledger.leave(name), with_kwargs=True)
                stack.callback(leave.remove)
        stack.enter_context(counter)
        stack.enter_context(operations)
        model(image)

    _agree(ledger, operations)
    mult_adds = sum(cost.mult_adds for cost in ledger.costs)
    return Complexity(
        params=sum(parameter.numel() for parameter in model.parameters()),
        mult_adds=mult_adds,
        flops=2 * mult_adds,
        mem_access=sum(cost.mem_access or 0 for cost in ledger.costs),
        mem_access_bound=math.fsum(cost.mem_access_bound or 0.0 for cost in ledger.costs),
        layers=tuple(ledger.costs),
        uncounted=operations.uncounted(),
    )


@dataclass
class _Ledger:
    """What hooks gather about each call of a layer while the network runs.

    Attributes:
        costs: By the closed form, in the order of execution.
        calls: For each of them the layer, its input and its output, these without data.
        by_torch: Multiply-adds by layer, summed over its calls.
    """

    counter: FlopCounterMode
    costs: list[LayerCost] = field(default_factory=list)
    calls: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)
    by_torch: Counter[str] = field(default_factory=Counter)
    _open: list[int] = field(default_factory=list)

    @property
    def inside_layer(self) -> bool:
        return bool(self._open)

    def enter(self, layer: nn.Module, inputs: Any) -> None:
        self._open.append(self.counter.get_total_flops())

    def leave(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            flops = self.counter.get_total_flops() - self._open.pop()
            # A layer inside a layer is counted for itself only.
            self._open = [start + flops for start in self._open]
            x: Tensor = inputs[0] if inputs else named["input"]
            self.costs.append(_layer_cost(name, layer, x, output))
            self.calls.append((layer, shape_only(x), shape_only(output)))
            self.by_torch[name] += flops // 2

        return hook


def _layer_cost(name: str, layer: nn.Module, x: Tensor, y: Tensor) -> LayerCost:
    """Closed forms for one image: every weight meets each output position, or each input position if transposed."""
    params = sum(parameter.numel() for parameter in layer.parameters())
    shapes = tuple(x.shape[1:]), tuple(y.shape[1:])
    if isinstance(layer, nn.Linear):
        return LayerCost(name, "linear", *shapes, params, layer.in_features * y.numel(), None, None)
    assert isinstance(layer, _ConvNd)
    positions = math.prod((x if isinstance(layer, _ConvTransposeNd) else y).shape[2:])
    weights = math.prod(layer.kernel_size) * layer.in_channels * layer.out_channels // layer.groups
    mem_access = x.numel() + y.numel() + weights
    bound = 2 * math.sqrt(x.numel() * y.numel()) + weights
    kernel_size = tuple(layer.kernel_size)
    return LayerCost(name, "conv", *shapes, params, positions * weights, mem_access, bound, kernel_size, layer.groups)


def _thop_mult_adds(layer: Any, x: Tensor, y: Tensor) -> int:
    """Return what thop's rule gives for one call of a layer.

    The rule is chosen here because thop chooses by exact type, so that a subclass, such as timm's Conv2dSame, would count as
    nothing, and takes a transposed convolution for a plain one, where it is one from the output to the input.
    """
    from thop.vision import basic_hooks

    layer.total_ops = 0
    try:
        if isinstance(layer, nn.Linear):
            basic_hooks.count_linear(layer, (x,), y)
        elif isinstance(layer, _ConvTransposeNd):
            basic_hooks.count_convNd(layer, (y,), x)
        else:
            basic_hooks.count_convNd(layer, (x,), y)
        return int(layer.total_ops)
    finally:
        del layer.total_ops


def _agree(ledger: _Ledger, operations: Operations) -> None:
    closed: Counter[str] = Counter()
    by_thop: Counter[str] = Counter()
    for cost, call in zip(ledger.costs, ledger.calls, strict=True):
        closed[cost.name] += cost.mult_adds
        by_thop[cost.name] += _thop_mult_adds(*call)  # here, since its arithmetic is not to be taken for the network's
    wrong = [
        (name, by_thop[name], ledger.by_torch[name], closed[name])
        for name in closed
        if not by_thop[name] == ledger.by_torch[name] == closed[name]
    ]
    wrong += [(place, 0, flops // 2, 0) for place, flops in operations.outside_layers.items()]
    if not wrong:
        return
    named = "; ".join(
        f"{place!r}: thop {thops:,}, FlopCounterMode {torchs:,}, closed form {ours:,}"
        for place, thops, torchs, ours in wrong[:_NAMED_AT_MOST]
    )
    more = f"; and in {len(wrong) - _NAMED_AT_MOST} more places" if len(wrong) > _NAMED_AT_MOST else ""
    raise RunError(
        f"the counts of multiply-adds disagree in {named}{more}; use convolution and linear modules there instead of "
        "functional calls"
    )
