"""What a user sees while a search runs: a live panel on a terminal, one line per trial elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.console import clock
from nas.metrics import METRICS, show
from nas.outcomes import Domination, Outcome, dominations
from nas.standing import Standing
from nas.study import Study
from nas.tables import front_table, show_gains

_ROWS = 8


class Progress:
    """Shows a running search; use it as a context manager around the search.

    Args:
        study: The study under way.
        console: Where to show it; a live panel if it is a terminal, lines otherwise.
    """

    def __init__(self, study: Study, console: Console) -> None:
        self.references: list[Outcome] = study.beside.references
        self.dominated: list[Domination] = []
        self._study, self._console = study, console
        self._standing = Standing(study)
        self._counted: set[int] = set()
        self._done = self._failed = 0
        self._count()
        self._done_before = self._done
        self._compare()
        self._began = time.monotonic()
        self._stages: dict[str, str] = {}
        self._live = Live(get_renderable=self._panel, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def stage(self, number: int, stage: str) -> None:
        """Note that trial ``number`` has entered a stage."""
        self._stages[str(number)] = f"trial {number}: {stage}"

    def reference_stage(self, name: str, stage: str) -> None:
        """Note that the evaluation of a reference has entered a stage."""
        self._stages[name] = f"reference {name}: {stage}"

    def reference_told(self, reference: Outcome) -> None:
        """Note that a reference is recorded."""
        self._stages.pop(reference.name, None)
        self.references = [*(known for known in self.references if known.name != reference.name), reference]
        self._compare()
        if reference.state == "failed":
            line = f"reference {reference.name}  failed: {reference.failure_reason}"
        else:
            line = "  ".join([f"reference {reference.name}", *self._values(reference)])
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def seed_stage(self, name: str, stage: str) -> None:
        """Note that the training of a further seed has entered a stage."""
        self._stages["seed"] = f"trial {name}, another seed: {stage}"

    def seed_told(self, network: Outcome, seed: int, top1: float | None, failure: str | None) -> None:
        """Note that a further seed of a network is recorded."""
        self._stages.pop("seed", None)
        self._standing.look()
        self._compare()
        came_to = f"failed: {failure}" if failure else f"top1 {show(METRICS['top1'], top1)}"
        line = f"trial {network.name}, seed {seed}: {came_to} (before: {show(METRICS['top1'], network.attributes.get('top1'))})"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def timing_stage(self, name: str, stage: str) -> None:
        """Note that the timing of a network in full has entered a stage."""
        self._stages["timing"] = f"trial {name}, in full: {stage}"

    def timed(self, network: Outcome, latency_ms: float | None, refusal: str | None) -> None:
        """Note that a network was timed in full, or why it was not."""
        self._stages.pop("timing", None)
        self._standing.look()
        self._compare()
        before, latency = network.attributes.get("latency_ms"), METRICS["latency_ms"]
        if refusal is not None:
            line = f"trial {network.name} could not be timed in full: {refusal}; its latency is that of a first look"
        else:
            line = (
                f"trial {network.name}, timed in full: latency_ms {show(latency, latency_ms)} (before: {show(latency, before)})"
            )
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def told(self, trial: Outcome) -> bool:
        """Note that a trial ended; returns whether it changed the front."""
        self._stages.pop(trial.name, None)
        before = [t.number for t in self.front]
        if self._standing.take(trial):
            self._count()
        elif trial.number not in self._counted:  # several that are told at once were all seen with the first
            self._add(trial)
        self._compare()
        if not self._console.is_terminal:
            self._console.print(self._line(trial), highlight=False, soft_wrap=True)
        return before != [t.number for t in self.front]

    def _count(self) -> None:
        """Count the trials that ended, those of other processes too."""
        self._counted, self._done, self._failed = set(), 0, 0
        for trial in self._standing.ended:
            self._add(trial)

    def _add(self, trial: Outcome) -> None:
        if trial.number is not None:
            self._counted.add(trial.number)
        self._done += trial.counts
        self._failed += trial.state == "failed"

    @property
    def front(self) -> list[Outcome]:
        """The networks that no other one dominates."""
        return self._standing.front

    def _compare(self) -> None:
        self.dominated = dominations(self.front, self.references, self._study.plan.objectives)

    def _values(self, network: Outcome) -> list[str]:
        return [f"{m.name} {show(m, network.attributes.get(m.name))}" for m in self._study.plan.objectives]

    def _seconds_left(self) -> float | None:
        done_now = self._done - self._done_before
        if not done_now:
            return None
        return (time.monotonic() - self._began) / done_now * max(0, self._study.plan.trials - self._done)

    def _left(self) -> str:
        seconds = self._seconds_left()
        return "" if seconds is None else f"{clock(seconds)} left"

    def _line(self, trial: Outcome) -> str:
        head = f"trial {trial.name} ({self._done} of {self._study.plan.trials})"
        if trial.state == "failed":
            return f"{head}  failed: {trial.failure_reason}"
        if trial.state == "pruned":
            return f"{head}  {trial.pruned_reason}  {self._left()}".rstrip()
        if trial.state == "repeated":
            return f"{head}  builds what trial {trial.attributes['reused_from']} built: its result is taken again"
        on_front = "on the front" if any(t.number == trial.number for t in self.front) else "dominated or infeasible"
        return "  ".join(
            [head, *self._values(trial), on_front, f"hypervolume {self._standing.hypervolume:.3f}", self._left()]
        ).rstrip()

    def _panel(self) -> RenderableType:
        plan = self._study.plan
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=plan.trials, completed=self._done, width=30)
        elapsed = clock(time.monotonic() - self._began)
        head.add_row(Text(plan.name, style="bold"), f"{self._done} of {plan.trials} trials", bar, elapsed, self._left())
        now = "   ".join(self._stages.values())
        state = f"hypervolume {self._standing.hypervolume:.3f} of the box between the best and the worst values seen"
        failed = f"   failed {self._failed}" if self._failed else ""
        return Group(head, Text(now or "…", style="cyan"), Text(state + failed, style="dim"), *self._best(self.front))

    def _best(self, front: Sequence[Outcome]) -> list[RenderableType]:
        if not front:
            return []
        names = [metric.name for metric in self._study.plan.objectives if metric.name in METRICS]
        more = [Text(f"… and {len(front) - _ROWS} more", style="dim")] if len(front) > _ROWS else []
        constraints = self._study.plan.constraints
        beaten = [
            Text(f"{d.network.name} dominates {d.reference.name}: {show_gains(d)}", style="dim") for d in self.dominated[:_ROWS]
        ]
        return [front_table(front, names, constraints, _ROWS, self.references, self.dominated), *more, *beaten]
