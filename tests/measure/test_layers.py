"""Where a network's time goes: every call accounted for, shares that add up, the heavy layer found."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from nas.measure import layers, subject
from nas.measure.layers import LayerTimes


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.light = nn.Conv2d(3, 3, 1)
        self.heavy = nn.Conv2d(3, 64, 7, padding=3)
        self.unused = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.heavy(self.light(self.light(x)))


def test_each_call_has_its_share() -> None:
    net = subject.make(Twice(), (3, 64, 64), "cpu", batch_size=8)
    found = layers.measure(net, seconds=0.05)
    assert [layer.name for layer in found.layers] == ["light", "light", "heavy"]
    assert found.layers[2].share > 0.5 and found.passes >= 10 and found.batch_size == 8
    # Each is a median of its own, so they add up only about.
    assert sum(layer.share for layer in found.layers) + found.between == pytest.approx(1, abs=0.1)
    assert LayerTimes.from_dict(found.to_dict()) == found
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.model.modules())
