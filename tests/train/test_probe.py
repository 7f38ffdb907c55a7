from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from nas.train import probe
from nas.train.probe import choose_format
from nas.train.settings import NumericFormat, TrainSettings

RECIPE = TrainSettings(epochs=1, batch_size=32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Steps take the time that a table says: (model's width, format) -> seconds per image."""

    def install(table: dict[tuple[int, str], float]) -> list[tuple[int, str, int]]:
        taken: list[tuple[int, str, int]] = []

        def step(self: probe._Contender, x: torch.Tensor, y: torch.Tensor) -> float:
            key = (self._model.body[0].out_channels, probe.name_format(self._numeric))
            taken.append((*key, len(y)))
            return table[key] * len(y)

        monkeypatch.setattr(probe._Contender, "step", step)
        return taken

    return install


NAMES = ["fp32 contiguous", "fp32 channels_last", "bf16 contiguous", "bf16 channels_last"]


def test_the_fastest_by_geometric_mean_wins(clock, make_bundle, make_model) -> None:
    clock(
        {(4, n): s for n, s in zip(NAMES, [1.0, 0.5, 2.0, 0.8], strict=True)}
        | {(8, n): s for n, s in zip(NAMES, [4.0, 4.0, 3.0, 2.0], strict=True)}
    )
    choice = choose_format([lambda: make_model(width=4), lambda: make_model(width=8)], make_bundle(), RECIPE, "cpu")
    expected = {n: 1 / math.sqrt(a * b) for n, a, b in zip(NAMES, [1.0, 0.5, 2.0, 0.8], [4.0, 4.0, 3.0, 2.0], strict=True)}
    assert choice.images_per_s == pytest.approx(expected)
    assert choice.numeric == NumericFormat("bf16", "channels_last")  # 0.79 against 0.71 images/s
    assert json.loads(json.dumps(dataclasses.asdict(choice)))["numeric"]["precision"] == "bf16"


def test_a_simpler_format_wins_a_tie(clock, make_bundle, make_model) -> None:
    clock({(4, n): s for n, s in zip(NAMES, [1.0, 0.98, 0.97, 0.96], strict=True)})
    choice = choose_format([lambda: make_model(width=4)], make_bundle(), RECIPE, "cpu")
    assert choice.numeric == NumericFormat("fp32", "contiguous")


def test_a_hopeless_format_costs_one_small_step_of_the_cheapest_candidate(clock, make_bundle, make_model) -> None:
    table = {(4, n): s for n, s in zip(NAMES, [1.0, 0.9, 30.0, 20.0], strict=True)}
    taken = clock(table | {(9, n): 10 * table[4, n] for n in NAMES})
    choice = choose_format([lambda: make_model(width=9), lambda: make_model(width=4)], make_bundle(), RECIPE, "cpu")
    bf16 = [call for call in taken if call[1].startswith("bf16")]
    assert [(width, name) for width, name, _ in bf16] == [(4, "bf16 contiguous"), (4, "bf16 channels_last")]
    assert all(images <= 4 for *_, images in bf16)
    assert set(choice.dropped) == set(NAMES[2:]) and "30 times slower" in choice.dropped["bf16 contiguous"]
    assert set(choice.images_per_s) == set(NAMES[:2])


def test_a_candidate_is_timed_on_the_same_images_in_every_format(clock, make_bundle, make_model) -> None:
    taken = clock({(9, n): 0.01 for n in NAMES} | {(4, n): 0.002 for n in NAMES})
    choose_format([lambda: make_model(width=9), lambda: make_model(width=4)], make_bundle(), RECIPE, "cpu")
    most = {(width, name): max(n for w, f, n in taken if (w, f) == (width, name)) for width, name, _ in taken}
    assert most == {(9, name): 8 for name in NAMES} | {(4, name): 26 for name in NAMES}


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"precision": "bf16"}, NAMES[2:]),
        ({"precision": "fp32"}, NAMES[:2]),
        ({"memory_format": "channels_last"}, [NAMES[1], NAMES[3]]),
    ],
)
def test_what_is_set_is_honoured(clock, make_bundle, make_model, settings: dict[str, str], allowed: list[str]) -> None:
    clock({(4, n): s for n, s in zip(NAMES, [1.0, 1.1, 1.2, 1.3], strict=True)})
    choice = choose_format([lambda: make_model(width=4)], make_bundle(), dataclasses.replace(RECIPE, **settings), "cpu")  # type: ignore[arg-type]
    assert set(choice.images_per_s) == set(allowed) and probe.name_format(choice.numeric) == allowed[0]


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_nothing_is_timed_when_nothing_is_open(make_bundle, device: str) -> None:
    settings = dataclasses.replace(RECIPE, precision="bf16", memory_format="contiguous")
    choice = choose_format([], make_bundle(), settings, device)
    assert choice.numeric == NumericFormat("bf16", "contiguous") and not choice.images_per_s


@pytest.mark.parametrize("has_bf16", [True, False])
def test_the_rule_on_a_gpu(monkeypatch: pytest.MonkeyPatch, make_bundle, has_bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(probe.torch.cuda, "device", lambda _: torch.no_grad())
    bundle = make_bundle()
    choice = choose_format([], bundle, RECIPE, "cuda:0")
    assert choice.numeric == NumericFormat("bf16" if has_bf16 else "fp32", "channels_last")
    contiguous = dataclasses.replace(RECIPE, memory_format="contiguous")
    assert choose_format([], bundle, contiguous, "cuda:0").numeric.memory_format == "contiguous"


def test_a_format_that_a_candidate_cannot_run_is_left_out(make_bundle, make_model) -> None:
    class NoBf16(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("not implemented for 'BFloat16'")
            return self.model(x)

    choice = choose_format([NoBf16], make_bundle(), RECIPE, "cpu")
    assert choice.numeric.precision == "fp32" and "BFloat16" in choice.dropped["bf16 contiguous"]


def test_a_real_probe(make_bundle, make_model) -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    bundle = make_bundle()
    choice = choose_format([make_model, lambda: make_model(width=24)], bundle, RECIPE, "cpu")
    assert torch.equal(torch.rand(2), expected)
    timed = choice.images_per_s
    assert set(timed) | set(choice.dropped) | {probe.name_format(choice.numeric)} >= set(NAMES)
    assert all(speed > 0 for speed in timed.values()) and choice.reason and choice.probe_seconds > 0
    if timed:
        assert timed[probe.name_format(choice.numeric)] * 1.05 >= max(timed.values())


def test_candidates_that_cannot_be_trained_at_all(make_bundle) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    with pytest.raises(RuntimeError, match="shapes"):
        choose_format([Broken], make_bundle(), RECIPE, "cpu")
