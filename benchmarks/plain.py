"""A plain search at this package's costs: Optuna's ask and tell around its evaluations, and nothing else of it.

What is suggested is evaluated in full, repeats included: a rival in ``search_efficiency.py``, which differs from ``naive.py`` in
how a candidate is measured and trained. Overrides are those of ``nas.search``.

    OUT=FOLDER python benchmarks/plain.py --seconds 60 conf=osa_digits sampler=nsga2 run_dir=FOLDER/run
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

import optuna
from closing import keep

from nas.compose import compose
from nas.config.search import SEARCH_GROUPS, SEARCH_ROOT, parse_search
from nas.errors import InputError
from nas.processes import forkserver


def main() -> None:
    """Search until the time is up; of each network, ``$OUT/plain.json`` says when it was told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True, help="from the launch of this process")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    until_s = time.time() + options.seconds
    composed = compose("search", SEARCH_ROOT, SEARCH_GROUPS, options.overrides)
    config = parse_search(composed.plain)
    if not str(config.sampler["_target_"]).startswith("optuna."):
        raise InputError(f"sampler={config.sampler['_target_']} is no plain loop's: take one of Optuna's, such as sampler=tpe.")
    if config.engine.workers != 0 and not os.path.exists("/dev/nvidiactl"):
        forkserver()  # it loads the libraries while this process does
    from nas.plan import Asked
    from nas.prepare import prepare_search
    from nas.targets import build_target

    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    prepared = prepare_search(config, composed)
    objectives = prepared.plan.objectives
    seed = config.seed if config.sampler_seed is None else config.sampler_seed
    study = optuna.create_study(
        directions=[metric.direction for metric in objectives],
        sampler=build_target("sampler", dict(config.sampler), seed=seed),
    )
    found = []
    with prepared.engine() as engine:
        while time.time() < until_s:
            trial = study.ask()
            architecture = prepared.space.suggest(trial)
            request = prepared.request_for(Asked(trial.number, architecture))
            evaluation = engine.submit(trial.number, request, lambda number, stage: None).result()
            if evaluation.failure:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            values = [getattr(evaluation.metrics, metric.name) for metric in objectives]
            study.tell(trial, values)
            named = {metric.name: value for metric, value in zip(objectives, values, strict=True)}
            found.append({**named, "architecture_id": architecture.id, "told_at_s": time.time()})
    keep("plain.json", found)
    print(f"{len(found)} candidates of {config.space['_target_']} in {options.seconds:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
