"""Recorded steps are the steps that would have been taken one by one, and what cannot be recorded is taken so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nas.train.recipe import learning_rate, make_optimizer, train_step
from nas.train.settings import NumericFormat, TrainSettings
from nas.train.stepping import Steps, own_stream

FP32 = NumericFormat("fp32", "contiguous")
RECIPE = TrainSettings(batch_size=16, peak_lr=0.1)
STEPS = 24

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


class Looking(nn.Module):
    """Looks at a value on its way, as a network with a data-dependent branch does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        return found if found.sum().item() > -1e30 else -found


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def batches(device: str) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(STEPS, 16, 3, 4, 4, generator=draws), torch.randint(0, 10, (STEPS, 16), generator=draws)
    return list(zip(x.to(device), y.to(device), strict=True))


def one_by_one(model: nn.Module, device: str) -> Tensor:
    optimizer = make_optimizer(model, RECIPE)
    losses = [
        train_step(model, optimizer, x, y, learning_rate(step, STEPS, RECIPE), RECIPE, FP32)
        for step, (x, y) in enumerate(batches(device))
    ]
    return torch.stack(losses).sum()


def stepping(model: nn.Module, device: str) -> tuple[Steps, torch.optim.SGD]:
    optimizer = make_optimizer(model, RECIPE)
    taken = Steps(model, optimizer, RECIPE, FP32, torch.device(device), recorded=True)
    with own_stream(torch.device(device)):
        for step, (x, y) in enumerate(batches(device)):
            taken.take(x, y, learning_rate(step, STEPS, RECIPE))
    return taken, optimizer


def compare(device: str, model: nn.Module, tolerance: float) -> Steps:
    model = model.to(device)
    plain = copy.deepcopy(model)
    expected = one_by_one(plain, device)
    taken, optimizer = stepping(model, device)
    assert taken.loss_sum.item() == pytest.approx(expected.item(), rel=max(tolerance, 1e-6))
    for mine, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    taken.close()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [type(group["lr"]) for group in optimizer.param_groups] == [float, float]
    return taken


def test_where_nothing_can_be_recorded_the_steps_are_taken_one_by_one() -> None:
    taken = compare("cpu", network(), 0.0)
    assert taken.not_recorded


@pytest.mark.gpu
@needs_gpu
def test_gpu_recorded_steps_are_those_taken_one_by_one() -> None:
    assert compare("cuda", network(), 1e-4).not_recorded is None


@pytest.mark.gpu
@needs_gpu
def test_gpu_a_network_that_looks_at_values_is_trained_step_by_step() -> None:
    taken = compare("cuda", Looking(network()), 1e-4)
    assert taken.not_recorded is not None
    assert compare("cuda", network(), 1e-4).not_recorded is None  # and the device is as good as before


@pytest.mark.gpu
@needs_gpu
def test_gpu_after_a_recording_that_broke_off_random_numbers_can_be_drawn() -> None:
    for _ in range(2):
        taken, _ = stepping(nn.Sequential(Looking(network()), nn.Dropout(0.5)).cuda(), "cuda")
        assert taken.not_recorded is not None and taken.loss_sum.isfinite()
    taken, _ = stepping(nn.Sequential(network(), nn.Dropout(0.5)).cuda(), "cuda")
    assert taken.not_recorded is None and taken.loss_sum.isfinite()


@pytest.mark.gpu
@needs_gpu
def test_gpu_a_recording_leaves_no_memory_behind() -> None:
    def after() -> int:
        model = network().cuda()
        taken, _ = stepping(model, "cuda")
        taken.close()
        return torch.cuda.memory_allocated()

    assert after() == after()
