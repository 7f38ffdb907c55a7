"""Chooses the arithmetic and memory format that a study trains in: by rule on a GPU, by a few timed steps on a CPU.

Neither bf16 nor channels_last is faster on every CPU nor for every network, so a few of the study's own candidates decide,
once; the choice is the same for all of them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nas.train.data import Batch, DataBundle, indexed
from nas.train.recipe import make_optimizer, place, train_step
from nas.train.settings import NumericFormat, TrainSettings

# From the simplest on: a tie goes to the earlier one.
_FORMATS = (
    NumericFormat("fp32", "contiguous"),
    NumericFormat("fp32", "channels_last"),
    NumericFormat("bf16", "contiguous"),
    NumericFormat("bf16", "channels_last"),
)

ModelFactory = Callable[[], nn.Module]

_SECONDS = 5.0
_SMALL_STEP = 4
_SCREEN_FACTOR = 4.0
_STEP_SECONDS = 0.08
_MOST_IMAGES = 64
_FEWEST_ROUNDS = 3
_ROUNDS = 9
# A format must beat a simpler one by more than the noise of a few steps, or the choice is a coin's.
_MARGIN = 1.05


@dataclass(frozen=True)
class FormatChoice:
    """What was chosen and why.

    Attributes:
        numeric: The choice.
        reason: Why, in one sentence.
        images_per_s: Training speed of each format that was timed to the end, by name such as ``bf16 channels_last``:
            median per candidate, geometric mean over candidates. Empty if nothing was timed.
        dropped: Formats that were not, each with the reason.
        probe_seconds: What the choice cost.
    """

    numeric: NumericFormat
    reason: str
    images_per_s: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    probe_seconds: float = 0.0


def choose_format(
    models: Sequence[ModelFactory], bundle: DataBundle, settings: TrainSettings, device: torch.device | str
) -> FormatChoice:
    """Return the number format that a study trains in.

    ``train.precision`` and ``train.memory_format`` are honoured where they are set; only what is ``auto`` is chosen.
    On a GPU that is bf16 (fp32 where the GPU has no bf16) and channels_last. On a CPU training steps of the given
    candidates are timed in every open format in turn, within about five seconds; simpler formats win ties.

    Args:
        models: Two or three candidates, small and large; each call builds one anew.
        bundle: The study's data, on the same device.
        settings: The recipe.
        device: Where the study trains.

    Raises:
        RuntimeError: If the candidates cannot be trained in any open format.
    """
    device = indexed(device)
    open_formats = [
        numeric
        for numeric in _FORMATS
        if settings.precision in ("auto", numeric.precision) and settings.memory_format in ("auto", numeric.memory_format)
    ]
    if len(open_formats) == 1:
        return FormatChoice(open_formats[0], "train.precision and train.memory_format are set")
    if device.type == "cuda":
        return _by_rule(open_formats, device)
    if not models:
        raise ValueError("the probe needs at least one candidate")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _by_timing(models, bundle, settings, open_formats)


def _by_rule(open_formats: list[NumericFormat], device: torch.device) -> FormatChoice:
    with torch.cuda.device(device):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    wanted = NumericFormat("bf16" if has_bf16 else "fp32", "channels_last")
    best = max(open_formats, key=lambda f: (f.precision == wanted.precision) + (f.memory_format == wanted.memory_format))
    arithmetic = "bf16" if has_bf16 else "no bf16, so fp32,"
    return FormatChoice(best, f"the rule for a GPU: {arithmetic} and channels_last, except what train.* sets")


def training_memory_mb(model: nn.Module, bundle: DataBundle, settings: TrainSettings, numeric: NumericFormat) -> float:
    """Return the most memory that two training steps of a candidate take on its GPU, data included (MB = 10^6 bytes).

    Raises:
        torch.OutOfMemoryError: If it does not suffice.
    """
    torch.cuda.reset_peak_memory_stats(bundle.device)
    contender = _Contender(model, numeric, settings, bundle.device)
    batches = bundle.train_batches(settings.batch_size, 0, 0)
    for _, (x, y) in zip(range(2), batches, strict=False):
        contender.step(x, y)
    peak_mb = torch.cuda.max_memory_reserved(bundle.device) / 1e6
    del contender, batches
    torch.cuda.empty_cache()
    return peak_mb


class _Contender:
    """One candidate in one format."""

    def __init__(self, model: nn.Module, numeric: NumericFormat, settings: TrainSettings, device: torch.device) -> None:
        place(model, numeric, device)
        self._model = model.train()
        self._numeric = numeric
        self._settings = settings
        self._optimizer = make_optimizer(model, settings)

    def step(self, x: Tensor, y: Tensor) -> float:
        """Take one step and return its seconds."""
        started = time.perf_counter()
        # A tiny rate: the arithmetic is that of any step, and the weights stay finite.
        train_step(self._model, self._optimizer, x, y, 1e-6, self._settings, self._numeric)
        return time.perf_counter() - started

    def small_steps(self, x: Tensor, y: Tensor, give_up_after: float = math.inf) -> list[float]:
        """Return the seconds of a first and a second step on a few images, or of the first alone if it took too long."""
        few = x[:_SMALL_STEP], y[:_SMALL_STEP]
        first = self.step(*few)
        return [first] if first > give_up_after else [first, self.step(*few)]


def _by_timing(
    models: Sequence[ModelFactory], bundle: DataBundle, settings: TrainSettings, formats: list[NumericFormat]
) -> FormatChoice:
    started = time.perf_counter()
    x, y = _sample(bundle, settings)
    base = {which: _Contender(factory(), formats[0], settings, bundle.device) for which, factory in enumerate(models)}
    small = {which: contender.small_steps(x, y) for which, contender in base.items()}
    rivals: dict[NumericFormat, dict[int, _Contender]] = {formats[0]: base} | {numeric: {} for numeric in formats[1:]}
    dropped: dict[str, str] = {}
    # The cheapest candidate first: an emulated bf16 step of a large network can take half a minute.
    for which in sorted(small, key=lambda which: small[which][-1]):
        for numeric in [f for f in rivals if f != formats[0]]:
            contender = _Contender(models[which](), numeric, settings, bundle.device)
            if reason := _screen(contender, x, y, small[which]):
                dropped[name_format(numeric)] = reason
                del rivals[numeric]
            else:
                rivals[numeric][which] = contender
    if len(rivals) == 1:
        reason = f"{name_format(formats[0])} is left after a first small step in each format"
        return FormatChoice(formats[0], reason, {}, dropped, time.perf_counter() - started)
    speeds = _race(rivals, {which: _images(seconds) for which, (*_, seconds) in small.items()}, x, y, deadline=started + _SECONDS)
    chosen = formats[0]
    for numeric, speed in speeds.items():
        if speed > _MARGIN * speeds[chosen]:
            chosen = numeric
    named = {name_format(numeric): speed for numeric, speed in speeds.items()}
    return FormatChoice(chosen, _why(chosen, speeds), named, dropped, time.perf_counter() - started)


def _why(chosen: NumericFormat, speeds: dict[NumericFormat, float]) -> str:
    rival = max((numeric for numeric in speeds if numeric != chosen), key=lambda numeric: speeds[numeric])
    ratio = speeds[chosen] / speeds[rival]
    if ratio < 1:
        return f"{name_format(chosen)} trains at {ratio:.2f} times the speed of {name_format(rival)}, a tie, and is simpler"
    return f"{name_format(chosen)} trains at {ratio:.2f} times the speed of the next best, {name_format(rival)}"


def _screen(contender: _Contender, x: Tensor, y: Tensor, base: list[float]) -> str | None:
    """Return why a format is hopeless for a candidate, or ``None``; ``base`` is what the first format took."""
    try:
        taken = contender.small_steps(x, y, give_up_after=_SCREEN_FACTOR * base[0])
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # such as an operation without a bf16 form
        return f"a candidate cannot be trained in it: {str(error).splitlines()[0]}"
    # First steps set things up, so they are compared among themselves.
    slower = taken[-1] / base[len(taken) - 1]
    return f"{slower:.0f} times slower than the first format in a small step" if slower > _SCREEN_FACTOR else None


def _race(
    rivals: dict[NumericFormat, dict[int, _Contender]], images: dict[int, int], x: Tensor, y: Tensor, deadline: float
) -> dict[NumericFormat, float]:
    """Return each format's images per second: steps in turn, median per candidate, geometric mean over candidates."""
    seconds: dict[tuple[NumericFormat, int], list[float]] = {}
    for round_ in range(_ROUNDS + 1):
        for which, n in images.items():
            for numeric, row in rivals.items():
                taken = row[which].step(x[:n], y[:n])
                if round_ > 0:  # the first step at a new size sets things up
                    seconds.setdefault((numeric, which), []).append(taken / min(n, len(y)))
        if round_ >= _FEWEST_ROUNDS and time.perf_counter() > deadline:
            break
    return {numeric: 1 / statistics.geometric_mean(statistics.median(seconds[numeric, i]) for i in images) for numeric in rivals}


def _sample(bundle: DataBundle, settings: TrainSettings) -> Batch:
    return next(iter(bundle.train_batches(min(settings.batch_size, _MOST_IMAGES), 0, 0)))


def _images(small_step_seconds: float) -> int:
    """Return how many images make a step long enough to time and short enough to repeat."""
    return min(_MOST_IMAGES, max(_SMALL_STEP, round(_SMALL_STEP * _STEP_SECONDS / small_step_seconds)))


def name_format(numeric: NumericFormat) -> str:
    """Return a format's name, such as ``bf16 channels_last``."""
    return f"{numeric.precision} {numeric.memory_format}"
