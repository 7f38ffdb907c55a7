"""Answers from made-up trials whose truth is known: verdicts, ties, open questions, too few, fronts, and their words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nas.analyse.question import Answer, Difference, Question, answer
from nas.analyse.telling import answer_data, answer_lines, asked
from nas.metrics import METRICS
from nas.outcomes import Outcome

QUESTION = Question("which?", "arm", ("osa", "dense"), METRICS["flops"], 0.1)
OBJECTIVES = (METRICS["top1"], METRICS["latency_ms"])
COMPARED = [METRICS[name] for name in ("top1", "latency_ms", "energy_j", "mem_access")]


def trials(
    seed: int = 0, count: int = 40, points: float = 0.0, times: float = 1.0, scatter: float = 0.02, **more: Any
) -> list[Outcome]:
    """Networks of two arms at two sizes; those of osa have ``points`` more accuracy and ``times`` the latency."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        arm, size = ("osa", "dense")[number % 2], 1 + number // 2 % 2
        osa = arm == "osa"
        attributes = {
            "architecture_id": f"{number}",
            "flops": 1e6 * size * float(np.exp(generator.normal(0, 0.005))),
            "top1": 0.8 + 0.05 * size + points * osa + float(generator.normal(0, scatter)),
            "latency_ms": 3.0 * size * (times if osa else 1.0) * float(np.exp(generator.normal(0, 3 * scatter))),
            "energy_j": None,
            "energy_j_reason": "no counter",
            "mem_access": 1000 * size,
            **more,
        }
        made.append(Outcome(str(number), number, "complete", attributes, {"arm": arm, "mult_adds": size}))
    return made


def answered(outcomes: list[Outcome], question: Question = QUESTION, **more: Any) -> Answer:
    return answer(question, outcomes, **{"objectives": OBJECTIVES, "metrics": COMPARED, "tie": 0.03, **more})


def found(of: Answer) -> dict[str, Difference]:
    (comparison,) = of.comparisons
    return {difference.metric: difference for difference in comparison.differences}


def test_a_clear_difference_is_told_with_its_figures() -> None:
    told = answered(trials(points=0.05, times=0.6))
    (comparison,) = told.comparisons
    assert comparison.networks == comparison.compared == (20, 20)
    assert comparison.imbalance == pytest.approx(0.0, abs=0.01)
    differences = found(told)
    assert differences["top1"].verdict == differences["latency_ms"].verdict == "first"
    assert differences["latency_ms"].low < 0.6 < differences["latency_ms"].high < 0.7
    assert differences["mem_access"].verdict == "tie" and differences["mem_access"].value == 1.0
    assert "energy_j" not in differences and told.unmeasured == {"energy_j": "no counter"}
    lines = list(answer_lines(told))
    assert lines[0].startswith("compared: 20 networks of osa with 20 of dense, each with those whose FLOPs differ by 10 % at m")
    assert lines[1].startswith("osa is more accurate than dense at equal FLOPs: top1 +")
    assert lines[2].startswith("osa is faster than dense at equal FLOPs: latency_ms 0.") and "sure over 99.9 %" in lines[2]
    assert lines[3].startswith("a tie: osa against dense, mem_access 1.00x (95 %: 1.00 to 1.00)")
    assert "not measured: energy_j (no counter)" in lines
    assert json.loads(json.dumps(answer_data(told)))["told"] == lines


def test_the_second_value_may_be_the_better_one() -> None:
    told = answered(trials(points=-0.05, times=1.5))
    assert {name: difference.verdict for name, difference in found(told).items()} == {
        "top1": "second",
        "latency_ms": "second",
        "mem_access": "tie",
    }
    (line,) = [line for line in answer_lines(told) if " is faster than " in line]
    assert line.startswith("dense is faster than osa at equal FLOPs: latency_ms 0.6")  # the winner's to the loser's


def test_an_open_question_says_who_leads_and_what_it_needs() -> None:
    told = answered(trials(seed=4, points=0.005, times=1.0, scatter=0.03))
    top1 = found(told)["top1"]
    assert top1.verdict == "open" and top1.low < 0 < top1.high
    (line,) = [line for line in answer_lines(told) if line.startswith("open: osa against dense, top1 ")]
    assert " is ahead with " in line and "more trials" in line


def test_the_number_of_trials_that_an_open_question_asks_for_settles_it() -> None:
    alone: dict[str, Any] = {"metrics": [METRICS["top1"]], "objectives": ()}
    asked = settled = 0
    for seed in range(12):
        first = found(answered(trials(seed=seed, count=24, points=0.02, scatter=0.03), **alone))["top1"]
        if first.verdict == "open" and first.more_trials is not None and first.more_trials < 200:
            asked += 1
            again = trials(seed=seed, count=24 + first.more_trials, points=0.02, scatter=0.03)
            settled += found(answered(again, **alone))["top1"].verdict != "open"
    assert asked >= 5 and settled >= asked / 2  # the estimate moves: it can only be right about half the time


def test_a_question_without_words_names_its_values() -> None:
    assert asked(QUESTION) == "which?"
    assert asked(replace(QUESTION, asks="")) == "osa or dense at equal FLOPs?"
    switched = Question("", "bottleneck", (False, True), None, 0.1)
    assert asked(switched) == "bottleneck=false or bottleneck=true?"


def test_without_something_equal_all_are_compared() -> None:
    told = answered(trials(times=0.5), replace(QUESTION, equal=None))
    assert "compared: 20 networks of osa with 20 of dense, whatever their size" in answer_lines(told)
    assert found(told)["latency_ms"].verdict == "first"


def test_what_cannot_be_compared_says_why() -> None:
    def why(outcomes: list[Outcome], question: Question = QUESTION) -> str:
        (comparison,) = answered(outcomes, question).comparisons
        assert not comparison.differences and comparison.fronts is None
        return comparison.untold

    assert why([]) == "there is no network of osa yet; go on with more trials"
    assert why(trials()[::2]) == "there is no network of dense yet; go on with more trials"
    assert (
        why(trials(count=8))
        == "4 networks of osa can be compared, 5 are needed at the least; about 2 more trials would give them"
    )
    apart = [
        replace(o, attributes={**o.attributes, "flops": o.attributes["flops"] * (1.0 if o.params["arm"] == "osa" else 10.0)})
        for o in trials()
    ]
    assert "no two networks of osa and dense have equal flops: the nearest two differ by 393 %" in why(apart)
    assert "question.equal=peak_memory_mb" in why(trials(), replace(QUESTION, equal=METRICS["peak_memory_mb"]))


def test_only_finished_networks_count_and_each_once() -> None:
    outcomes = trials(points=0.05, times=0.6)
    wrong = {**outcomes[0].attributes, "latency_ms": 1e6}
    noise = [
        Outcome("a", 100, "pruned", wrong, {"arm": "osa"}),
        Outcome("b", 101, "repeated", wrong, {"arm": "osa"}),
        Outcome("c", 102, "complete", wrong, {"arm": "osa"}),  # the architecture of trial 0 again
        Outcome("d", 103, "failed", {"failure_reason": "too large"}, {"arm": "dense"}),
    ]
    told = answered([*outcomes, *noise], doubts=["it was chosen"])
    assert replace(told, doubts=()) == replace(answered(outcomes), doubts=())
    assert told.doubts == ("it was chosen", "1 networks of dense failed and are missing")
    assert "beware: it was chosen" in answer_lines(told)


def test_doubtful_measurements_are_told_if_they_are_many() -> None:
    def doubtful(share: int) -> tuple[str, ...]:
        flags = [f"others kept 0.{number % 10} of 1 CPUs busy" for number in range(40)]
        outcomes = trials()
        return answered(
            [
                replace(o, attributes={**o.attributes, "measure_flags": [flag] if index < share else []})
                for index, (o, flag) in enumerate(zip(outcomes, flags, strict=True))
            ]
        ).doubts

    assert doubtful(2) == ()
    (told,) = doubtful(20)
    assert told.startswith("20 of 40 networks were measured with a doubt (most often “others kept … of … CPUs busy”)")


def test_three_values_are_compared_two_by_two_and_true_is_not_one() -> None:
    outcomes = [replace(o, params={"depth": (1, 2, True)[o.number % 3]}) for o in trials(count=60)]  # type: ignore[operator]
    told = answered(outcomes, replace(QUESTION, factor="depth", values=(1, 2, True)))
    names = [(comparison.first, comparison.second, comparison.networks) for comparison in told.comparisons]
    assert names == [
        ("depth=1", "depth=2", (20, 20)),
        ("depth=1", "depth=true", (20, 20)),
        ("depth=2", "depth=true", (20, 20)),
    ]


def test_fronts_are_compared_at_equal_numbers() -> None:
    (even,) = answered(trials(seed=1, count=60)).comparisons
    assert even.fronts is not None and 0.02 < even.fronts.probability < 0.98
    assert all(0.5 < share <= 1.0 for share in even.fronts.shares)
    (better,) = answered(trials(seed=1, count=60, points=0.08, times=0.5)).comparisons
    assert better.fronts is not None and better.fronts.probability > 0.99
    assert better.fronts.shares[0] == pytest.approx(1.0) and better.fronts.shares[1] < 0.6
    # As often as there are more of dense it would reach further by its number alone.
    crowd = [o for o in trials(seed=2, count=120) if o.params["arm"] == "dense" or o.number % 8 == 0]  # type: ignore[operator]
    (uneven,) = answered(crowd).comparisons
    assert uneven.networks == (15, 60)
    assert uneven.fronts is not None and 0.02 < uneven.fronts.probability < 0.98
