"""Exports of a shipped network: each file runs in its own runtime and gives the network's output; what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import nas
from nas.errors import RunError
from nas.exporting import TOLERANCE, _difference
from nas.measure.lock import Shared
from nas.measure.record import SensorError
from nas.shipped import Description, write_model
from search_spaces import osa
from tests.toy import ToyArchitecture, ToySpace

FAST = ("device=cpu", "measure.latency_max_seconds=0.05", "measure.batch_size=4")
Command = Callable[..., tuple[int, str, str]]
ARCHITECTURE = osa.from_dict(
    {
        "family": "osa",
        "stem": {"kind": "cifar", "width": 8},
        "stages": [
            {"layers": 2, "conv_channels": 8, "concat_channels": 12, "downsample": "none", "ese": True},
            {"layers": 1, "depth": 2, "conv_channels": 8, "concat_channels": 16, "identity": True, "bottleneck": True},
        ],
    }
)


def description(**changes: object) -> Description:
    fields = {"name": "s/1", "study": "s", "trial": 1, "architecture": ARCHITECTURE.to_dict(), "space": None}
    shape = {"input_shape": (2, 9, 10), "classes": ("a", "b", "c"), "mean": (0.2, 0.4), "std": (0.5, 0.3)}
    return Description(**{**fields, **shape, **changes})  # type: ignore[arg-type]


@pytest.fixture
def model(workdir: Path) -> nn.Module:
    torch.manual_seed(0)
    network = osa.build(ARCHITECTURE, 2, 3)
    network(torch.randn(8, 2, 9, 10))
    write_model(workdir / "m", network.eval(), description())
    return network


@pytest.fixture
def export(workdir: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    from nas.cli import run_command
    from nas.export import main

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["nas.export", *arguments])
            run_command(main)
        written = capfd.readouterr()
        return int(str(ended.value.code)), written.out, written.err

    return run


def test_every_format_runs_where_it_is_for(export: Command, model: nn.Module) -> None:
    code, out, err = export("model=m", "format=[onnx,pt2,safetensors]", *FAST)
    assert code == 0 and not err, err
    x = torch.rand(5, 2, 9, 10)
    with torch.inference_mode():
        wanted = model(x)
    path = Path("m/export/model.onnx")
    found = onnxruntime.InferenceSession(path).run(None, {"images": x.numpy()})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    batch = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param and not batch.dim_value
    assert torch.allclose(torch.export.load("m/export/model.pt2").module()(x), wanted, atol=1e-5)
    assert torch.equal(nas.load_model("m/export/model.safetensors")(x), wanted)
    for suffix in ("onnx", "pt2", "safetensors"):
        file = Path(f"m/export/model.{suffix}")
        record = json.loads(Path(f"{file}.json").read_text())
        assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest() and record["bytes"] == file.stat().st_size
        assert record["checked"]["largest_relative_difference"] < 1e-4
        assert record["latency_ms"] > 0 and record["eager_latency_ms"] > 0 and record["conditions"]["batch_size"] == 4
        assert str(file) in out


def test_normalisation_can_be_part_of_it(export: Command, model: nn.Module) -> None:
    assert export("model=m", "format=onnx", "normalise=true", *FAST)[0] == 0
    pixels = torch.rand(3, 2, 9, 10)
    mean, std = (torch.tensor(value)[:, None, None] for value in ((0.2, 0.4), (0.5, 0.3)))
    with torch.inference_mode():
        wanted = model((pixels - mean) / std)
    found = onnxruntime.InferenceSession("m/export/model-normalised.onnx").run(None, {"images": pixels.numpy()})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("model")
def test_nothing_is_replaced_unasked(export: Command) -> None:
    assert export("model=m", "format=safetensors", *FAST)[0] == 0
    before = Path("m/export/model.safetensors").stat().st_mtime_ns
    code, _, err = export("model=m", "format=[pt2,safetensors]", *FAST)
    assert code == 2 and "model.safetensors is there: give overwrite=true" in err
    assert not Path("m/export/model.pt2").exists() and Path("m/export/model.safetensors").stat().st_mtime_ns == before
    assert export("model=m", "format=safetensors", "overwrite=true", *FAST)[0] == 0


@pytest.mark.usefixtures("model")
def test_an_export_that_computes_something_else_is_not_written(export: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.exporting.TOLERANCE", -1.0)
    code, _, err = export("model=m", "format=pt2", *FAST)
    assert code == 1 and "differs from the network" in err
    assert not list(Path("m/export").iterdir())


@pytest.mark.parametrize("whose", ["network", "file"])
def test_a_nan_is_no_agreement(whose: str) -> None:
    def spoilt(x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 3), torch.nan)

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return spoilt(x) if whose == "network" else torch.ones(len(x), 3)

    if whose == "network":
        with pytest.raises(RunError, match="not finite"):
            _difference(Model(), spoilt, description())
    else:
        assert not _difference(Model(), spoilt, description()) <= TOLERANCE


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.sum().item() > 0 else x.amax((2, 3))


class Sized(ToySpace):
    """Refuses what is no number, as ``${oc.env:…}`` is."""

    def __post_init__(self) -> None:
        if not isinstance(self.high, int):
            raise ValueError(f"high is {self.high!r}")


class UnexportableSpace(ToySpace):
    def build(self, architecture: ToyArchitecture, in_channels: int, num_classes: int) -> nn.Module:
        return nn.Sequential(Unexportable(), nn.Linear(in_channels, num_classes))


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_what_a_format_cannot_express(export: Command, workdir: Path, format: str) -> None:
    architecture = ToyArchitecture(4, "a")
    space = {"_target_": "tests.test_export.UnexportableSpace"}
    written = description(architecture=architecture.to_dict(), space=space)
    write_model(workdir / "m", UnexportableSpace().build(architecture, 2, 3), written)
    code, _, err = export("model=m", f"format={format}", "allow_modules=[tests.test_export]", *FAST)
    assert code == 2 and f"format={format} cannot express this network" in err and err.count("\n") == 1
    assert not list(Path("m/export").iterdir())
    code, _, err = export("model=m", f"format={format}", *FAST)
    assert code == 2 and "tests.test_export.UnexportableSpace is not allowed" in err


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("after", [0, 1])
def test_what_cannot_be_timed_is_written_with_the_reason(export: Command, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    from nas import exporting

    timed, calls = exporting.latency.measure, []

    def refuses(net: object) -> object:
        calls.append(net)
        if len(calls) > after:
            raise SensorError("cpu was not alone: others kept 1.5 of 2 CPUs busy")
        return timed(net)  # type: ignore[arg-type]

    monkeypatch.setattr(exporting.latency, "measure", refuses)
    code, out, err = export("model=m", "format=safetensors", *FAST)
    assert code == 0 and not err, err
    record = json.loads(Path("m/export/model.safetensors.json").read_text())
    reason = "cpu was not alone: others kept 1.5 of 2 CPUs busy"
    assert record["eager_latency_ms"] is None and record["eager_latency_ms_reason"] == reason
    assert f"eager_latency_ms of safetensors was not measured: {reason}" in out
    if after == 0:
        assert record["latency_ms"] is record["latency_iqr_ms"] is None and record["latency_ms_reason"] == reason
    else:
        assert record["latency_ms"] > 0 and "latency_ms_reason" not in record


@pytest.mark.usefixtures("model")
def test_a_device_that_is_in_use_is_a_reason(export: Command, monkeypatch: pytest.MonkeyPatch, workdir: Path) -> None:
    monkeypatch.setattr("nas.measure.lock._SHARED", workdir)
    with Shared(torch.device("cpu")):
        code, _, err = export("model=m", "format=safetensors", "measure.lock_seconds=0.1", *FAST)
    assert code == 0 and not err, err
    record = json.loads(Path("m/export/model.safetensors.json").read_text())
    assert record["latency_ms"] is None and "0.1 s" in record["latency_ms_reason"]


@pytest.mark.usefixtures("model")
def test_an_onnx_file_is_timed_under_the_conditions_that_were_given(export: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.measure.device.resolve_device", lambda name: torch.device("cuda", 0))  # whether there is one or not
    given = ("measure.threads=1", "measure.when_loaded=flag", "measure.lock_seconds=77.0", *FAST[1:])
    assert export("model=m", "format=onnx", *given)[0] == 0
    conditions = json.loads(Path("m/export/model.onnx.json").read_text())["conditions"]
    wanted = {"device": "cpu", "batch_size": 4, "threads": 1, "latency_max_seconds": 0.05, "precision": "fp32"}
    assert {name: conditions[name] for name in wanted} == wanted
    assert conditions["when_loaded"] == "flag" and conditions["lock_seconds"] == 77.0


def test_a_space_that_asks_the_environment(export: Command, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = ToyArchitecture(4, "a")
    space = {"_target_": "tests.test_export.Sized", "high": "${oc.decode:${oc.env:NAS_TEST_HIGH}}"}
    write_model(
        workdir / "m", ToySpace().build(architecture, 2, 3).eval(), description(architecture=architecture.to_dict(), space=space)
    )
    arguments = ("model=m", "format=safetensors", "allow_modules=[tests.test_export]", *FAST)
    code, _, err = export(*arguments)
    assert code == 2 and "NAS_TEST_HIGH" in err and err.count("\n") == 1
    monkeypatch.setenv("NAS_TEST_HIGH", "7")
    code, _, err = export(*arguments)
    assert code == 0, err


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["model=m"], "format is not set: give format=<one of onnx, pt2, safetensors>"),
        (["model=m", "format=onx"], "format=onx is not a format; did you mean 'onnx'?"),
        (["model=nowhere", "format=onnx"], "model=nowhere holds no model.safetensors"),
        (["format=onnx"], "model or study must be set, and not both"),
        (["model=m", "trial=3", "format=onnx"], "model and trial are both set"),
        (["model=m", "study=s", "format=onnx"], "model or study must be set, and not both"),
        (["study=nope", "format=onnx"], "study=nope does not exist"),
        (["model=m", "format=onnx", "normalize=true"], "normalize is not a known key; did you mean 'normalise'?"),
        (["model=m", "format=[onnx,safetensors]", "normalise=true"], "normalise=true cannot be used with format=safetensors"),
    ],
)
def test_what_is_refused(export: Command, arguments: list[str], told: str) -> None:
    code, _, err = export(*arguments)
    assert code == 2 and told in err and err.count("\n") == 1
    assert not Path("m/export").exists()


@pytest.mark.usefixtures("model")
def test_a_damaged_model(export: Command) -> None:
    path = Path("m/model.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    code, _, err = export("model=m", "format=onnx", *FAST)
    assert code == 2 and "cannot be read" in err and not Path("m/export").exists()
