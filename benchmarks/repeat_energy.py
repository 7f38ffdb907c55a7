"""How far joules repeat: over windows, counter against integrated power, and against Zeus where that is installed.

Three networks; each takes three windows of 10 s, then one window as a search takes it, whose cost in seconds is printed.
Zeus (package ``zeus``) is no dependency: without it that column is empty. Raw results go to ``$OUT``, if that is set.

    python benchmarks/repeat_energy.py [--device cuda] [--input-size 224] [--batch-size 16] [--window-seconds 10]
        [--precision auto]
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time

import torch
from closing import keep, show
from rich.table import Table

from nas import catalogue
from nas.errors import InputError
from nas.measure import energy, latency, subject
from nas.measure.device import numeric_context, resolve_device
from nas.measure.subject import Subject

NETWORKS = ("mobilenet_v2", "vovnet27_slim", "resnet50")


def by_zeus(net: Subject, seconds: float) -> float | None:
    """Return joules per image as Zeus's monitor has them for the same load, ``None`` without Zeus or a GPU."""
    if net.device.type != "cuda" or importlib.util.find_spec("zeus") is None:
        return None
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=[net.device.index or 0])
    images = 0
    with numeric_context(net.conditions):
        monitor.begin_window("network")
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            for _ in range(20):
                net.run()
            torch.cuda.synchronize()
            images += 20 * len(net.example)
        return float(monitor.end_window("network").total_energy) / images


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--window-seconds", type=float, default=10.0)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    table = Table(
        *("network", "J/image", "net", "method", "sd over windows", "stated", "counter/power", "ours/Zeus", "mean power", "idle"),
        *("one window", "its stated", "energy took", "latency took", "doubts"),
        box=None,
    )
    raw = []
    for name in NETWORKS:
        torch.manual_seed(0)
        shape = (3, options.input_size, options.input_size)
        common = {"batch_size": options.batch_size, "precision": options.precision}
        model = catalogue.find(name).build()
        thorough = energy.measure(
            subject.make(model, shape, options.device, energy_windows=3, energy_window_seconds=options.window_seconds, **common)
        )
        net = subject.make(model, shape, options.device, **common)
        timed = latency.measure(net)
        brief = energy.measure(net)
        zeus = by_zeus(net, options.window_seconds)
        raw.append({"network": name, "thorough": thorough.to_dict(), "brief": brief.to_dict(), "zeus_j": zeus})
        print(f"{name}: {thorough.energy_j} J/image, {thorough.reason}", file=sys.stderr, flush=True)
        if thorough.energy_j is None:
            table.add_row(
                name, "–", "–", "–", *["–"] * 8, f"{brief.seconds:.1f} s", f"{timed.eager.seconds:.2f} s", thorough.reason
            )
            continue
        joules = [window.energy_j for window in thorough.windows]
        table.add_row(
            name,
            f"{thorough.energy_j:.4g}",
            f"{thorough.energy_net_j:.4g}" if thorough.energy_net_j is not None else "–",
            thorough.method,
            f"{statistics.stdev(joules) / statistics.fmean(joules):.2%}",
            f"{(thorough.energy_uncertainty_j or 0) / thorough.energy_j:.2%}",
            f"{thorough.counter_over_power:.4f}" if thorough.counter_over_power else "–",
            f"{thorough.energy_j / zeus:.3f}" if zeus else "–",
            f"{thorough.power_w:.0f} W",
            f"{thorough.idle_power_w:.0f} W" if thorough.idle_power_w is not None else "–",
            f"{brief.energy_j / thorough.energy_j - 1:+.2%}" if brief.energy_j is not None else "–",
            f"{(brief.energy_uncertainty_j or 0) / brief.energy_j:.2%}" if brief.energy_j is not None else "–",
            f"{brief.seconds:.1f} s",
            f"{timed.eager.seconds:.2f} s",
            "; ".join(dict.fromkeys((*thorough.flags, *brief.flags))),
        )
    keep("repeat_energy.json", raw)
    told = (
        f"batch {options.batch_size}, input {options.input_size}, precision {options.precision}; three windows of "
        f"{options.window_seconds:g} s, then the one window of a search"
    )
    show(resolve_device(options.device), told, table, width=210)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
