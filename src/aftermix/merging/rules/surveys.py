"""Surveys of inter rules: what a rule learns of one tensor of all vectors before it combines their blocks.

A rule that needs this has a *survey*: `survey(tensors, info, *, options)` reads the tensor of each vector in use, block
by block, and gives facts that do not depend on the weights. The rule is then `rule(facts, weights, *, options)` and
gives a :data:`Combiner`. Whatever has to be read whole takes :func:`read_whole_tensors` as its survey, and gives the
combined tensor itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.checkpoints.model import TensorInfo
from aftermix.merging.rules.inter import weighted_sum
from aftermix.merging.topk.magnitude import TensorBlocks

Combiner = Callable[[Sequence[torch.Tensor], int], torch.Tensor]
"""Of blocks, one for each vector in use, and the index of their first element: one block."""
Survey = Callable[..., Any]
Matrix = NDArray[np.float64]


def compute_gram(tensors: Sequence[TensorBlocks], info: TensorInfo) -> Matrix:
    """Inner products of the flattened `tensors` with each other, float64, (K, K)."""
    inner: Matrix = compute_row_grams(tensors, info, row=max(info.elements, 1))[0]
    return inner


def compute_row_grams(tensors: Sequence[TensorBlocks], info: TensorInfo, *, row: int) -> Matrix:
    """Inner products of each run of `row` elements, float64, (R, K, K).

    A product of two float32 numbers is exact in float64. Sums are taken by NumPy, whose order is fixed, in the blocks
    of the tensor; memory is one block in float64 for each vector.
    """
    count = len(tensors)
    grams = np.zeros((max(info.elements // row, 1), count, count))
    for span in tensors[0].spans if tensors else ():
        blocks = [tensor.read(span).numpy().astype(np.float64) for tensor in tensors]
        rows = np.arange(span[0] // row, -(-span[1] // row))
        edges = np.maximum(rows * row - span[0], 0)
        for i in range(count):
            for j in range(i, count):
                product = blocks[i] * blocks[j]
                sums = product.sum() if len(edges) == 1 else np.add.reduceat(product, edges)
                grams[rows, i, j] += sums
    return grams + np.triu(grams, 1).swapaxes(1, 2)


def compute_norms_and_cosines(inner: Matrix) -> tuple[Matrix, Matrix]:
    """Norms (..., K) and cosines (..., K, K) in a Gram matrix (..., K, K); what has no length has cosine 0.

    >>> compute_norms_and_cosines(np.array([[4.0, 3.0, 0.0], [3.0, 9.0, 0.0], [0.0, 0.0, 0.0]]))[1][0].tolist()
    [1.0, 0.5, 0.0]
    """
    norms = np.sqrt(np.diagonal(inner, axis1=-2, axis2=-1))
    units = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return norms, np.clip(inner * units[..., :, None] * units[..., None, :], -1.0, 1.0)


def combine_by_coefficients(coefficients: Sequence[float]) -> Combiner:
    """Sum the blocks with these coefficients in the place of the weights."""
    return lambda tensors, _: weighted_sum(tensors, coefficients)


@dataclass(frozen=True)
class WholeTensors:
    """One tensor of every vector in use, float32, in its shape and in order of the vectors' names."""

    name: str
    tensors: list[torch.Tensor]


def read_whole_tensors(tensors: Sequence[TensorBlocks], info: TensorInfo) -> WholeTensors:
    """The survey of a rule that needs all entries at once. Memory is the tensor of every vector."""
    whole = [torch.cat(list(blocks)) if blocks.spans else torch.empty(0) for blocks in tensors]
    return WholeTensors(info.name, [tensor.view(info.shape) for tensor in whole])


def cut_slices(combined: torch.Tensor) -> Combiner:
    """Cut blocks out of a tensor that is combined already."""
    return partial(_copy_slice, combined.reshape(-1))


def _copy_slice(flat: torch.Tensor, tensors: Sequence[torch.Tensor], start: int) -> torch.Tensor:
    # A copy, since the block is the caller's to change.
    return flat[start : start + tensors[0].numel()].to(tensors[0].device, copy=True)
