"""The randomness of each trial, which is its own: a study that was interrupted goes on as it would have."""

from __future__ import annotations

import numpy as np


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of one trial's suggestions, a function of the study's seed and the trial's number alone."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
