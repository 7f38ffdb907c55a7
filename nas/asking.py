"""From the ``question`` of a configuration to what is asked of a space, and to the answer of a search's trials.

What the networks say is ``analyse.question``'s; here is what can be asked at all, and what keeps a search from being fair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nas.analyse.judging import repeatability
from nas.analyse.question import Answer, Question, Value, answer
from nas.config.search import QuestionSettings, SearchConfig
from nas.drawn import Drawn, doubts
from nas.errors import InputError, suggestion
from nas.metrics import METRICS, Metric
from nas.outcomes import Outcome
from search_spaces.base import RandomTrial, SearchSpace

_TRIES = 16
"""Random suggestions in which a factor must be asked for at least once."""

_MOST_VALUES = 4
_ALWAYS = ("latency_ms", "energy_j", "flops_per_s", "mem_access", "params", "flops")
"""What is compared beside the objectives, where it was measured."""

_SAME = ({"flops", "mult_adds"}, {"params", "parameters_mb"})
"""Metrics that are multiples of one another: where one is equal, the others are."""


def make_question(config: SearchConfig, space: SearchSpace) -> Question | None:
    """Return what a configuration asks, ``None`` if nothing.

    Raises:
        InputError: The space never asks for the factor, or its values cannot be compared.
    """
    asked = config.question
    if asked is None:
        return None
    values = _values(asked, _domain(asked.factor, space))
    equal = None if asked.equal is None else METRICS[asked.equal]
    return Question(asked.asks or "", asked.factor, values, equal, asked.within)


def answer_question(
    config: SearchConfig,
    space: SearchSpace,
    outcomes: Sequence[Outcome],
    objectives: Sequence[Metric],
    device: Mapping[str, Any],
    drawn: Sequence[Drawn],
) -> Answer | None:
    """Return the answer to what a configuration asks, ``None`` if it asks nothing.

    Args:
        config: The search's.
        space: Its space.
        outcomes: Its trials that ended.
        objectives: Those that were measured.
        device: What of the device must agree within the study; its ``kind`` says how well latencies repeat.
        drawn: By what its networks were drawn.

    Raises:
        InputError: As `make_question` does.
    """
    question = make_question(config, space)
    if question is None:
        return None
    held = {question.equal.name if question.equal else None}
    held |= {name for same in _SAME if held & same for name in same}
    names = dict.fromkeys([*(metric.name for metric in objectives), *_ALWAYS])
    metrics = [METRICS[name] for name in names if name not in held]
    return answer(question, outcomes, objectives, metrics, repeatability(device.get("kind")), doubts(drawn))


class _Found(Exception):  # noqa: N818 - it is an answer
    """The factor is asked for; what it may be."""

    def __init__(self, domain: tuple[Value, ...] | str) -> None:
        self.domain = domain


class _Finder(RandomTrial):
    """Looks for one parameter, and ends the suggestion as soon as it is asked for.

    Attributes:
        factor: Its name.
    """

    def __init__(self, seed: int, factor: str) -> None:
        super().__init__(seed)
        self.factor = factor

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if name == self.factor:
            raise _Found(tuple(range(low, high + 1, step)))
        return super().suggest_int(name, low, high, step=step, log=log)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        if name == self.factor:
            steps = 0 if step is None else int((high - low) / step + 1e-9)
            raise _Found(tuple(low + index * step for index in range(steps + 1)) if step else f"{low:g} to {high:g}")
        return super().suggest_float(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name == self.factor:
            raise _Found(tuple(choices))
        return super().suggest_categorical(name, choices)


def _domain(factor: str, space: SearchSpace) -> tuple[Value, ...]:
    known: set[str] = set()
    for seed in range(_TRIES):
        trial = _Finder(seed, factor)
        try:
            space.suggest(trial)
        except _Found as found:
            if isinstance(found.domain, str):
                raise InputError(
                    f"question.factor={factor} takes any number from {found.domain}, which no two networks share: give it a list "
                    "of choices in the space."
                ) from None
            return found.domain
        known |= set(trial.params)
    raise InputError(f"question.factor={factor} is nothing that the space asks for{suggestion(factor, known, 'parameters')}")


def _values(asked: QuestionSettings, domain: tuple[Value, ...]) -> tuple[Value, ...]:
    there = ", ".join(_shown(value) for value in domain[:12]) + (", ..." if len(domain) > 12 else "")
    key, given = "question.values", asked.values
    if given is None:
        if len(domain) > _MOST_VALUES:
            many = f"question.factor={asked.factor} takes {len(domain)} values ({there})"
            raise InputError(f"{many}: name two to {_MOST_VALUES} of them with {key}.")
        return domain
    shown = f"[{', '.join(map(_shown, given))}]"
    if not 2 <= len(given) <= _MOST_VALUES:
        raise InputError(f"{key}={shown} cannot be used: it should be two to {_MOST_VALUES} of {there}.")
    picked: list[Value] = []
    for value in given:
        same = [known for known in domain if known == value and isinstance(known, bool) == isinstance(value, bool)]
        if not same or same[0] in picked:
            why = "names it twice" if same else f"is no value of {asked.factor}, which takes {there}"
            raise InputError(f"{key}={shown} cannot be used: {_shown(value)} {why}.")
        picked.append(same[0])
    return tuple(picked)


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
