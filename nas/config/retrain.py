"""The keys of ``nas.retrain``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Interval

from nas.config.common import PICK_ROOT, STUDY_ROOT, Plain, StudyKeys, check_measure, reject_unknown
from nas.errors import InputError
from nas.measure.settings import MeasureSettings
from nas.train.settings import FullSettings
from nas.typed import typed


@dataclass(frozen=True)
class RetrainConfig:
    """All keys of ``nas.retrain``.

    Attributes:
        train: The full recipe.
        measure: The measuring conditions; batch size, arithmetic, layout and threads are the search's unless they are given.
        study: Which study, with ``run_dir`` and ``storage``.
        pick: Which network: ``knee``, or such as ``max top1 where latency_ms<=1.5``.
        trial: Which network, by its number.
        architecture: Which network, by the path of its YAML file.
        audit: Train so many networks of the study in full and tell how far the brief order holds, instead of shipping one.
        audit_seeds: Brief trainings per network of an audit, with as many seeds.
        audit_epochs_factor: Its longer brief training has so many times the epochs.
        data: ``data.*`` keys in place of the search's, such as ``root`` on another machine.
        seed: Origin of all randomness; ``None`` takes the search's.
        device: ``auto``, ``cpu`` or ``cuda:N``; ``None`` takes the search's.
        out: Folder for the result, ``<run folder>/retrain/<trial>`` by default.
        overwrite: Whether to begin anew where there is a result, or the beginning of one.
    """

    train: FullSettings
    measure: MeasureSettings
    study: str | None = None
    run_dir: str | None = None
    storage: str | None = None
    pick: str | None = None
    trial: Annotated[int, Ge(0)] | None = None
    architecture: str | None = None
    audit: Annotated[int, Ge(2)] | None = None
    audit_seeds: Annotated[int, Ge(1)] = 3
    audit_epochs_factor: Annotated[int, Ge(1)] = 3
    data: dict[str, Any] = field(default_factory=dict)
    seed: Annotated[int, Interval(ge=0, lt=2**31)] | None = None
    device: str | None = None
    out: str | None = None
    overwrite: bool = False

    @property
    def keys(self) -> StudyKeys:
        """Which study is meant."""
        return StudyKeys(self.study, self.run_dir, self.storage)


RETRAIN_GROUPS: Plain = {"train": "full", "measure": "thorough"}

RETRAIN_ROOT: Plain = {
    **STUDY_ROOT,
    **PICK_ROOT,
    "audit": None,
    "audit_seeds": 3,
    "audit_epochs_factor": 3,
    "data": {},
    "seed": None,
    "device": None,
    "out": None,
    "overwrite": False,
}


def parse_retrain(plain: Mapping[str, Any]) -> RetrainConfig:
    """Check a composed configuration of ``nas.retrain`` and return it typed; raises like ``parse_search``."""
    reject_unknown("", plain, {f.name for f in dataclasses.fields(RetrainConfig)})
    train = plain.get("train")
    if not isinstance(train, Mapping):
        raise InputError(f"train={train!r} cannot be used: it must be a mapping of keys; set train.<key>=<value>.")
    reject_unknown("train.", train, {f.name for f in dataclasses.fields(FullSettings)})
    check_measure(plain)
    config: RetrainConfig = typed(RetrainConfig, plain)
    named = [key for key in ("pick", "trial", "architecture") if getattr(config, key) is not None]
    if config.audit is not None and named:
        raise InputError(f"audit and {named[0]} are both set: an audit chooses its networks itself, so take out one of them.")
    return config
