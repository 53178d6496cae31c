"""Inter-model rules: how kept vectors and their weights become one delta, one tensor at a time.

A rule takes N tensors of one shape, float32 or float64, and N weights, in the same order, and returns the same type.
Its keyword-only arguments are its options. All are linear passes without temporaries beyond a few tensors of that
shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field

from aftermix.merging.temporaries import allocate_like

Threshold = Annotated[float, Field(gt=0)]


def weighted_sum(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """`sum_i w_i x_i` (Task Arithmetic, Ilharco et al., 2023, section 2)."""
    total = torch.mul(tensors[0], weights[0], out=allocate_like(tensors[0]))
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
    divisor: Literal["absolute", "signed"] = "absolute",
) -> torch.Tensor:
    """Entries that agree with the elected sign, averaged or summed.

    Formula, elementwise: `s = sign(sum_i w_i x_i)` (`election: sum`) or `sign(sum_i sign(w_i x_i))` (`count`), zero
    counting as plus; `A = {i : sign(w_i x_i) = s}`; the result is `sum_A w_i x_i / sum_A |w_i|` (`normalize`), or its
    numerator, and 0 where A is empty. For equal positive weights this is the disjoint mean of TIES (Yadav et al., 2023,
    section 4.2). Departure: `|w_i|` in the divisor, so that a negative weight still subtracts its vector.
    `divisor: signed` is `sum_A w_i`, and 1 where that is 0, as in mergekit: a negative weight alone then adds.
    """
    sign = _elected_sign(tensors, weights, election)
    total, mass, agreeing = (allocate_like(tensors[0]).zero_() for _ in range(3))
    shares = [abs(weight) for weight in weights] if divisor == "absolute" else weights
    for tensor, weight, share in zip(tensors, weights, shares, strict=True):
        # Turned so that the elected sign is plus, what agrees is what is positive; NaN passes through.
        torch.mul(tensor, weight, out=agreeing).mul_(sign).relu_()
        total.add_(agreeing)
        if normalize:
            mass.add_(agreeing.sign_(), alpha=share)
    total.mul_(sign)
    if not normalize:
        return total
    if divisor == "signed":
        return total.div_(mass.masked_fill_(mass == 0, 1.0))
    return total.div_(mass.clamp_min_(torch.finfo(mass.dtype).tiny))


def _elected_sign(tensors: Sequence[torch.Tensor], weights: Sequence[float], election: str) -> torch.Tensor:
    """+1 or -1 for each entry."""
    # Each product is rounded before it is added: fused, two opposite ones would leave a rounding error to decide.
    votes, product = (torch.mul(tensors[0], weights[0], out=allocate_like(tensors[0])) for _ in range(2))
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        votes.add_(torch.mul(tensor, weight, out=product))
    if election == "count":
        signs = [1.0 if weight > 0 else -1.0 if weight < 0 else 0.0 for weight in weights]
        votes = weighted_sum([tensor.sign() for tensor in tensors], signs)
    # -1, 0, 1 becomes -0.5, 0.5, 1.5: an undecided entry counts as plus.
    return votes.sign_().add_(0.5).sign_()


def consensus(
    tensors: Sequence[torch.Tensor],
    weights: Sequence[float],
    *,
    lam: Threshold | dict[str, Threshold] = 0.4,
    agreement: Annotated[int, Field(ge=1)] = 2,
) -> torch.Tensor:
    """The weighted sum, where at least `agreement` vectors find an entry important; 0 elsewhere.

    Formula, elementwise: `m_i = |x_i| > lam_i * |sum_j x_j - x_i|`; the result is `sum_j w_j x_j` where
    `sum_i m_i >= agreement`. Source: consensus merging with TALL masks (Wang et al., 2024), which drops what serves
    no task or a single one. A single vector is its own consensus. `lam` is one number for all, or one by vector, in the
    order of `tensors`. Departure: the masks are those of the vectors themselves, so that they do not depend on the
    weights.
    """
    if len(tensors) == 1:
        return weighted_sum(tensors, weights)
    total = weighted_sum(tensors, [1.0] * len(tensors))
    votes, rest = allocate_like(total).zero_(), allocate_like(total)
    thresholds = list(lam.values()) if isinstance(lam, dict) else [lam] * len(tensors)
    for tensor, threshold in zip(tensors, thresholds, strict=True):
        torch.sub(total, tensor, out=rest).abs_().mul_(threshold)
        # Positive where the vector outweighs the rest; its sign after cutting off the rest is the vote.
        votes.add_(torch.sub(tensor.abs(), rest, out=rest).relu_().sign_())
    return weighted_sum(tensors, weights).mul_(votes >= min(agreement, len(tensors)))
