"""On what a search stands: images, number format, device and its workers' places; for a simulated one, its table's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from nas.config.search import SearchConfig
from nas.errors import InputError
from nas.failures import first_line
from nas.local import Place
from nas.measure.device import resolve_conditions
from nas.measure.fingerprint import DeviceFingerprint, fingerprint
from nas.measure.settings import MeasureConditions, MeasureSettings
from nas.simulate import SIMULATED, Table
from nas.staffing import largest_training_mb, places
from nas.train.data import DataBundle, DataRequest, load_bundle
from nas.train.probe import choose_format
from nas.train.settings import NumericFormat
from search_spaces.base import Architecture, SearchSpace, SpaceError, sample_buildable

_PROBED_ARCHITECTURES = 3


@dataclass(frozen=True)
class Grounds:
    """What is settled before the first candidate.

    Attributes:
        data: What a study records of its images.
        numeric: Arithmetic and layout of all trainings.
        how: How that was chosen.
        measured: The measuring conditions.
        device: What a study records of its device.
        device_identity: What of it must agree within a study.
        notes: Lines that a user should read.
        places: Where each worker works; none if the search's own process evaluates.
    """

    data: Mapping[str, Any]
    numeric: NumericFormat
    how: Mapping[str, Any]
    measured: MeasureConditions
    device: Mapping[str, Any]
    device_identity: Mapping[str, Any]
    notes: tuple[str, ...]
    places: tuple[Place, ...]


def real_grounds(
    config: SearchConfig,
    settings: MeasureSettings,
    space: SearchSpace,
    request: DataRequest,
    device: torch.device,
    before: Mapping[str, Any] | None,
) -> Grounds:
    """Load the images, try some of the space's networks on them, and choose a number format.

    Args:
        config: The search.
        settings: How it measures.
        space: Its space.
        request: Its images.
        device: Where.
        before: The conditions of the study, if it was begun before.

    Raises:
        InputError: The images cannot be used, or no network of the space can be trained on them.
    """
    conditions = resolve_conditions(settings, device)
    bundle = load_bundle(request, device)
    _check_counted(space, bundle)
    try:
        probed = sample_buildable(space, bundle.input_shape, bundle.num_classes, _PROBED_ARCHITECTURES)
    except SpaceError as error:
        raise InputError(str(error)) from None
    found = fingerprint(device, conditions.threads)
    numeric, how = _numeric_format(config, space, probed, bundle, device, before)
    notes = (_describe_device(found, numeric, how), _describe_data(bundle), *_skipped(bundle))

    def candidate(architecture: Architecture) -> Callable[[], torch.nn.Module]:
        return lambda: space.build(architecture, bundle.input_shape[0], bundle.num_classes)

    staff = places(config, device, conditions, lambda: largest_training_mb([candidate(a) for a in probed], bundle, config))
    return Grounds(bundle.facts(), numeric, how, conditions, found.to_dict(), found.identity(), notes, staff)


def _check_counted(space: SearchSpace, bundle: DataBundle) -> None:
    """Refuse a space that counts its networks' work on other images than these (see `search_spaces.rivals`)."""
    for key, there in (("input_shape", bundle.input_shape), ("num_classes", bundle.num_classes)):
        counted = getattr(space, key, None)
        if counted is None:
            continue
        wanted, given = (list(value) if isinstance(value, Sequence) else value for value in (there, counted))
        if wanted != given:
            shown = str(wanted).replace(" ", "")
            raise InputError(f"space.{key}={given} cannot be used: that of {bundle.name} is {wanted}; set space.{key}={shown}.")


def simulated_grounds(config: SearchConfig, settings: MeasureSettings, table: Table) -> Grounds:
    """Return the grounds on which a table was made; nothing is loaded.

    Raises:
        InputError: The search asks for another recipe than the table's networks were trained by.
    """
    table.check_recipe(config.train)
    made = table.made
    agreed = {**made["device"], "name": f"{SIMULATED} {made['device'].get('name', made['device'].get('kind'))}"}
    conditions = replace(resolve_conditions(settings, torch.device("cpu")), batch_size=made["measure"]["batch_size"])
    note = (
        f"simulated: {len(table.rows)} networks that were really evaluated on {made['device'].get('name')} ({made.get('date')}); "
        "nothing is built, trained or measured now"
    )
    how = {"numeric": made["numeric_format"], "reason": "as the table was made"}
    return Grounds(
        made["data"], NumericFormat(**made["numeric_format"]), how, conditions, {"agreed": agreed}, agreed, (note,), ()
    )


def _numeric_format(
    config: SearchConfig,
    space: SearchSpace,
    probed: Sequence[Architecture],
    bundle: DataBundle,
    device: torch.device,
    before: Mapping[str, Any] | None,
) -> tuple[NumericFormat, dict[str, Any]]:
    if before is not None:
        # A study keeps what it began with; what the user set explicitly is compared with it like every other condition.
        stored = NumericFormat(before["train"]["precision"], before["train"]["memory_format"])
        settings = config.train
        numeric = NumericFormat(
            stored.precision if settings.precision == "auto" else settings.precision,
            stored.memory_format if settings.memory_format == "auto" else settings.memory_format,
        )
        return numeric, {"numeric": asdict(numeric), "reason": "as the study began"}

    def candidate(architecture: Architecture) -> Callable[[], torch.nn.Module]:
        return lambda: space.build(architecture, bundle.input_shape[0], bundle.num_classes)

    try:
        choice = choose_format([candidate(architecture) for architecture in probed], bundle, config.train, device)
    except RuntimeError as error:
        text = first_line(error)
        raise InputError(f"space: sampled candidates cannot be trained on this data ({text}): change space or data.") from None
    return choice.numeric, asdict(choice)


def _describe_device(device: DeviceFingerprint, numeric: NumericFormat, how: Mapping[str, Any]) -> str:
    agreed = device.agreed
    threads = f", {agreed.threads} thread{'s' * (agreed.threads > 1)}" if agreed.threads else ""
    return (
        f"device: {agreed.kind}, {agreed.name}{threads}; training in {numeric.precision} {numeric.memory_format} "
        f"({how['reason']})"
    )


def _skipped(bundle: DataBundle) -> list[str]:
    skipped = bundle.facts()["skipped"]
    return [f"data: {len(skipped)} unreadable images are left out, the first is {skipped[0]}"] if skipped else []


def _describe_data(bundle: DataBundle) -> str:
    sizes = bundle.sizes
    shape = "×".join(str(side) for side in bundle.input_shape)
    return (
        f"data: {bundle.name}, {shape}, {bundle.num_classes} classes: {sizes['train']} images train, "
        f"{sizes['validation']} score, {sizes['test']} are kept back for the test"
    )
