"""What a configuration may say for a value of a design space, how it is checked, and how it is asked of a trial.

Leaves to the families which values there are, by annotated dataclasses, and which of them matter when.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, Protocol, TypeVar, cast, get_type_hints

from search_spaces.base import SpaceError, Trial, did_you_mean, show

Scalar = bool | int | float | str
# A fixed value, a list of choices, {low, high, step, log}, {each: …} or {per_stage: […]}; `read_rules` checks it.
Spec = Any
RecordType = TypeVar("RecordType")
_LEAST_STEP = 1e-6
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, without their whole part, lie evenly between 0 and 1 however many there are


class Kind(Protocol):
    """What one value may be; the annotation of a field in a family's dataclasses."""

    def check(self, key: str, value: Any) -> Any:
        """Return ``value`` in its canonical form; raise SpaceError, naming ``key``, if it is no such value."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    def check(self, key: str, value: Any) -> int:
        """See `Kind.check`."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise SpaceError(f"{key} is {show(value)}; give a whole number from {self.low} to {self.high}.")
        return value


@dataclass(frozen=True)
class Width(Whole):
    """A number of channels: a whole number that `widened` multiplies."""


@dataclass(frozen=True)
class Real:
    """A number from ``low`` to ``high``."""

    low: float
    high: float

    def check(self, key: str, value: Any) -> float:
        """See `Kind.check`."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise SpaceError(f"{key} is {show(value)}; give a number from {self.low:g} to {self.high:g}.")
        return float(value)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, key: str, value: Any) -> bool:
        """See `Kind.check`."""
        if not isinstance(value, bool):
            raise SpaceError(f"{key} is {show(value)}; give true or false.")
        return value


@dataclass(frozen=True)
class OneOf:
    """One of some names. ``flags`` says which names true and false stand for, where they stand for any."""

    names: tuple[str, ...]
    flags: Mapping[bool, str] = field(default_factory=dict)

    def check(self, key: str, value: Any) -> str:
        """See `Kind.check`."""
        name = self.flags.get(value) if isinstance(value, bool) else value
        if not isinstance(name, str) or name not in self.names:
            raise SpaceError(f"{key} is {show(value)}; give one of {', '.join(self.names)}.")
        return name


@dataclass(frozen=True)
class Record:
    """A nested group of values: an instance of ``type``, or a mapping of its fields."""

    type: type[Any]

    def check(self, key: str, value: Any) -> Any:
        """See `Kind.check`."""
        return value if isinstance(value, self.type) else read_record(self.type, value, key)


@dataclass(frozen=True)
class Stages:
    """The stages of a network, 1 to ``most`` of them: instances of ``type``, or mappings of its fields."""

    type: type[Any]
    most: int

    def check(self, key: str, value: Any) -> tuple[Any, ...]:
        """See `Kind.check`."""
        if not _is_list(value) or not 1 <= len(value) <= self.most:
            raise SpaceError(f"{key} is {show(value)}; give a list of 1 to {self.most} stages.")
        record = Record(self.type)
        return tuple(record.check(f"{key}[{index}]", stage) for index, stage in enumerate(value))


def kinds(record: Any) -> Mapping[str, Kind]:
    """Return the kind of each field of a family's dataclass, in order, as its annotations say."""
    return _kinds(record)  # typed openly: to mypy a class is not hashable, as the cache wants it


@functools.cache
def _kinds(record: Any) -> Mapping[str, Kind]:
    hints = get_type_hints(record, include_extras=True)
    return {f.name: hints[f.name].__metadata__[0] for f in fields(record)}


def check_record(record: Any) -> None:
    """Check every field of a frozen dataclass and bring it into its canonical form: the body of its ``__post_init__``.

    Raises:
        SpaceError: If a value is not of its field's kind.
    """
    for name, kind in kinds(type(record)).items():
        object.__setattr__(record, name, kind.check(name, getattr(record, name)))


def read_record(record: type[RecordType], mapping: Any, key: str, family: str | None = None) -> RecordType:
    """Return the dataclass that ``mapping`` describes; fields with a default may be left out.

    Args:
        record: A family's dataclass.
        mapping: Its fields by name, and ``family`` if that is given.
        key: Where the mapping stands, for messages.
        family: What ``mapping["family"]`` must be.

    Raises:
        SpaceError: If a key is unknown or missing, or a value is not of its field's kind.
    """
    if not isinstance(mapping, Mapping):
        raise SpaceError(f"{key} is {show(mapping)}; give a mapping with the keys {', '.join(kinds(record))}.")
    given = dict(mapping)
    if family is not None and (found := given.pop("family", None)) != family:
        raise SpaceError(f"{key}.family is {show(found)}; this space reads {family}: choose the space that wrote the file.")
    known = kinds(record)
    _refuse_unknown(given, known, key)
    required = [f.name for f in fields(cast(Any, record)) if f.default is MISSING and f.default_factory is MISSING]
    for name in required:
        if name not in given:
            raise SpaceError(f"{key}.{name} is missing; add it.")
    return record(**{name: known[name].check(f"{key}.{name}", value) for name, value in given.items()})


def plain(record: Any) -> dict[str, Any]:
    """Return a family's dataclass as plain YAML data: what `read_record` reads."""

    def convert(value: Any) -> Any:
        if isinstance(value, tuple):
            return [convert(item) for item in value]
        return value if isinstance(value, Scalar) else plain(value)

    return {name: convert(getattr(record, name)) for name in kinds(type(record))}


def widened(record: RecordType, factor: float, turn: float = 0.0) -> RecordType:
    """Return a family's dataclass with each `Width` in it, nested ones too, multiplied by ``factor`` and made whole.

    Each is rounded at a place of its own instead of at the half: as the factor grows, one width after the other takes its next
    whole number, and not many at once, so that what depends on all of them grows in small steps and never shrinks. ``turn``,
    from 0 to 1, moves the places, for other roundings of the same product. A factor of 1 changes nothing.
    """
    places = itertools.count(1)

    def convert(value: Any, kind: Kind) -> Any:
        if isinstance(kind, Width):
            grown = math.floor(value * factor + (next(places) * _GOLDEN + turn) % 1)
            return min(max(grown, kind.low), kind.high)
        if isinstance(kind, Record):
            return grow(value)
        return tuple(grow(stage) for stage in value) if isinstance(kind, Stages) else value

    def grow(part: Any) -> Any:
        return type(part)(**{name: convert(getattr(part, name), kind) for name, kind in kinds(type(part)).items()})

    return cast(RecordType, grow(record))


@dataclass(frozen=True)
class Choices:
    """One or more values to choose from; a single one is not asked for."""

    values: tuple[Any, ...]

    @property
    def largest(self) -> Any:
        """The largest value that may be chosen."""
        return max(self.values)

    def ask(self, trial: Trial, name: str) -> Any:
        """Return the trial's answer."""
        return self.values[0] if len(self.values) == 1 else trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class WholeRange:
    """Whole numbers from ``low`` to ``high`` in steps of ``step``, ``high`` being the last one."""

    low: int
    high: int
    step: int
    log: bool

    @property
    def largest(self) -> int:
        """The largest value that may be chosen."""
        return self.high

    def ask(self, trial: Trial, name: str) -> int:
        """Return the trial's answer."""
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)


@dataclass(frozen=True)
class RealRange:
    """Numbers from ``low`` to ``high`` in steps of ``step``, ``high`` being the last one; ``None``: any number."""

    low: float
    high: float
    step: float | None
    log: bool

    @property
    def largest(self) -> float:
        """The largest value that may be chosen."""
        return self.high

    def ask(self, trial: Trial, name: str) -> float:
        """Return the trial's answer."""
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


Domain = Choices | WholeRange | RealRange


@dataclass(frozen=True)
class Rule:
    """How one value of the configuration is asked for, once for the network or stage by stage.

    Attributes:
        key: Its name in the configuration, and of its parameter: ``key``, or ``stage<n>.key`` with n from 1.
        domains: One for all, or one per stage.
        scope: Whether all stages share one answer, each answers in the same domain, or each in its own.
    """

    key: str
    domains: tuple[Domain, ...]
    scope: Literal["shared", "each", "per_stage"] = "shared"

    @property
    def largest(self) -> Any:
        """The largest value that may be chosen."""
        return max(domain.largest for domain in self.domains)

    def ask(self, trial: Trial, stage: int = 0) -> Any:
        """Return the trial's answer for the stage with this index, from 0."""
        domain = self.domains[stage if self.scope == "per_stage" else 0]
        return domain.ask(trial, self.key if self.scope == "shared" else f"stage{stage + 1}.{self.key}")


def read_rules(architecture: type[Any], specs: Mapping[str, Spec]) -> dict[str, Rule]:
    """Return the rules of a space, by key, from what its configuration says.

    Args:
        architecture: The family's dataclass. Its field of kind `Stages` becomes a number of stages and a rule for each
            value of a stage; a field of kind `Record` becomes one rule for each of its values, named ``field.value``.
        specs: What the configuration says, by key; values of a nested record may be left out where they have a default.

    Raises:
        SpaceError: If a value cannot be used.
    """
    rules: dict[str, Rule] = {}
    staged: dict[str, Kind] = {}
    for name, kind in kinds(architecture).items():
        if isinstance(kind, Stages):
            rules[name] = _network_rule(name, specs[name], Whole(1, kind.most))
            staged = dict(kinds(kind.type))
        elif isinstance(kind, Record):
            rules |= _nested_rules(name, specs[name], kind.type)
        else:
            rules[name] = _network_rule(name, specs[name], kind)
    for name, kind in staged.items():
        rules[name] = _stage_rule(name, specs[name], kind, int(rules["stages"].largest))
    return rules


def _nested_rules(name: str, spec: Spec, record: type[Any]) -> dict[str, Rule]:
    key, known = f"space.{name}", kinds(record)
    if not isinstance(spec, Mapping):
        raise SpaceError(f"{key} is {show(spec)}; give a mapping with the keys {', '.join(known)}.")
    _refuse_unknown(spec, known, key)
    defaults = {f.name: f.default for f in fields(record)}
    return {
        f"{name}.{inner}": _network_rule(f"{name}.{inner}", spec.get(inner, defaults[inner]), kind)
        for inner, kind in known.items()
    }


def _network_rule(name: str, spec: Spec, kind: Kind) -> Rule:
    key = f"space.{name}"
    if isinstance(spec, Mapping) and ("each" in spec or "per_stage" in spec):
        raise SpaceError(
            f"{key} is {show(spec)}, but it is one for the whole network; give a value, a list of choices or a range."
        )
    return Rule(name, (_read_domain(key, spec, kind),))


def _stage_rule(name: str, spec: Spec, kind: Kind, stages: int) -> Rule:
    key = f"space.{name}"
    if isinstance(spec, Mapping) and len(spec) == 1 and "each" in spec:
        return Rule(name, (_read_domain(f"{key}.each", spec["each"], kind),), "each")
    if isinstance(spec, Mapping) and len(spec) == 1 and "per_stage" in spec:
        domains = spec["per_stage"]
        if not _is_list(domains) or len(domains) < stages:
            raise SpaceError(f"{key}.per_stage is {show(domains)}; give a list with one entry for each of {stages} stages.")
        read = (_read_domain(f"{key}.per_stage[{index}]", domain, kind) for index, domain in enumerate(domains))
        return Rule(name, tuple(read), "per_stage")
    return Rule(name, (_read_domain(key, spec, kind, staged=True),))


def _read_domain(key: str, spec: Spec, kind: Kind, staged: bool = False) -> Domain:
    if isinstance(spec, Mapping):
        return _read_range(key, spec, kind, staged)
    if not _is_list(spec):
        return Choices((kind.check(key, spec),))
    if not spec:
        raise SpaceError(f"{key} is an empty list; give at least one choice.")
    values: list[Any] = []
    for index, choice in enumerate(spec):
        value = kind.check(f"{key}[{index}]", choice)
        if value in values:
            raise SpaceError(f"{key} is {show(list(spec))}, which names {show(value)} twice; name each choice once.")
        values.append(value)
    return Choices(tuple(values))


def _read_range(key: str, spec: Mapping[str, Any], kind: Kind, staged: bool) -> Domain:
    _refuse_unknown(spec, ("low", "high", "step", "log") + ("each", "per_stage") * staged, key)
    if "each" in spec or "per_stage" in spec:
        raise SpaceError(f"{key} is {show(spec)}; each and per_stage stand alone, with what they hold inside them.")
    if not isinstance(kind, Whole | Real):
        raise SpaceError(f"{key} is {show(spec)}, but only numbers have a range; give a value or a list of choices.")
    for name in ("low", "high"):
        if name not in spec:
            raise SpaceError(f"{key}.{name} is missing; a range has low and high, and perhaps step or log.")
    ends: list[Any] = [kind.check(f"{key}.{name}", spec[name]) for name in ("low", "high")]
    low, high = ends
    log = Flag().check(f"{key}.log", spec.get("log", False))
    if low > high:
        raise SpaceError(f"{key}.low is {low}, above its high of {high}; exchange them.")
    step = spec.get("step")
    if step is not None and log:
        raise SpaceError(f"{key}.step is {show(step)}, but a range with log has no steps; take out one of the two.")
    if isinstance(kind, Whole):
        return _whole_range(low, high, 1 if step is None else Whole(1, kind.high).check(f"{key}.step", step), log)
    return _real_range(low, high, None if step is None else Real(_LEAST_STEP, kind.high).check(f"{key}.step", step), log)


# Optuna warns of a range that its steps do not fill, and then cuts it as these two do.
def _whole_range(low: int, high: int, step: int, log: bool) -> Domain:
    high = low + (high - low) // step * step
    return Choices((low,)) if low == high else WholeRange(low, high, step, log)


def _real_range(low: float, high: float, step: float | None, log: bool) -> Domain:
    if step is not None:
        # The small term lets steps of 0.1 from 0.1 reach a high of 0.3 in spite of binary fractions.
        high = round(low + math.floor((high - low) / step + 1e-9) * step, 12)
    return Choices((low,)) if low == high else RealRange(low, high, step, log)


def _refuse_unknown(given: Mapping[Any, Any], known: Mapping[str, Any] | Sequence[str], key: str) -> None:
    for name in given:
        if name not in known:
            written = name if isinstance(name, str) and name.isidentifier() and len(name) < 60 else show(name)
            raise SpaceError(f"{key}.{written} is not a known key{did_you_mean(name, known)}")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
