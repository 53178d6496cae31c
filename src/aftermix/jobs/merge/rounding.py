"""Tensors that `merge.dtype` rounds although the base keeps them in a wider type than the rest."""

from __future__ import annotations

from collections import Counter

import torch

from aftermix.checkpoints.alignment.view import summarise_names
from aftermix.checkpoints.pool import ModelPool
from aftermix.errors import Problem


def list_rounding_remarks(pool: ModelPool, dtype: torch.dtype | None) -> list[Problem]:
    """Note on tensors that the base stores wider than most of its numbers, and a result in `dtype` would not.

    Routing biases of mixtures of experts are the common case: models keep them in float32 on purpose.
    """
    counts: Counter[torch.dtype] = Counter()
    for info in pool.layout:
        if info.mergeable:
            counts[info.dtype] += info.elements
    if dtype is None or not counts:
        return []

    usual = max(counts, key=lambda kind: counts[kind])
    width = max(usual.itemsize, dtype.itemsize)
    rounded = [info for info in pool.layout if info.mergeable and info.dtype.itemsize > width]
    if not rounded:
        return []

    wide = ", ".join(sorted({_name(info.dtype) for info in rounded}))
    found = f"{_name(dtype)} rounds what the base keeps in {wide} beside {_name(usual)}: "
    remedy = "Leave `dtype` out, and each tensor keeps the base's type."
    return [Problem("merge.dtype", found + summarise_names([info.name for info in rounded]), remedy)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
