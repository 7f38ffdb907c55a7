"""Audits a search: networks spread over the front and beyond it are trained in full, and the brief order is held against that.

The full trainings use the training part alone and are scored on the validation part: the test part is for shipped networks.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nas.analyse.picking import knee
from nas.analyse.ranking import AuditResult, Proxy, judge, verdict
from nas.config.retrain import RetrainConfig
from nas.errors import InputError, RunError
from nas.files import write_json
from nas.found import read_file
from nas.outcomes import Outcome
from nas.retraining import Plan, prepare
from nas.runs import Run
from nas.train.fit import fit
from nas.train.full import TrainingDiverged, fit_full
from nas.train.recipe import ieee_fp32, place, score
from nas.train.settings import NumericFormat, TrainSettings

FOLDER = "audit"
RESULT = "audit.json"
_BATCH = 256

Tell = Callable[[str], None]


def select(run: Run, count: int) -> list[Outcome]:
    """Return ``count`` networks spread evenly over the brief order, from its best to its worst.

    Each stretch of that order gives its best member of the front, or its middle one; the brief training's best network and the
    knee are always among them, so that it is known what choosing them costs.

    Raises:
        InputError: The study has fewer distinct networks.
    """
    best_first = sorted(
        (outcome for outcome in run.outcomes if outcome.state == "complete" and outcome.attributes.get("top1") is not None),
        key=lambda outcome: (-float(outcome.attributes["top1"]), outcome.number or 0),
    )
    by_architecture: dict[str, Outcome] = {}
    for outcome in best_first:
        by_architecture.setdefault(outcome.attributes["architecture_id"], outcome)
    distinct = list(by_architecture.values())
    if len(distinct) < count:
        raise InputError(f"audit={count} is more than the {len(distinct)} different networks of study {run.name}: set it lower.")
    front = {outcome.attributes["architecture_id"] for outcome in run.front}
    chosen = [distinct[0]]
    if run.front:
        middle = knee(run.front, run.objectives).attributes["architecture_id"]
        chosen += [outcome for outcome in distinct[1:] if outcome.attributes["architecture_id"] == middle]
    chosen = chosen[:count]
    rest = [outcome for outcome in distinct if all(outcome is not other for other in chosen)]
    wanted = count - len(chosen)
    for stretch in range(wanted):
        part = rest[stretch * len(rest) // wanted : (stretch + 1) * len(rest) // wanted]
        on_front = [outcome for outcome in part if outcome.attributes["architecture_id"] in front]
        chosen.append(on_front[0] if on_front else part[len(part) // 2])
    return sorted(chosen, key=lambda outcome: outcome.number or 0)


def audit(run: Run, config: RetrainConfig, given: frozenset[str], tell: Tell) -> AuditResult:
    """Train what is not trained yet, and judge; the same call goes on where it was stopped.

    Args:
        run: The study.
        config: ``audit`` is set; ``train`` is the full recipe.
        given: The keys that the command line set.
        tell: Is told one line per training.

    Raises:
        InputError: The networks are too few, or ``audit/`` holds an audit under other conditions.
        RunError: Fewer than two networks could be trained.
    """
    assert config.audit is not None
    outcomes = select(run, config.audit)
    plans = [prepare(run, dataclasses.replace(config, trial=outcome.number, pick=None), given) for outcome in outcomes]
    seeds = [plans[0].seed + more for more in range(config.audit_seeds)]
    folder = Path(config.out) if config.out is not None else run.folder / FOLDER
    brief, numeric = _brief(run)
    longer = dataclasses.replace(brief, epochs=brief.epochs * config.audit_epochs_factor)
    trainings: list[tuple[str, TrainSettings, int]] = [(f"seed {seed}", brief, seed) for seed in seeds]
    trainings.append(("longer", longer, seeds[0]))
    conditions = {
        "full": dataclasses.asdict(plans[0].settings),
        "brief": dataclasses.asdict(brief),
        "longer": longer.epochs,
        "seeds": seeds,
        "data": plans[0].identity["data"],
        "augmentation": plans[0].identity["augmentation"],
        "device": plans[0].print_of_device.identity(),
    }
    conditions = json.loads(json.dumps(conditions))
    records: list[tuple[Outcome, dict[str, Any]]] = []
    left_out: list[tuple[str, str]] = []
    began_s, fresh = time.perf_counter(), 0
    # All that can be refused is refused before the first training.
    known = [_known(folder / outcome.name / "audit.json", conditions, config.overwrite) for outcome in outcomes]
    for number, (outcome, plan, record) in enumerate(zip(outcomes, plans, known, strict=True), start=1):
        path = folder / outcome.name / "audit.json"
        steps = [name for name in ("full", *(name for name, _, _ in trainings)) if name not in record]
        for name in steps:
            record[name] = _step(name, plan, trainings, numeric, path.parent)
            write_json(path, {"conditions": conditions, **record})
            fresh += 1
            tell(_line(outcome, name, record[name], number, len(outcomes)))
        failed = next((found["failed"] for found in record.values() if "failed" in found), None)
        if failed is not None:
            left_out.append((outcome.name, str(failed)))
        else:
            records.append((outcome, record))
    if fresh:
        tell(f"{fresh} trainings in {time.perf_counter() - began_s:.0f} s")
    if len(records) < 2:
        raise RunError(f"only {len(records)} of {len(outcomes)} networks could be trained; the first reason: {left_out[0][1]}.")
    result = _result(records, left_out, brief, longer, seeds, plans[0])
    write_json(folder / RESULT, result.to_dict())
    return result


def _brief(run: Run) -> tuple[TrainSettings, NumericFormat]:
    trained = run.record["conditions"]["train"]
    return run.config().train, NumericFormat(trained["precision"], trained["memory_format"])


def _known(path: Path, conditions: Mapping[str, Any], overwrite: bool) -> dict[str, Any]:
    """Return what is known of a network under these conditions; ``overwrite`` forgets it."""
    strangers = [] if not path.parent.exists() else [one for one in path.parent.iterdir() if one.name not in (path.name, "full")]
    if strangers:
        raise InputError(f"{path.parent} is no audit's folder, it holds {strangers[0].name}: give out=<folder>.")
    if overwrite:
        shutil.rmtree(path.parent, ignore_errors=True)
    if not path.exists():
        return {}
    kept = read_file(path, json.loads, "begin anew with overwrite=true")
    theirs = kept.pop("conditions", None) if isinstance(kept, dict) else None
    if isinstance(theirs, dict):  # an older audit does not say how its images were augmented
        theirs.setdefault("augmentation", conditions["augmentation"])
    if theirs == conditions:
        return dict(kept)
    other = next((key for key in conditions if not isinstance(theirs, dict) or theirs.get(key) != conditions[key]), "conditions")
    raise InputError(f"{path} is of an audit under another {other}: set it back, give out=<folder>, or overwrite=true.")


def _step(
    name: str, plan: Plan, trainings: Sequence[tuple[str, TrainSettings, int]], numeric: NumericFormat, folder: Path
) -> dict[str, Any]:
    bundle = plan.bundle
    began_s = time.perf_counter()
    try:
        if name == "full":
            torch.manual_seed(plan.seed)
            model = plan.chosen.space.build(plan.chosen.architecture, bundle.input_shape[0], bundle.num_classes)
            fit_full(
                model, plan.request, plan.settings, plan.numeric, plan.device, plan.seed, on="train", checkpoints=folder / "full"
            )
            place(model, plan.numeric, plan.device)
            with ieee_fp32():
                found = score(model, bundle.validation_batches(_BATCH), plan.numeric)
            shutil.rmtree(folder / "full", ignore_errors=True)  # its checkpoints
            return {"top1": found.top1, "seconds": time.perf_counter() - began_s}
        settings, seed = next((settings, seed) for known, settings, seed in trainings if known == name)
        torch.manual_seed(seed)
        model = plan.chosen.space.build(plan.chosen.architecture, bundle.input_shape[0], bundle.num_classes)
        trained = fit(model, bundle, settings, numeric, plan.device, seed)
    except TrainingDiverged as error:
        return {"failed": f"{name}: the training diverged ({error})"}
    seconds = time.perf_counter() - began_s
    return {"top1": trained.top1, "train_loss": list(trained.train_loss), "seconds": seconds}


def _line(outcome: Outcome, name: str, found: Mapping[str, Any], number: int, count: int) -> str:
    head = f"network {number} of {count}, trial {outcome.name}, {name}"
    return f"{head}: {found['failed']}" if "failed" in found else f"{head}: top1 {found['top1']:.2%}, {found['seconds']:.1f} s"


def _result(
    records: Sequence[tuple[Outcome, dict[str, Any]]],
    left_out: Sequence[tuple[str, str]],
    brief: TrainSettings,
    longer: TrainSettings,
    seeds: Sequence[int],
    plan: Plan,
) -> AuditResult:
    found = [record for _, record in records]
    first = f"seed {seeds[0]}"
    last = max(1, brief.epochs // 3)

    def seconds(*names: str) -> float:
        return float(statistics.median(sum(record[name]["seconds"] for name in names) for record in found))

    proxies = [Proxy("last epoch, one seed", 1.0, seconds(first), tuple(record[first]["top1"] for record in found))]
    for count in range(2, len(seeds) + 1):
        names = [f"seed {seed}" for seed in seeds[:count]]
        means = tuple(statistics.mean(record[name]["top1"] for name in names) for record in found)
        proxies.append(Proxy(f"mean of {count} seeds", float(count), seconds(*names), means))
    ratio = longer.epochs / brief.epochs
    if ratio > 1:
        tops = tuple(record["longer"]["top1"] for record in found)
        proxies.append(Proxy(f"{longer.epochs} epochs instead of {brief.epochs}", ratio, seconds("longer"), tops))
    areas = tuple(-math.fsum(record[first]["train_loss"]) for record in found)
    proxies.append(Proxy("area under the training loss", 1.0, seconds(first), areas))
    ends = tuple(-statistics.mean(record[first]["train_loss"][-last:]) for record in found)
    proxies.append(Proxy(f"training loss, last {last} epoch{'s' * (last > 1)}", 1.0, seconds(first), ends))
    sizes = {name: tuple(float(outcome.attributes[name]) for outcome, _ in records) for name in ("params", "mult_adds")}
    proxies += [Proxy(name, 0.0, None, values) for name, values in sizes.items()]
    full = tuple(float(record["full"]["top1"]) for record in found)
    images = plan.bundle.sizes["validation"]
    judged = judge(proxies, full)
    return AuditResult(
        networks=tuple(outcome.name for outcome, _ in records),
        full=full,
        full_error=tuple(math.sqrt(top1 * (1 - top1) / images) for top1 in full),
        judged=judged,
        left_out=tuple(left_out),
        told=verdict(judged, full),
        conditions=(
            ("full training", f"{plan.settings.epochs} epochs on the training part, one seed"),
            ("brief training", f"{brief.epochs} epochs"),
            ("scored on", f"the validation part, {images} images"),
            ("device", str(plan.print_of_device.identity().get("name") or plan.device)),
        ),
    )
