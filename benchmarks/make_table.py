"""Evaluates every network of a small space for real and writes what it found as a Parquet file: what ``simulated`` reads.

Each candidate goes our way (counted, timed, trained by the brief recipe and scored after every epoch) and then that of
``naive.py``, which trains one epoch of it; every second of both is clocked on the same candidate, one after the other, in one
process with one thread. Space, data, recipe and conditions are those of ``conf/simulated/<name>.yaml``. Candidates come in an
order shuffled by a fixed seed, so that a part of them is a random sample; each is one JSON line in ``--lines``, and the same
command again goes on behind the last one. Whatever is there is written to ``--out`` at the end.

    taskset -c 1 python benchmarks/make_table.py digits
    taskset -c 1 python benchmarks/make_table.py cifar --images FOLDER [--limit 2] [--limit-seconds 3600] [--seeds 2]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import naive
import pyarrow
import pyarrow.parquet
import torch
import yaml
from closing import show
from densenet_against_osa import subset
from rich.table import Table

from nas.errors import InputError
from nas.files import write_bytes
from nas.lookup import COLUMNS, COUNTED, MADE, TIMED, schema
from nas.measure.device import fingerprint, resolve_conditions
from nas.measure.measurement import Measuring
from nas.measure.settings import MeasureConditions, MeasureSettings
from nas.targets import build_target
from nas.train.data import Batch, DataBundle, DataRequest, TrainBatches, load_bundle
from nas.train.fit import fit
from nas.train.settings import DataSettings, NumericFormat, TrainSettings
from search_spaces.base import Architecture, SearchSpace

ROOT = Path(__file__).resolve().parents[1]
DEVICE = torch.device("cpu")
BRIEF_LATENCY_SECONDS = 0.1
SEED = 0
ORDER_SEED = 0
IMAGES_PER_CLASS = 300
"""Of CIFAR-10's 5,000 to train and, half as many, of its 1,000 to test, which are not used."""


class Walked:
    """A trial that answers by number: the n-th question gets the choice ``path[n]``, and later ones the first.

    Attributes:
        params: What was answered, by name.
        asked: The number of each answer and of its question's choices, in order.
    """

    def __init__(self, path: Sequence[int]) -> None:
        self.params: dict[str, Any] = {}
        self.asked: list[tuple[int, int]] = []
        self._path = path

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self.suggest_categorical(name, range(low, high + 1, step)))

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        if step is None:
            raise InputError(
                f"space: {name} may be any number from {low} to {high}, which cannot be walked through: give a step."
            )
        return float(self.suggest_categorical(name, [low + n * step for n in range(round((high - low) / step) + 1)]))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name not in self.params:
            number = self._path[len(self.asked)] if len(self.asked) < len(self._path) else 0
            self.asked.append((number, len(choices)))
            self.params[name] = choices[number]
        return self.params[name]


def walk(space: SearchSpace) -> Iterator[tuple[Architecture, dict[str, Any]]]:
    """Yield every architecture that a space suggests, with the answers that lead to it; one may come by several ways."""
    path: list[int] | None = []
    while path is not None:
        trial = Walked(path)
        yield space.suggest(trial), trial.params
        asked = trial.asked
        while asked and asked[-1][0] + 1 == asked[-1][1]:
            asked.pop()
        path = [*(number for number, _ in asked[:-1]), asked[-1][0] + 1] if asked else None


def candidates(space: SearchSpace) -> list[tuple[Architecture, dict[str, Any]]]:
    """Return the distinct architectures, each by the first way to it, in the table's order."""
    distinct: dict[str, tuple[Architecture, dict[str, Any]]] = {}
    for architecture, params in walk(space):
        distinct.setdefault(architecture.id, (architecture, params))
    found = list(distinct.values())
    random.Random(ORDER_SEED).shuffle(found)
    return found


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Under which all networks of a table are evaluated."""

    name: str
    space_name: str
    space: SearchSpace
    data: DataRequest
    train: TrainSettings
    numeric: NumericFormat
    measure: MeasureConditions
    naive_images: naive.Images
    naive_recipe: naive.Recipe
    bundle: DataBundle


def read_conditions(name: str, images: Path | None, workers: int) -> Conditions:
    """Return what ``conf/simulated/<name>.yaml`` says."""
    study = yaml.safe_load((ROOT / "conf" / "simulated" / f"{name}.yaml").read_text(encoding="utf-8"))
    chosen = {key.removeprefix("override /"): option for line in study["defaults"] for key, option in line.items()}
    chosen = {"train": "brief", "measure": "default", **chosen}

    def group(key: str) -> dict[str, Any]:
        text = (ROOT / "conf" / key / f"{chosen[key]}.yaml").read_text(encoding="utf-8")
        return {**yaml.safe_load(text), **study.get(key, {})}

    data = group("data") | ({"root": str(images)} if images else {})
    shared = {f.name: data.pop(f.name) for f in dataclasses.fields(DataSettings)}
    request = DataRequest(build_target("data", data), DataSettings(**shared), SEED)
    train = TrainSettings(**{key: value for key, value in group("train").items() if key != "packing"})
    measure = group("measure")
    conditions = MeasureSettings(**{**measure, "variants": tuple(measure["variants"]), "require": tuple(measure["require"])})
    padding, fraction = request.settings.crop_padding, request.settings.validation_fraction
    return Conditions(
        name=name,
        space_name=chosen["space"],
        space=build_target("space", group("space")),
        data=request,
        train=train,
        numeric=NumericFormat(train.precision, train.memory_format),  # type: ignore[arg-type]
        measure=resolve_conditions(conditions, DEVICE),
        naive_images=naive.folder(images, data["image_size"], workers, padding, fraction)
        if images
        else naive.digits(workers, padding, fraction),
        naive_recipe=naive.Recipe(**{f.name: getattr(train, f.name) for f in dataclasses.fields(naive.Recipe)}),
        bundle=load_bundle(request, DEVICE),
    )


class Clocked:
    """A bundle that notes when ``fit`` draws from it: an epoch is what lies between two scorings.

    Attributes:
        began_s: When each epoch began; first, when its steps were counted.
        scoring_began_s: When the validation part was asked for.
        scoring_ended_s: When its last image was scored.
    """

    def __init__(self, bundle: DataBundle) -> None:
        self.began_s: list[float] = []
        self.scoring_began_s: list[float] = []
        self.scoring_ended_s: list[float] = []
        self._bundle = bundle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bundle, name)

    def train_batches(self, batch_size: int, epoch: int, seed: int) -> TrainBatches:
        self.began_s.append(time.perf_counter())
        return self._bundle.train_batches(batch_size, epoch, seed)

    def validation_batches(self, batch_size: int) -> Iterator[Batch]:
        self.scoring_began_s.append(time.perf_counter())
        yield from self._bundle.validation_batches(batch_size)
        self.scoring_ended_s.append(time.perf_counter())


def build(conditions: Conditions, architecture: Architecture, seed: int) -> torch.nn.Module:
    """Return the network with the seed's initial weights."""
    torch.manual_seed(seed)
    return conditions.space.build(architecture, conditions.bundle.input_shape[0], conditions.bundle.num_classes)


def measured(conditions: Conditions, architecture: Architecture) -> dict[str, Any]:
    """Return the figures that need no training, and what they took."""
    model = build(conditions, architecture, SEED)
    measuring = Measuring(conditions.bundle.input_shape, conditions.measure)
    began_s = time.perf_counter()
    measuring.count(model)
    count_seconds = time.perf_counter() - began_s
    measuring.measure(model)
    found = measuring.result().figures()
    return {**{name: found[name] for name in (*COUNTED, *TIMED, "measure_seconds")}, "count_seconds": count_seconds}


def timed_briefly(conditions: Conditions, architecture: Architecture) -> dict[str, Any]:
    """Return the latency as it is taken first where a training may be stopped early, and what that took."""
    model = build(conditions, architecture, SEED)
    brief = dataclasses.replace(conditions.measure, latency_max_seconds=BRIEF_LATENCY_SECONDS)
    measuring = Measuring(conditions.bundle.input_shape, brief)
    measuring.count(model)
    began_s = time.perf_counter()
    measuring.measure(model)
    taken_s = time.perf_counter() - began_s
    found = measuring.result().figures()
    figures = {f"brief_{name}": found[name] for name in ("latency_ms", "latency_iqr_ms")}
    return {**figures, "brief_measure_seconds": taken_s}


def trained(conditions: Conditions, architecture: Architecture) -> dict[str, Any]:
    """Return the training's course, and what its parts took; a state is kept, as of a candidate that may go on later."""
    settings = conditions.train
    clocked = Clocked(conditions.bundle)
    began_s = time.perf_counter()
    result = fit(
        build(conditions, architecture, SEED),
        clocked,  # type: ignore[arg-type]
        settings,
        conditions.numeric,
        DEVICE,
        SEED,
        keep_state=True,
        scored=range(1, settings.epochs + 1),
    )
    ended_s = time.perf_counter()
    first_began_s = clocked.began_s[1]
    epochs_s = [
        ended - began
        for began, ended in zip([first_began_s, *clocked.scoring_ended_s[:-1]], clocked.scoring_began_s, strict=True)
    ]
    scores_s = [ended - began for began, ended in zip(clocked.scoring_began_s, clocked.scoring_ended_s, strict=True)]
    return {
        "top1": [point.top1 for point in result.curve],
        "validation_loss": [point.loss for point in result.curve],
        "train_loss": list(result.train_loss),
        "epoch_seconds": statistics.median(epochs_s),
        "score_seconds": statistics.median(scores_s),
        "setup_seconds": first_began_s - began_s + ended_s - clocked.scoring_ended_s[-1],
    }


def further(conditions: Conditions, architecture: Architecture, seeds: range) -> dict[str, Any]:
    """Return the course of the training from other seeds."""
    settings = conditions.train
    scored = range(1, settings.epochs + 1)
    found = [
        fit(
            build(conditions, architecture, seed),
            conditions.bundle,
            settings,
            conditions.numeric,
            DEVICE,
            seed,
            scored=scored,
        )
        for seed in seeds
    ]
    return {
        "top1_seeds": [[point.top1 for point in result.curve] for result in found] or None,
        "train_loss_seeds": [list(result.train_loss) for result in found] or None,
    }


def naively(conditions: Conditions, architecture: Architecture) -> dict[str, Any]:
    """Return what the parts of ``naive.py``'s way take."""
    images = conditions.naive_images
    began_s = time.perf_counter()
    model = build(conditions, architecture, SEED)
    with naive.hushed():
        trainer, candidate = naive.train(model, images, conditions.naive_recipe, epochs=1)
        trained_s = time.perf_counter()
        naive.score(trainer, candidate, images)
        scored_s = time.perf_counter()
        naive.latency_ms(model, images.shape, conditions.measure.batch_size)
    return {
        "naive_setup_seconds": trained_s - began_s - candidate.epoch_seconds[0],
        "naive_epoch_seconds": candidate.epoch_seconds[0],
        "naive_score_seconds": scored_s - trained_s,
        "naive_measure_seconds": time.perf_counter() - scored_s,
    }


def evaluate(conditions: Conditions, architecture: Architecture, params: Mapping[str, Any], seeds: int) -> dict[str, Any]:
    """Return one network's row."""
    row = {
        "architecture_id": architecture.id,
        "params_json": json.dumps(params),
        "architecture_json": json.dumps(architecture.to_dict()),
        **measured(conditions, architecture),
        **timed_briefly(conditions, architecture),
        **trained(conditions, architecture),
        **naively(conditions, architecture),
        **further(conditions, architecture, range(SEED + 1, SEED + seeds)),
    }
    return {name: row[name] for name in COLUMNS}


def made_of(conditions: Conditions, seeds: int) -> dict[str, Any]:
    """Return all that must be the same for two networks to stand in one table."""
    return {
        "table": conditions.name,
        "space": conditions.space_name,
        "recipe": dataclasses.asdict(conditions.train),
        "data": {**dataclasses.asdict(conditions.data.settings), **conditions.bundle.facts()},
        "measure": conditions.measure.to_dict(),
        "numeric_format": dataclasses.asdict(conditions.numeric),
        "seed": SEED,
        "seeds": seeds,
        "threads": torch.get_num_threads(),
        "cpus": len(fingerprint(DEVICE).host.affinity),
        "naive": {
            "workers": conditions.naive_images.workers,
            "recipe": dataclasses.asdict(conditions.naive_recipe),
            "warm_up_passes": naive.WARM_UP,
            "timed_passes": naive.RUNS,
        },
        "device": fingerprint(DEVICE, conditions.measure.threads).identity(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "lightning", "optuna")}
        | {"python": platform.python_version()},
    }


def read_lines(path: Path, made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that are there already; the first line says under which conditions they came about."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made) + "\n", encoding="utf-8")
        return []
    first, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
    before, now = json.loads(first), json.loads(json.dumps(made))
    if differing := [key for key in now if before.get(key) != now[key]]:
        key = differing[0]
        raise InputError(f"{path} was begun with {key}={before.get(key)}, now {now[key]}: set it back, or name other --lines.")
    whole = [line for line in rest if line.endswith("\n")]
    if len(whole) < len(rest):  # cut off in the middle of a line
        path.write_text("".join([first, *whole]), encoding="utf-8")
    return [json.loads(line) for line in whole]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> None:
    """Write the Parquet file, whole or not at all."""
    columns = schema().with_metadata({MADE: json.dumps(made).encode()})
    buffer = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist([dict(row) for row in rows], schema=columns)
    pyarrow.parquet.write_table(table, buffer, compression="zstd", compression_level=19)
    write_bytes(path, buffer.getvalue().to_pybytes())


def main() -> None:
    """Evaluate what is left, write the table, and print what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("digits", "cifar"))
    parser.add_argument("--images", type=Path, help="for cifar: CIFAR-10 as train/<class>/* and test/<class>/*")
    parser.add_argument("--lines", type=Path, help="runs/tables/<name>.jsonl, if not given")
    parser.add_argument("--out", type=Path, help="benchmarks/tables/<name>.parquet, if not given")
    parser.add_argument("--limit", type=int, help="further networks to evaluate; all, if not given")
    parser.add_argument("--limit-seconds", type=float, help="begin none after this long")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each network")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of the naive way")
    options = parser.parse_args()
    if (options.name == "cifar") != (options.images is not None):
        raise InputError("--images belongs to the table cifar, and that needs it: name CIFAR-10's folder.")
    began_s = time.perf_counter()
    torch.set_num_threads(1)
    lines = options.lines or ROOT / "runs" / "tables" / f"{options.name}.jsonl"
    images = lines.parent / f"cifar-{IMAGES_PER_CLASS}" if options.images else None
    if images and not images.exists():
        subset(options.images, images, IMAGES_PER_CLASS)
    conditions = read_conditions(options.name, images, options.workers)
    made = made_of(conditions, options.seeds)
    rows = read_lines(lines, made)
    known = {row["architecture_id"] for row in rows}
    space = candidates(conditions.space)
    left = [(architecture, params) for architecture, params in space if architecture.id not in known][: options.limit]
    if left:
        evaluate(conditions, *left[0], seeds=1)  # the first one pays for imports and caches: its figures are thrown away
    taken_s: list[float] = []
    with lines.open("a", encoding="utf-8") as file:
        for number, (architecture, params) in enumerate(left, start=1):
            candidate_began_s = time.perf_counter()
            if options.limit_seconds is not None and candidate_began_s - began_s > options.limit_seconds:
                break
            row = evaluate(conditions, architecture, params, options.seeds)
            taken_s.append(time.perf_counter() - candidate_began_s)
            file.write(json.dumps(row) + "\n")
            file.flush()
            rows.append(row)
            told = f"{row['params']:,} params, {row['latency_ms']:.2f} ms, top1 {row['top1'][-1]:.4f}, {taken_s[-1]:.2f} s"
            print(f"{number} of {len(left)}: {architecture.id}, {told}", flush=True)
    if not rows:
        raise InputError("no network was evaluated: allow more by --limit or --limit-seconds.")
    # Rows of an older version lack what is timed briefly.
    for row in rows:
        if "brief_latency_ms" not in row:
            row |= timed_briefly(conditions, conditions.space.from_dict(json.loads(row["architecture_json"])))
            print(f"{row['architecture_id']}: {row['brief_latency_ms']:.2f} ms for {row['latency_ms']:.2f} ms", flush=True)
    out = options.out or ROOT / "benchmarks" / "tables" / f"{options.name}.parquet"
    command = shlex.join(["python", *sys.argv])
    write_table(
        out,
        rows,
        {
            **made,
            "brief_latency_seconds": BRIEF_LATENCY_SECONDS,
            "space_size": len(space),
            "command": command,
            "date": time.strftime("%Y-%m-%d"),
        },
    )
    table = Table("column", "least", "median", "greatest", box=None)
    for name in (*COUNTED, *TIMED, *(name for name in COLUMNS if name.endswith("_seconds")), "top1"):
        values = [row[name][-1] if name == "top1" else row[name] for row in rows]
        table.add_row(name, *(f"{value:,.4g}" for value in (min(values), statistics.median(values), max(values))))
    took = f", {statistics.median(taken_s):.2f} s each (median)" if taken_s else ""
    size_kb = out.stat().st_size / 1e3
    show(DEVICE, f"{out}: {len(rows)} of {len(space)} networks, {size_kb:.0f} kB; {len(taken_s)} evaluated now{took}", table, 120)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
