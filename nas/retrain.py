"""``python -m nas.retrain study=<name> pick=knee``: trains a network of a study in full, tests it once and measures it again."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli import EXIT_INTERRUPTED, run_command
from nas.compose import compose
from nas.config.retrain import RETRAIN_GROUPS, RETRAIN_ROOT, RetrainConfig, parse_retrain
from nas.console import clock

if TYPE_CHECKING:
    from rich.console import Console

    from nas.retrain_plan import Plan

HELP = """\
usage: python -m nas.retrain study=<name> [pick=...] [key=value ...]

Builds a network of a study, trains it by the full recipe on the training and the validation part, evaluates it once on
the test part, measures it again, and leaves a folder to ship: weights, architecture, metrics, curves and a model card.
Stopped or killed, the same command goes on where it was.

  study, run_dir, storage   which study; its folder (runs/<study>); its storage's URL, if that has a password
  pick                      knee (default), or "max top1 where latency_ms<=1.5 and energy_j<=0.02"
  trial, architecture       or a trial's number, or an architecture's YAML file
  audit                     instead: train so many networks of the study in full, and tell how far the brief order holds
  audit_seeds, audit_epochs_factor   brief trainings per network, and how much longer one of them is (3, 3)
  train.*                   the full recipe: train.epochs, train.cutmix_alpha, train.devices, ... (conf/train/full.yaml)
  measure.*                 as in a search; batch size, arithmetic, layout and threads are the search's unless given
  data.*                    in place of the search's, such as data.root on another machine
  seed, device              the search's unless given
  out                       folder of the result (<run folder>/retrain/<trial>)
  overwrite                 true begins anew

exit code: 0 done, 1 the training failed, 2 the input cannot be used, 130 interrupted
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        InputError: If the input cannot be used; nothing was written then.
        RunError: If the training diverged, or there is not enough memory or room on the disk.
    """
    if "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0
    config = parse_retrain(compose("retrain", RETRAIN_ROOT, RETRAIN_GROUPS, arguments, study=False).plain)
    given = frozenset(argument.lstrip("+").partition("=")[0] for argument in arguments)

    from nas.console import make_console
    from nas.retrain_plan import finished, prepare
    from nas.runs import read_run

    console = make_console()
    if config.audit is not None:
        return _audit(config, given, console)
    with console.status("reading the study"):
        plan = prepare(read_run(config.keys), config, given)
        done = finished(plan, config.overwrite)
    console.print(plan.chosen.why, markup=False, soft_wrap=True)
    if done is not None:
        console.print(f"it is done: {plan.folder}; overwrite=true begins anew", markup=False, soft_wrap=True)
        _finish(plan, done, console)
        return 0
    return _retrain(plan, config, console)


def _retrain(plan: Plan, config: RetrainConfig, console: Console) -> int:
    from filelock import FileLock, Timeout

    from nas.errors import InputError
    from nas.files import make_run_dir
    from nas.interrupt import Interrupted, InterruptGate
    from nas.retraining import again, retrain

    if plan.other_device is not None:
        told = f"the search ran on {plan.other_device}, this is another device: its figures will be labelled"
        console.print(told, markup=False, soft_wrap=True)
    recipe = plan.settings
    console.print(
        f"training {plan.folder.name} for {recipe.epochs} epochs in batches of {recipe.batch_size}, {plan.numeric.precision} "
        f"{plan.numeric.memory_format}, on {recipe.devices if recipe.devices > 1 else ''} {plan.device}".replace("  ", " "),
        markup=False,
        soft_wrap=True,
    )
    make_run_dir(plan.folder.parent, "out")
    gate = InterruptGate()
    try:
        with (
            FileLock(plan.folder.parent / f".{plan.folder.name}.lock").acquire(timeout=0),
            gate.installed(),
            gate.interruptible(),
        ):
            metrics = retrain(plan, config.overwrite, Lines())
    except Timeout:
        raise InputError(f"{plan.folder} is in use by another retraining: wait for its end, or give out=<folder>.") from None
    except Interrupted:
        console.print(f"interrupted: {again(config.overwrite)} goes on where it was")
        return EXIT_INTERRUPTED
    _finish(plan, metrics, console)
    return 0


def _audit(config: RetrainConfig, given: frozenset[str], console: Console) -> int:
    from filelock import FileLock, Timeout
    from rich.table import Table

    from nas.auditing import FOLDER, RESULT, audit
    from nas.errors import InputError
    from nas.files import make_run_dir
    from nas.interrupt import Interrupted, InterruptGate
    from nas.runs import read_run

    run = read_run(config.keys)
    folder = Path(config.out) if config.out is not None else run.folder / FOLDER
    made = make_run_dir(folder, "out")
    gate = InterruptGate()

    def tell(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True, highlight=False)

    try:
        with FileLock(folder / ".lock").acquire(timeout=0), gate.installed(), gate.interruptible():
            result = audit(run, config, given, tell)
    except Timeout:
        raise InputError(f"{folder} is in use by another audit: wait for its end, or give out=<folder>.") from None
    except InputError:
        if made is not None and all(path.is_dir() or path.name == ".lock" for path in made.rglob("*")):
            shutil.rmtree(made)  # a moment old, and no training has ended in it
        raise
    except Interrupted:
        console.print("interrupted: the same command goes on where it was")
        return EXIT_INTERRUPTED
    table = Table("ranked by", "cost", "seconds", "Kendall τ", "Spearman ρ", "regret", box=None, padding=(0, 2, 0, 0))
    for found in result.judged:
        both = [
            "–" if value is None else f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"
            for value in (found.kendall, found.spearman)
        ]
        took = "–" if found.proxy.seconds is None else f"{found.proxy.seconds:.1f} s"
        table.add_row(found.proxy.name, f"{found.proxy.cost:g}×", took, *both, f"{100 * found.regret:.2f} points")
    console.print(table)
    for name, reason in result.left_out:
        tell(f"trial {name} is left out: {reason}")
    for sentence in result.told:
        tell(sentence)
    tell(f"audit: {folder / RESULT}")
    console.print("next:", style="bold")
    tell(f"  python -m nas.report {config.keys.told}")
    return 0


@dataclass
class Lines:
    """Prints what happens; an epoch's line at most every few seconds. Picklable, for where several devices train."""

    every_seconds: float = 5.0
    _first: tuple[float, int] | None = None
    _last_s: float = 0.0

    def stage(self, stage: str) -> None:
        """Print that something begins."""
        if stage != "write":
            print(f"  {stage}", flush=True)

    def epoch(self, done: int, total: int, loss: float) -> None:
        """Print an epoch, with the time that is left by the pace of this run."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        elif done < total and now - self._last_s < self.every_seconds:
            return
        self._last_s = now
        began, at = self._first
        left = f"  {clock((now - began) / (done - at) * (total - done))} left" if at < done < total else ""
        print(f"    epoch {done}/{total}  loss {loss:.4f}{left}", flush=True)


def _finish(plan: Plan, metrics: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table

    from nas.metrics import METRICS, show

    outcome = plan.chosen.outcome
    brief = {} if outcome is None else outcome.attributes
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("", "in the search", "retrained"):
        table.add_column(title, justify="left" if not title else "right")
    error = f" ± {100 * metrics['test_top1_standard_error']:.2f}"
    stopped = "" if outcome is None or outcome.state != "pruned" else f", {outcome.pruned_reason}"
    table.add_row("top1", show(METRICS["top1"], brief.get("top1")) + stopped, show(METRICS["top1"], metrics["test_top1"]) + error)
    for name in ("latency_ms", "energy_j", "flops_per_s", "peak_memory_mb", "params"):
        here = metrics.get(name)
        if here is not None or brief.get(name) is not None:
            table.add_row(name, show(METRICS[name], brief.get(name)), show(METRICS[name], here))
    console.print()
    console.print(table)
    note = "top1: in the search on the validation part after the brief training, retrained on the test part"
    console.print(note, style="dim", markup=False, soft_wrap=True)
    for flag in metrics.get("measure_flags", ()):
        console.print(f"in doubt: {flag}", markup=False, soft_wrap=True)
    console.print(
        f"\nmodel: {plan.folder / 'model.safetensors'}   card: {plan.folder / 'README.md'}", markup=False, soft_wrap=True
    )
    console.print("next:", style="bold")
    folder = shlex.quote(str(Path(plan.folder)))
    console.print(f"  python -m nas.export model={folder} format=onnx", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
