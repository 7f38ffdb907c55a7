"""The keys of ``nas.export``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, MinLen

from nas.config.common import PICK_ROOT, STUDY_ROOT, Plain, StudyKeys, check_measure, reject_unknown
from nas.errors import InputError, suggestion
from nas.measure.settings import MeasureSettings
from nas.typed import typed

Format = Literal["onnx", "pt2", "safetensors"]


@dataclass(frozen=True)
class ExportConfig:
    """All keys of ``nas.export``.

    Attributes:
        format: Formats, one or a list.
        measure: The conditions under which the export's latency is taken.
        model: Folder of a retrained network; or a study's network by the keys of ``nas.retrain``, which was retrained.
        normalise: Whether the export takes pixels scaled to 0..1, the normalisation being part of it.
        out: Folder for the files, ``<model>/export`` by default.
        device: Where its latency is taken: ``auto``, ``cpu`` or ``cuda:N``.
        allow_modules: Modules of your own that the network's design space may come from.
        overwrite: Whether to replace files that are there.
    """

    format: Annotated[tuple[Format, ...], MinLen(1)]
    measure: MeasureSettings
    model: str | None = None
    study: str | None = None
    run_dir: str | None = None
    storage: str | None = None
    pick: str | None = None
    trial: Annotated[int, Ge(0)] | None = None
    architecture: str | None = None
    normalise: bool = False
    out: str | None = None
    device: str = "auto"
    allow_modules: tuple[str, ...] = ()
    overwrite: bool = False

    @property
    def keys(self) -> StudyKeys:
        """Which study is meant."""
        return StudyKeys(self.study, self.run_dir, self.storage)


EXPORT_GROUPS: Plain = {"measure": "default"}

EXPORT_ROOT: Plain = {
    "model": None,
    **STUDY_ROOT,
    **PICK_ROOT,
    "format": None,
    "normalise": False,
    "out": None,
    "device": "auto",
    "allow_modules": [],
    "overwrite": False,
}


def parse_export(plain: Mapping[str, Any]) -> ExportConfig:
    """Check a composed configuration of ``nas.export`` and return it typed; raises like ``parse_search``."""
    reject_unknown("", plain, {f.name for f in dataclasses.fields(ExportConfig)})
    check_measure(plain)
    formats = plain["format"]
    known = get_args(Format)
    if formats is None:
        raise InputError(f"format is not set: give format=<one of {', '.join(known)}>, or a list of them.")
    formats = [formats] if isinstance(formats, str) else formats
    for name in formats if isinstance(formats, list) else ():
        if name not in known:
            raise InputError(f"format={name} is not a format{suggestion(str(name), known, 'formats')}")
    config: ExportConfig = typed(ExportConfig, {**plain, "format": formats})
    if config.normalise and "safetensors" in config.format:
        raise InputError(
            "normalise=true cannot be used with format=safetensors, which has the weights as they are: leave one of them out, "
            "and give load_model normalise=True."
        )
    of_study = config.study is not None or config.run_dir is not None
    if (config.model is None) == (not of_study):
        raise InputError("model or study must be set, and not both: give model=<folder that nas.retrain wrote>.")
    named = [key for key in ("pick", "trial", "architecture") if getattr(config, key) is not None]
    if config.model is not None and named:
        raise InputError(f"model and {named[0]} are both set: each names a network, so give one.")
    return config
