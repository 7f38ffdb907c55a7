"""``python -m nas.doctor``: one screen on what this machine can measure, how well, and what to fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nas.cli import run_command
from nas.compose import compose
from nas.config.doctor import DOCTOR_GROUPS, DOCTOR_ROOT, parse_doctor

if TYPE_CHECKING:
    from nas.checkup import Checkup, Repeats

HELP = """\
usage: python -m nas.doctor [key=value ...]

Tells what this machine can measure and how well: device, sensors, repeatability of latency and energy on a small
network, data sets; ends with what to fix. Takes about ten seconds on a CPU and half a minute on a GPU.

  device      auto, cpu or cuda:N
  runs        how often the network is measured (3)
  data_root   folder that data sets are looked for in (data)
  measure.*   as in a search: measure.precision=fp16, measure=thorough, ...

exit code: 0, also on a machine without a GPU; 2 the input cannot be used
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        InputError: If the input cannot be used.
    """
    if "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0
    config = parse_doctor(compose("doctor", DOCTOR_ROOT, DOCTOR_GROUPS, arguments, study=False).plain)

    from rich.table import Table

    from nas.checkup import check_up, remedies
    from nas.console import make_console

    console = make_console()
    with console.status("looking at the device") as status:
        found = check_up(config.device, config.measure, config.runs, config.data_root, status.update)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in _lines(found):
        table.add_row(title, text)
    console.print(table, markup=False)
    console.print()
    to_fix = list(remedies(found))
    if to_fix:
        console.print("to fix:", style="bold")
        for number, remedy in enumerate(to_fix, start=1):
            console.print(f"  {number}. {remedy}", markup=False, soft_wrap=True)
    else:
        console.print("nothing to fix")
    return 0


def _lines(found: Checkup) -> Iterator[tuple[str, str]]:
    from nas.checkup import NETWORK, describe_lacks

    agreed, host, board = found.device.agreed, found.device.host, found.device.board
    yield "software", ", ".join(f"{name} {version}" for name, version in found.software.items())
    quota = f", quota {host.cgroup_cpus:g}" if host.cgroup_cpus else ""
    governor = f", governor {host.governor}" if host.governor else ""
    yield "host", f"{host.cpu}, {len(host.affinity)} CPUs usable{quota}{governor}; {host.system}"
    if board is None:
        yield "device", f"cpu, {agreed.threads} threads, {agreed.instructions}; no GPU is used"
    else:
        memory = f"{agreed.memory_mb / 1000:.0f} GB" if agreed.memory_mb else "memory not told"
        limit = f"{agreed.power_limit_w:.0f} W at most" if agreed.power_limit_w else "power limit not told"
        yield "device", f"{found.conditions.device}, {agreed.name}, {memory}, {limit}, driver {agreed.driver}, {board.uuid}"
    for title, abilities in (("figures", found.figures), ("precisions", found.precisions)):
        yield title, ", ".join(ability.name for ability in abilities if ability.lack is None)
    for line in describe_lacks((*found.figures, *found.precisions)):
        yield "not here", line
    if found.sensors:
        yield "energy from", ", then ".join(found.sensors)
    for refusal in found.sensor_refusals:
        if all(refusal != ability.lack for ability in found.figures):
            yield "sensor", refusal
    shape = "×".join(map(str, found.input_shape))
    conditions = found.conditions
    how = f"{NETWORK}, {shape}, batch {conditions.batch_size}, {conditions.precision}"
    runs = max(len(repeats.values) for repeats in found.repeats)
    yield (f"{runs} runs of" if runs else "not measured"), how
    for repeats in found.repeats:
        if repeats.values:
            yield repeats.metric, _repeats(repeats)
        elif repeats.reason and all(repeats.reason != ability.lack for ability in found.figures):
            yield repeats.metric, f"not measured: {repeats.reason}"
    for ratio in found.counter_over_power[-1:]:
        yield "counter ÷ power", f"{ratio:.4f}, both over the same window"
    if found.watched is not None and found.watched.sm_clock_mhz is not None:
        low, middle, high = found.watched.sm_clock_mhz
        why = ", ".join(found.watched.clock_reasons) or "nothing"
        yield "SM clock", f"{low:.0f} to {high:.0f} MHz, median {middle:.0f}; held by: {why}; {found.watched.temperature_c} °C"
    if found.watched is not None and found.watched.others_cpus is not None:
        yield "other load", f"others kept {found.watched.others_cpus:.2f} CPUs busy meanwhile"
    for flag in found.flags:
        yield "doubt", flag
    yield "data", "; ".join(f"{name}: {where}" for name, where in found.datasets.items())


def _repeats(repeats: Repeats) -> str:
    from nas.metrics import METRICS, show

    values = ", ".join(show(METRICS[repeats.metric], value) for value in repeats.values)
    assert repeats.spread is not None
    verdict = "good" if repeats.spread <= repeats.goal else f"more than {repeats.goal:.0%}"
    return f"{values}: spread {repeats.spread:.2%}, {verdict}"


if __name__ == "__main__":
    run_command(main)
