"""What became of a trial or of a reference network, as plain data, and how the two compare; what Optuna keeps is ``study``'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nas.metrics import Metric

State = Literal["complete", "pruned", "repeated", "failed"]

TAKEN_AT = "taken_at"
"""The attribute of a trial that another process began and left: when it was begun again, in seconds since 1970."""

ANEW = "anew"
"""The attribute of a trial that goes on with another one whose training's state is gone: it is trained from the first epoch."""

UNCOUNTED = "uncounted"
"""The attribute of a trial that is no further one of those that the study shall hold."""


@dataclass(frozen=True)
class Outcome:
    """One network that was evaluated.

    Attributes:
        name: The trial's number as text, or the reference's name.
        number: The trial's number; ``None`` for a reference.
        state: ``failed`` has a ``failure_reason`` among its attributes; ``pruned`` was ``gated_by`` bounds or ``stopped_at`` an
            epoch; ``repeated`` built what an earlier trial had built, ``reused_from``, and was not evaluated.
        attributes: Metrics and whatever else was recorded.
        params: What the sampler suggested, by the names under which the space asks.
        started_at: When its last attempt began, in seconds since 1970; ``None`` for a reference.
        ended_at: When it was recorded.
    """

    name: str
    number: int | None
    state: State
    attributes: Mapping[str, Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def failure_reason(self) -> str:
        """Why it failed."""
        return str(self.attributes.get("failure_reason", "no reason was recorded"))

    @property
    def counts(self) -> bool:
        """Whether it is one of the study's trials: a candidate that was asked for again, or gone on with, is none more."""
        return not self.attributes.get(UNCOUNTED)

    @property
    def pruned_reason(self) -> str:
        """Why it was not trained to the end."""
        if gated := self.attributes.get("gated_by"):
            epochs = self.attributes.get("fidelity")
            trained = f"not trained on after {epochs} epoch{'s' * (epochs != 1)}" if epochs else "not trained"
            return f"{trained}: misses {' and '.join(gated)}"
        epochs = self.attributes.get("stopped_at")
        return "pruned" if epochs is None else f"stopped after {epochs} epoch{'s' * (epochs != 1)}"


@dataclass(frozen=True)
class Domination:
    """A network that is no worse than a reference in any objective and better in one.

    Attributes:
        gains: For each objective, the network's value minus the reference's.
    """

    network: Outcome
    reference: Outcome
    gains: Mapping[str, float]


def dominations(networks: Sequence[Outcome], references: Sequence[Outcome], objectives: Sequence[Metric]) -> list[Domination]:
    """Return every domination of a reference by one of ``networks``, reference by reference; the failed take no part."""
    found = []
    for reference in references:
        for network in networks:
            if "failed" in (network.state, reference.state):
                continue
            gains = {m.name: float(network.attributes[m.name]) - float(reference.attributes[m.name]) for m in objectives}
            better = [gains[m.name] * (1 if m.direction == "maximize" else -1) for m in objectives]
            if min(better) >= 0 and max(better) > 0:
                found.append(Domination(network, reference, gains))
    return found
