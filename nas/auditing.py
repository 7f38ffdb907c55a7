"""Audits a search: networks spread over the front and beyond it are trained in full, and the brief order is held against that.

The full trainings use the training part alone and are scored on the validation part: the test part is for shipped networks.
"""

from __future__ import annotations

import dataclasses
import gc
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
from nas.analyse.spread import share_error
from nas.config.retrain import RetrainConfig
from nas.errors import InputError, RunError
from nas.failures import first_line, is_out_of_memory
from nas.files import write_json
from nas.found import read_file
from nas.measure.lock import Shared
from nas.metrics import METRICS, Metric
from nas.outcomes import Outcome
from nas.retrain_plan import Plan, prepare
from nas.retraining import Holding, again, writing
from nas.runs import Run
from nas.train.fit import fit
from nas.train.full import TrainingDiverged, fit_full
from nas.train.recipe import ieee_fp32, place, score
from nas.train.settings import NumericFormat, TrainSettings

FOLDER = "audit"
RESULT = "audit.json"
SCORES = ("top1", "top1_mean", "train_loss_area")
"""What a study may rank trainings by; see ``proxy`` in ``nas.config.search``."""

_BATCH = 256
_OUT_OF_MEMORY = "out of memory"

Tell = Callable[[str], None]


def select(run: Run, count: int) -> list[Outcome]:
    """Return ``count`` networks spread evenly over the brief order, from its best to its worst.

    Each stretch of that order gives its best member of the front, or its middle one; the brief training's best network and the
    knee are always among them, so that it is known what choosing them costs.

    Raises:
        InputError: The study has fewer distinct networks.
    """
    score = _ranks_by(run)
    sign = -1 if score.direction == "maximize" else 1
    best_first = sorted(
        (outcome for outcome in run.outcomes if outcome.state == "complete" and outcome.attributes.get(score.name) is not None),
        key=lambda outcome: (sign * float(outcome.attributes[score.name]), outcome.number or 0),
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


def _ranks_by(run: Run) -> Metric:
    """Return what the study ranks trainings by: ``proxy`` may have put another score in the place of ``top1``."""
    return next((metric for metric in run.objectives if metric.name in SCORES), METRICS["top1"])


def audit(run: Run, config: RetrainConfig, given: frozenset[str], tell: Tell) -> AuditResult:
    """Train what is not trained yet, and judge; the same call goes on where it was stopped.

    Args:
        run: The study.
        config: ``audit`` is set; ``train`` is the full recipe.
        given: The keys that the command line set.
        tell: Is told one line per training.

    Raises:
        InputError: The networks are too few, or ``audit/`` holds an audit under other conditions.
        RunError: Fewer than two networks could be trained, or the folder cannot be written.
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
    common = {
        "study": run.name,
        "full": dataclasses.asdict(plans[0].settings),
        "brief": dataclasses.asdict(brief),
        "longer": longer.epochs,
        "seeds": seeds,
        "data": plans[0].identity["data"],
        "augmentation": plans[0].identity["augmentation"],
        "device": plans[0].print_of_device.identity(),
    }
    # A trial's number says which network it is within one study alone.
    of_each: list[dict[str, Any]] = [
        json.loads(json.dumps({**common, "architecture_id": plan.chosen.architecture.id})) for plan in plans
    ]
    records: list[tuple[Outcome, dict[str, Any]]] = []
    left_out: list[tuple[str, str]] = []
    began_s, fresh = time.perf_counter(), 0
    # All that can be refused is refused before the first training.
    known = [
        _known(folder / outcome.name / "audit.json", conditions, config.overwrite)
        for outcome, conditions in zip(outcomes, of_each, strict=True)
    ]
    for number, (outcome, plan, conditions, record) in enumerate(zip(outcomes, plans, of_each, known, strict=True), start=1):
        path = folder / outcome.name / "audit.json"
        steps = [name for name in ("full", *(name for name, _, _ in trainings)) if name not in record]
        for name in steps:
            if any("failed" in found for found in record.values()):
                break  # it is left out
            with writing(path.parent, again(False)):
                record[name] = _step(name, plan, trainings, numeric, path.parent)
                if _OUT_OF_MEMORY not in record[name].get("failed", ""):  # which others may have had
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
    result = _result(records, left_out, brief, longer, seeds, plans[0], _ranks_by(run).name)
    with writing(folder, again(False)):
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
    if isinstance(theirs, dict):  # an older audit does not say how its images were augmented, nor of which network it is
        for key in ("augmentation", "study", "architecture_id"):
            theirs.setdefault(key, conditions[key])
    if theirs == conditions:
        return dict(kept)
    other = next((key for key in conditions if not isinstance(theirs, dict) or theirs.get(key) != conditions[key]), "conditions")
    raise InputError(f"{path} is of an audit under another {other}: set it back, give out=<folder>, or overwrite=true.")


def _step(
    name: str, plan: Plan, trainings: Sequence[tuple[str, TrainSettings, int]], numeric: NumericFormat, folder: Path
) -> dict[str, Any]:
    """Return what one training came to; one that diverges or runs out of memory is left out with the reason."""
    try:
        return _trained(name, plan, trainings, numeric, folder)
    except TrainingDiverged as error:
        return {"failed": f"{name}: the training diverged ({error})"}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)[:200]
    if plan.device.type == "cuda":  # out of the handler: what the error held is gone by now, but for cycles
        gc.collect()
        torch.cuda.empty_cache()
    return {"failed": f"{name}: {_OUT_OF_MEMORY} ({reason})"}


def _trained(
    name: str, plan: Plan, trainings: Sequence[tuple[str, TrainSettings, int]], numeric: NumericFormat, folder: Path
) -> dict[str, Any]:
    bundle = plan.bundle
    began_s = time.perf_counter()  # what was waited for others is no part of it
    if name == "full":
        hold = Holding(plan)
        torch.manual_seed(plan.seed)
        model = plan.chosen.space.build(plan.chosen.architecture, bundle.input_shape[0], bundle.num_classes)
        fit_full(
            model,
            plan.request,
            plan.settings,
            plan.numeric,
            plan.device,
            plan.seed,
            on="train",
            checkpoints=folder / "full",
            hold=hold,
        )
        place(model, plan.numeric, plan.device)
        with Shared(plan.device) as last, ieee_fp32():
            found = score(model, bundle.validation_batches(_BATCH), plan.numeric)
        shutil.rmtree(folder / "full", ignore_errors=True)  # its checkpoints
        return {"top1": found.top1, "seconds": time.perf_counter() - began_s - hold.waited_s - last.waited_s}
    settings, seed = next((settings, seed) for known, settings, seed in trainings if known == name)
    torch.manual_seed(seed)
    model = plan.chosen.space.build(plan.chosen.architecture, bundle.input_shape[0], bundle.num_classes)
    late = [epoch for epoch in range(1, settings.epochs + 1) if epoch > settings.epochs * 2 / 3]
    with Shared(plan.device) as shared:

        def on_epoch(done: int, total: int) -> None:
            shared.give_way()

        trained = fit(model, bundle, settings, numeric, plan.device, seed, scored=late, on_epoch=on_epoch)
    seconds = time.perf_counter() - began_s - shared.waited_s
    mean = statistics.fmean(score.top1 for score in trained.curve if score.epoch in late)
    return {"top1": trained.top1, "top1_mean": mean, "train_loss": list(trained.train_loss), "seconds": seconds}


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
    ranks_by: str,
) -> AuditResult:
    found = [record for _, record in records]
    first = f"seed {seeds[0]}"
    last = max(1, brief.epochs // 3)

    def seconds(*names: str) -> float:
        return float(statistics.median(sum(record[name]["seconds"] for name in names) for record in found))

    one_seed = {"top1": Proxy("last epoch, one seed", 1.0, seconds(first), tuple(record[first]["top1"] for record in found))}
    if all("top1_mean" in record[first] for record in found):  # an older audit lacks it
        means = tuple(record[first]["top1_mean"] for record in found)
        one_seed["top1_mean"] = Proxy("mean of the last third of the epochs, one seed", 1.0, seconds(first), means)
    areas = tuple(-math.fsum(record[first]["train_loss"]) for record in found)
    one_seed["train_loss_area"] = Proxy("area under the training loss", 1.0, seconds(first), areas)
    if ranks_by not in one_seed:
        raise InputError(
            f"this audit is older than its study's proxy, {ranks_by}, can be judged: begin anew with overwrite=true."
        )
    proxies = [one_seed.pop(ranks_by)]
    for count in range(2, len(seeds) + 1):
        names = [f"seed {seed}" for seed in seeds[:count]]
        means = tuple(statistics.mean(record[name]["top1"] for name in names) for record in found)
        proxies.append(Proxy(f"mean of {count} seeds", float(count), seconds(*names), means))
    ratio = longer.epochs / brief.epochs
    if ratio > 1:
        tops = tuple(record["longer"]["top1"] for record in found)
        proxies.append(Proxy(f"{longer.epochs} epochs instead of {brief.epochs}", ratio, seconds("longer"), tops))
    proxies += one_seed.values()
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
        full_error=tuple(share_error(top1, images) for top1 in full),
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
