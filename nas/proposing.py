"""Proposes the space that a study should search next: narrowed, taken by its class, counted, written as YAML with its command.

Where it is narrowed to is found by ``analyse.study.narrowing``.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from nas.analyse.study.good_values import Good, good_in
from nas.analyse.study.narrowing import Domain, Listed, Narrowed, Ranged, narrow
from nas.analyse.study.population import Population
from nas.compose import compose
from nas.config.search import SEARCH_GROUPS, SEARCH_ROOT
from nas.errors import InputError
from nas.files import write_text
from nas.runs import Run
from nas.targets import build_target
from search_spaces.base import RandomTrial, SearchSpace

NAME = "space_narrowed.yaml"
"""The file in the study's folder."""

_PATHS = 400
"""Random suggestions from which the settings of a space are counted."""

_ITS_OWN = ("conf", "space", "sampler", "study.name", "run_dir", "start", "reuse")
"""What a search of the narrowed space does not take over: start and reuse hold for the space that they were given for."""

_AT_RANDOM = ("RandomSampler", "QMCSampler")
"""Samplers whose trials are a random sample of the space."""


GOOD: Mapping[Good, str] = {
    "error": "the middle 95 % of the networks of least error in 10,000 draws of a quarter of all (RegNet, arXiv 2003.13678).",
    "front": "the middle 95 % of the networks that no other dominates in 2,000 draws of a quarter of all, after RegNet.",
}
"""What makes a network good, as a sentence."""


@dataclass(frozen=True)
class Proposal:
    """A narrower space.

    Attributes:
        narrowed: The space and what changed.
        settings: How many different answers the space takes, before and after; ``None`` if they cannot be counted.
        text: The space as YAML, each change under what was there.
        path: Where ``write_proposal`` writes it.
        command: What searches it then.
    """

    narrowed: Narrowed
    settings: tuple[float, float] | None
    text: str
    path: Path
    command: str

    @property
    def smaller(self) -> str:
        """How much smaller it is, in words; empty if that cannot be counted."""
        if self.settings is None:
            return ""
        before, after = self.settings
        return f"about {_round(after)} settings where there were {_round(before)}: {_round(before / after)} times fewer"


def propose(run: Run, population: Population, good: Good) -> Proposal | str:
    """Return the space that the study should search next, or why there is none to propose, as the end of a sentence."""
    found = good_in(population, good)
    if isinstance(found, str):
        return found
    params = [outcome.params for outcome in population.complete if outcome.params]
    plain, written = run.plain["space"], run.written["space"]
    narrowed = narrow(plain, asked(run.space, params), found)
    if isinstance(narrowed, str):
        return narrowed
    try:
        space = build_target("space", narrowed.space, run.plain.get("allow_modules", ()))
    except InputError as error:
        return f"the space's own class refuses what was made of it ({str(error).rstrip('.')})"
    before, after = settings(run.space), settings(space)
    # What did not change stays as it was written: a ${oc.env:…} is never resolved into a file.
    shown = {key: written.get(key, value) if value == plain[key] else value for key, value in narrowed.space.items()}
    return Proposal(
        narrowed=narrowed,
        settings=None if before is None or after is None else (before, after),
        text=_yaml(shown, {change.key: change.before for change in narrowed.changes}),
        path=run.folder / NAME,
        command=_command(run, run.folder / NAME),
    )


def write_proposal(proposal: Proposal | str, run: Run, population: Population, good: Good) -> None:
    """Write the space as a file that ``space=<path>`` takes, headed by where it comes from; without one, remove the last."""
    if isinstance(proposal, str):
        (run.folder / NAME).unlink(missing_ok=True)
        return
    if not is_at_random(run):
        drawn = "where good ones were expected: they speak of the space only as far as it was drawn at random"
    elif any(one.scheduler != "none" for one in run.drawn):
        drawn = "at random; but the scheduler trained to the end only what stood high early"
    else:
        drawn = "at random, so that they speak of the space as it is"
    head = [
        f"The space of study {run.name}, narrowed to where good values of its choices lie, by {len(population.feasible)}",
        f"networks that {samplers_of(run)} drew {drawn}.",
        f"Good: {GOOD[good]}",
        *([f"It has {proposal.smaller}."] if proposal.smaller else []),
        "Every report writes this file anew: copy it before you change it. Search it with",
        f"  {proposal.command}",
    ]
    write_text(proposal.path, "".join(f"# {line}\n" for line in head) + proposal.text)


def samplers_of(run: Run) -> str:
    """Return the names of the classes that made the study's suggestions."""
    return " and ".join(dict.fromkeys(one.sampler for one in run.drawn))


def is_at_random(run: Run) -> bool:
    """Whether none of them looked at results, so that the trials are a random sample of the space."""
    return all(one.sampler in _AT_RANDOM for one in run.drawn)


class _Witness(RandomTrial):
    """A trial that remembers what it is asked; it answers as another one did, and at random where that one was not asked."""

    def __init__(self, seed: int, answers: Mapping[str, Any] | None = None) -> None:
        super().__init__(seed)
        self.params.update(answers or {})
        self.asked: dict[str, Domain] = {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked[name] = Ranged(low, high, step, log)
        return super().suggest_int(name, low, high, step=step, log=log)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        self.asked[name] = Ranged(low, high, step, log)
        return super().suggest_float(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.asked[name] = Listed(tuple(choices))
        return super().suggest_categorical(name, choices)


def asked(space: SearchSpace, params: Sequence[Mapping[str, Any]]) -> dict[str, Domain]:
    """Return what a space asks for, by name.

    Args:
        space: The space.
        params: Answers that it got; names under which none of them answered may be missing.
    """
    found: dict[str, Domain] = {}
    for given in params:
        if not found.keys() >= given.keys():
            witness = _Witness(0, given)
            space.suggest(witness)
            found = {**witness.asked, **found}
    return found


def settings(space: SearchSpace) -> float | None:
    """Return about how many different answers the space takes; ``None`` if it asks for any number of a range.

    The estimate of Knuth (1975, Mathematics of Computation 29): the mean, over random suggestions, of the product of how many
    answers each question had. It is exact where the questions do not depend on the answers.
    """
    products = []
    for seed in range(_PATHS):
        witness = _Witness(seed)
        space.suggest(witness)
        products.append(math.prod(_size(domain) for domain in witness.asked.values()))
    mean = fmean(products)
    return mean if math.isfinite(mean) else None


def _size(domain: Domain) -> float:
    if isinstance(domain, Listed):
        return len(domain.values)
    return math.inf if domain.step is None else math.floor((domain.high - domain.low) / domain.step + 1e-9) + 1


def _round(count: float) -> str:
    """Return a count with two digits, as far as it is an estimate."""
    if count < 100:
        return f"{count:.2g}"
    if count >= 1e6:
        return f"{count:.1e}".replace("e+0", "e").replace("e+", "e")
    return f"{float(f'{count:.2g}'):,.0f}"


def _yaml(space: Mapping[str, Any], before: Mapping[str, Any], prefix: str = "", indent: str = "") -> str:
    """Return a space as a person would write it: one key a line, above each that changed what it was."""
    lines = []
    for key, value in space.items():
        path = f"{prefix}{key}"
        if path in before:
            lines.append(f"{indent}# was {_flow(before[path])}")
        if any(changed.startswith(f"{path}.") for changed in before):
            lines += [f"{indent}{key}:", _yaml(value, before, f"{path}.", f"{indent}  ").rstrip("\n")]
        else:
            lines.append(f"{indent}{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


class _Repeating(yaml.SafeDumper):
    """Writes what stands in two places twice, as a person would."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _flow(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Repeating, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _command(run: Run, path: Path) -> str:
    """Return the command that searches the narrowed space as the study was searched, by the conf's own sampler."""
    name = str(run.plain.get("conf"))
    arguments = [f"conf={name}", f"space={_hydra(str(path))}", f"study.name={run.name}_narrowed"]
    if run.folder != Path("runs") / run.name:
        arguments.append(f"run_dir={_hydra(str(run.folder.parent / f'{run.folder.name}_narrowed'))}")
    try:
        composed = compose("search", SEARCH_ROOT, SEARCH_GROUPS, [f"conf={name}", f"study.name={run.name}"]).written
    except InputError:  # the conf is not where this is run: nothing is known of what was overridden
        composed = dict(run.written)
    arguments += _overrides(composed, run.written)
    return f"python -m nas.search {shlex.join(arguments)}"


def _overrides(there: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield what makes one configuration the other, key by key; of another class in a group, all its keys."""
    for key, value in wanted.items():
        path = f"{prefix}{key}"
        known = there.get(key)
        if path in _ITS_OWN or known == value or ":***@" in str(value):  # a password is the user's to give again
            continue
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            same = known.get("_target_") == value.get("_target_")
            yield from _overrides(known if same else {}, value, f"{path}.")
            yield from (f"~{path}.{gone}" for gone in known if same and gone not in value)
        else:
            yield f"{path}={_hydra(value)}"


def _hydra(value: Any) -> str:
    """Return a value in the grammar of Hydra's overrides."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_hydra(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(_hydra, value)) + "]"
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", str(value)) and str(value).lower() not in ("null", "true", "false", "nan", "inf")
    if not isinstance(value, str) or plain:
        return str(value)
    escaped = value.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{escaped}'"
