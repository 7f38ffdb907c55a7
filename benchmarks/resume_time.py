"""How long it takes to come back to a study, and to say which of its networks are on the front, each in a fresh process.

    python benchmarks/simulated_study.py --trials 10000 --counted 300 --run-dir runs/simulated
    python benchmarks/resume_time.py --run-dir runs/simulated [--runs 3]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import optuna

from nas.archive import read_archive
from nas.history import History
from nas.processes import fresh_process
from nas.storage import open_storage, storage_spec


def come_back(run_dir: str, name: str) -> dict[str, float]:
    """Run in a fresh process: read the study as a search that goes on does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began_s = time.perf_counter()
    storage = open_storage(storage_spec(None, Path(run_dir)))
    study = optuna.load_study(study_name=name, storage=storage.optuna)
    with storage.together():
        history = History().update(study.get_trials(deepcopy=False))
    read_s = time.perf_counter() - began_s
    from nas.analyse.tradeoffs import feasible, pareto_front
    from nas.metrics import METRICS

    objectives = [METRICS[objective] for objective in study.user_attrs["objectives"]]
    began_s = time.perf_counter()
    front = pareto_front(feasible(history.outcomes, study.user_attrs["constraints"]), objectives)
    front_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    archive = read_archive(storage, name)
    again_s = time.perf_counter() - began_s
    assert len(archive.outcomes) == len(history.outcomes)
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {
        "trials": len(history.trials),
        "front": len(front),
        "resume_s": read_s,
        "front_s": front_s,
        "read_again_s": again_s,
        "memory_mb": memory_mb,
    }


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--study", default="simulated")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    for _ in range(options.runs):
        with fresh_process() as process:
            found.append(process.submit(come_back, str(options.run_dir), options.study).result())
        print(found[-1], flush=True)
    print(json.dumps({key: round(statistics.median(one[key] for one in found), 3) for key in found[0]}))


if __name__ == "__main__":
    main()
