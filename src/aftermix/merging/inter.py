"""Inter-model rules: how kept vectors and their weights become one delta, one tensor at a time.

A rule takes N float32 tensors of one shape and N weights, in the same order, and returns float32. Its keyword-only
arguments are its options. All are linear passes without temporaries beyond a few tensors of that shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def weighted_sum(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """`sum_i w_i x_i` (Task Arithmetic, Ilharco et al., 2023, section 2)."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total


def weighted_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """`sum_i w_i x_i / sum_i w_i`; the caller makes sure that the weights do not sum to zero."""
    return weighted_sum(tensors, weights).div_(sum(weights))


def disjoint_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float], *, normalize: bool = True) -> torch.Tensor:
    """Entries that agree with the elected sign, averaged or summed.

    Formula, elementwise: `s = sign(sum_i w_i x_i)`, zero counting as plus; `A = {i : sign(w_i x_i) = s}`; the result is
    `sum_A w_i x_i / sum_A |w_i|` (`normalize`), or its numerator, and 0 where A is empty. For equal positive weights
    this is the disjoint mean of TIES (Yadav et al., 2023, section 4.2). Departure: `|w_i|` in the divisor, so that a
    negative weight still subtracts its vector.
    """
    positive = weighted_sum(tensors, weights) >= 0
    total = torch.zeros_like(tensors[0])
    mass = torch.zeros_like(tensors[0]) if normalize else None
    for tensor, weight in zip(tensors, weights, strict=True):
        part = tensor * weight
        agrees = torch.where(positive, part > 0, part < 0)
        total.add_(part.mul_(agrees))
        if mass is not None:
            mass.add_(agrees, alpha=abs(weight))
    return total if mass is None else torch.where(mass > 0, total / mass, total)
