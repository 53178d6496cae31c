"""Model Stock: how far the mean of fine-tuned models is to be trusted, from the angles between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from aftermix.checkpoints.model import TensorInfo
from aftermix.merging.rules.inter import weighted_sum
from aftermix.merging.rules.surveys import (
    Combiner,
    Matrix,
    combine_by_coefficients,
    compute_norms_and_cosines,
    compute_row_grams,
)
from aftermix.merging.topk.magnitude import TensorBlocks

SINGULAR = 1e-6
"""Of the denominator, below which the estimate has no finite value and the base stays."""


def survey_interpolation(
    tensors: Sequence[TensorBlocks], info: TensorInfo, *, filter_wise: bool = False
) -> tuple[Matrix, int]:
    """Step from the base towards the mean: `t` for the tensor, or for each of its rows; and a row's size.

    Formula: `t = K c / (1 + (K - 1) c)`, c the mean cosine of the pairs of K vectors. A vector that is zero has cosine
    0 with the others, and t is 0 where the vectors cancel out so that the denominator vanishes. `filter_wise` takes
    the angles by row, the last dimension of the tensor.
    """
    row = info.shape[-1] if filter_wise and info.shape else info.elements
    _, cosines = compute_norms_and_cosines(compute_row_grams(tensors, info, row=max(row, 1)))
    count = len(tensors)
    if count == 1:
        return np.ones(len(cosines)), max(row, 1)

    mean = np.triu(cosines, 1).sum(axis=(1, 2)) / (count * (count - 1) / 2)
    denominator = 1 + (count - 1) * mean
    finite = np.abs(denominator) >= SINGULAR
    return np.divide(count * mean, denominator, out=np.zeros_like(mean), where=finite), max(row, 1)


def model_stock(facts: tuple[Matrix, int], weights: Sequence[float]) -> Combiner:
    """`t * sum_i w_i delta_i / sum_i w_i`, t as :func:`survey_interpolation` found it.

    Source: Model Stock (Jang et al., 2024), equation 7, tensor by tensor; equal weights are the published mean. The
    caller makes sure that the weights do not sum to zero.
    """
    ratios, row = facts
    shares = [weight / sum(weights) for weight in weights]
    if len(ratios) == 1:
        return combine_by_coefficients([float(ratios[0]) * share for share in shares])

    def combine(tensors: Sequence[torch.Tensor], start: int) -> torch.Tensor:
        mean = weighted_sum(tensors, shares)
        first, last = start // row, -(-(start + mean.numel()) // row)
        by_entry = torch.from_numpy(np.repeat(ratios[first:last], row)[start - first * row :][: mean.numel()])
        return mean.mul_(by_entry.to(mean.device, mean.dtype))

    return combine
