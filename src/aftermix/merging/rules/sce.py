"""SCE: select the entries in which vectors differ most, weigh vectors by their energy, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from aftermix.merging.rules.surveys import WholeTensors

FAINT = 1e-6
"""Sum of energies, or of the weights of an entry, below which there is nothing to divide by."""


def sce(
    whole: WholeTensors, weights: Sequence[float], *, select_topk: Annotated[float, Field(ge=0, le=1)] = 1.0
) -> torch.Tensor:
    """The mean of the vectors that agree with the elected sign, each weighed by its energy, in the selected entries.

    Formula: the `floor(select_topk * m)` entries of largest variance over the vectors are selected, m being the number
    of those whose variance is not 0, equal ones by lower index; the others become 0. `c_i` is `w_i` times the mean
    square of what vector i keeps, over the sum of these means (`w_i / K` where that sum is below 1e-6). The sign of an
    entry is that of `sum_i x_i`, zero counting as plus, and the result `sum_A c_i x_i / max(sum_A c_i, 1e-6)` over
    those that have it. Source: SCE (Wan et al., 2024, FuseChat), as mergekit has it; equal weights are the published
    method. The vectors of one tensor are in memory. A vector alone has no variance: with `select_topk` below 1 the
    base stays.
    """
    vectors = torch.stack([tensor.reshape(-1) for tensor in whole.tensors])
    if select_topk < 1:
        vectors = vectors * _select_entries(vectors, select_topk)

    energies = vectors.square().mean(dim=1)
    total = float(energies.sum())
    shares = energies / total if total >= FAINT else torch.full_like(energies, 1 / len(energies))
    agrees = vectors.sign() == (vectors.sum(dim=0) >= 0) * 2 - 1

    weighed = (shares * torch.tensor(weights, dtype=vectors.dtype) * len(weights) / sum(weights)).unsqueeze(1) * agrees
    return (vectors * weighed).sum(dim=0) / weighed.sum(dim=0).clamp(min=FAINT)


def _select_entries(vectors: torch.Tensor, share: float) -> torch.Tensor:
    """1 for the entries of largest variance, 0 for the others."""
    variance = vectors.var(dim=0, unbiased=False)
    count = int(int(variance.count_nonzero()) * share)
    selected = torch.zeros_like(variance)
    selected[variance.argsort(descending=True, stable=True)[:count]] = 1
    return selected
