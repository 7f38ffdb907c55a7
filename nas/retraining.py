"""One network of a study trained in full, tested once and measured again; leaves a folder that can be shipped."""

from __future__ import annotations

import dataclasses
import errno
import glob
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
import yaml
from torch import nn

from nas.analyse.spread import share_error
from nas.drawing import curve_svg, diagram_svg
from nas.errors import InputError, RunError
from nas.failures import first_line, is_out_of_memory
from nas.files import write_csv, write_json, write_text
from nas.measure.lock import Shared
from nas.measure.measurement import Measurement, Measuring
from nas.model_card import write_card
from nas.retrain_plan import METRICS_FILE, Plan, another_network, identity_of, is_ours
from nas.shipped import Description, load_model, write_model
from nas.train.full import FullResult, TrainingDiverged, fit_full
from nas.train.recipe import Score, ieee_fp32, place, score

_CHECKPOINTS = "checkpoints"
_BATCH = 256
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class Observer(Protocol):
    """Is told what happens; picklable where several devices train."""

    def stage(self, stage: str) -> None:
        """Something that takes its time begins."""
        ...

    def epoch(self, done: int, total: int, loss: float) -> None:
        """An epoch ended."""
        ...


def retrain(plan: Plan, overwrite: bool, observer: Observer) -> dict[str, Any]:
    """Train, test once, measure and write; returns what ``metrics.json`` holds. The same call goes on where it was stopped.

    Raises:
        InputError: A checkpoint cannot be used.
        RunError: The network cannot be counted, its training diverged or ran out of memory, or the folder cannot be written.
    """
    bundle = plan.bundle
    torch.manual_seed(plan.seed)
    model = plan.chosen.space.build(plan.chosen.architecture, bundle.input_shape[0], bundle.num_classes)
    # What cannot be counted is better known before the training.
    counting = Measuring(bundle.input_shape, plan.conditions, observer.stage)
    counting.count(model)
    counted = counting.result()
    with writing(plan.folder, again(overwrite)):
        _begin(plan, overwrite)
        observer.stage("train")
        trained = _train(plan, model, observer.epoch, again(overwrite))
        observer.stage("test")
        tested = _test(plan, model)
        measuring = Measuring(bundle.input_shape, plan.conditions, observer.stage, counted.complexity)
        measuring.measure(model)
        measured = measuring.result()
        measurement = dataclasses.replace(measured, seconds=counted.seconds + measured.seconds)
        observer.stage("write")
        metrics = _metrics(plan, trained, tested, measurement)
        _write(plan, model, trained, measurement, metrics)
    shutil.rmtree(plan.folder / _CHECKPOINTS, ignore_errors=True)
    return metrics


@contextmanager
def writing(folder: Path, goes_on: str) -> Iterator[None]:
    """Say in one sentence what keeps the block from writing into a folder, such as a full disk.

    Args:
        folder: Where it writes.
        goes_on: What goes on from there afterwards, such as "the same command".

    Raises:
        RunError: In an OSError's place.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        reason = error.strerror or first_line(error)
        raise RunError(f"{folder} cannot be written ({reason}): make room there, and {goes_on} goes on.") from error


def again(overwrite: bool) -> str:
    """Return what goes on where a retraining stopped, in words."""
    return "without overwrite=true the same command" if overwrite else "the same command"


def _begin(plan: Plan, overwrite: bool) -> None:
    """Make the folder a retraining's; beginning anew, a kill at any moment leaves what was there whole or takes it away."""
    folder = plan.folder
    aside = f".{folder.name}.overwritten-"
    for left in folder.parent.glob(f"{glob.escape(aside)}*"):  # by a command that was killed
        shutil.rmtree(left, ignore_errors=True)
    if overwrite and identity_of(folder / "config.yaml") is not None:
        away = Path(tempfile.mkdtemp(dir=folder.parent, prefix=aside))
        folder.rename(away / folder.name)
        shutil.rmtree(away)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", yaml.safe_dump({"identity": dict(plan.identity)}, sort_keys=False))


class Holding:
    """Holds the devices of a training together with other trainings, and with no measurement; picklable until it is entered."""

    def __init__(self, plan: Plan) -> None:
        several = plan.settings.devices if plan.device.type == "cuda" else 1
        self._devices = (plan.device,) if several == 1 else tuple(torch.device("cuda", index) for index in range(several))
        self._holds: list[Shared] = []
        self._entered = ExitStack()

    def __enter__(self) -> Holding:
        with ExitStack() as stack:
            self._holds = [stack.enter_context(Shared(device)) for device in self._devices]
            self._entered = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._entered.close()

    @property
    def waited_s(self) -> float:
        """How long it has waited so far, in this process."""
        return sum(hold.waited_s for hold in self._holds)

    def give_way(self) -> None:
        """Let those in who wait for a device alone, and come back after them."""
        for hold in self._holds:
            hold.give_way()


def _train(plan: Plan, model: nn.Module, on_epoch: Callable[[int, int, float], None], goes_on: str) -> FullResult:
    try:
        return fit_full(
            model,
            plan.request,
            plan.settings,
            plan.numeric,
            plan.device,
            plan.seed,
            on="train+validation",
            checkpoints=plan.folder / _CHECKPOINTS,
            on_epoch=on_epoch,
            hold=Holding(plan),
        )
    except TrainingDiverged as error:
        raise RunError(f"the training of network {plan.chosen.label} diverged ({error}): lower train.peak_lr.") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"the training of network {plan.chosen.label} ran out of memory on {plan.device} ({first_line(error)[:200]}): lower "
            f"train.batch_size and give overwrite=true, or free memory, and {goes_on} goes on."
        ) from None


def _test(plan: Plan, model: nn.Module) -> Score:
    """Score the test part: the only time that its images are looked at."""
    place(model, plan.numeric, plan.device)
    with Shared(plan.device), ieee_fp32():
        found = score(model, plan.bundle.test_batches(_BATCH), plan.numeric)
    model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return found


def _metrics(plan: Plan, trained: FullResult, tested: Score, measurement: Measurement) -> dict[str, Any]:
    images = plan.bundle.sizes["test"]
    outcome = plan.chosen.outcome
    brief = outcome.attributes if outcome is not None else {}
    is_stopped = outcome is not None and outcome.state == "pruned"  # early, or by a bound
    figures = {key: list(value) if isinstance(value, tuple) else value for key, value in measurement.figures().items()}
    return {
        "study": plan.run.name,
        "trial": None if plan.chosen.outcome is None else plan.chosen.outcome.number,
        "why": plan.chosen.why,
        "architecture_id": plan.chosen.architecture.id,
        "test_top1": tested.top1,
        "test_top1_standard_error": share_error(tested.top1, images),
        "test_top5": tested.top5,
        "test_loss": tested.loss,
        "test_images": images,
        "brief_validation_top1": brief.get("top1"),
        "brief_stopped_at": brief.get("fidelity") if is_stopped else None,
        **figures,
        **{f"{name}_reason": reason for name, reason in measurement.reasons().items()},
        "epochs": trained.epochs,
        "train_seconds": trained.train_seconds,
        "train_images": plan.bundle.sizes["train"] + plan.bundle.sizes["validation"],
        "seed": plan.seed,
        "recipe": dataclasses.asdict(plan.settings),
        "augmentation": dict(plan.identity["augmentation"]),
        "numeric": dataclasses.asdict(plan.numeric),
        "conditions": plan.conditions.to_dict(),
        "device": plan.print_of_device.to_dict(),
        "search_device": plan.other_device,
        "versions": {name: version(name) for name in ("torch", "torchvision", "lightning", "thop")},
    }


def _write(plan: Plan, model: nn.Module, trained: FullResult, measurement: Measurement, metrics: dict[str, Any]) -> None:
    folder, chosen, bundle = plan.folder, plan.chosen, plan.bundle
    name = f"{plan.run.name}/{chosen.label}"
    description = Description(
        name=name,
        study=plan.run.name,
        trial=metrics["trial"],
        architecture=chosen.architecture.to_dict(),
        space=None if is_ours(chosen) else dict(plan.run.written["space"]),
        input_shape=bundle.input_shape,
        classes=bundle.classes,
        mean=bundle.mean,
        std=bundle.std,
    )
    assert measurement.complexity is not None
    write_json(folder / "measurement.json", measurement.to_dict())
    epochs = zip(trained.train_loss, trained.learning_rates, trained.epoch_seconds, strict=True)
    rows = [
        {"epoch": epoch, "train_loss": loss, "learning_rate": rate, "seconds": seconds}
        for epoch, (loss, rate, seconds) in enumerate(epochs, start=1)
    ]
    write_csv(folder / "curves.csv", ["epoch", "train_loss", "learning_rate", "seconds"], rows)
    write_text(folder / "curves.svg", curve_svg(trained.train_loss, f"Training loss of {name}", "training loss"))
    write_text(folder / "diagram.svg", diagram_svg(measurement.complexity.layers, f"The blocks of {name}"))
    write_model(folder, model, description)
    _check_model(folder, model, plan)
    write_card(folder, description, metrics)
    write_json(folder / METRICS_FILE, metrics)  # last: a folder with it is whole


def _check_model(folder: Path, model: nn.Module, plan: Plan) -> None:
    """Read the network back and compare it: a space of a user's own may call its networks as ours and build others.

    Raises:
        RunError: What is read back computes something else.
    """
    images = torch.randn(2, *plan.bundle.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        again = load_model(folder, space=None if is_ours(plan.chosen) else plan.chosen.space)
    except InputError:
        same = False
    else:
        with torch.inference_mode():
            same = torch.allclose(again(images), model.to("cpu").float().eval()(images), rtol=1e-4, atol=1e-4)
    if not same:
        raise RunError(f"{folder} does not hold the network that was trained: {another_network(plan.run)}")
