"""The ways to search that ``search_efficiency.py`` compares: what each is made of, and by what name it is asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from nas.scheduler import Score

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Method:
    """A way to search.

    Attributes:
        way: ``naive`` and ``plain`` are a loop of ask and tell that evaluates whatever is suggested, at the costs of
            ``naive.py`` or at ours; ``ours`` is this package's study.
        sampler: Of ``conf/sampler``; ``default`` is Optuna's own choice.
        eta: Of ``mo_asha``; ``None`` for no scheduler.
        reuse: Whether what is known is not evaluated again.
        score: What a training is judged by at a rung; see ``nas.scheduler``.
        briefly: Whether what may be stopped is timed briefly first; in a plain loop, whether all is, and never in full.
        bounded: Whether networks have to keep a bound of ``params``.
        gate: Whether what misses it is not trained.
        workers: Processes that evaluate side by side; 0 for the study's own. Only for real.
    """

    told: str
    way: Literal["naive", "plain", "ours"]
    sampler: str
    eta: float | None = None
    reuse: bool = True
    score: Score = "loss"
    briefly: bool = True
    bounded: bool = False
    gate: bool = True
    workers: int = 0


def _methods() -> dict[str, Method]:
    eta = float(yaml.safe_load((ROOT / "conf" / "scheduler" / "mo_asha.yaml").read_text(encoding="utf-8"))["eta"])
    methods = {
        "naive": Method("Optuna's default, naive costs", "naive", "default"),
        "random": Method("random, no scheduler", "ours", "random"),
        "nsga2": Method("NSGA-II, plain loop, our costs", "plain", "nsga2", briefly=False),
        "tpe": Method("TPE, plain loop, our costs", "plain", "tpe", briefly=False),
        "tpe_briefly": Method("the same, every latency timed briefly", "plain", "tpe"),
        "gp": Method("Optuna's GP, plain loop, our costs", "plain", "gp", briefly=False),
        "gp_briefly": Method("the same, every latency timed briefly", "plain", "gp"),
        "ours": Method(f"ours: EHVI, mo_asha (eta {eta:g}), no repeats", "ours", "ehvi", eta),
        "no_scheduler": Method("ours without the scheduler", "ours", "ehvi"),
        "by_top1": Method("ours, rungs judged by top1", "ours", "ehvi", eta, score="objective"),
        "two_workers": Method("ours, two workers", "ours", "ehvi", eta, workers=2),
        "timed_in_full": Method("ours, every latency timed in full", "ours", "ehvi", eta, briefly=False),
        "repeats": Method("ours with TPE, repeats evaluated again", "ours", "tpe", eta, reuse=False),
        "tpe_asha": Method("ours, TPE instead of EHVI", "ours", "tpe", eta),
        "random_asha": Method("ours, random instead of EHVI", "ours", "random", eta),
        "nsga2_asha": Method("ours, NSGA-II instead of EHVI", "ours", "nsga2", eta),
        "nsga2_no_scheduler": Method("the same without the scheduler", "ours", "nsga2"),
    }
    for other in (2.0, 3.0, 4.0):
        if other != eta:
            methods[f"eta{other:g}"] = Method(f"ours, eta {other:g}", "ours", "ehvi", other)
    return {
        **methods,
        "bound_naive": dataclasses.replace(methods["naive"], bounded=True),
        "bound_tpe": dataclasses.replace(methods["tpe"], bounded=True),
        "bound_ours": dataclasses.replace(methods["ours"], bounded=True),
        "bound_no_gate": Method("ours without the gate", "ours", "ehvi", eta, bounded=True, gate=False),
    }


METHODS = _methods()
GROUPS = {
    "main": ("naive", "random", "nsga2", "tpe", "ours"),
    "parts": tuple(
        name
        for name in METHODS
        if name in ("tpe_briefly", "no_scheduler", "by_top1", "timed_in_full", "repeats", "tpe_asha", "random_asha")
        or name.startswith("eta")
    ),
    "nsga2s": ("nsga2_asha", "nsga2_no_scheduler"),
    "bound": tuple(name for name in METHODS if METHODS[name].bounded),
}


def sampler_node(sampler: str) -> dict[str, Any]:
    """Return what ``conf/sampler`` has under a name."""
    node = yaml.safe_load((ROOT / "conf" / "sampler" / f"{sampler}.yaml").read_text(encoding="utf-8"))
    assert isinstance(node, dict)
    return node
