"""``python -m nas.benchmark``: measures known and found networks under one clock and leaves a table and a page behind."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli import EXIT_INTERRUPTED, run_command
from nas.compose import compose, packaged_conf
from nas.config.benchmark import BENCHMARK_GROUPS, BENCHMARK_ROOT, BenchmarkConfig, parse_benchmark
from nas.errors import InputError, RunError

if TYPE_CHECKING:  # torch and its company take seconds to import: --help and a misspelt key must not wait for them
    from rich.console import Console

    from nas.benchmarking.results import Key, Result
    from nas.benchmarking.runner import Plan

HELP = """\
usage: python -m nas.benchmark [benchmark=<list>] [key=value ...]

Measures networks on this device: time, FLOP/s, energy and memory over batch sizes and precisions, each network in a
process of its own. Writes results.parquet, results.csv and benchmark.html into run_dir. The same command again
measures only what is not measured yet under the same conditions.

  lists (benchmark=...)    {lists}
  models                   [resnet18,vovnet39,timm:regnety_008,best.yaml,study:runs/osa_cifar]
  batch_sizes, precisions  [1,2,4,8,16,32,64]; [fp32], also auto, tf32, bf16, fp16
  input_size, num_classes  side of the square images (each network's own), 1000
  run_dir, device          runs/benchmark/<name>; auto, cpu or cuda:N
  measure                  measure=default for one quick pass each; measure.energy=false, measure.variants=[graph,compiled]

options: --help, and --cfg to print the composed configuration and stop
exit code: 0 done, 1 no network could be measured, 2 the input cannot be used, 130 interrupted
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Overrides in Hydra's grammar, ``--help`` or ``--cfg``.

    Returns:
        The exit code.

    Raises:
        InputError: If the input cannot be used; nothing was written then.
        RunError: If not a single network could be measured.
    """
    if "--help" in arguments or "-h" in arguments:
        lists = sorted(path.stem for path in (packaged_conf() / "benchmark").glob("*.yaml"))
        print(HELP.format(lists=", ".join(lists)))
        return 0
    overrides = [argument for argument in arguments if argument != "--cfg"]
    given = {key: value for key, _, value in (argument.lstrip("+").partition("=") for argument in overrides)}
    if "models" in given and "name" not in given:
        # What is not the list that comes with the package neither bears its name nor replaces its table.
        own = Path(given.get("run_dir", "")).name
        name = own if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", own) else "custom"
        overrides.append(f"name='{name}'")
    composed = compose("benchmark", BENCHMARK_ROOT, BENCHMARK_GROUPS, overrides, study=False)
    config = parse_benchmark(composed.plain)
    if "--cfg" in arguments:
        import yaml

        print(yaml.safe_dump(composed.written, sort_keys=False, allow_unicode=True), end="")
        return 0

    from nas.benchmarking.runner import prepare
    from nas.console import make_console
    from nas.files import make_run_dir, write_config

    run_dir = Path(config.run_dir)
    _refuse_folder_of_others(run_dir)
    console = make_console()
    with console.status("looking at the device"):
        plan = prepare(config)
    make_run_dir(run_dir)
    try:
        with _held(run_dir):
            write_config(run_dir, composed.written)
            return _run(config, plan, console)
    except OSError as error:
        told = error.strerror or error
        raise RunError(
            f"{run_dir}: {told}; what was measured is kept, and the same command goes on once that is mended."
        ) from None


def _refuse_folder_of_others(run_dir: Path) -> None:
    """Refuse a run folder that is not a benchmark's, such as a search's, whose ``config.yaml`` would be lost."""
    import yaml

    path = run_dir / "config.yaml"
    if not os.path.exists(path):
        return
    try:
        there = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        there = None
    if not isinstance(there, Mapping) or "models" not in there:
        raise InputError(f"run_dir={run_dir} holds a config.yaml that is no benchmark's: take another run_dir.")


def _held(run_dir: Path) -> AbstractContextManager[object]:
    """Take the folder for this process: two benchmarks would measure the same things and write one table in turns."""
    from filelock import FileLock, Timeout

    folder = run_dir / "measurements"
    folder.mkdir(exist_ok=True)
    try:
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise InputError(f"run_dir={run_dir} is in use by another benchmark: wait for its end, or take another.") from None


def _run(config: BenchmarkConfig, plan: Plan, console: Console) -> int:
    from rich.markup import escape

    from nas.benchmarking.progress import Progress, summary
    from nas.benchmarking.results import missing_row, row, write_table
    from nas.benchmarking.runner import run, stored

    run_dir = Path(config.run_dir)
    table: dict[Key, dict[str, Any]] = {result.key: row(result) for result in stored(plan)}

    def rows() -> list[dict[str, Any]]:
        missing = [missing_row(network.model, network.reason) for network in plan.missing]
        return [*(table[key] for key in plan.keys if key in table), *missing]

    def ended(result: Result) -> None:
        table[result.key] = row(result)
        write_table(run_dir, rows())

    where = f"{plan.device.agreed.name}, in {run_dir}"
    console.print(f"benchmark [bold]{config.name}[/]: {len(plan.keys)} measurements on {escape(where)}", soft_wrap=True)
    write_table(run_dir, rows())  # if it cannot be written, better know it now than after the first measurement
    left = sum(key not in table or table[key]["status"] != "measured" for key in plan.keys)
    interrupted = False
    try:
        with Progress(plan.keys, left, console, ended) as progress:
            run(plan, progress)
    except KeyboardInterrupt:
        interrupted = True
    found = rows()
    write_table(run_dir, found)
    _write_page(config, plan, found)
    console.print(summary(found), markup=False)
    written = f"\ntable: {run_dir / 'results.parquet'} and .csv   page: {run_dir / 'benchmark.html'}"
    console.print(written, markup=False, soft_wrap=True)
    if interrupted:
        console.print("interrupted: the same command goes on")
        return EXIT_INTERRUPTED
    if not any(cells["status"] == "measured" for cells in found):
        first = found[0]
        raise RunError(f"none of {len(found)} could be measured; the first ({first['model']}): {first['reason']}.")
    return 0


def _write_page(config: BenchmarkConfig, plan: Plan, rows: Sequence[dict[str, Any]]) -> None:
    from nas.benchmark_page import write_benchmark_page

    conditions = plan.conditions.to_dict()
    for each in ("batch_size", "precision", "tf32"):  # they differ from row to row, and each row names its own
        del conditions[each]
    facts = plan.device.to_dict() | {"conditions": conditions}
    write_benchmark_page(Path(config.run_dir) / "benchmark.html", rows, facts, f"Benchmark {config.name}")


if __name__ == "__main__":
    run_command(main)
