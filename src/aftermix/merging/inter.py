"""Inter-model rules: how kept vectors and their weights become one delta, one tensor at a time.

A rule takes N float32 tensors of one shape and N weights, in the same order, and returns float32. Its keyword-only
arguments are its options. All are linear passes without temporaries beyond a few tensors of that shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from aftermix.merging.memory import fresh


def weighted_sum(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """`sum_i w_i x_i` (Task Arithmetic, Ilharco et al., 2023, section 2)."""
    total = torch.mul(tensors[0], weights[0], out=fresh(tensors[0]))
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total


def weighted_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """`sum_i w_i x_i / sum_i w_i`; the caller makes sure that the weights do not sum to zero."""
    return weighted_sum(tensors, weights).div_(sum(weights))


def disjoint_mean(
    tensors: Sequence[torch.Tensor],
    weights: Sequence[float],
    *,
    normalize: bool = True,
    election: Literal["sum", "count"] = "sum",
) -> torch.Tensor:
    """Entries that agree with the elected sign, averaged or summed.

    Formula, elementwise: `s = sign(sum_i w_i x_i)` (`election: sum`) or `sign(sum_i sign(w_i x_i))` (`count`), zero
    counting as plus; `A = {i : sign(w_i x_i) = s}`; the result is `sum_A w_i x_i / sum_A |w_i|` (`normalize`), or its
    numerator, and 0 where A is empty. For equal positive weights this is the disjoint mean of TIES (Yadav et al., 2023,
    section 4.2). Departure: `|w_i|` in the divisor, so that a negative weight still subtracts its vector.
    """
    sign = _elected_sign(tensors, weights, election)
    total, mass, agreeing = (fresh(tensors[0]).zero_() for _ in range(3))
    for tensor, weight in zip(tensors, weights, strict=True):
        # Turned so that the elected sign is plus, what agrees is what is positive; NaN passes through.
        torch.mul(tensor, weight, out=agreeing).mul_(sign).relu_()
        total.add_(agreeing)
        if normalize:
            mass.add_(agreeing.sign_(), alpha=abs(weight))
    total.mul_(sign)
    return total.div_(mass.clamp_min_(torch.finfo(mass.dtype).tiny)) if normalize else total


def _elected_sign(tensors: Sequence[torch.Tensor], weights: Sequence[float], election: str) -> torch.Tensor:
    """+1 or -1 for each entry."""
    votes = weighted_sum(tensors, weights)
    if election == "count":
        signs = [1.0 if weight > 0 else -1.0 if weight < 0 else 0.0 for weight in weights]
        votes = weighted_sum([tensor.sign() for tensor in tensors], signs)
    # -1, 0, 1 becomes -0.5, 0.5, 1.5: an undecided entry counts as plus.
    return votes.sign_().add_(0.5).sign_()
