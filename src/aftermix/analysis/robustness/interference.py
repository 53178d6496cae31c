"""Interference of vectors entry by entry: signs that conflict, and largest entries that lie in the same places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from aftermix.analysis.geometry import Floats
from aftermix.checkpoints.model import TensorInfo
from aftermix.checkpoints.pool import ModelPool
from aftermix.progress import bar

# V vectors, N entries

LARGEST = 0.1
"""Share of a tensor's entries that count as its largest: what a method by magnitude keeps of each vector."""


@dataclass(frozen=True)
class VectorInterference:
    """Shares over all entries of the tensors that two vectors or more move; tied tensors count once."""

    vectors: tuple[str, ...]
    entries: int
    without_conflict: float
    """Of the entries that two vectors or more move, those in which all that move it have one sign."""
    agreeing_VV: Floats
    """Of the entries that both vectors move, those with one sign; NaN where there are none."""
    overlap_VV: Floats
    """Of a vector's largest entries, those that are among the other's, too; `LARGEST` by chance."""


def measure_interference(pool: ModelPool) -> VectorInterference:
    """Read base and vectors of `pool` once, a tensor at a time."""
    vectors, count = tuple(pool.experts), len(pool.experts)
    both_VV, agree_VV = np.zeros((count, count)), np.zeros((count, count))
    largest_VV, shared, clean, entries = np.zeros((count, count)), 0, 0, 0

    counted = [info for info in pool.layout if info.mergeable and info.name not in pool.frame.alias]
    for info in bar(counted, label="Interference", unit="tensor"):
        signs_VN, largest_VN = _read_tensor(pool, info)
        moving_N = (signs_VN != 0).sum(dim=0)
        summed_N = signs_VN.to(torch.int32).sum(dim=0).abs()

        entries += info.elements
        shared += int((moving_N > 1).sum())
        clean += int(((moving_N > 1) & (summed_N == moving_N)).sum())
        for one, other in combinations(range(count), 2):
            product_N = signs_VN[one] * signs_VN[other]
            both_VV[one, other] += int((product_N != 0).sum())
            agree_VV[one, other] += int((product_N > 0).sum())
        largest_VV += (largest_VN.double() @ largest_VN.double().T).numpy()

    with np.errstate(invalid="ignore", divide="ignore"):
        agreeing_VV = np.where(both_VV > 0, agree_VV / both_VV, np.nan)
        overlap_VV = largest_VV / np.diagonal(largest_VV)[:, None]
    agreeing_VV = np.fmax(agreeing_VV, agreeing_VV.T)
    np.fill_diagonal(agreeing_VV, 1.0)
    return VectorInterference(vectors, entries, clean / shared if shared else np.nan, agreeing_VV, overlap_VV)


def _read_tensor(pool: ModelPool, info: TensorInfo) -> tuple[torch.Tensor, torch.Tensor]:
    """(V, N) signs of one tensor of all vectors as int8, and where each has its largest entries."""
    span = (0, info.elements)
    base_N = pool.read_base_block(info.name, span).to(torch.float32)
    kept = max(1, round(LARGEST * info.elements)) if info.elements else 0

    signs, largest = [], []
    for vector in pool.experts:
        difference_N = torch.empty(info.elements)
        pool.read_difference_block(info.name, vector, span, base=base_N, out=difference_N)
        signs.append(difference_N.sign().to(torch.int8))
        mask_N = torch.zeros(info.elements, dtype=torch.bool)
        if difference_N.any():
            mask_N[difference_N.abs().topk(kept).indices] = True
        largest.append(mask_N)
    return torch.stack(signs), torch.stack(largest)


def list_pairs(interference: VectorInterference) -> Mapping[tuple[str, str], tuple[float, float]]:
    """By pair of vectors: the share of entries with one sign, and of the largest that both have."""
    names = interference.vectors
    return {
        (names[one], names[other]): (
            float(interference.agreeing_VV[one, other]),
            float(interference.overlap_VV[one, other]),
        )
        for one, other in combinations(range(len(names)), 2)
    }
