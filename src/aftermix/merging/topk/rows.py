"""Ranks of magnitudes within the rows of a block, equal magnitudes by index."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.merging.topk.magnitude import read_magnitude_bits

Ranks = NDArray[np.int64]


def rank_by_row(values: torch.Tensor, row: int) -> Ranks:
    """Place of each entry in its row of `row` entries, 0 for the largest magnitude, the lower index first among equals.

    `values` is a flat block of whole rows; what does not fill a row at its end, and a block that is shorter than a row,
    is ranked by itself.

    >>> rank_by_row(torch.tensor([1.0, -3.0, 3.0, 2.0, 0.0, 0.5]), 3)
    array([2, 0, 1, 0, 2, 1])
    """
    whole = len(values) // row * row
    parts = [values[:whole].reshape(-1, row), values[whole:].reshape(1, -1)]
    return np.concatenate([_rank_rows(part).reshape(-1) for part in parts if part.numel()])


def _rank_rows(rows: torch.Tensor) -> Ranks:
    count, length = rows.shape
    falling = np.int64(0x7FFFFFFF) - read_magnitude_bits(rows).reshape(count, length).astype(np.int64)
    # One integer holds magnitude and index, so a sort of plain numbers settles ties and needs to be neither stable
    # nor an argsort, which are several times slower.
    order = np.sort(falling << 32 | np.arange(length, dtype=np.int64), axis=1) & 0xFFFFFFFF
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(length, dtype=np.int64), order.shape), axis=1)
    return ranks
