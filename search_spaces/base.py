"""What a design space is to the rest of the world: its protocols, its errors, and what holds for every family.

Leaves the language of a space's configuration to `spec` and the networks to the families.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import random
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import yaml
from torch import nn

Choice = TypeVar("Choice", bool, int, float, str)
Found = TypeVar("Found")


class SpaceError(ValueError):
    """A space, an architecture or a preset's name cannot be used: one sentence with the key, the value and the remedy."""


@runtime_checkable
class Trial(Protocol):
    """The part of `optuna.Trial` that a space may ask. Asked twice under one name, it gives one answer."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return a whole number from ``low`` to ``high``, both included."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """Return a number from ``low`` to ``high``, both included."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:  # Optuna's overloads fit no type variable
        """Return one of ``choices``."""
        ...


@runtime_checkable
class Architecture(Protocol):
    """An immutable description of one network, apart from its input channels and classes; picklable, compared by value."""

    @property
    def id(self) -> str:
        """A stable hash of what is built: equal exactly for equal operations on equal shapes (see `operations_id`)."""
        ...

    @property
    def stride(self) -> int:
        """Product of all down-samplings: input side ÷ side of the last feature map, but for rounding."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML data, with the name of the family under ``family``."""
        ...


@runtime_checkable
class SearchSpace(Protocol):
    """A design space. ``architecture`` is always one of the space's own, which is why its type is open here."""

    def suggest(self, trial: Trial) -> Architecture:
        """Ask ``trial`` for all that is open and return the architecture that it describes."""
        ...

    def build(self, architecture: Any, in_channels: int, num_classes: int) -> nn.Module:
        """Return the network, (N, in_channels, H, W) → (N, num_classes), with fresh weights on torch's default device."""
        ...

    def preset(self, name: str) -> Architecture:
        """Return a published architecture by name; an unknown name raises SpaceError."""
        ...

    def from_dict(self, mapping: Mapping[str, Any]) -> Architecture:
        """Return the architecture whose `to_dict` is ``mapping``; anything else raises SpaceError."""
        ...


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to ``name``, or a list of the known names."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; give one of {', '.join(names)}."


def show(value: object) -> str:
    """Return ``value`` for a message: as YAML would write it, and bounded in length however large or deep it is."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python refuses to write integers of more than 4,300 digits
        return "a huge number"
    return text if len(text) <= 120 else f"{text[:117]}..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple = 3, 6, 8, 8
_SHORT.maxstring = _SHORT.maxother = 60


def look_up(table: Mapping[str, Found], name: str) -> Found:
    """Return the preset ``name``; raise SpaceError that names the nearest one if there is none."""
    if not isinstance(name, str) or name not in table:
        raise SpaceError(f"preset is {show(name)}, which is not known{did_you_mean(name, table)}")
    return table[name]


def operations_id(operations: Iterable[object]) -> str:
    """Return 16 hex digits that are equal exactly for equal lists of operations (SHA-256, collisions aside).

    Args:
        operations: What is built, in order and without redundancy, as JSON data: names, numbers, lists and mappings.
    """
    text = json.dumps(list(operations), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_yaml(architecture: Architecture) -> str:
    """Return the architecture as a YAML document that `from_yaml` reads back."""
    return yaml.safe_dump(architecture.to_dict(), sort_keys=False)


def from_yaml(space: SearchSpace, text: str) -> Architecture:
    """Return the architecture of ``space`` that a YAML document describes.

    Raises:
        SpaceError: If the text is no YAML, or does not describe an architecture of this space.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        place = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SpaceError(f"the architecture is no YAML ({error.problem}{place}); correct the file.") from None
    # PyYAML lets errors of Python's own through where a tagged value makes no sense ('!!int ""') or nests too deep.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise SpaceError(
            f"the architecture is no plain YAML ({type(error).__name__}: {show(str(error))}); correct the file."
        ) from None
    return space.from_dict(document)


class RandomTrial:
    """Stands in for an Optuna trial: independent uniform draws from the standard library's generator.

    Attributes:
        params: What was answered so far, by name.
    """

    def __init__(self, seed: int) -> None:
        self.params: dict[str, Any] = {}
        self._random = random.Random(seed)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return a whole number, uniform over the steps, or over the logarithm if ``log``."""
        if name not in self.params:
            if log:
                # Each number owns the interval that rounds to it, so that the two ends are not drawn half as often.
                drawn = round(math.exp(self._random.uniform(math.log(low - 0.5), math.log(high + 0.5))))
                self.params[name] = min(max(drawn, low), high)
            else:
                self.params[name] = self._random.randrange(low, high + 1, step)
        return int(self.params[name])

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """Return a number, uniform over the steps or the interval, or over the logarithm if ``log``."""
        if name not in self.params:
            if step is not None:
                steps = math.floor((high - low) / step + 1e-9)
                self.params[name] = min(low + step * self._random.randint(0, steps), high)
            elif log:
                drawn = math.exp(self._random.uniform(math.log(low), math.log(high)))
                self.params[name] = min(max(drawn, low), high)
            else:
                self.params[name] = self._random.uniform(low, high)
        return float(self.params[name])

    def suggest_categorical(self, name: str, choices: Sequence[Choice]) -> Choice:
        """Return one of ``choices``, each as likely as the others."""
        if name not in self.params:
            self.params[name] = choices[self._random.randrange(len(choices))]
        answer: Choice = self.params[name]
        return answer


def sample_buildable(
    space: SearchSpace, input_shape: tuple[int, int, int], num_classes: int, count: int = 1, tries: int = 64
) -> tuple[Architecture, ...]:
    """Return random architectures of ``space`` that take such an input, tried without allocating any network.

    Args:
        space: The design space.
        input_shape: Channels, height and width of one image.
        num_classes: Classes of the data.
        count: How many different ones are wanted; fewer are returned if the tries do not yield them.
        tries: Random suggestions to try; equal ones are tried once.

    Raises:
        SpaceError: If none of them can be built; names the input size and the reason that the last one gave.
    """
    reasons: dict[str, str] = {}
    found: dict[str, Architecture] = {}
    for seed in range(tries):
        if len(found) == count:
            break
        architecture = space.suggest(RandomTrial(seed))
        if architecture.id in reasons or architecture.id in found:
            continue
        reason = _reason_against(space, architecture, input_shape, num_classes)
        if reason is None:
            found[architecture.id] = architecture
        else:
            reasons[architecture.id] = reason
    if found:
        return tuple(found.values())
    channels, height, width = input_shape
    raise SpaceError(
        f"space: none of {len(reasons)} random architectures can be built for a {height}x{width} input with "
        f"{channels} channels (the last one: {list(reasons.values())[-1]}); "
        "allow fewer down-samplings, a stem with a smaller stride, or give larger images."
    )


def _reason_against(
    space: SearchSpace, architecture: Architecture, input_shape: tuple[int, int, int], num_classes: int
) -> str | None:
    side = min(input_shape[1:])
    # A stride-2 convolution maps one pixel to one pixel, so a forward pass alone would let it halve nothing for ever.
    if architecture.stride >= 2 * side:
        return f"its down-samplings divide the side by {architecture.stride}, more than its {side} pixels"
    try:
        try:
            _forward(space, architecture, input_shape, num_classes, "meta")
        except NotImplementedError:  # an operation of the user's own without a meta kernel: only a real pass can tell
            _forward(space, architecture, input_shape, num_classes, "cpu")
    except (RuntimeError, ValueError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return None


def _forward(
    space: SearchSpace, architecture: Architecture, input_shape: tuple[int, int, int], num_classes: int, device: str
) -> None:
    with torch.device(device), torch.no_grad():
        model = space.build(architecture, input_shape[0], num_classes).eval()
        model(torch.zeros(1, *input_shape))
