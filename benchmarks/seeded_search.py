"""``nas.search`` with a seed of the sampler apart from that of the trainings, so that searches differ and networks do not.

What ``searching.py`` runs: ``python benchmarks/seeded_search.py SEED conf=osa_digits seed=0 ...``.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from nas.cli import run_command
from nas.config.search import SearchConfig
from nas.sampling import TrialSeededSampler

if __name__ == "__main__":
    from nas import prepare, search

    sampler_seed, make = int(sys.argv.pop(1)), prepare._sampler

    def sampler(config: SearchConfig) -> TrialSeededSampler:
        """Return the configuration's sampler with the other seed."""
        return make(replace(config, seed=sampler_seed))

    prepare._sampler = sampler
    run_command(search.main)
