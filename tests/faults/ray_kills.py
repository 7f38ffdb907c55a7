"""Whether a search on Ray loses, doubles or evaluates anything twice at once where a node is killed at random moments.

A head and two nodes run on this machine; a node that was killed is replaced by a new one. Networks are slept over instead of
trained (``standin``). The last line is the summary; the exit code is 1 unless it counts no loss.

    PYTHONPATH=. python tests/faults/ray_kills.py --trials 500 --kills 3
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState

ROOT = Path(__file__).resolve().parents[2]
HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}


def search(folder: Path, address: str, trials: int, seconds: float, seed: int) -> subprocess.Popen[bytes]:
    space = {"_target_": "tests.faults.standin.StandInSpace", "folder": str(folder / "seen"), "seconds": seconds}
    text = yaml.safe_dump({"defaults": [{"override /data": "digits"}], "space": space})
    (folder / "conf").mkdir()
    (folder / "seen").mkdir()
    (folder / "conf" / "killed.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
    command = [sys.executable, "-m", "nas.search", "conf=killed", f"study.trials={trials}", f"seed={seed}", "sampler=random"]
    command += ["scheduler=none", "objectives=[top1,latency_ms]", "train.epochs=1", "train.precision=fp32", "checkpoints=none"]
    command += [
        "train.memory_format=contiguous",
        "allow_modules=[tests.faults.standin]",
        "engine=ray",
        f"engine.address={address}",
    ]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--workers-per-node", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    moments = sorted(draw.sample(range(options.trials // 20, options.trials * 9 // 10), options.kills))
    os.environ |= {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH})
    nodes = [cluster.add_node(num_cpus=options.workers_per_node) for _ in range(2)]
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = search(folder, cluster.address, options.trials, options.seconds, options.seed)
        try:
            for moment in moments:
                while process.poll() is None and sum(1 for _ in (folder / "seen").iterdir()) < moment:
                    time.sleep(0.02)
                time.sleep(draw.random() * options.seconds)
                cluster.remove_node(nodes.pop(draw.randrange(2)), allow_graceful=False)
                nodes.append(cluster.add_node(num_cpus=options.workers_per_node))
                print(f"killed a node at trial {moment} of {options.trials}", flush=True)
            code = process.wait()
        finally:
            process.kill()
            cluster.shutdown()
        found = summary(folder, options.trials)
    found |= {"kills": options.kills, "exit_code": code, "seed": options.seed, "seconds": round(time.monotonic() - began_s, 1)}
    print(json.dumps(found))
    return int(code != 0 or any(found[key] for key in ("lost", "doubled", "twice_at_once")))


def summary(folder: Path, trials: int) -> dict[str, Any]:
    found = optuna.load_study(study_name="killed", storage=f"sqlite:///{folder}/runs/killed/study.db").trials
    counted = [trial for trial in found if not trial.user_attrs.get("uncounted")]
    own = [trial for trial in found if "reused_from" not in trial.user_attrs]
    times = Counter(trial.user_attrs["architecture_id"] for trial in own)
    return {
        "trials": len(counted),
        "lost": trials - sum(trial.state == TrialState.COMPLETE for trial in counted),
        "doubled": sum(count - 1 for count in times.values()) + max(0, len(counted) - trials),
        "twice_at_once": len(list((folder / "seen").glob("*.twice"))),
        "begun_again": sum(trial.user_attrs["attempt"] > 1 for trial in own),
        "workers": len({trial.user_attrs["worker"] for trial in own}),
    }


if __name__ == "__main__":
    sys.exit(main())
