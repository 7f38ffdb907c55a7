"""Several design spaces as the arms of one, at equal multiply-adds: for asking which of them is better at the same work.

Leaves the networks to the arms, whose own architectures it suggests, and the answer to whoever compares them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.base import Architecture, RandomTrial, SearchSpace, SpaceError, Trial, did_you_mean, show
from search_spaces.spec import Choices, Rule, Spec, Whole, read_rules

_NEAR = 0.005
"""Relative distance from the target at which nothing nearer is looked for: far below what a comparison can tell."""

_TURNS = 8
"""Other roundings that are tried where the first one comes no nearer than that."""

_QUICKLY_RUN = 1e9
"""Multiply-adds up to which running a network on one core takes no longer than torch's shape-only kernels, which are Python."""

_DRAWS = 16
"""Networks of an arm that are tried before it is taken for one of which none can be built."""

_LEAST_FACTOR, _GREATEST_FACTOR = 2.0**-13, 2.0**13
"""Multipliers between which every width from 1 to 8192 can become every other one."""


@runtime_checkable
class Scalable(Architecture, Protocol):
    """An architecture whose widths can be multiplied; hashable, as every frozen dataclass of plain values is."""

    def widened(self, factor: float, turn: float = 0.0) -> Architecture:
        """Return the architecture with all widths times ``factor``, made whole; a greater factor must never mean less work.

        ``turn``, from 0 to 1, may choose among several roundings.
        """
        ...


class _Count(Whole):
    """A whole number that may be written as 4e6."""

    def check(self, key: str, value: Any) -> int:
        whole = isinstance(value, float) and value.is_integer()
        return super().check(key, int(value) if whole else value)


@dataclass(frozen=True)
class _Work:
    mult_adds: Annotated[int, _Count(1, 10**15)]


class _Prefixed:
    """A trial as an arm sees it: its names stand behind the arm's, so that arms may ask for other values by the same name."""

    def __init__(self, trial: Trial, arm: str) -> None:
        self._trial, self._arm = trial, arm

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._trial.suggest_int(f"{self._arm}.{name}", low, high, step=step, log=log)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        return self._trial.suggest_float(f"{self._arm}.{name}", low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._trial.suggest_categorical(f"{self._arm}.{name}", choices)


def count_mult_adds(
    space: SearchSpace, architecture: Any, input_shape: Sequence[int], num_classes: int, device: Literal["cpu", "meta"] = "cpu"
) -> int:
    """Return the multiply-adds of convolutions and linear layers on one image; torch's random numbers stay as they are.

    Args:
        space: What builds the architecture.
        architecture: One of the space's.
        input_shape: Channels, height and width of the image.
        num_classes: Classes of the data.
        device: ``cpu`` runs the network; ``meta`` counts by shapes, which is slower for all but large networks.

    Raises:
        RuntimeError: The network cannot take such images, such as one that halves their side too often.
    """
    # torch takes fused paths, which hide operations from its counter, where no gradient can be asked for.
    with torch.random.fork_rng(devices=[]), torch.device(device), torch.enable_grad():
        network = space.build(architecture, input_shape[0], num_classes).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *input_shape))
    return int(counter.get_total_flops() // 2)


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """A space of several arms. ``arm`` is asked first, then ``mult_adds`` if it is open, then what the arm leaves open.

    Where ``mult_adds`` is given, all widths of what the arm suggests are multiplied by the one factor that brings the network as
    near to it as whole numbers of channels allow; its other choices, and the proportions of its widths, stay as suggested.

    Attributes:
        arms: Design spaces by name; a parameter of an arm bears the arm's name before its own, ``osa.layers``.
        mult_adds: Multiply-adds of one image: a value, a list of choices, a range ``{low, high, step, log}``, or none. Work
            that is given needs arms whose architectures are `Scalable`.
        input_shape: Channels, height and width of the images; needed for counting.
        num_classes: Classes of the data; likewise.

    Raises:
        SpaceError: If a value cannot be used.
    """

    arms: Mapping[str, SearchSpace]
    mult_adds: Spec = None
    input_shape: Sequence[int] | None = None
    num_classes: int | None = None
    _work: Rule | None = field(init=False, repr=False, compare=False)
    _families: Mapping[str, SearchSpace] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_arms(self.arms)
        work = None
        if self.mult_adds is not None:
            work = read_rules(_Work, {"mult_adds": self.mult_adds})["mult_adds"]
            _check_input(self.input_shape, self.num_classes)
        families: dict[str, SearchSpace] = {}
        for name, space in self.arms.items():
            architecture = space.suggest(RandomTrial(0))
            if work is not None and not isinstance(architecture, Scalable):
                raise SpaceError(
                    f"space.mult_adds is {show(self.mult_adds)}, but the networks of space.arms.{name} cannot be widened; "
                    "give its architectures a method widened, or take mult_adds out."
                )
            families.setdefault(str(architecture.to_dict().get("family")), space)
            if work is not None:
                self._check_work(_least(work), name)
        object.__setattr__(self, "_work", work)
        object.__setattr__(self, "_families", families)

    def suggest(self, trial: Trial) -> Architecture:
        """Ask ``trial`` for an arm, for the work and for what the arm leaves open, and return the arm's architecture."""
        names = tuple(self.arms)
        arm = trial.suggest_categorical("arm", names)
        wanted = None if self._work is None else int(self._work.ask(trial))
        architecture = self.arms[arm].suggest(_Prefixed(trial, arm))
        return architecture if wanted is None else self._at(wanted, arm, architecture)

    def build(self, architecture: Any, in_channels: int, num_classes: int, features: Sequence[int] | None = None) -> nn.Module:
        """See `base.SearchSpace.build`; ``features`` goes to arms that take it (see `osa.build`)."""
        space: Any = self._of_family(architecture.to_dict())
        more = {} if features is None else {"features": features}
        built: nn.Module = space.build(architecture, in_channels, num_classes, **more)
        return built

    def preset(self, name: str) -> Architecture:
        """Return the preset of the first arm that has one of this name; raise the last arm's SpaceError if none has."""
        for space in list(self._families.values())[:-1]:
            try:
                return space.preset(name)
            except SpaceError:
                continue
        return list(self._families.values())[-1].preset(name)

    def from_dict(self, mapping: Mapping[str, Any]) -> Architecture:
        """Return the architecture that the arm of its ``family`` reads; raise SpaceError if it describes none."""
        if not isinstance(mapping, Mapping):
            raise SpaceError(f"architecture is {show(mapping)}; give a mapping with family and its keys.")
        return self._of_family(mapping).from_dict(mapping)

    def _of_family(self, mapping: Mapping[str, Any]) -> SearchSpace:
        family = mapping.get("family")
        if not isinstance(family, str) or family not in self._families:
            raise SpaceError(f"architecture.family is {show(family)}, which no arm reads{did_you_mean(family, self._families)}")
        return self._families[family]

    def _at(self, wanted: int, arm: str, architecture: Any) -> Architecture:
        assert self.input_shape is not None and self.num_classes is not None
        shape, classes, space = self.input_shape, self.num_classes, self.arms[arm]
        counted: dict[Any, int] = {}
        device: Literal["cpu", "meta"] = "cpu" if wanted <= _QUICKLY_RUN else "meta"

        def count(candidate: Any) -> int:
            if candidate not in counted:
                counted[candidate] = count_mult_adds(space, candidate, shape, classes, device)
            return counted[candidate]

        nearest: Architecture = architecture
        try:
            nearest = _nearest(architecture, wanted, count)
        except NotImplementedError:  # an operation that cannot be counted by shapes, which says nothing of the network
            raise
        except RuntimeError:
            pass  # it cannot be built at any width: whoever builds it will say so, of this one alone
        return nearest

    def _check_work(self, least: int, arm: str) -> None:
        """Refuse work that an arm's networks exceed at any width; a draw that comes not near to it later stays what it is."""
        count = self._least_count(arm)
        if count > least:
            raise SpaceError(
                f"space.mult_adds is {show(self.mult_adds)}, but with one channel everywhere a network of space.arms.{arm} has "
                f"{count:,} already; give more, or let the arm suggest fewer layers."
            )

    def _least_count(self, arm: str) -> int:
        """Return the multiply-adds that a network of an arm has with one channel everywhere; refuse an arm without any."""
        assert self.input_shape is not None and self.num_classes is not None
        space, reason = self.arms[arm], ""
        for seed in range(_DRAWS):
            architecture: Any = space.suggest(RandomTrial(seed))
            try:
                return count_mult_adds(space, architecture.widened(_LEAST_FACTOR), self.input_shape, self.num_classes)
            except RuntimeError as error:
                reason = reason or (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        channels, height, width = self.input_shape
        raise SpaceError(
            f"space.arms.{arm} suggests no network that can be built for a {height}x{width} input with {channels} channels "
            f"({reason}); let it suggest fewer stages or down-samplings, or give larger images."
        )


def _nearest(architecture: Any, wanted: int, count: Callable[[Any], int]) -> Any:
    """Return ``architecture`` widened such that its count is as near to ``wanted`` as can be, by ratio."""
    tried: list[tuple[float, Any]] = []

    def off(factor: float, turn: float = 0.0) -> float:
        candidate = architecture.widened(factor, turn)
        found = math.log(count(candidate) / wanted)
        tried.append((abs(found), candidate))
        return found

    factor = _crossing(off, math.sqrt(wanted / count(architecture)))
    for turn in range(1, _TURNS + 1):
        if min(distance for distance, _ in tried) <= _NEAR:
            break
        off(factor, turn / (_TURNS + 1))
    return min(tried, key=lambda known: known[0])[1]


def _crossing(off: Callable[[float], float], start: float) -> float:
    """Return a factor at which ``off``, which grows with it in steps, is near 0 or steps over it; begin at ``start``.

    ``off`` is about a straight line in the factor's logarithm: the next factor to try lies where the line between the ends of
    the bracket crosses 0, kept away from both ends so that the bracket always shrinks.
    """
    low, high = math.log(_LEAST_FACTOR), math.log(_GREATEST_FACTOR)
    below: float | None = None
    above: float | None = None
    at = math.log(start)
    while high - low > 1e-5:
        at = min(max(at, low), high)
        found = off(math.exp(at))
        ended = at in (low, high) and (found < 0) == (at == high)
        if abs(found) <= _NEAR or ended:
            return math.exp(at)
        if found < 0:
            low, below = at, found
        else:
            high, above = at, found
        if below is None or above is None:
            at -= found / 2 + math.copysign(0.05, found)
        else:
            at = low + min(max(-below / (above - below), 0.15), 0.85) * (high - low)
    return math.exp((low + high) / 2)


def _check_arms(arms: Any) -> None:
    if not isinstance(arms, Mapping) or len(arms) < 2:
        raise SpaceError(f"space.arms is {show(arms)}; give a mapping with two or more design spaces by name.")
    for name, space in arms.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise SpaceError(f"space.arms has the name {show(name)}; give one of letters, digits, _ and -, a letter first.")
        if not isinstance(space, SearchSpace):
            raise SpaceError(f"space.arms.{name} is {show(space)}; give a design space: a mapping with its _target_.")


def _least(work: Rule) -> int:
    (domain,) = work.domains
    return int(min(domain.values) if isinstance(domain, Choices) else domain.low)


def _check_input(shape: Any, num_classes: Any) -> None:
    whole = Whole(1, 2**20)
    if isinstance(shape, str) or not isinstance(shape, Sequence) or len(shape) != 3:
        raise SpaceError(f"space.input_shape is {show(shape)}; give channels, height and width, such as [3, 32, 32].")
    for index, side in enumerate(shape):
        whole.check(f"space.input_shape[{index}]", side)
    whole.check("space.num_classes", num_classes)
