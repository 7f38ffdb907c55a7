"""``python -m nas.report study=<name>``: one page on a study that opens anywhere, and its front as a table."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nas.cli import run_command
from nas.compose import compose
from nas.config.report import REPORT_ROOT, ReportConfig, parse_report
from nas.errors import InputError

HELP = """\
usage: python -m nas.report study=<name> [key=value ...]

Writes report.html, one page that opens without a network, and front.csv into the study's folder: the front in every pair
of objectives with error bars, all networks to filter, the search's course and cost, what each choice of the space does, the
networks of the front layer by layer, and the conditions of it all; and space_narrowed.yaml, a smaller space to search next.
A search may still be running.

  study, run_dir, storage   the study's name under runs/, or its folder; a database URL with its password
  pick, trial, architecture   the network that stands first: pick=knee, pick="max top1 where latency_ms<=1.5", trial=17
  networks                  how many networks of the front are shown layer by layer (100)
  layers, layer_seconds     whether their layers are timed on the device, and for how long in all (true, 5)
  good                      which networks space_narrowed.yaml, the space to search next, is cut to: those of the least error,
                            as RegNet has it, or those on the front of the objectives (error)
  device                    where they are timed: auto, cpu or cuda:N; the search's own if not set
  out                       the file (<run folder>/report.html)

exit code: 0 done, 2 the input cannot be used
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        InputError: If the input cannot be used.
    """
    if "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0
    config = parse_report(compose("report", REPORT_ROOT, {}, arguments, study=False).plain)
    with uncollected():
        return _report(config)


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage in the block: all that is read lives to its end, and looking through it takes a sixth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _report(config: ReportConfig) -> int:
    began_s = time.perf_counter()

    from nas.console import make_console
    from nas.outcomes import dominations
    from nas.page import write_page
    from nas.proposing import Proposal, write_proposal
    from nas.report_page import report_page
    from nas.reporting import gather
    from nas.runs import read_run
    from nas.tables import write_front

    console = make_console()
    with console.status("reading the study"):
        run = read_run(config.keys)
    path = Path(config.out) if config.out is not None else run.folder / "report.html"
    if path.is_dir():
        raise InputError(f"out={path} is a folder: give a file's name, such as {path / 'report.html'}.")
    if config.out is not None and path.exists() and b"<!doctype html" not in path.read_bytes()[:200].lower():
        raise InputError(f"out={path} is there and is no report: give another file's name.")
    with console.status("gathering"):
        report = gather(run, config)
    with console.status("writing"):
        try:
            write_page(path, report_page(report))
            write_proposal(report.proposal, run, report.population, report.good)
            dominated = dominations(run.front, run.references, run.objectives)
            write_front(run.folder / "front.csv", run.front, run.objectives, run.constraints, dominated, bool(run.references))
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}): set out=<file> to another place.") from None
    size_mb, seconds = path.stat().st_size / 1e6, time.perf_counter() - began_s
    shown = report.chosen.why if report.chosen is not None else report.unchosen
    console.print(shown, markup=False, soft_wrap=True)
    console.print(f"front: {run.folder / 'front.csv'}, {len(run.front)} networks", markup=False, soft_wrap=True)
    console.print(f"report: {path}, {size_mb:.1f} MB, made in {seconds:.1f} s", markup=False, soft_wrap=True)
    next_ = []
    if report.chosen is not None:
        next_.append(f"python -m nas.retrain {config.keys.told} {_pick(config.pick, config.trial, config.architecture)}")
    if isinstance(report.proposal, Proposal):
        smaller = f": {report.proposal.smaller}" if report.proposal.smaller else ""
        console.print(f"narrowed space: {report.proposal.path}{smaller}", markup=False, soft_wrap=True)
        next_.append(report.proposal.command)
    else:
        console.print(f"no narrowed space: {report.proposal}", markup=False, soft_wrap=True)
    if next_:
        console.print("next:", style="bold")
    for command in next_:
        console.print(f"  {command}", markup=False, soft_wrap=True)
    return 0


def _pick(pick: str | None, trial: int | None, architecture: str | None) -> str:
    import shlex

    given = [("trial", trial), ("architecture", architecture), ("pick", pick or "knee")]
    return next(shlex.quote(f"{key}={value}") for key, value in given if value is not None)


if __name__ == "__main__":
    run_command(main)
