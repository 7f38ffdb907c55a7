"""How many workers a search gets, and where: per GPU as many as its memory bears, on CPUs each on its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from torch import nn

from nas.config.search import SearchConfig
from nas.errors import InputError
from nas.failures import is_out_of_memory
from nas.local import Place
from nas.measure.fingerprint import fingerprint
from nas.measure.settings import MeasureConditions
from nas.train.data import DataBundle
from nas.train.probe import training_memory_mb
from nas.train.settings import NumericFormat

MOST_PER_GPU = 8
"""Workers on one GPU beyond which they only get into each other's way."""

_CONTEXT_MB = 700.0
"""What a process holds on a GPU before it allocates anything: 0.6 GB and more in the representative-architecture study
(Bianco et al. 2018, arXiv 1810.00736)."""

_SHARE = 0.9
_HEADROOM = 1.5


def places(
    config: SearchConfig, device: torch.device, conditions: MeasureConditions, memory_mb: Callable[[], float]
) -> tuple[Place, ...]:
    """Return where each worker of a search works; none if candidates are evaluated in the search's own process.

    Args:
        config: The search.
        device: Where it evaluates; if the configuration leaves it open, all GPUs are taken that have the same identity
            (``nas.measure.fingerprint``).
        conditions: How it measures.
        memory_mb: Tells how much of a GPU the training of a large candidate takes; asked only if need be.

    Raises:
        InputError: More workers are wanted than there are devices for.
    """
    wanted = config.engine.workers
    if wanted == 0:
        return ()
    if device.type == "cpu":
        return _on_cpus(1 if wanted == "auto" else wanted, conditions.threads or 1)
    boards = _boards(device) if config.device in ("auto", "cuda") else [device]
    cpus = len(os.sched_getaffinity(0))
    if wanted == "auto":
        each = config.packing if config.packing != "auto" else packing(memory_mb(), free_mb(device), cpus // len(boards))
    elif wanted > MOST_PER_GPU * len(boards):
        most = MOST_PER_GPU * len(boards)
        raise InputError(f"engine.workers={wanted} is more than {len(boards)} GPU(s) allow: give at most {most}, or auto.")
    else:
        return tuple(Place(str(boards[index % len(boards)])) for index in range(wanted))
    return tuple(Place(str(board)) for _ in range(each) for board in boards)


def packing(memory_mb: float, free_mb: float, cpus: int) -> int:
    """Return how many candidates train side by side on one GPU.

    Args:
        memory_mb: What the training of a large one takes, data included (MB = 10^6 bytes).
        free_mb: What is free.
        cpus: CPUs per GPU; each training needs one of its own to launch its kernels.
    """
    fitting = int(_SHARE * free_mb / (_HEADROOM * memory_mb + _CONTEXT_MB))
    return max(1, min(fitting, cpus, MOST_PER_GPU))


def largest_training_mb(models: Sequence[Callable[[], nn.Module]], bundle: DataBundle, config: SearchConfig) -> float:
    """Return the most memory that training one of some candidates takes; all that there is, if it does not suffice."""
    numeric = NumericFormat("fp32", "channels_last")  # the most that any format takes
    try:
        needed = max(training_memory_mb(model(), bundle, config.train, numeric) for model in models)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return float("inf")
    return needed


def _on_cpus(workers: int, threads: int) -> tuple[Place, ...]:
    cpus = sorted(os.sched_getaffinity(0))
    if workers == 1:
        return (Place("cpu"),)
    each = len(cpus) // workers
    if each < 1:
        raise InputError(
            f"engine.workers={workers} is more than the {len(cpus)} CPUs that this process may use; give at most {len(cpus)}."
        )
    if threads > each:
        raise InputError(
            f"measure.threads={threads} is more than the {each} CPUs that each of engine.workers={workers} has: "
            f"set measure.threads={each}, or fewer workers."
        )
    return tuple(Place("cpu", tuple(cpus[index * each : (index + 1) * each])) for index in range(workers))


def _boards(device: torch.device) -> list[torch.device]:
    """Return the GPUs like ``device`` in all that must agree within a study: figures of two kinds never stand on one front."""
    ours = fingerprint(device).identity()
    boards = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [board for board in boards if board == device or fingerprint(board).identity() == ours]


def free_mb(device: torch.device) -> float:
    """Return how much of a GPU's memory is free (MB = 10^6 bytes)."""
    free, _ = torch.cuda.mem_get_info(device)
    return free / 1e6
