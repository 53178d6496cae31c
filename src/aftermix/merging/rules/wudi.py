"""WUDI merging: the delta of a linear layer that disturbs its experts least, found without data.

A layer's delta lies in the space of the inputs it was trained on, so it stands for them: what the merged delta adds to
expert i is measured on `tau_i` itself.

    # N vectors, R rows (outputs of the layer), C columns (its inputs), E experts of a fused tensor
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field

from aftermix.checkpoints.names import KINDS
from aftermix.devices import open_device
from aftermix.errors import MergeError
from aftermix.merging.rules.inter import weighted_sum
from aftermix.merging.rules.surveys import WholeTensors
from aftermix.merging.temporaries import allocate_like

STEPS, LEARNING_RATE = 300, 1e-5
"""The paper's."""
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
CHUNK_ELEMENTS = 1 << 20
"""Entries that are optimised together: they and their moments stay near the processor."""

WEIGHT = re.compile(r"(^|[._])weight$")
FUSED_EXPERTS = re.compile(r"\.experts\.\w+(?<!bias)$")
LOOKED_UP = re.compile("|".join((KINDS["embeddings"], KINDS["positions"])))


def is_linear(name: str, shape: Sequence[int]) -> bool:
    """True for the weight of a linear layer, as far as a tensor's name and shape tell.

    A matrix that is called a weight and is no embedding, or the fused matrices of a mixture of experts. A head that is
    tied to an embedding goes by the embedding's name.

    >>> [is_linear(*t) for t in (("mlp.up_proj.weight", (8, 4)), ("model.embed_tokens.weight", (9, 4)))]
    [True, False]
    >>> [is_linear(*t) for t in (("mlp.experts.down_proj", (2, 8, 4)), ("conv1d.weight", (8, 1, 4)))]
    [True, False]
    """
    if len(shape) == 3:
        return FUSED_EXPERTS.search(name) is not None
    return len(shape) == 2 and WEIGHT.search(name) is not None and LOOKED_UP.search(name) is None


def _resolve_device(name: str) -> torch.device:
    return open_device(name, where="merge.device", error=MergeError)


def _check_device(name: str) -> str:
    """Refused when the options are bound, before any tensor is read."""
    _resolve_device(name)
    return name


def wudi(
    whole: WholeTensors,
    weights: Sequence[float],
    *,
    steps: Annotated[int, Field(ge=0)] = STEPS,
    learning_rate: Annotated[float, Field(gt=0)] = LEARNING_RATE,
    input_axis: Literal["last", "first"] = "last",
    others: Literal["base", "mean", "sum"] = "base",
    device: Annotated[str, AfterValidator(_check_device)] = "cpu",
) -> torch.Tensor:
    """The merged delta of one tensor: :func:`merge_layer` where it :func:`is_linear`, and `others` where it is not.

    `base`: what is no linear layer stays as the base has it, as in the authors' code. `mean` and `sum` are of
    `w_i delta_i` over the vectors in use; fusion-bench takes the mean. A single vector is itself in every tensor.
    `device` is where layers are optimised; the result is on the CPU.
    """
    alone = sum(weight != 0 for weight in weights) < 2
    if is_linear(whole.name, whole.tensors[0].shape) and not alone:
        tensors = [tensor.to(_resolve_device(device)) for tensor in whole.tensors]
        return merge_layer(tensors, weights, steps=steps, learning_rate=learning_rate, input_axis=input_axis).cpu()
    total = weighted_sum(whole.tensors, weights)
    if alone or others == "sum":
        return total
    # 0 times NaN is NaN: a faulty input is not hidden.
    return total.mul_(0 if others == "base" else 1 / sum(weight != 0 for weight in weights))


def merge_layer(
    deltas: Sequence[torch.Tensor],
    weights: Sequence[float],
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    input_axis: Literal["last", "first"] = "last",
) -> torch.Tensor:
    """The merged delta (R, C) of N deltas of a linear layer, or (E, R, C) with every expert by itself.

    Formula: with `tau_i = w_i delta_i`, from `tau_m = sum_i tau_i`, `steps` of Adam on
    `sum_i ||(tau_m - tau_i) tau_i^T||_F^2 / ||tau_i||_F^2`. Source: WUDI-Merging (Cheng et al., 2025, "Whoever started
    the interference should end it"); weights of 1 are the paper. The learning rate is absolute, in the units of the
    parameters: no entry moves by more than about `steps * learning_rate`.

    The constraint of a vector does not depend on the size of its weight; a vector of weight 0, or of zeros, has none.
    One vector is its own solution. `input_axis: first` is for weights stored (inputs, outputs).
    Operations: 2 R C min(C, 2 N R) a step. Memory: about N + 5 tensors beside the
    deltas, and 2 C^2 where that is the cheaper order.
    """
    if deltas[0].dim() == 3:
        layer = partial(merge_layer, steps=steps, learning_rate=learning_rate, input_axis=input_axis)
        experts = zip(*(delta.unbind() for delta in deltas), strict=True)
        return torch.stack([layer(expert, weights) for expert in experts]) if len(deltas[0]) else deltas[0].clone()
    start = weighted_sum(deltas, weights)
    used = [(d, w) for d, w in zip(deltas, weights, strict=True) if w and bool(d.count_nonzero())]
    if len(used) < 2:
        return start
    if input_axis == "first":
        used = [(delta.t(), weight) for delta, weight in used]
    drift = _compute_drift([delta for delta, _ in used], [weight for _, weight in used], steps, learning_rate)
    return start.add_(drift.t() if input_axis == "first" else drift)


def _compute_drift(deltas: list[torch.Tensor], weights: list[float], steps: int, learning_rate: float) -> torch.Tensor:
    """Move of the merged delta away from the sum (R, C)."""
    # The gradient at the sum is made of what disturbs each vector, not of a difference that leaves rounding errors:
    # Adam would follow those as readily as a true gradient, and vectors that do not meet would move.
    units = [delta / _measure_norm(delta) for delta in deltas]
    slope = allocate_like(units[0]).zero_()
    for number, unit in enumerate(units):
        others = [j for j in range(len(units)) if j != number]
        slope.add_(
            _apply_curvature(weighted_sum([deltas[j] for j in others], [weights[j] for j in others]), unit), alpha=2
        )
    rows, columns = slope.shape
    curvature = None if 2 * len(units) * rows < columns else _compute_curvature(units)
    chunk = max(1, CHUNK_ELEMENTS // columns)
    return torch.cat([_descend(part, units, curvature, steps, learning_rate) for part in torch.split(slope, chunk)])


def _descend(
    slope: torch.Tensor, units: list[torch.Tensor], curvature: torch.Tensor | None, steps: int, learning_rate: float
) -> torch.Tensor:
    """Adam (Kingma and Ba, 2015, Algorithm 1) from 0 on `x . slope + x curvature x^T / 2`; rows do not meet."""
    drift, mean, square = (allocate_like(slope).zero_() for _ in range(3))
    for step in range(1, steps + 1):
        gradient = _compute_gradient(drift, units, curvature).add_(slope)
        mean.lerp_(gradient, 1 - ADAM_BETAS[0])
        square.mul_(ADAM_BETAS[1]).addcmul_(gradient, gradient, value=1 - ADAM_BETAS[1])
        root = torch.sqrt(square, out=gradient).div_(math.sqrt(1 - ADAM_BETAS[1] ** step)).add_(ADAM_EPSILON)
        drift.addcdiv_(mean, root, value=-learning_rate / (1 - ADAM_BETAS[0] ** step))
    return drift


def _compute_gradient(drift: torch.Tensor, units: list[torch.Tensor], curvature: torch.Tensor | None) -> torch.Tensor:
    if curvature is not None:
        return drift @ curvature
    total = allocate_like(drift).zero_()
    for unit in units:
        total.addmm_(drift @ unit.t(), unit, alpha=2)
    return total


def _compute_curvature(units: list[torch.Tensor]) -> torch.Tensor:
    """`2 sum_i tau_i^T tau_i / ||tau_i||^2` (C, C)."""
    total = units[0].new_zeros(units[0].shape[1], units[0].shape[1])
    for unit in units:
        total.addmm_(unit.t(), unit, alpha=2)
    return total


def _apply_curvature(left: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """`left unit^T unit`, by way of the smaller square."""
    rows, columns = unit.shape
    return (left @ unit.t()) @ unit if rows < columns else left @ (unit.t() @ unit)


def _measure_norm(matrix: torch.Tensor) -> float:
    """Frobenius norm, added up row by row in one order."""
    return math.sqrt(math.fsum(float(np.square(row, dtype=np.float64).sum()) for row in matrix.cpu().numpy()))
