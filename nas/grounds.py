"""On what a search stands: images, number format, device and its workers' places; for a simulated one, its table's."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from nas.config.search import SearchConfig
from nas.errors import InputError
from nas.failures import first_line
from nas.local import Place
from nas.lookup import Table
from nas.measure.device import fed_cpus, resolve_conditions, resolve_device, unavailable
from nas.measure.fingerprint import DeviceFingerprint, fingerprint
from nas.measure.settings import MeasureConditions, MeasureSettings
from nas.metrics import METRICS
from nas.simulate import SIMULATED
from nas.staffing import free_mb, largest_training_mb, packing, places
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


@dataclass(frozen=True)
class DeviceGrounds:
    """What is settled on the device that measures; picklable, as that may be another machine's.

    Attributes:
        device: As torch calls it there.
        objectives: Those that can be measured.
        dropped: For each that cannot, why.
        measured: The measuring conditions.
        found: What the device is.
    """

    device: str
    objectives: tuple[str, ...]
    dropped: Mapping[str, str]
    measured: MeasureConditions
    found: DeviceFingerprint


@dataclass(frozen=True)
class TrainingGrounds:
    """What is settled on the device that trains; picklable.

    Attributes:
        device: As torch calls it there.
        data: See ``Grounds``; likewise the others.
    """

    device: str
    data: Mapping[str, Any]
    numeric: NumericFormat
    how: Mapping[str, Any]
    notes: tuple[str, ...]


def device_grounds(config: SearchConfig) -> DeviceGrounds:
    """Look at the device of this process that the configuration names.

    Raises:
        InputError: There is none, or it cannot measure what is asked for.
    """
    device = resolve_device("cpu" if config.table else config.device)
    objectives, dropped = _available_objectives(config, device)
    settings = _with_threads(config, _with_variants(config, objectives), device)
    conditions = resolve_conditions(settings, device)
    return DeviceGrounds(str(device), objectives, dropped, conditions, fingerprint(device, conditions.threads))


def real_grounds(
    config: SearchConfig, measuring: DeviceGrounds, space: SearchSpace, request: DataRequest, before: Mapping[str, Any] | None
) -> Grounds:
    """Settle everything on this machine; see ``training_grounds`` for what is done, and for the arguments.

    Raises:
        InputError: The images cannot be used, or no network of the space can be trained on them, or there are fewer devices than
            workers.
    """
    device = torch.device(measuring.device)
    training = training_grounds(config, space, request, before)
    staff = places(config, device, measuring.measured, lambda: _training_mb(config, space, request, device))
    return joined_grounds(measuring, training, staff)


def joined_grounds(measuring: DeviceGrounds, training: TrainingGrounds, staff: tuple[Place, ...] = ()) -> Grounds:
    """Put together what was settled on the device that measures and on the one that trains."""
    found = measuring.found
    notes = (_describe_device(found, training.numeric, training.how), *training.notes)
    return Grounds(
        training.data, training.numeric, training.how, measuring.measured, found.to_dict(), found.identity(), notes, staff
    )


def training_grounds(
    config: SearchConfig, space: SearchSpace, request: DataRequest, before: Mapping[str, Any] | None
) -> TrainingGrounds:
    """Load the images, try some of the space's networks on them, and choose a number format.

    Args:
        config: The search.
        space: Its space.
        request: Its images.
        before: The conditions of the study, if it was begun before.

    Raises:
        InputError: The images cannot be used, or no network of the space can be trained on them.
    """
    device = resolve_device(config.device)
    bundle = load_bundle(request, device)
    _check_counted(space, bundle)
    probed = _probed(space, bundle)
    numeric, how = _numeric_format(config, space, probed, bundle, device, before)
    return TrainingGrounds(str(device), bundle.facts(), numeric, how, (_describe_data(bundle), *_skipped(bundle)))


def training_packing(config: SearchConfig, space: SearchSpace, request: DataRequest) -> int:
    """Return how many candidates train side by side on the GPU that this process has for itself.

    Raises:
        InputError: See ``training_grounds``.
    """
    device = resolve_device(config.device)
    return packing(_training_mb(config, space, request, device), free_mb(device), len(os.sched_getaffinity(0)))


def _training_mb(config: SearchConfig, space: SearchSpace, request: DataRequest, device: torch.device) -> float:
    bundle = load_bundle(request, device)
    return largest_training_mb([_builder(space, a, bundle) for a in _probed(space, bundle)], bundle, config)


def _probed(space: SearchSpace, bundle: DataBundle) -> tuple[Architecture, ...]:
    try:
        return sample_buildable(space, bundle.input_shape, bundle.num_classes, _PROBED_ARCHITECTURES)
    except SpaceError as error:
        raise InputError(str(error)) from None


def _builder(space: SearchSpace, architecture: Architecture, bundle: DataBundle) -> Callable[[], torch.nn.Module]:
    return lambda: space.build(architecture, bundle.input_shape[0], bundle.num_classes)


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


def simulated_grounds(config: SearchConfig, measuring: DeviceGrounds, table: Table) -> Grounds:
    """Return the grounds on which a table was made; nothing is loaded.

    Raises:
        InputError: The search asks for another recipe than the table's networks were trained by.
    """
    table.check_recipe(config.train)
    made = table.made
    agreed = {**made["device"], "name": f"{SIMULATED} {made['device'].get('name', made['device'].get('kind'))}"}
    conditions = replace(measuring.measured, batch_size=made["measure"]["batch_size"])
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

    try:
        choice = choose_format([_builder(space, architecture, bundle) for architecture in probed], bundle, config.train, device)
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


def _with_variants(config: SearchConfig, objectives: tuple[str, ...]) -> MeasureSettings:
    """Add the ways of running a network that an objective, a constraint or a requirement needs to those that were asked for."""
    names = (*objectives, *config.constraints, *config.measure.require)
    needed = [METRICS[name].variant for name in names if METRICS[name].variant]
    variants = tuple(dict.fromkeys([*config.measure.variants, *needed]))
    return replace(config.measure, variants=variants)  # type: ignore[arg-type]


def _with_threads(config: SearchConfig, settings: MeasureSettings, device: torch.device) -> MeasureSettings:
    """Time with as many threads as a worker has CPUs, where several share them and nothing else is asked for."""
    workers = config.engine.workers
    if device.type != "cpu" or settings.threads is not None or workers == "auto" or workers < 2:
        return settings
    return replace(settings, threads=max(1, fed_cpus() // workers))


def _available_objectives(config: SearchConfig, device: torch.device) -> tuple[tuple[str, ...], dict[str, str]]:
    def reason_against(name: str) -> str | None:
        if METRICS[name].stage == "energy" and not config.measure.energy:
            return "measure.energy is false"
        return unavailable(name, device, config.measure.when_loaded)

    for key, names in (("measure.require", config.measure.require), ("constraints", config.constraints)):
        for name in names:
            reason = reason_against(name)
            if reason is not None:
                remedy = "take it out, or search on a device that can"
                raise InputError(f"{key}: {name} cannot be measured on {device} ({reason}): {remedy}.")
    dropped = {name: reason for name in config.objectives if (reason := reason_against(name)) is not None}
    kept = tuple(name for name in config.objectives if name not in dropped)
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in dropped.items())
        raise InputError(f"objectives: none of them can be measured on {device} ({reasons}): name others.")
    return kept, dropped
