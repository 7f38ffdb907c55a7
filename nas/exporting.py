"""A shipped network in the formats of other runtimes, each checked against the network itself and timed beside it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.config.export import Format
from nas.errors import InputError, RunError
from nas.failures import first_line
from nas.files import write_bytes, write_json
from nas.measure import latency, subject
from nas.measure.fingerprint import fingerprint
from nas.measure.lock import exclusive
from nas.measure.record import SensorError
from nas.measure.settings import MeasureConditions
from nas.shipped import Description, load_model, pack
from search_spaces.base import SearchSpace

CHECKED_BATCHES = (1, 2, 7)
TOLERANCE = 1e-4
"""Largest difference from the network's own output, relative to its largest value: rounding of fp32 in another order."""

_SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
_INPUT, _OUTPUT = "images", "logits"


@dataclass(frozen=True)
class Exported:
    """One file.

    Attributes:
        record: What was written beside it as JSON: how it was checked and how far off it was, latency, conditions, versions.
    """

    format: Format
    path: Path
    record: dict[str, Any]


def file_of(folder: Path, name: str, format: Format) -> Path:
    """Return where an export lies."""
    return folder / f"{name}{_SUFFIXES[format]}"


def export(
    model_path: Path,
    description: Description,
    format: Format,
    folder: Path,
    *,
    normalise: bool,
    conditions: MeasureConditions,
    space: SearchSpace | None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Export a network, check the file that came out, time it, and write the record beside it.

    Args:
        model_path: The shipped network.
        description: What it is.
        format: Into which format.
        folder: Where the file goes; one that is there is replaced.
        normalise: Whether it takes pixels scaled to 0..1.
        conditions: Under which it is timed, in fp32; of a CPU for an ONNX file, which onnxruntime runs there. Where it cannot be
            timed, the record says why.
        space: The design space of a family of the user's own.
        on_stage: Called with the name of each stage as it begins.

    Raises:
        InputError: The format cannot express the network; nothing was written.
        RunError: The file does not compute what the network does; nothing was written.
    """
    if format == "onnx" and conditions.device != "cpu":
        raise ValueError("an ONNX file is timed on the CPU")
    model = load_model(model_path, normalise=normalise, space=space)
    name = "model-normalised" if normalise else "model"
    path = file_of(folder, name, format)
    on_stage(f"{format}: export")
    content = _content(model, description, format, load_model(model_path, space=space))
    on_stage(f"{format}: check")
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / path.name
        written.write_bytes(content)
        run, timed = _loaded(written, format, space, normalise)
        difference = _difference(model, run, description)
        if not difference <= TOLERANCE:
            raise RunError(
                f"the {format} export of {description.name} differs from the network by {difference:.2g} of its largest "
                f"output, more than {TOLERANCE:g}; it was not written."
            )
        on_stage(f"{format}: latency")
        speed = _latencies(model, timed, description, format, conditions)
    record = {
        "format": format,
        "file": path.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "model": description.name,
        "input": {"name": _INPUT, "shape": ["batch", *description.input_shape], "scaled_to_0_1": normalise},
        "mean": list(description.mean),
        "std": list(description.std),
        "classes": list(description.classes),
        "checked": {
            "against": "the network in fp32 on the CPU",
            "batch_sizes": list(CHECKED_BATCHES),
            "largest_relative_difference": difference,
            "tolerance": TOLERANCE,
        },
        **speed,
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors")},
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_bytes(path, content)
    write_json(path.with_name(f"{path.name}.json"), record)
    return Exported(format, path, record)


def _content(model: nn.Module, description: Description, format: Format, plain: nn.Module) -> bytes:
    if format == "safetensors":
        return pack(plain.state_dict(), description)
    example = _images(description, 2)
    try:
        with _silence(), tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"model{_SUFFIXES[format]}"
            batch = torch.export.Dim("batch", min=1)
            if format == "pt2":
                program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
                torch.export.save(program, path)
            else:
                torch.onnx.export(
                    model,
                    (example,),
                    path,
                    dynamo=True,
                    dynamic_shapes=({0: batch},),
                    input_names=[_INPUT],
                    output_names=[_OUTPUT],
                    external_data=False,
                    verbose=False,
                )
            return path.read_bytes()
    except Exception as error:
        # Exporters fail in their own ways on what they cannot express; which they are is theirs to know.
        raise InputError(
            f"format={format} cannot express this network ({first_line(error)[:200]}): choose another format."
        ) from error


def _loaded(
    path: Path, format: Format, space: SearchSpace | None, normalise: bool
) -> tuple[Callable[[Tensor], Tensor], Callable[[int], nn.Module]]:
    """Return the file as a function of images, and, by batch size, as a module that the meters can time."""
    if format == "onnx":
        import onnx
        import onnxruntime

        onnx.checker.check_model(onnx.load(path), full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(x: Tensor) -> Tensor:
            (found,) = session.run([_OUTPUT], {_INPUT: x.numpy()})
            return torch.from_numpy(found)

        return run, lambda threads: _Session(path, threads)
    if format == "pt2":
        program = torch.export.load(path)
        return program.module(), lambda threads: _Program(program)
    loaded = load_model(path, normalise=normalise, space=space)
    return loaded, lambda threads: loaded


class _Session(nn.Module):
    """An ONNX file as onnxruntime runs it, its input already where it wants it."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Session:
        return self  # a session has nothing that a meter could change

    def forward(self, x: Tensor) -> Any:
        if self._input is None or len(self._input) != len(x):
            self._input = x.numpy()
        return self._session.run(None, {_INPUT: self._input})


class _Program(nn.Module):
    """An exported program; its own module refuses ``eval()``, which a meter calls."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self._programs = [program]
        self._module: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Program:
        return self

    def forward(self, x: Tensor) -> Any:
        if self._module is None:
            from torch.export.passes import move_to_device_pass

            program = self._programs[0]
            moved = program if x.device.type == "cpu" else move_to_device_pass(program, x.device)
            object.__setattr__(self, "_module", moved.module())
        return self._module(x)


def _difference(model: nn.Module, run: Callable[[Tensor], Tensor], description: Description) -> float:
    """Return the largest difference over the checked batch sizes, relative to the largest output."""
    worst = 0.0
    with torch.inference_mode():
        for batch_size in CHECKED_BATCHES:
            x = _images(description, batch_size)
            mine, theirs = model(x), run(x)
            if mine.shape != theirs.shape:
                raise RunError(f"the export gives {tuple(theirs.shape)} where the network gives {tuple(mine.shape)}.")
            if not bool(mine.isfinite().all()):
                raise RunError(f"{description.name} gives outputs that are not finite: retrain it.")
            worst = max(worst, float((mine - theirs).abs().nan_to_num(nan=math.inf).max() / mine.abs().max().clamp_min(1e-12)))
    return worst


def _images(description: Description, count: int) -> Tensor:
    return torch.rand(count, *description.input_shape, generator=torch.Generator().manual_seed(count))


def _latencies(
    model: nn.Module, timed: Callable[[int], nn.Module], description: Description, format: Format, conditions: MeasureConditions
) -> dict[str, Any]:
    """Time the export and, in the same minute, the network itself."""
    conditions = replace(conditions, precision="fp32", memory_format="contiguous", tf32=False, variants=())
    device = torch.device(conditions.device)
    figures: dict[str, float | str | None] = dict.fromkeys(
        ("latency_ms", "latency_iqr_ms", "eager_latency_ms", "eager_latency_iqr_ms")
    )
    flags: list[str] = []
    try:
        with exclusive(device, conditions.lock_seconds):
            for what, prefix, module in (("export", "", timed(conditions.threads or 1)), ("eager", "eager_", model)):
                result = latency.measure(subject.of(module, description.input_shape, conditions))
                figures |= {f"{prefix}latency_ms": result.eager.median_ms, f"{prefix}latency_iqr_ms": result.eager.iqr_ms}
                flags += [f"{what}: {flag}" for flag in result.flags]
    except SensorError as refusal:
        missing = [name for name in ("latency_ms", "eager_latency_ms") if figures[name] is None]
        figures |= {f"{name}_reason": str(refusal) for name in missing}
    return {
        **figures,
        "measure_flags": flags,
        "runtime": f"onnxruntime {version('onnxruntime')}, CPU" if format == "onnx" else f"torch {torch.__version__}",
        "conditions": conditions.to_dict(),
        "device": fingerprint(device, conditions.threads).to_dict(),
    }


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporters' progress and notices off the screen; what goes wrong is an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def refuse_existing(folder: Path, formats: Sequence[Format], normalise: bool) -> None:
    """Refuse to replace what is there.

    Raises:
        InputError: A file is there; names it.
    """
    name = "model-normalised" if normalise else "model"
    for format in formats:
        path = file_of(folder, name, format)
        if os.path.exists(path):
            raise InputError(f"{path} is there: give overwrite=true to replace it, or out=<folder>.")


def usage(exported: Exported) -> str:
    """Return a few lines of Python that run the file."""
    path = exported.path
    shape = ", ".join(map(str, exported.record["input"]["shape"][1:]))
    if exported.format == "onnx":
        return (
            "import numpy, onnxruntime\n"
            f'session = onnxruntime.InferenceSession("{path}")\n'
            f'logits = session.run(None, {{"{_INPUT}": numpy.zeros((1, {shape}), numpy.float32)}})[0]'
        )
    if exported.format == "pt2":
        return f'import torch\nlogits = torch.export.load("{path}").module()(torch.zeros(1, {shape}))'
    return f'from nas import load_model\nmodel = load_model("{path}")'
