"""What a search says at its end: what it evaluated and saved, the front and how sure it is, how it compares, what it answers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console

from nas.analyse.confidence import front_probabilities
from nas.analyse.question import Answer
from nas.analyse.spread import source
from nas.analyse.study.population import Population
from nas.analyse.telling import ABOUT, answer_lines, asked
from nas.analyse.tradeoffs import minimised
from nas.outcomes import ANEW, Domination, Outcome
from nas.tables import front_table, show_gains

_MOST_FAILURES = 5


def savings(outcomes: Sequence[Outcome], epochs: int) -> Iterator[str]:
    """Yield one line for each way in which work was saved.

    Args:
        outcomes: The trials that ended.
        epochs: Of a whole training.
    """
    # What is known from another study, whose trial reused_from names by text, was trained there.
    trained = [o for o in outcomes if o.attributes.get("train_seconds") and o.attributes.get("reused_from") is None]
    gated = [outcome for outcome in outcomes if outcome.state == "pruned" and outcome.attributes.get("gated_by")]
    if gated:
        reasons = Counter(name for outcome in gated for name in outcome.attributes["gated_by"])
        by = ", ".join(f"{name} {count}" for name, count in reasons.most_common())
        usual = ""
        if trained:
            seconds = statistics.median(float(outcome.attributes["train_seconds"]) for outcome in trained)
            usual = f"; a training took {seconds:.3g} s in the median"
        late = sum(bool(outcome.attributes.get("fidelity")) for outcome in gated)
        some = f", {late} of them after some epochs, when they were timed in full" if late else ""
        yield f"gate: {len(gated)} candidates missed a bound and were not trained ({by}){some}{usual}"
    stopped = [outcome for outcome in outcomes if outcome.state == "pruned" and outcome.attributes.get("stopped_at") is not None]
    if stopped:
        resumed = sum(outcome.attributes.get("resumed_from") is not None for outcome in outcomes)
        after = Counter(int(outcome.attributes["stopped_at"]) for outcome in stopped)
        at = ", ".join(f"{count} after {epoch}" for epoch, count in sorted(after.items()))
        # A training that went on counts where it ended, and not also where it was stopped before.
        begun = {outcome.attributes.get("resumed_from") for outcome in outcomes if not outcome.attributes.get(ANEW)}
        done = sum(int(outcome.attributes["fidelity"]) for outcome in trained if outcome.number not in begun)
        resumed_from = {outcome.attributes.get("resumed_from") for outcome in outcomes}
        whole = epochs * sum(outcome.number not in resumed_from for outcome in trained)
        later = f", {resumed} of them went on later" if resumed else ""
        told = f"{len(stopped)} trainings were stopped early ({at} of {epochs} epochs{later})"
        yield f"stopping: {told}; {done} of {whole} epochs ran"
    ended = [outcome for outcome in trained if outcome.state == "complete"]
    if looked := sum(bool(outcome.attributes.get("latency_brief")) for outcome in ended):
        yield (
            f"timing: {looked} of {len(ended)} trained networks were timed briefly only: another network was clearly ahead, or "
            "the meter refused more"
        )
    repeated = sum(outcome.state == "repeated" for outcome in outcomes)
    if repeated:
        yield f"repeats: {repeated} suggestions built what was known already and were not evaluated"


def confidence(population: Population) -> dict[str, float]:
    """Return for each network of the front the probability that it belongs there, given the spread of what was measured."""
    values, noise = minimised(population.feasible, population.objectives), population.noise(population.feasible)
    chances = front_probabilities(values, noise, [source(metric.name) for metric in population.objectives])
    known = {outcome.name: float(chance) for outcome, chance in zip(population.feasible, chances, strict=True)}
    return {outcome.name: known[outcome.name] for outcome in population.front}


def print_summary(
    console: Console,
    population: Population,
    dominated: Sequence[Domination],
    epochs: int,
    interrupted: bool,
) -> None:
    """Print it.

    Args:
        console: Where.
        population: What the search came to.
        dominated: Which references the front dominates.
        epochs: Of a whole training.
        interrupted: Whether it was stopped on request.
    """

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True, highlight=False)

    outcomes = population.outcomes
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    console.print()
    for outcome in failed[:_MOST_FAILURES]:
        say(f"trial {outcome.name} failed: {outcome.failure_reason}")
    if len(failed) > _MOST_FAILURES:
        say(f"... and {len(failed) - _MOST_FAILURES} more failed; each trial's attributes say why")
    counted = sum(outcome.counts for outcome in outcomes)
    distinct = len({outcome.attributes.get("architecture_id") for outcome in outcomes})
    say(f"{'interrupted after' if interrupted else 'done:'} {counted} trials, {distinct} distinct architectures")
    for line in savings(outcomes, epochs):
        say(line)
    if population.front:
        _say_front(console, population, dominated)
    elif outcomes and not population.feasible:
        say("no network keeps every constraint: loosen constraints, or widen the space")


def print_answer(console: Console, answer: Answer) -> None:
    """Print what the trials answer to the search's question."""
    console.print()
    console.print("question:", asked(answer.question), style="bold", markup=False, soft_wrap=True)
    for line in answer_lines(answer):
        console.print(f"  {line}", markup=False, soft_wrap=True, highlight=False)
    if any(comparison.differences for comparison in answer.comparisons):
        console.print(ABOUT, style="dim", markup=False, soft_wrap=True)


def _say_front(console: Console, population: Population, dominated: Sequence[Domination]) -> None:
    front, objectives = population.front, population.objectives
    console.print(f"the networks that no other one beats ({len(front)}):")
    names = [metric.name for metric in objectives]
    sure = confidence(population)
    references = population.references
    console.print(front_table(front, names, population.constraints, references=references, dominated=dominated, confidence=sure))
    tied = [outcome.name for outcome in population.tied]
    about = "sure: the chance that no other network beats it, given the spread of what was measured"
    ties = f"; within noise of the front: {', '.join(tied)}" if tied else ""
    console.print(about + ties, style="dim", markup=False, soft_wrap=True)
    for domination in dominated:
        told = f"trial {domination.network.name} dominates {domination.reference.name}: {show_gains(domination)}"
        console.print(told, markup=False, soft_wrap=True)
    for reference in references:
        if reference.state != "failed" and all(d.reference.name != reference.name for d in dominated):
            console.print(f"no network on the front dominates {reference.name}", markup=False, soft_wrap=True)
