"""``python -m nas.export model=<folder> format=onnx``: a retrained network as a file for other runtimes, checked and timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import run_command
from nas.compose import compose, resolve_written
from nas.config.export import EXPORT_GROUPS, EXPORT_ROOT, ExportConfig, parse_export
from nas.errors import InputError, RunError

if TYPE_CHECKING:
    from nas.exporting import Exported
    from nas.shipped import Description
    from search_spaces.base import SearchSpace

HELP = """\
usage: python -m nas.export model=<folder> format=onnx|pt2|safetensors [key=value ...]

Writes a network that nas.retrain left, as an ONNX file (any batch size), a torch.export archive (any batch size) or its
weights alone. Every file is compared with the network's own output and timed beside it; the findings are written beside
the file as JSON.

  model                    folder of the network; or study=<name> with pick=..., trial=... as in nas.retrain
  format                   onnx, pt2, safetensors, or a list: format=[onnx,pt2]
  normalise                true makes the normalisation part of it: it then takes pixels scaled to 0..1 (onnx, pt2)
  out                      folder of the files (<model>/export)
  device                   where it is timed: auto, cpu or cuda:N (ONNX files: always the CPU, by onnxruntime)
  measure.*                measure.batch_size, measure.latency_max_seconds, measure.threads, ...
  allow_modules            your own modules that the network's design space may come from
  overwrite                true replaces files that are there

exit code: 0 done, 1 an export does not compute what the network does, 2 the input cannot be used
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        InputError: If the input cannot be used; nothing was written then.
        RunError: If a file does not compute what the network does; it was not written.
    """
    if "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0
    config = parse_export(compose("export", EXPORT_ROOT, EXPORT_GROUPS, arguments, study=False).plain)

    import torch

    from nas.console import make_console
    from nas.exporting import export, refuse_existing, usage
    from nas.files import make_run_dir
    from nas.measure.device import resolve_conditions, resolve_device
    from nas.shipped import read_description

    console = make_console()
    path, space = _network(config)
    description = read_description(path)
    space = space or _space(config, description)
    folder = Path(config.out) if config.out is not None else (path if path.is_dir() else path.parent) / "export"
    if not config.overwrite:
        refuse_existing(folder, config.format, config.normalise)
    settings = replace(config.measure, precision="fp32", memory_format="contiguous")
    device = resolve_device(config.device)
    # onnxruntime runs on the CPU.
    devices = {format: torch.device("cpu") if format == "onnx" else device for format in config.format}
    conditions = {format: resolve_conditions(settings, device) for format, device in devices.items()}
    make_run_dir(folder, "out")
    done = []
    with console.status("exporting") as status:
        for format in config.format:
            try:
                done.append(
                    export(
                        path,
                        description,
                        format,
                        folder,
                        normalise=config.normalise,
                        conditions=conditions[format],
                        space=space,
                        on_stage=status.update,
                    )
                )
            except OSError as error:
                raise RunError(f"{folder} cannot be written ({error.strerror}): nothing of {format} was kept.") from None
    _show(done)
    for exported in done:
        console.print(f"\n[bold]{exported.path}[/], for example:")
        console.print(usage(exported), markup=False, soft_wrap=True)
    return 0


def _network(config: ExportConfig) -> tuple[Path, SearchSpace | None]:
    """Return where the network is, and its space if a study says so."""
    from nas.shipped import WEIGHTS, weights_file

    if config.model is not None:
        weights_file(Path(config.model))
        return Path(config.model), None
    from nas.choosing import choose
    from nas.runs import read_run

    run = read_run(config.keys)
    chosen = choose(run, config.pick, config.trial, config.architecture)
    folder = run.folder / "retrain" / chosen.label
    if not (folder / WEIGHTS).exists():
        which = f"trial={chosen.label}" if chosen.outcome is not None else f"architecture={config.architecture}"
        study = f"study={run.name}" if config.run_dir is None else f"run_dir={run.folder}"
        raise InputError(f"network {chosen.label} is not retrained yet: run python -m nas.retrain {study} {which} first.")
    return folder, chosen.space


def _space(config: ExportConfig, description: Description) -> SearchSpace | None:
    if description.space is None:
        return None
    from nas.targets import build_target

    space: SearchSpace = build_target("space", resolve_written(description.space), config.allow_modules)
    return space


def _show(done: Sequence[Exported]) -> None:
    from rich.table import Table

    from nas.console import make_console
    from nas.metrics import METRICS, show

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("format", "size", "largest difference", "latency_ms", "eager, same minute", "ratio", "runtime"):
        table.add_column(title, justify="left" if title in ("format", "runtime") else "right")
    for exported in done:
        record = exported.record
        mine, eager = record["latency_ms"], record["eager_latency_ms"]
        table.add_row(
            exported.format,
            f"{record['bytes'] / 1e6:.2f} MB",
            f"{record['checked']['largest_relative_difference']:.1e}",
            "–" if mine is None else f"{mine:.4g} ± {record['latency_iqr_ms']:.2g} ms",
            show(METRICS["latency_ms"], eager),
            "–" if mine is None or eager is None else f"{mine / eager:.2f}",
            record["runtime"],
        )
    console = make_console()
    console.print(table)
    batch_size = done[0].record["conditions"]["batch_size"]
    note = f"latency of batches of {batch_size} in fp32, median ± interquartile range; difference relative to the largest output"
    console.print(note, style="dim", markup=False, soft_wrap=True)
    for exported in done:
        for name in ("latency_ms", "eager_latency_ms"):
            if (reason := exported.record.get(f"{name}_reason")) is not None:
                console.print(f"{name} of {exported.format} was not measured: {reason}", markup=False, soft_wrap=True)
        for flag in exported.record["measure_flags"]:
            console.print(f"in doubt, {exported.format}, {flag}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
