"""The exponential moving average of a network's weights, which generalises better than the last of them."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage(nn.Module):
    """A copy of a network that follows it: ``average = d average + (1 - d) weights`` after every step.

    Early on ``d`` is ``(1 + step) / (10 + step)`` where that is less, so that the initial weights are soon forgotten (as in
    TensorFlow's ExponentialMovingAverage). Norms' statistics are averaged likewise; whole numbers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def follow(self, model: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` steps, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        theirs = model.state_dict()
        for name, mine in self.average.state_dict().items():
            if mine.is_floating_point():
                mine.lerp_(theirs[name], 1 - decay)
            else:
                mine.copy_(theirs[name])
