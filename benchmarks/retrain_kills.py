"""Whether a retraining that is killed again and again ends with the weights of one that was not.

Searches the digits briefly, retrains one network without interruption, then again while killing the process (SIGKILL) at
random moments, each time starting the same command anew, and compares the weights bit by bit.

    python benchmarks/retrain_kills.py --kills 10
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

QUICK = ["measure=default", "measure.latency_max_seconds=0.05", "measure.batch_size=8", "device=cpu"]


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        search = command("nas.search", "conf=osa_digits", f"run_dir={folder / 'run'}", "study.trials=2", *QUICK, "train.epochs=1")
        subprocess.run(search, check=True, stdout=subprocess.DEVNULL)
        retrain = command(
            "nas.retrain",
            f"run_dir={folder / 'run'}",
            "trial=0",
            f"train.epochs={options.epochs}",
            "train.mixup_alpha=0.2",
            *QUICK,
        )
        began = time.perf_counter()
        subprocess.run([*retrain, f"out={folder / 'whole'}"], check=True, stdout=subprocess.DEVNULL)
        whole_s = time.perf_counter() - began
        killed = 0
        moments = []
        while killed < options.kills:
            # Fresh ends are tried again: a command that was quicker than its killer has nothing left to lose.
            wait_s = draw.uniform(0.3, 1.0) * whole_s / 2
            process = subprocess.Popen([*retrain, f"out={folder / 'killed'}"], stdout=subprocess.DEVNULL)
            try:
                process.wait(wait_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                checkpoints = sorted((folder / "killed" / "checkpoints").glob("*.ckpt"))
                moments.append(f"{wait_s:.1f} s ({checkpoints[-1].stem if checkpoints else 'no epoch'})")
                print(f"kill {killed}: after {moments[-1]}", flush=True)
            else:
                (folder / "killed").rename(folder / f"ended{len(list(folder.iterdir()))}")
        subprocess.run([*retrain, f"out={folder / 'killed'}"], check=True, stdout=subprocess.DEVNULL)
        ended = [path for path in folder.iterdir() if path.name == "killed" or path.name.startswith("ended")]
        wanted = load_file(folder / "whole" / "model.safetensors")
        equal = sum(same(load_file(path / "model.safetensors"), wanted) for path in ended)
        print(
            json.dumps({"kills": killed, "trainings": len(ended), "equal_weights": equal, "uninterrupted_s": round(whole_s, 1)})
        )
        if equal != len(ended):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
