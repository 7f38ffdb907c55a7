"""Properties of whatever the spaces suggest: it builds, round-trips, trains, runs where networks run, and has the right id."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import thop
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import dense, osa
from search_spaces.base import RandomTrial, from_yaml, to_yaml

OSA = osa.OSASpace(
    stem={"kind": ["cifar", "imagenet"], "width": {"low": 1, "high": 12}, "inner_width": [4, 8]},
    activation=["relu", "silu", "hardswish", "gelu"],
    stages={"low": 1, "high": 3},
    depth={"each": [1, 2, 3]},
    layers={"each": {"low": 1, "high": 4}},
    conv_channels={"each": {"low": 1, "high": 12}},
    concat_channels={"each": {"low": 1, "high": 16}},
    downsample={"each": ["none", "maxpool", "conv"]},
    bottleneck={"each": [False, True]},
    bottleneck_ratio={"each": {"low": 0.1, "high": 2.0}},
    identity={"each": [False, True]},
    ese={"each": ["none", "last", "every"]},
    depthwise={"each": [False, True]},
)
DENSE = dense.DenseSpace(
    stem={"kind": ["cifar", "imagenet"], "width": {"low": 1, "high": 12}},
    activation=["relu", "silu"],
    stages={"low": 1, "high": 3},
    layers={"each": {"low": 1, "high": 4}},
    growth={"each": {"low": 1, "high": 12}},
    bottleneck={"each": [False, True]},
    bottleneck_ratio={"each": {"low": 0.5, "high": 4.0}},
    compression={"each": {"low": 0.1, "high": 1.0}},
)
SPACES = [pytest.param(OSA, id="osa"), pytest.param(DENSE, id="dense")]
SEEDS = st.integers(0, 2**32 - 1)
EXAMPLES = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("space", SPACES)
@EXAMPLES
@given(seed=SEEDS)
def test_every_suggestion_builds_round_trips_and_trains_a_step(space: Any, seed: int) -> None:
    architecture = space.suggest(RandomTrial(seed))
    again = from_yaml(space, to_yaml(architecture))
    assert again == architecture
    assert again.id == architecture.id
    assert space.suggest(RandomTrial(seed)) == architecture

    torch.manual_seed(seed)
    model = space.build(architecture, in_channels=2, num_classes=5)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model(torch.randn(4, 2, 64, 64))
    assert logits.shape == (4, 5)
    loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3]))
    assert loss.item() == pytest.approx(torch.tensor(5.0).log().item(), abs=0.5)  # uniform over the classes at first
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimiser.step()
    assert model(torch.randn(4, 2, 64, 64)).isfinite().all()


def graph(space: Any, architecture: Any) -> tuple[Any, ...]:
    """Return what `torch.fx` sees: every operation with its settings and inputs in order, and the parameters' shapes."""
    with torch.device("meta"):
        model = space.build(architecture, 3, 5)
    traced = torch.fx.symbolic_trace(model)
    modules = dict(traced.named_modules())
    names: dict[torch.fx.Node, Any] = {}
    operations: list[Any] = []

    def resolve(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return tuple(resolve(item) for item in argument)
        return names[argument] if isinstance(argument, torch.fx.Node) else argument

    for node in traced.graph.nodes:
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Identity):
            names[node] = names[node.args[0]]
            continue
        what = repr(modules[str(node.target)]) if node.op == "call_module" else getattr(node.target, "__name__", node.op)
        names[node] = len(operations)
        operations.append((what, resolve(node.args), tuple((k, resolve(v)) for k, v in node.kwargs.items())))
    return (*operations, *(tuple(p.shape) for p in model.parameters()))


def redundant_osa(trial: RandomTrial) -> osa.Architecture:
    """Return an architecture from few values, with every field drawn, relevant or not."""
    choose = trial.suggest_categorical

    def stage(n: int) -> osa.Stage:
        return osa.Stage(
            depth=choose(f"{n}depth", (1, 1, 2)),
            layers=choose(f"{n}layers", (1, 2)),
            conv_channels=4,
            concat_channels=6,
            downsample=choose(f"{n}down", ("none", "none", "conv")),
            bottleneck=choose(f"{n}bottleneck", (False, True)),
            bottleneck_ratio=choose(f"{n}ratio", (0.45, 0.5, 0.52, 0.55, 1.0)),
            identity=choose(f"{n}identity", (False, True)),
            ese=choose(f"{n}ese", ("none", "last", "every")),
            depthwise=choose(f"{n}depthwise", (False, True)),
        )

    stem = osa.Stem(kind="cifar", width=choose("width", (4, 6)), inner_width=choose("inner", (4, 5, 6, 7, 8)))
    return osa.Architecture(stem=stem, stages=tuple(stage(n) for n in range(choose("stages", (1, 1, 1, 2)))))


def redundant_dense(trial: RandomTrial) -> dense.Architecture:
    choose = trial.suggest_categorical

    def stage(n: int) -> dense.Stage:
        return dense.Stage(
            layers=choose(f"{n}layers", (1, 2)),
            growth=4,
            bottleneck=choose(f"{n}bottleneck", (False, True)),
            bottleneck_ratio=choose(f"{n}ratio", (1.0, 1.05, 2.0)),
            compression=choose(f"{n}compression", (0.5, 0.52, 1.0)),
        )

    stem = dense.Stem(kind=choose("kind", ("cifar", "imagenet")), width=choose("width", (4, 6)))
    return dense.Architecture(stem=stem, stages=tuple(stage(n) for n in range(choose("stages", (1, 2)))))


def neighbours(draw: Any, seed: int) -> tuple[Any, Any]:
    """Return two architectures that differ in one field at most, which may or may not matter."""
    one, other = RandomTrial(seed), RandomTrial(~seed)
    first = draw(one)
    redrawn = sorted(one.params)[seed % len(one.params)]
    other.params |= {name: value for name, value in one.params.items() if name != redrawn}
    return first, draw(other)


@pytest.mark.parametrize(("space", "draw"), [(OSA, redundant_osa), (DENSE, redundant_dense)], ids=["osa", "dense"])
def test_ids_are_equal_exactly_where_the_traced_graphs_are(space: Any, draw: Any) -> None:
    architectures = {architecture for seed in range(60) for architecture in neighbours(draw, seed)}
    by_id, by_graph = defaultdict(set), defaultdict(set)
    for architecture in architectures:
        by_id[architecture.id].add(architecture)
        by_graph[graph(space, architecture)].add(architecture)
    assert {frozenset(group) for group in by_id.values()} == {frozenset(group) for group in by_graph.values()}
    assert 10 < len(by_id) < len(architectures) - 10  # the sample holds both equal and different pairs


STAGE = osa.Stage(conv_channels=8, concat_channels=12, downsample="none")
NET = osa.Architecture(stem=osa.Stem(width=12), stages=(STAGE,))


def with_stages(*stages: osa.Stage) -> osa.Architecture:
    return replace(NET, stages=stages)


EQUAL = {
    "ratio without bottleneck": (NET, with_stages(replace(STAGE, bottleneck_ratio=0.25))),
    "ratio that rounds alike": (
        with_stages(replace(STAGE, bottleneck=True, bottleneck_ratio=0.5)),
        with_stages(replace(STAGE, bottleneck=True, bottleneck_ratio=0.51)),
    ),
    "inner width of a cifar stem": (NET, replace(NET, stem=osa.Stem(width=12, inner_width=3))),
    "shortcut in a stage of one module": (NET, with_stages(replace(STAGE, identity=True))),
    "attention in a stage of one module": (
        with_stages(replace(STAGE, ese="last")),
        with_stages(replace(STAGE, ese="every")),
    ),
    "a border that changes nothing": (with_stages(STAGE, STAGE), with_stages(replace(STAGE, depth=2))),
    "a single separable layer behind its own reduction": (
        replace(with_stages(replace(STAGE, depthwise=True, layers=1)), stem=osa.Stem(width=9)),
        replace(
            with_stages(replace(STAGE, depthwise=True, layers=1, bottleneck=True, bottleneck_ratio=1.0)),
            stem=osa.Stem(width=9),
        ),
    ),
}
DIFFERENT = {
    "a border that hinders a shortcut": (
        with_stages(replace(STAGE, identity=True), replace(STAGE, identity=True)),
        with_stages(replace(STAGE, identity=True, depth=2)),
    ),
    "a border that moves attention": (
        with_stages(replace(STAGE, ese="last"), replace(STAGE, ese="last")),
        with_stages(replace(STAGE, ese="last", depth=2)),
    ),
    "a bottleneck as wide as its layer": (
        NET,
        with_stages(replace(STAGE, bottleneck=True, bottleneck_ratio=1.0)),
    ),
    "down-sampling by pool and by convolution": (
        with_stages(replace(STAGE, downsample="maxpool")),
        with_stages(replace(STAGE, downsample="conv")),
    ),
    "activation": (NET, replace(NET, activation="silu")),
    "where the down-sampling stands": (
        with_stages(STAGE, replace(STAGE, downsample="maxpool")),
        with_stages(replace(STAGE, downsample="maxpool"), STAGE),
    ),
    "a separable stem, made so by the first stage": (
        osa.Architecture(stem=osa.Stem(kind="imagenet"), stages=(replace(STAGE, depthwise=True),)),
        osa.Architecture(stem=osa.Stem(kind="imagenet"), stages=(STAGE,)),
    ),
}


@pytest.mark.parametrize("pair", EQUAL.values(), ids=EQUAL)
def test_what_changes_nothing_changes_no_id(pair: tuple[osa.Architecture, osa.Architecture]) -> None:
    one, other = pair
    assert one != other
    assert graph(OSA, one) == graph(OSA, other)
    assert one.id == other.id


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_what_changes_the_network_changes_the_id(pair: tuple[osa.Architecture, osa.Architecture]) -> None:
    one, other = pair
    assert graph(OSA, one) != graph(OSA, other)
    assert one.id != other.id


def test_the_id_leaves_out_input_channels_and_classes() -> None:
    grey, colour = (OSA.build(NET, channels, classes) for channels, classes in ((1, 10), (3, 100)))
    shapes = [[p.shape for p in model.parameters()] for model in (grey, colour)]
    assert [a == b for a, b in itertools.zip_longest(*shapes)].count(False) == 3  # first weight, last weight, last bias


VARIED = [pytest.param(OSA, OSA.suggest(RandomTrial(seed)), id=f"osa{seed}") for seed in (1, 2, 3, 4)] + [
    pytest.param(DENSE, DENSE.suggest(RandomTrial(seed)), id=f"dense{seed}") for seed in (1, 2)
]


@pytest.mark.parametrize(("space", "architecture"), VARIED)
def test_the_networks_run_in_channels_last_and_under_bf16_autocast(space: Any, architecture: Any) -> None:
    torch.manual_seed(0)
    model = space.build(architecture, 3, 5)
    image = torch.randn(2, 3, 64, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model(image)  # gives the norms statistics that keep the signal of these narrow networks alive
    model.eval()
    with torch.inference_mode():
        expected = model(image)
        tolerance = 1e-4 * expected.abs().max().item()
        model.to(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last)
        assert model.stages(model.stem(image)).is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model(image), expected, atol=tolerance, rtol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = model(image)
    assert low.dtype is torch.bfloat16
    assert (low.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(("space", "architecture"), VARIED)
def test_both_counters_see_every_convolution(space: Any, architecture: Any) -> None:
    model = space.build(architecture, 3, 5)
    image = torch.randn(1, 3, 64, 64)
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(image)
    seen = 0.0

    def convolution(module: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal seen
        thop.vision.basic_hooks.count_convNd(module, inputs, output)
        seen += module.total_ops.item()

    def linear(module: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal seen
        thop.vision.basic_hooks.count_linear(module, inputs, output)
        seen += module.total_ops.item()

    thop.profile(model, (image,), custom_ops={nn.Conv2d: convolution, nn.Linear: linear}, verbose=False)
    assert 2 * seen == counter.get_total_flops()
