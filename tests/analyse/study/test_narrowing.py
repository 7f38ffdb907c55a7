"""A narrowed space is a part of the space that it came from, whatever was found good."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.analyse.study.good_values import GoodValues, good_values
from nas.analyse.study.narrowing import Change, Domain, Listed, Narrowed, Ranged, narrow
from nas.proposing import asked
from nas.start import locate
from nas.targets import build_target
from search_spaces.base import RandomTrial, SearchSpace, to_yaml

CONF = Path(__file__).parents[3] / "conf" / "space"
SHIPPED = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted(CONF.glob("*.yaml"))
    if "each" in path.read_text() or "per_stage" in path.read_text()
}
SHIPPED["every form"] = {
    "_target_": "search_spaces.osa.OSASpace",
    "stem": {
        "kind": ["cifar", "imagenet"],
        "width": {"low": 8, "high": 61, "step": 8},
        "inner_width": {"low": 4, "high": 300, "log": True},
    },
    "stages": {"low": 1, "high": 4},
    "depth": {"each": [1, 2, 3]},
    "layers": {"low": 2, "high": 9},
    "conv_channels": {"each": {"low": 3, "high": 99, "step": 4}},
    "concat_channels": {"per_stage": [24, {"low": 16, "high": 512, "log": True}, [8, 16, 24, 32], [8, 64], 99]},
    "bottleneck": {"each": [False, True]},
    "bottleneck_ratio": {"each": {"low": 0.1, "high": 1, "step": 0.3}},
    "ese": [False, "last", True],
    "identity": {"each": [False, True]},
    "downsample": {"each": ["maxpool", "conv", "none"]},
}
SHIPPED["no stages said"] = {"_target_": "search_spaces.dense.DenseSpace", "layers": {"each": {"low": 2, "high": 9}}}
SHIPPED["real"] = {
    "_target_": "search_spaces.dense.DenseSpace",
    "stages": [1, 2],
    "bottleneck": True,
    "bottleneck_ratio": {"low": 0.123456789012345, "high": 4},
    "compression": {"each": {"low": 0.3, "high": 1, "log": True}},
}


def drawn(space: SearchSpace, count: int, seed: int = 0) -> list[dict[str, Any]]:
    trials = [RandomTrial(1000 * seed + number) for number in range(count)]
    for trial in trials:
        space.suggest(trial)
    return [trial.params for trial in trials]


@cache
def all_asked(name: str) -> dict[str, Domain]:
    space = build_target("space", SHIPPED[name])
    return asked(space, drawn(space, 400, 7))


def holds(domain: Domain, value: Any) -> bool:
    if isinstance(domain, Listed):
        return any(type(one) is type(value) and one == value for one in domain.values)
    steps = 0.0 if domain.step is None else (value - domain.low) / domain.step
    return bool(domain.low <= value <= domain.high and abs(steps - round(steps)) < 1e-6)


@pytest.mark.parametrize("name", SHIPPED)
@given(seed=st.integers(0, 999), count=st.integers(12, 120), least=st.sampled_from([1, 12]), losses=st.sampled_from([1, 2]))
@settings(max_examples=12, deadline=None)
def test_every_network_of_the_narrowed_space_is_one_of_the_space(
    name: str, seed: int, count: int, least: int, losses: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = SHIPPED[name]
    space = build_target("space", plain)
    params = drawn(space, count, seed)
    # Some choices decide, in a different direction each time: so that ranges and lists are cut at either end and in the middle.
    random = np.random.default_rng(seed)
    weights = {key: random.normal() for given in params for key in given}
    score = [sum(weights[key] * crc32(f"{key}{value}".encode()) % 7 for key, value in given.items()) for given in params]
    found = good_values(params, np.stack([score, random.normal(size=count)][:losses], axis=1).astype(float), seed, 300, least)
    narrowed = narrow(plain, asked(space, params), found)
    if isinstance(narrowed, str):
        assert narrowed == "good values of every choice lie all over it"
        return
    assert narrowed.changes and list(narrowed.space) == list(plain)
    assert all(change.before != change.after for change in narrowed.changes)
    narrower = build_target("space", narrowed.space)
    domains = all_asked(name)
    path = tmp_path_factory.mktemp("located") / "architecture.yaml"
    for number, answers in enumerate(drawn(narrower, 20, seed)):
        assert all(holds(domains[key], value) for key, value in answers.items())
        if number < 3:
            trial = RandomTrial(1000 * seed + number)
            path.write_text(to_yaml(narrower.suggest(trial)), encoding="utf-8")
            locate(space, str(path))  # raises if the space holds no such network


def good(choice: str, shares: dict[Any, float], low: float | None = None, high: float | None = None) -> GoodValues:
    return GoodValues(choice, 50, tuple(shares), tuple(shares.values()), low, low, high)


def narrowed(space: dict[str, Any], asked: dict[str, Domain], *found: GoodValues) -> dict[str, Any]:
    result = narrow({"_target_": "x.Y", **space}, asked, found)
    assert isinstance(result, Narrowed)
    assert {change.key for change in result.changes} <= set(space) | {"stem.width"}
    return {key: value for key, value in result.space.items() if key != "_target_"}


def test_ranges_are_cut_outward_to_their_steps() -> None:
    space = {
        "width": {"low": 8, "high": 65, "step": 8},
        "ratio": {"low": 0.1, "high": 1.0, "step": 0.1},
        "any": {"low": 0.0, "high": 1.0},
    }
    domains: dict[str, Domain] = {
        "width": Ranged(8, 64, 8, False),
        "ratio": Ranged(0.1, 1.0, 0.1, False),
        "any": Ranged(0.0, 1.0, None, False),
    }
    found = narrowed(
        space, domains, good("width", {}, 17, 40), good("ratio", {}, 0.30000000000000004, 0.3), good("any", {}, 0.5432, 0.6789)
    )
    assert found == {"width": {"low": 16, "high": 40, "step": 8}, "ratio": 0.3, "any": {"low": 0.54, "high": 0.68}}


def test_of_a_list_stays_what_was_good_and_what_was_never_tried() -> None:
    listed: dict[str, Domain] = {"kind": Listed(("a", "b", "c", "d"))}
    assert narrowed({"kind": ["a", "b", "c", "d"]}, listed, good("kind", {"a": 0.024, "b": 0.951, "c": 0.025})) == {
        "kind": ["b", "c", "d"]
    }
    assert narrowed({"kind": ["a", "b", "c", "d"]}, listed, good("kind", {"a": 0, "b": 1, "c": 0, "d": 0})) == {"kind": "b"}
    # True stands for a name there, and stays true.
    flags: dict[str, Domain] = {"ese": Listed(("none", "every"))}
    assert narrowed({"ese": [False, True]}, flags, good("ese", {"every": 1.0, "none": 0.0})) == {"ese": True}


def test_a_value_of_many_is_never_lost_for_being_one_of_many() -> None:
    values = tuple(range(100))
    found = good("k", {value: 0.02 if value < 50 else 0.0 for value in values})
    assert narrowed({"k": list(values)}, {"k": Listed(values)}, found) == {"k": list(range(50))}


def test_each_becomes_per_stage_where_stages_differ() -> None:
    space = {"stages": [1, 2, 3], "layers": {"each": [2, 3, 4]}, "stem": {"width": [8, 16], "kind": "cifar"}}
    layers = {f"stage{stage}.layers": Listed((2, 3, 4)) for stage in (1, 2, 3)}
    domains: dict[str, Domain] = {"stages": Listed((1, 2, 3)), "stem.width": Listed((8, 16)), **layers}
    first, second = good("stage1.layers", {2: 1, 3: 0, 4: 0}), good("stage2.layers", {2: 0, 3: 0.5, 4: 0.5})
    found = narrowed(space, domains, first, second, good("stem.width", {8: 0.0, 16: 1.0}))
    assert found == {**space, "layers": {"per_stage": [2, [3, 4], [2, 3, 4]]}, "stem": {"width": 16, "kind": "cifar"}}
    # With two stages at most, the third needs no entry; where all are cut alike, each stays.
    found = narrowed(space, domains, first, second, good("stages", {1: 0.5, 2: 0.5, 3: 0.0}))
    assert found["stages"] == [1, 2] and found["layers"] == {"per_stage": [2, [3, 4]]}
    alike = [good(f"stage{stage}.layers", {2: 1, 3: 0, 4: 0}) for stage in (1, 2, 3)]
    assert narrowed(space, domains, *alike)["layers"] == {"each": 2}
    # A first stage that is never asked gets no entry of its own; nothing is known where another one was never built.
    unasked = {name: domain for name, domain in domains.items() if name != "stage1.layers"}
    third = good("stage3.layers", {2: 0, 3: 1, 4: 0})
    assert narrowed(space, unasked, second, third)["layers"] == {"each": [3, 4]}
    unbuilt = {name: domain for name, domain in domains.items() if name != "stage3.layers"}
    kept = narrowed(space, unbuilt, first, second, good("stem.width", {8: 0.0, 16: 1.0}))
    assert kept["layers"] == {"each": [2, 3, 4]}


def test_what_changed_is_said() -> None:
    space = {"_target_": "x.Y", "stem": {"width": [8, 16]}, "k": [1, 2]}
    domains: dict[str, Domain] = {"stem.width": Listed((8, 16)), "k": Listed((1, 2))}
    found = narrow(space, domains, [good("k", {1: 0.5, 2: 0.5}), good("stem.width", {8: 1.0, 16: 0.0})])
    assert isinstance(found, Narrowed) and found.changes == (Change("stem.width", [8, 16], 8),)


@pytest.mark.parametrize(
    ("space", "domain"),
    [
        ({"max_depth": 4}, Ranged(1, 4, 1, False)),
        ({"depth": 4}, Ranged(1, 4, 1, False)),
        ({"depth": [1, 4]}, Ranged(1, 4, 1, False)),
        ({"depth": [1, 4]}, Listed((1, 2))),
        ({"depth": {"low": 2, "high": 4}}, Ranged(1, 4, 1, False)),
        ({"depth": {"each": [1, 4]}}, Listed((1, 4))),
    ],
)
def test_another_language_is_refused(space: dict[str, Any], domain: Domain) -> None:
    found = narrow(space, {"depth": domain}, [good("depth", {1: 1.0, 4: 0.0}, 1, 1)])
    assert isinstance(found, str) and "asks for depth" in found and "search_spaces.spec" in found
