"""``python -m nas.search conf=<study>``: searches a design space and leaves a study, a front and the architectures behind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from nas.cli import EXIT_INTERRUPTED, run_command
from nas.compose import Composed, compose, packaged_conf, studies
from nas.config.common import study_key
from nas.config.search import SEARCH_GROUPS, SEARCH_ROOT, parse_search
from nas.errors import InputError, RunError, StorageAwayError
from nas.secrets import mask_password

if TYPE_CHECKING:  # torch, Lightning and Optuna take seconds to import: --help and a misspelt key must not wait for them
    from rich.console import Console

    from nas.prepare import Prepared
    from nas.study import Study

HELP = """\
usage: python -m nas.search conf=<study> [key=value ...]

Searches a design space: every candidate is built, counted, timed on the device and trained briefly, and the networks
that trade the objectives best are kept. The same command again continues the study.

  studies (conf=...)       {studies}
  groups (group=option)    {groups}

  study.name, study.trials, study.storage   name; trials in all; SQLite (default), journal, or a database URL
  run_dir                  where everything goes (runs/<study.name>)
  seed, device             origin of all randomness; auto, cpu or cuda:N
  objectives               such as [top1,latency_ms,flops_per_s,energy_j]
  constraints              bounds, such as {{latency_ms: 2.0, top1: 0.9}}: at most where less is better, at least where more is
  space.*, data.*          the design space and the images: see the files in {conf};
                           space=path/to/space.yaml takes one of your own, and so does every group
  train.*                  the recipe: train.epochs, train.batch_size, train.peak_lr, ...
  measure.*                measure.batch_size, measure.precision, measure.require, ...
  scheduler                scheduler=mo_asha stops trainings early that stand low at a rung; scheduler.eta, scheduler.rungs
  gate                     false trains candidates too that miss a bound which is known before
  proxy                    what stands for top1 among the objectives: last, mean (of the last epochs), loss_area
  confirm                  further seeds for the networks on the front and within noise of it, at the end (0)
  engine                   engine.workers: worker processes (auto; 0: none); engine.timeout.{{data,build,measure,train}} in s;
                           engine=ray: on a cluster (engine.address; measure.resources, train.resources: docs/cluster.md)
  sampler                  sampler=tpe (ehvi), or sampler._target_=optuna.samplers.<class>; sampler.seed (seed)
  references               known networks for comparison: [resnet18,vovnet27_slim], trained and measured like the candidates
  checkpoints              front: networks keep their weights if they are on the front when they end; or all, none
  start                    your own first trials: [preset:osa_densenet40, path/to/architecture.yaml]
  reuse                    earlier studies whose results are taken where a candidate is known there: [osa_digits]
  question                 what the end shall answer: question.factor=bottleneck question.equal=flops
  table                    evaluated networks that answer in place of training: see conf=simulated/digits
  allow_modules            your own modules that a _target_ may name

options: --help, and --cfg to print the composed configuration and stop
exit code: 0 done, 1 the run failed, 2 the input cannot be used, 130 interrupted
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Overrides in Hydra's grammar, ``--help`` or ``--cfg``.

    Returns:
        The exit code.

    Raises:
        InputError: If the input cannot be used; nothing was written then.
        RunError: If every trial failed.
    """
    if "--help" in arguments or "-h" in arguments:
        print(_help())
        return 0
    overrides = [argument for argument in arguments if argument != "--cfg"]
    composed = compose("search", SEARCH_ROOT, SEARCH_GROUPS, overrides)
    config = parse_search(composed.plain)
    if len(overrides) < len(arguments):
        import yaml

        print(yaml.safe_dump(composed.written, sort_keys=False, allow_unicode=True), end="")
        return 0

    from nas.console import make_console
    from nas.processes import forkserver

    here = config.engine.kind == "local" and config.engine.workers != 0 and config.table is None
    if here and not os.path.exists("/dev/nvidiactl"):
        forkserver()  # it loads the libraries while this process does
    from nas.prepare import prepare_search

    console = make_console()
    with console.status("preparing"):
        prepared = prepare_search(config, composed)
    return _search(prepared, composed, overrides, console)


def _search(prepared: Prepared, composed: Composed, overrides: Sequence[str], console: Console) -> int:
    from rich.markup import escape

    from nas import retrying
    from nas.analyse.spread import validation_images
    from nas.confirming import confirm, time_contenders
    from nas.driver import run, run_references
    from nas.files import make_run_dir, write_config, write_json
    from nas.interrupt import Interrupted, InterruptGate
    from nas.progress import Progress
    from nas.recording import Recorder, annotator_of
    from nas.spool import Spool
    from nas.storage import open_owner, open_storage
    from nas.study import Study, require_success

    _refuse_shared_folder(prepared)
    made = make_run_dir(prepared.run_dir)
    owner = None
    gate = InterruptGate()
    retrying.told = partial(console.print, markup=False, soft_wrap=True)
    interrupted, given_up = False, None
    made_by_another = False
    try:
        owner = open_owner(prepared.storage, prepared.run_dir, prepared.plan.name)
        with owner.election():  # two commands begun at once must not both make the tables
            file = prepared.storage.file
            made_by_another = file is not None and file.parent == prepared.run_dir and os.path.exists(file)
            storage = open_storage(prepared.storage)
            spool = Spool(prepared.run_dir / "spool", prepared.plan.name)
            study = Study(storage, prepared.plan, prepared.space, prepared.sampler, owner, prepared.scheduler, spool)
            annotator = annotator_of(
                prepared.plan, prepared.run_dir, storage, partial(console.print, markup=False, soft_wrap=True)
            )
            annotator.describe()
            study.verdict.before_tell = annotator.before_tell
        try:
            write_config(prepared.run_dir, {"conf": composed.name, **composed.written})
            write_json(prepared.run_dir / "record.json", {**prepared.plan.record, "conditions": prepared.plan.conditions})
        except OSError as error:
            raise RunError(
                f"{prepared.run_dir} cannot be written ({error.strerror}): see to it, and give the command again."
            ) from None
        done = sum(trial.counts for trial in study.finished)
        more = f", {done} of them done" if done else ""
        where = escape(f"{prepared.plan.trials} trials{more}, in {prepared.run_dir}")
        console.print(f"study [bold]{prepared.plan.name}[/]: {where}")
        for note in prepared.notes:
            console.print(note, markup=False, soft_wrap=True)
        with gate.installed(), Progress(study, console) as progress, prepared.engine() as engine:
            try:
                recorder = Recorder(prepared, study, progress)
                left = run_references(study, engine, prepared.references, recorder, gate)
                run(study, engine, prepared.request_for, recorder, gate)
                others = {name: prepared.references[name] for name in left}
                for name in run_references(study, engine, others, recorder, gate, patient=True):
                    console.print(f"reference {name} is under way in another process", markup=False, soft_wrap=True)
                images = validation_images(prepared.plan.record["data"])
                time_contenders(study, engine, prepared.timing_for, images, recorder, gate)
                # Means may bring a network to the front that was only looked at, and its timing another one.
                while confirm(study, engine, prepared.confirm_for, prepared.confirm, images, recorder, gate):
                    if not time_contenders(study, engine, prepared.timing_for, images, recorder, gate):
                        break
            except Interrupted:
                interrupted = True
            except StorageAwayError:
                raise  # nothing can be read to be shown
            except RunError as error:
                given_up, interrupted = error, True
        if storage.backup is not None:
            storage.backup.make()
        _finish(prepared, study, overrides, console, interrupted)
        if given_up is not None:
            raise given_up
        if not interrupted:
            require_success(study)
    except InputError:
        if made is not None and not made_by_another and not os.path.exists(prepared.run_dir / "config.yaml"):
            # A moment old, and nothing came into it; into the folders above it others may have put something since.
            shutil.rmtree(prepared.run_dir, ignore_errors=True)
            for folder in prepared.run_dir.parents:
                if folder != made and made not in folder.parents:
                    break
                with contextlib.suppress(OSError):
                    folder.rmdir()
        raise
    finally:
        if owner is not None:
            owner.close()
    return EXIT_INTERRUPTED if interrupted else 0


def _refuse_shared_folder(prepared: Prepared) -> None:
    """Refuse a run folder that holds another study, whose files would be overwritten."""
    import yaml

    path = prepared.run_dir / "config.yaml"
    if not os.path.exists(path):
        return
    try:
        there = yaml.safe_load(path.read_text(encoding="utf-8"))["study"]["name"]
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise InputError(f"{path} cannot be read: restore it, or take another run_dir.") from None
    if there != prepared.plan.name:
        raise InputError(f"run_dir={prepared.run_dir} holds the study {there!r}: take another one for {prepared.plan.name!r}.")


def _finish(prepared: Prepared, study: Study, overrides: Sequence[str], console: Console, interrupted: bool) -> None:
    from nas.analyse.spread import validation_images
    from nas.analyse.study.population import Population
    from nas.analyse.telling import answer_data
    from nas.files import write_architecture, write_json
    from nas.outcomes import dominations
    from nas.retrying import patiently
    from nas.summary import print_answer, print_summary
    from nas.tables import write_front, write_references
    from search_spaces.base import to_yaml

    plan, run_dir = prepared.plan, prepared.run_dir
    images = validation_images(plan.record["data"])
    references = study.beside.references
    population = Population(tuple(study.finished), tuple(references), plan.objectives, plan.constraints, images)
    dominated = dominations(population.front, references, plan.objectives)

    def write() -> None:
        write_front(
            run_dir / "front.csv", population.front, plan.objectives, plan.constraints, dominated, bool(prepared.references)
        )
        if references:
            write_references(run_dir / "references.csv", references, plan.objectives, plan.constraints)
        for network in population.front:  # those of other processes too, whose folders are elsewhere
            assert network.number is not None
            architecture = prepared.space.from_dict(json.loads(network.attributes["architecture"]))
            write_architecture(run_dir, network.number, to_yaml(architecture))

    patiently(write, "the run folder")
    print_summary(console, population, dominated, plan.conditions["train"]["epochs"], interrupted)
    answer = prepared.answer(study.as_told, study.attributes)
    if answer is not None:
        patiently(lambda: write_json(run_dir / "answer.json", answer_data(answer)), "the run folder")
        print_answer(console, answer)
    console.print(
        f"\nfront: {run_dir / 'front.csv'}   architectures: {run_dir / 'trials'}/<trial>/architecture.yaml",
        markup=False,
        soft_wrap=True,
    )
    console.print("next:", style="bold")
    for command in ("report", "dashboard", "retrain"):
        pick = " pick=knee" if command == "retrain" else ""
        console.print(f"  python -m nas.{command} {study_key(plan.name, run_dir)}{pick}", markup=False, soft_wrap=True)
    again = [argument for argument in overrides if not argument.lstrip("+").startswith("study.trials=")]
    again.append(f"study.trials={plan.trials if interrupted else 2 * plan.trials}")
    console.print(f"  python -m nas.search {mask_password(shlex.join(again))}", markup=False, soft_wrap=True)


def _help() -> str:
    conf = packaged_conf()
    groups = [f"{g}={{{','.join(sorted(p.stem for p in (conf / g).glob('*.yaml')))}}}" for g in SEARCH_GROUPS]
    return HELP.format(studies=", ".join(studies()), groups=("\n" + " " * 27).join(groups), conf=conf)


if __name__ == "__main__":
    run_command(main)
