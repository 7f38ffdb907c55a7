"""What a full training of one network of a study is to be: settled, and refused if it cannot work, before anything is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from nas.catalogue import ReferenceSpace
from nas.choosing import Chosen, choose
from nas.config.retrain import RetrainConfig
from nas.config.search import SearchConfig
from nas.errors import InputError
from nas.failures import first_line
from nas.found import read_file
from nas.measure.device import fed_cpus, lacks_precision, resolve_conditions, resolve_device
from nas.measure.fingerprint import DeviceFingerprint, fingerprint
from nas.measure.settings import MeasureConditions
from nas.runs import Run
from nas.shipped import FAMILIES, WEIGHTS
from nas.targets import build_target
from nas.train.data import DataBundle, DataRequest, load_bundle
from nas.train.full import Part, check_devices, resolve_full
from nas.train.settings import FullSettings, NumericFormat
from search_spaces.base import Architecture, SearchSpace

METRICS_FILE = "metrics.json"
_LIKE_THE_SEARCH = ("precision", "memory_format", "threads")


@dataclass(frozen=True)
class Plan:
    """A retraining that can begin; everything that can be refused was.

    Attributes:
        identity: What must be the same for a folder's content to be this plan's.
        other_device: The search's device, if this is another kind; ``None`` if it is the same.
    """

    run: Run
    chosen: Chosen
    folder: Path
    request: DataRequest
    bundle: DataBundle
    settings: FullSettings
    numeric: NumericFormat
    conditions: MeasureConditions
    device: torch.device
    print_of_device: DeviceFingerprint
    other_device: str | None
    seed: int
    identity: Mapping[str, Any]


def prepare(run: Run, config: RetrainConfig, given: frozenset[str]) -> Plan:
    """Settle what the configuration leaves open, and refuse what cannot work before anything is written.

    Args:
        run: The study.
        config: What was asked for.
        given: The keys that the command line set; the others of ``measure`` may follow the search's conditions.

    Raises:
        InputError: On anything that the retraining could not work with.
    """
    chosen = choose(run, config.pick, config.trial, config.architecture)
    search = run.config(config.data)
    device = resolve_device(config.device or search.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # a loader pins memory, and libraries allocate, on the current device
    request = DataRequest(build_target("data", search.source, search.allow_modules), search.data, search.seed)
    bundle = load_bundle(request, device)
    _check_images(run, search, bundle)
    trained = run.record["conditions"]["train"]
    numeric = NumericFormat(trained["precision"], trained["memory_format"])
    if run.record["conditions"]["device"]["kind"] != device.type:  # what was fastest there need not run here
        numeric = NumericFormat("bf16", "channels_last") if device.type == "cuda" else NumericFormat("fp32", "contiguous")
    if numeric.precision == "bf16" and lacks_precision("bf16", device) is not None:
        numeric = dataclasses.replace(numeric, precision="fp32")
    settings, numeric = resolve_full(config.train, search.train, numeric)
    on: Part = "train+validation" if config.audit is None else "train"
    check_devices(settings, device, bundle, on)
    conditions, print_of_device, same = _conditions(run, config, device, given)
    seed = search.seed if config.seed is None else config.seed
    label = chosen.label if seed == search.seed else f"{chosen.label}-seed{seed}"
    folder = Path(config.out) if config.out is not None else run.folder / "retrain" / label
    identity = {
        "architecture_id": chosen.architecture.id,
        "data": f"{bundle.fingerprint}/{bundle.split_digest}",
        "augmentation": {"crop_padding": bundle.settings.crop_padding, "flip": bundle.settings.flip},
        "seed": seed,
        "train": dataclasses.asdict(settings),
        "numeric": dataclasses.asdict(numeric),
        "measure": conditions.to_dict(),
    }
    _check_buildable(chosen, bundle)
    if config.audit is None:
        _check_family(run, chosen, bundle)
    return Plan(
        run=run,
        chosen=chosen,
        folder=folder,
        request=request,
        bundle=bundle,
        settings=settings,
        numeric=numeric,
        conditions=conditions,
        device=device,
        print_of_device=print_of_device,
        other_device=None if same else str(run.record["conditions"]["device"]["name"]),
        seed=seed,
        identity=yaml.safe_load(yaml.safe_dump(_lists(identity))),
    )


def _conditions(
    run: Run, config: RetrainConfig, device: torch.device, given: frozenset[str]
) -> tuple[MeasureConditions, DeviceFingerprint, bool]:
    """Return the measuring conditions: the search's where they make figures comparable, and whether the device is the same."""
    theirs = run.record["conditions"]["measure"]
    follow = ["batch_size"]
    if run.record["conditions"]["device"]["kind"] == device.type:
        follow += _LIKE_THE_SEARCH
    changes = {key: theirs[key] for key in follow if f"measure.{key}" not in given}
    if changes.get("threads") is not None:  # fewer CPUs are another device, which is allowed and labelled
        changes["threads"] = min(changes["threads"], fed_cpus())
    conditions = resolve_conditions(dataclasses.replace(config.measure, **changes), device)
    print_of_device = fingerprint(device, conditions.threads)
    return conditions, print_of_device, print_of_device.identity() == run.record["conditions"]["device"]


def _check_images(run: Run, search: SearchConfig, bundle: DataBundle) -> None:
    known = run.record["data"]
    if bundle.fingerprint != known["fingerprint"]:
        raise InputError(
            f"data: the images are not those of the search (fingerprint {bundle.fingerprint[:12]} and not "
            f"{known['fingerprint'][:12]}): point data.root to the same set."
        )
    if bundle.split_digest != known["split_digest"]:
        mine, theirs = search.data.validation_fraction, run.config().data.validation_fraction
        raise InputError(
            f"data.validation_fraction={mine} divides the images otherwise than the search did"
            f"{'' if mine == theirs else f' with {theirs}'}: set it back."
        )


def _check_buildable(chosen: Chosen, bundle: DataBundle) -> None:
    try:
        with torch.device("meta"), torch.no_grad():
            model = chosen.space.build(chosen.architecture, bundle.input_shape[0], bundle.num_classes).eval()
            model(torch.zeros(2, *bundle.input_shape))
    except NotImplementedError:
        return  # an operation without a shape-only form: only training can tell
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"network {chosen.label} cannot take the images of this study ({first_line(error)}): choose another."
        ) from None


def _check_family(run: Run, chosen: Chosen, bundle: DataBundle) -> None:
    """Refuse a space of a user's own that calls its networks as ours and builds others: they could not be read back."""
    if not is_ours(chosen) or isinstance(chosen.space, ReferenceSpace):
        return
    ours = ReferenceSpace()
    try:
        architecture = ours.from_dict(chosen.architecture.to_dict())
        same = _shapes(ours, architecture, bundle) == _shapes(chosen.space, chosen.architecture, bundle)
    except NotImplementedError:  # one that cannot be built without data is built when it is trained
        return
    except (RuntimeError, ValueError):  # such as SpaceError: it is no architecture of ours at all
        same = False
    if not same:
        raise InputError(another_network(run))


def is_ours(chosen: Chosen) -> bool:
    """Whether a network calls itself one of this package's families."""
    return chosen.architecture.to_dict().get("family") in FAMILIES


def _shapes(space: SearchSpace, architecture: Architecture, bundle: DataBundle) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = space.build(architecture, bundle.input_shape[0], bundle.num_classes)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def another_network(run: Run) -> str:
    """Return what a user is told whose space builds something else under the name of one of those."""
    return (
        f"space {run.plain['space']['_target_']} builds something else for this architecture than search_spaces does: let its "
        "architectures have a family of their own in to_dict()."
    )


def finished(plan: Plan, overwrite: bool) -> dict[str, Any] | None:
    """Return what the folder holds if it is done; ``None`` if there is something to do.

    Raises:
        InputError: The folder holds something else, and ``overwrite`` is not set.
    """
    path = plan.folder / "config.yaml"
    if plan.folder.exists() and not plan.folder.is_dir():
        raise InputError(f"out={plan.folder} is a file: give a folder's name.")
    theirs = identity_of(path)
    if theirs is None:
        # Files with a dot are what a killed command was writing, and what file managers leave behind.
        if plan.folder.exists() and any(not path.name.startswith(".") for path in plan.folder.iterdir()):
            # Whatever it is, beginning anew would delete it: even overwrite=true is for retrainings alone.
            raise InputError(f"{plan.folder} is not empty and no retraining's: give out=<folder>.")
        return None
    if overwrite:
        return None
    for key, mine in plan.identity.items():
        # An older retraining does not say how it was augmented.
        if theirs.get(key, mine if key == "augmentation" else None) != mine:
            raise InputError(
                f"{plan.folder} holds a retraining under another {key}: set it back, give out=<folder>, or overwrite=true."
            )
    if (plan.folder / METRICS_FILE).exists() and (plan.folder / WEIGHTS).exists():
        done: dict[str, Any] = read_file(plan.folder / METRICS_FILE, json.loads, "begin anew with overwrite=true")
        return done
    return None


def identity_of(path: Path) -> dict[str, Any] | None:
    """Return what a retraining's folder says it is of; ``None`` if it is none."""
    if not path.exists():
        return None
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    identity = written.get("identity") if isinstance(written, dict) else None
    return identity if isinstance(identity, dict) else None


def _lists(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _lists(value) for key, value in data.items()}
    return [_lists(value) for value in data] if isinstance(data, (list, tuple)) else data
