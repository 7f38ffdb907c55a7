from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import pickle
import signal
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torch import nn

from nas.errors import InputError
from nas.train.augment import derive_seed
from nas.train.datasets import Digits
from nas.train.fit import StateError, TrainingDiverged, TrainResult, fit
from nas.train.recipe import ieee_fp32, learning_rate, make_optimizer, place, score, train_step
from nas.train.settings import NumericFormat, TrainSettings

FP32 = NumericFormat("fp32", "contiguous")
CPU = torch.device("cpu")
RECIPE = TrainSettings(epochs=4, batch_size=16, peak_lr=0.1)


def run(
    model: nn.Module, bundle, settings: TrainSettings = RECIPE, numeric: NumericFormat = FP32, seed: int = 0, **options
) -> TrainResult:
    return fit(model, bundle, settings, numeric, "cpu", seed, **options)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ---- the recipe's parts


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 1000])
def test_schedule_is_a_triangle(steps: int, fraction: float) -> None:
    settings = TrainSettings(peak_lr=0.4, warmup_fraction=fraction)
    rates = np.array([learning_rate(i, steps, settings) for i in range(steps)])
    assert (rates > 0).all() and (rates <= 0.4 + 1e-12).all()
    top = int(rates.argmax())
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top:]) < 1e-9).all()
    if steps == 1000:
        assert abs(rates.mean() - 0.2) < 1e-3 and abs(top - fraction * steps) <= 1


def test_schedule_is_torchs_one_cycle() -> None:
    settings = TrainSettings(peak_lr=0.3, warmup_fraction=0.25)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=2000, pct_start=0.25, anneal_strategy="linear", div_factor=1e6, cycle_momentum=False
    )
    for step in range(2000):
        assert abs(learning_rate(step, 2000, settings) - optimizer.param_groups[0]["lr"]) < 0.3 * 2 / 500
        optimizer.step()
        if step < 1999:
            theirs.step()


def test_norms_and_biases_do_not_decay(make_model) -> None:
    model = make_model()
    optimizer = make_optimizer(model, TrainSettings(weight_decay=0.01))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    kinds = {type(m): m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)}
    assert len(kinds) == 3 and len(decay) == len(list(model.parameters()))
    for kind, module in kinds.items():
        assert decay[id(module.weight)] == (0.0 if kind is nn.BatchNorm2d else 0.01)
        assert decay[id(module.bias)] == 0.0
    model.head.weight.requires_grad_(False)
    assert len(make_optimizer(model, TrainSettings()).param_groups[0]["params"]) == 2


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_fused_steps_are_plain_nesterov(make_model, memory_format: str) -> None:
    numeric = NumericFormat("fp32", memory_format)  # type: ignore[arg-type]
    ours, theirs = make_model(dropout=0.0), make_model(dropout=0.0)
    place(ours, numeric, CPU)
    settings = TrainSettings(weight_decay=0.01, label_smoothing=0.2, momentum=0.9)
    mine = make_optimizer(ours, settings)
    velocity = {name: torch.zeros_like(p) for name, p in theirs.named_parameters()}
    draws = torch.Generator().manual_seed(0)
    for step in range(5):
        x = torch.randn(8, 3, 6, 6, generator=draws)
        y = torch.randint(0, 3, (8,), generator=draws)
        lr = 0.05 * (step + 1)
        loss = train_step(ours, mine, x, y, lr, settings, numeric)
        # Written out: Sutskever et al. 2013 as torch's manual states it; smoothing as Szegedy et al. 2016 define it.
        log_p = theirs(x).log_softmax(1)
        target = torch.full_like(log_p, 0.2 / 3).scatter_(1, y[:, None], 0.8 + 0.2 / 3)
        expected = -(target * log_p).sum(1).mean()
        gradients = torch.autograd.grad(expected, list(theirs.parameters()))
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            for (name, p), g in zip(theirs.named_parameters(), gradients, strict=True):
                g = g + (0.01 * p if p.ndim > 1 else 0)
                velocity[name] = 0.9 * velocity[name] + g if step else g
                p -= lr * (g + 0.9 * velocity[name])
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("classes", [3, 5, 8])
def test_score_is_exact(classes: int) -> None:
    draws = torch.Generator().manual_seed(classes)
    logits = torch.randn(101, classes, generator=draws)
    y = torch.cat([torch.arange(classes), torch.randint(0, classes, (101 - classes,), generator=draws)])
    model = nn.Sequential(nn.Flatten(), nn.Identity())
    x = logits.reshape(101, classes, 1, 1)
    found = score(model, zip(x.split(17), y.split(17), strict=True), FP32)
    assert found.top1 == top_k_accuracy_score(y, logits, k=1) if classes > 2 else True
    assert found.top1 == (logits.argmax(1) == y).sum().item() / 101
    expected = 1.0 if classes <= 5 else top_k_accuracy_score(y, logits, k=5)
    assert found.top5 == expected
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits.double(), y).item(), rel=1e-6)
    assert not model.training


# ---- fit


def test_fit_is_a_plain_loop(make_model, make_bundle) -> None:
    """Lightning, stretches and hooks add nothing to what the recipe says."""
    bundle = make_bundle(crop_padding=1, flip=True)
    ours, plain = make_model(), make_model()
    result = run(ours, bundle, seed=3)
    optimizer = make_optimizer(plain, RECIPE)
    step, losses = 0, []
    for epoch in range(4):
        torch.manual_seed(derive_seed(3, "model", epoch))
        batches = bundle.train_batches(16, epoch, 3)
        total = 0.0
        for x, y in batches:
            total += train_step(plain, optimizer, x, y, learning_rate(step, 4 * len(batches), RECIPE), RECIPE, FP32).item()
            step += 1
        losses.append(total / len(batches))
    plain.eval()
    assert_same(weights(ours), weights(plain))
    np.testing.assert_allclose(result.train_loss, losses, rtol=1e-6)
    with torch.no_grad():
        right = torch.cat([plain(x).argmax(1) == y for x, y in bundle.validation_batches(16)])
    assert result.top1 == right.sum().item() / len(right)
    assert result.epochs == 4 and result.state is None and not ours.training
    assert result.images_per_s is not None and result.images_per_s > 0 and result.train_seconds > 0


def test_more_steps_than_a_stretch(make_model, make_bundle) -> None:
    bundle = make_bundle()
    settings = replace(RECIPE, epochs=1, batch_size=2)
    assert len(bundle.train_batches(2, 0, 0)) > 32
    ours, plain = make_model(dropout=0.0), make_model(dropout=0.0)
    run(ours, bundle, settings)
    optimizer = make_optimizer(plain, settings)
    batches = bundle.train_batches(2, 0, 0)
    for step, (x, y) in enumerate(batches):
        train_step(plain, optimizer, x, y, learning_rate(step, len(batches), settings), settings, FP32)
    assert_same(weights(ours), weights(plain))


def test_same_call_twice_is_identical(make_model, make_bundle) -> None:
    bundle = make_bundle(crop_padding=2, flip=True)
    a, b, c = make_model(), make_model(), make_model()
    first = run(a, bundle)
    torch.manual_seed(99)  # what the caller did to torch's stream does not matter
    second = run(b, bundle)
    run(c, bundle, seed=1)
    assert_same(weights(a), weights(b))
    assert (first.top1, first.train_loss, first.validation_loss) == (second.top1, second.train_loss, second.validation_loss)
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))


@pytest.mark.parametrize("stops", [(2, 4), (1, 2, 3, 4), (3, 4)])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_stopping_and_going_on_changes_nothing(make_model, make_bundle, stops: tuple[int, ...], memory_format: str) -> None:
    numeric = NumericFormat("fp32", memory_format)  # type: ignore[arg-type]
    bundle = make_bundle(crop_padding=2, flip=True)
    whole = make_model()
    expected = run(whole, bundle, numeric=numeric, keep_state=True)
    state, seconds = None, 0.0
    for until in stops:
        model = make_model(seed=until)  # the state brings the weights along
        if state is None:
            model = make_model()
        result = run(model, bundle, numeric=numeric, until_epoch=until, resume=state, keep_state=True)
        assert result.epochs == until == len(result.train_loss) and result.train_seconds > seconds
        state, seconds = result.state, result.train_seconds
    assert_same(weights(model), weights(whole))
    assert (result.top1, result.top5, result.validation_loss, result.train_loss) == (
        expected.top1,
        expected.top5,
        expected.validation_loss,
        expected.train_loss,
    )
    again = run(make_model(seed=9), bundle, numeric=numeric, resume=state)
    assert again.top1 == expected.top1 and again.images_per_s is None


def test_scores_on_the_way_change_nothing_and_survive_a_resumption(make_model, make_bundle) -> None:
    bundle = make_bundle()
    plain, scored, stopped = make_model(), make_model(), make_model()
    wanted = run(plain, bundle)
    found = run(scored, bundle, scored=range(1, 5))
    assert_same(weights(plain), weights(scored))
    assert [point.epoch for point in found.curve] == [1, 2, 3, 4] and [point.epoch for point in wanted.curve] == [4]
    assert found.curve[-1] == wanted.curve[-1] and found.curve[-1].top1 == found.top1
    first = run(stopped, bundle, until_epoch=2, keep_state=True, scored=[1])
    assert first.curve == found.curve[:2]
    again = run(make_model(seed=9), bundle, resume=first.state, scored=[3])
    assert again.curve == found.curve


def test_state_is_plain_and_checked(make_model, make_bundle) -> None:
    bundle = make_bundle()
    state = run(make_model(), bundle, until_epoch=1, keep_state=True).state
    assert state is not None
    assert torch.load(io.BytesIO(state), weights_only=True)["train_loss"]
    assert issubclass(StateError, InputError)
    with pytest.raises(StateError, match=r"the training state cannot be used"):
        run(make_model(), bundle, resume=state[: len(state) // 2])
    with pytest.raises(StateError, match=r"the training state cannot be used"):
        run(make_model(), bundle, resume=b"")
    with pytest.raises(StateError, match=r"made with peak_lr=0.1 and not 0.2"):
        run(make_model(), bundle, replace(RECIPE, peak_lr=0.2), resume=state)
    with pytest.raises(StateError, match=r"made with seed=0 and not 1"):
        run(make_model(), bundle, seed=1, resume=state)
    with pytest.raises(StateError, match=r"made with data="):
        run(make_model(), make_bundle(seed=1), resume=state)
    with pytest.raises(StateError, match=r"cannot be used \(Error\(s\) in loading state_dict"):
        run(make_model(width=9), bundle, resume=state)
    bomb = pickle.dumps(print, protocol=2)
    with pytest.raises(StateError, match=r"the training state cannot be used"):
        run(make_model(), bundle, resume=bomb)
    with pytest.raises(ValueError, match="until_epoch=5"):
        run(make_model(), bundle, until_epoch=5)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Error(s) in loading state_dict for SmallNet:\n\tan exception occurred : ('CUDA error: unspecified',)."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError(),
    ],
)
def test_a_fault_of_the_device_is_not_one_of_the_state(
    make_model, make_bundle, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bundle = make_bundle()
    state = run(make_model(), bundle, until_epoch=1, keep_state=True).state

    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error)) as caught:
        run(make_model(), bundle, resume=state)
    assert caught.value is error


def test_what_others_made_it_wait_is_no_time_of_the_training(make_model, make_bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, now_s = make_bundle(), [50.0]
    monkeypatch.setattr("nas.train.fit.time", SimpleNamespace(perf_counter=lambda: now_s[0]))

    def on_epoch(done: int, total: int) -> float:
        now_s[0] += 2.0 + 100.0 * done  # of which it waits a hundred per epoch done
        return 100.0 * done

    first = run(make_model(), bundle, until_epoch=1, keep_state=True, on_epoch=on_epoch)
    assert first.train_seconds == pytest.approx(2.0)
    last = run(make_model(), bundle, resume=first.state, on_epoch=on_epoch)
    assert last.train_seconds == pytest.approx(8.0)


def test_training_learns(make_bundle) -> None:
    """A hundred-line CNN reads the digits after a few epochs: the recipe trains, not just runs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    result = run(model, make_bundle(Digits()), TrainSettings(epochs=8, batch_size=64, peak_lr=0.2))
    assert result.top1 > 0.95 and result.top5 > 0.99
    assert result.train_loss[-1] < result.train_loss[0]


def test_divergence_names_the_epoch(make_model, make_bundle) -> None:
    with pytest.raises(TrainingDiverged) as caught:
        run(make_model(), make_bundle(), replace(RECIPE, peak_lr=1e30))
    assert caught.value.epoch == 0
    again = copy.copy(caught.value)  # by the same protocol as pickling
    assert again.epoch == 0 and "epoch 1" in str(again)


class BlowsUp(nn.Module):
    """NaN from its third epoch on, or only when it is evaluated."""

    def __init__(self, model: nn.Module, at: int | None) -> None:
        super().__init__()
        self.model, self.at = model, at
        self.epoch = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bad = not self.training if self.at is None else self.epoch >= self.at
        return self.model(x) * (math.nan if bad else 1.0)


@pytest.mark.parametrize(("at", "epoch"), [(2, 2), (None, 3)])
def test_divergence_later(make_model, make_bundle, at: int | None, epoch: int) -> None:
    model = BlowsUp(make_model(), at)
    with pytest.raises(TrainingDiverged) as caught:
        run(model, make_bundle(), on_epoch=lambda done, _: setattr(model, "epoch", done))
    assert caught.value.epoch == epoch


def test_on_epoch_and_torchs_random_stream(make_model, make_bundle) -> None:
    calls: list[tuple[int, int]] = []
    bundle, model = make_bundle(), make_model()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(model, bundle, until_epoch=3, on_epoch=lambda *call: calls.append(call))
    assert torch.equal(torch.rand(3), expected)
    assert calls == [(1, 3), (2, 3), (3, 3)]


class Stop(BaseException):
    """What a caller's signal handler raises."""


def test_a_signal_handlers_exception_comes_through(make_model, make_bundle) -> None:
    def stop(*_: object) -> None:
        raise Stop

    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.calls = make_model(), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 7:
                signal.raise_signal(signal.SIGINT)
            return self.model(x)

    before = signal.signal(signal.SIGINT, stop)
    try:
        with pytest.raises(Stop):
            run(Interrupted(), make_bundle())
        assert signal.getsignal(signal.SIGINT) is stop
    finally:
        signal.signal(signal.SIGINT, before)
    assert run(make_model(), make_bundle()).epochs == 4


def test_out_of_memory_comes_through(make_bundle) -> None:
    class Hungry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(240, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        run(Hungry(), make_bundle())


def test_it_is_quiet_but_not_deaf(make_model, make_bundle, capfd: pytest.CaptureFixture[str]) -> None:
    class Warns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            warnings.warn("a real warning", UserWarning, stacklevel=1)
            return self.model(x)

    import lightning.pytorch  # noqa: F401 - its import sets its logger's level

    level = logging.getLogger("lightning.pytorch").level
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(Warns(), make_bundle(), replace(RECIPE, epochs=1))
    assert {str(w.message) for w in caught} == {"a real warning"}
    written = capfd.readouterr()
    assert written.out == "" and written.err == ""
    assert logging.getLogger("lightning.pytorch").level == level


def test_nothing_is_left_behind(make_model, make_bundle, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "search")
    run(make_model(), make_bundle(), replace(RECIPE, epochs=1))
    assert list(tmp_path.iterdir()) == []


def test_bf16_keeps_weights_and_statistics_in_fp32(make_model, make_bundle) -> None:
    model = make_model()
    result = run(model, make_bundle(), replace(RECIPE, epochs=1), NumericFormat("bf16", "channels_last"))
    assert all(v.dtype in (torch.float32, torch.int64) for v in model.state_dict().values())
    assert math.isfinite(result.validation_loss)
    conv = model.body[0].weight
    assert conv.is_contiguous(memory_format=torch.channels_last) and not conv.is_contiguous()


@pytest.mark.parametrize("fails", [False, True])
def test_fp32_is_ieee_while_training_and_scoring(make_model, make_bundle, fails: bool) -> None:
    flags = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    seen: set[tuple[bool, str, str]] = set()

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add((self.training, *(flag.fp32_precision for flag in flags)))
            if fails:
                raise KeyError("deep inside")
            return self.model(x)

    before = [flag.fp32_precision for flag in flags]
    with pytest.raises(KeyError) if fails else contextlib.nullcontext():
        run(Looks(), make_bundle(), replace(RECIPE, epochs=1))
    assert seen == {(True, "ieee", "ieee")} | (set() if fails else {(False, "ieee", "ieee")})
    assert [flag.fp32_precision for flag in flags] == before
    # The older switches, which Lightning reads, refuse to be read where old and new ways are mixed.
    with ieee_fp32():
        assert torch.get_float32_matmul_precision() == "highest"
    assert isinstance(torch.backends.cuda.matmul.allow_tf32, bool)


def test_streamed_training_is_resident_training(make_model, make_bundle) -> None:
    a, b = make_model(), make_model()
    run(a, make_bundle(crop_padding=1, flip=True))
    run(b, make_bundle(crop_padding=1, flip=True, resident_budget_mb=0.0, workers=0))
    assert_same(weights(a), weights(b))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_gpu_fit_stays_on_the_gpu_and_never_waits_within_an_epoch(
    make_bundle, make_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.train.module import BriefModule

    bundle = make_bundle(device="cuda", crop_padding=1, flip=True)
    model = make_model()
    numeric = NumericFormat("bf16", "channels_last")
    training_step, stretches = BriefModule.training_step, 0

    def without_waiting(module: BriefModule, *arguments) -> None:
        nonlocal stretches
        stretches += 1
        # Whatever makes the host wait for the device raises: the steps, and the batches that they draw on the way.
        torch.cuda.set_sync_debug_mode("error")
        try:
            training_step(module, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(BriefModule, "training_step", without_waiting)
    result = fit(model, bundle, RECIPE, numeric, "cuda", 0, keep_state=True)
    assert stretches >= RECIPE.epochs
    assert next(model.parameters()).device == bundle.device and math.isfinite(result.validation_loss)
    assert math.isfinite(fit(make_model(), bundle, RECIPE, numeric, "cuda", 0, resume=result.state).top1)
