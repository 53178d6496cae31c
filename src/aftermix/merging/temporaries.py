"""Memory of temporaries: taken again from what was freed, so that a merge neither grows nor waits for zeroed pages.

PyTorch asks the C library for aligned memory, and glibc before 2.38 does not give an aligned block the hole that one of
the same size has left: a merge of 0.3 billion parameters grew by 400 MB. Plain blocks do fit, so temporaries of blocks
on the CPU are made here.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

import numpy as np
import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 1 << 25
"""The largest that glibc takes for both."""


def keep_freed_memory() -> None:
    """Ask the C library to keep freed blocks for the next ones instead of returning them to the system.

    Fetched anew and zeroed page by page, a temporary costs more than the arithmetic on it: a third of the time of a
    linear merge. Only glibc has this switch, elsewhere nothing happens.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            library.mallopt(parameter, KEPT_BYTES)


def allocate_like(like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An uninitialised tensor of the shape and device of `like`, of its type or of `dtype`."""
    dtype = dtype or like.dtype
    if like.device.type != "cpu":
        return torch.empty_like(like, dtype=dtype)
    block = allocate_block(like.numel(), dtype)
    return block if like.dim() == 1 else block.view(like.shape)


def choose_working_type(dtype: torch.dtype) -> torch.dtype:
    """Type of the arithmetic on a tensor that the base stores as `dtype`: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(block: torch.Tensor) -> torch.Tensor:
    """The block in its working type (:func:`choose_working_type`); itself when it is."""
    wide = choose_working_type(block.dtype)
    return block if block.dtype == wide else allocate_like(block, wide).copy_(block)


def allocate_block(elements: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """An uninitialised flat tensor on the CPU."""
    if dtype == torch.float32:
        return torch.from_numpy(np.empty(elements, dtype=np.float32))
    return torch.from_numpy(np.empty(elements * dtype.itemsize, dtype=np.uint8)).view(dtype)
