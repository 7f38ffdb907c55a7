"""A space whose networks are slept over instead of trained: a process that imports this evaluates so.

Each evaluation holds a lock on a file of its network and notes there when it ends: two at once leave a mark.
"""

from __future__ import annotations

import fcntl
import time
from dataclasses import dataclass
from pathlib import Path

from nas import worker
from nas.evaluate import Evaluation, EvaluationRequest, OnStage
from tests.toy import ToyArchitecture, ToySpace, toy_evaluation

TWICE = ".twice"


@dataclass(frozen=True)
class StandInSpace(ToySpace):
    """Networks that take ``seconds``; what becomes of them is noted in ``folder``."""

    folder: str = ""
    seconds: float = 0.1


def evaluate(request: EvaluationRequest, on_stage: OnStage) -> Evaluation:
    space, architecture = request.space, request.architecture
    assert isinstance(space, StandInSpace) and isinstance(architecture, ToyArchitecture)
    path = Path(space.folder) / architecture.id
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            path.with_suffix(TWICE).touch()
        on_stage("build")
        time.sleep(space.seconds)
        on_stage("train 1/1")
        file.write("ended\n")
    return toy_evaluation(architecture)


worker.evaluate = evaluate
