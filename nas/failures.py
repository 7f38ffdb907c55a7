"""What an exception from a network means: of the ways in which one fails, exhausted memory is a result like any other."""

from __future__ import annotations

import re

import torch

# Exhausted memory that torch reports as a plain RuntimeError: its CPU allocator's, the CUDA runtime's and the libraries'.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|CUDA( driver)? error: out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the host or of the device, was exhausted."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def first_line(error: BaseException) -> str:
    """Return what an exception says in one line, its type's name if it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
