"""Intra-model rules: what a distribution vector keeps, independent of all weights.

A rule is given one tensor of a vector as flat float32 blocks and its :class:`Place`. It surveys them as far as it has
to and returns a keeper: a function of a block and the index of its first element that gives the block with the dropped
entries zero, in the block's own memory where that saves a copy. Keyword-only arguments are the rule's options; their
annotations are their bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from aftermix.merging.selection import Blocks, Cut, find_cut, kept_count
from aftermix.seeds import keep_mask

Density = Annotated[float, Field(gt=0, le=1)]
Keeper = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Place:
    """Where a tensor of a vector stands: the key of its random choices, and what is known of the whole vector."""

    seed: int
    vector: str
    tensor: str
    elements: int
    model_cut: Cut | None = None
    """The selection over the whole vector, seen from this tensor; set for `scope: model`."""


def keep_all(blocks: Blocks, place: Place) -> Keeper:  # noqa: ARG001 - every rule has this signature
    """Every entry (Task Arithmetic)."""
    return lambda delta, _: delta


def magnitude(
    blocks: Blocks, place: Place, *, density: Density = 0.2, scope: Literal["tensor", "model"] = "tensor"
) -> Keeper:
    """The `floor(density * n)`, at least 1, entries of largest magnitude; equal magnitudes by lower index.

    Source: TIES (Yadav et al., 2023), trimming; its density is the default. `scope: tensor` counts n per tensor.
    `scope: model` counts over all merged tensors of the vector, as the original does; it settles equal magnitudes by
    tensor name, then by index, and keeps exactly the count where the original keeps one entry more.
    """
    if scope == "model":
        if place.model_cut is None:
            raise ValueError("scope 'model' needs the selection over the whole vector")
        cut = place.model_cut
    else:
        count = kept_count(place.elements, density)
        if count == place.elements:
            return keep_all(blocks, place)
        cut = find_cut(blocks, count)
    return cut.kept


def random_rescale(
    blocks: Blocks,
    place: Place,
    *,
    density: Density = 1.0,
    rescale: Literal["density", "l1", "none"] = "density",
) -> Keeper:
    """Each entry kept with probability `density` and divided by it, so that the expectation stays.

    Source: DARE (Yu et al., 2024), with drop rate 1 - density. `rescale: l1` restores the delta's L1 norm instead, as
    mergekit does. The mask is a function of (seed, vector, tensor, block), fixed over a whole search.
    """

    def kept(delta: torch.Tensor, start: int) -> torch.Tensor:
        mask = keep_mask(delta.numel(), density, place.seed, "random mask", place.vector, place.tensor, start)
        np.multiply(delta.numpy(), mask, out=delta.numpy())  # NaN stays NaN, so a faulty input is not hidden
        return delta

    if density == 1.0:
        return keep_all(blocks, place)
    if rescale == "none":
        return kept
    if rescale == "density":
        return lambda delta, start: kept(delta, start).div_(density)
    ratio = _l1_ratio(blocks, kept)
    return lambda delta, start: kept(delta, start).mul_(ratio)


def _l1_ratio(blocks: Blocks, keeper: Keeper) -> float:
    """The L1 norm of all entries over that of the kept ones; 1 when nothing was kept."""
    whole, part, start = 0.0, 0.0, 0
    for block in blocks:
        whole += _l1_norm(block)
        part += _l1_norm(keeper(block, start))
        start += block.numel()
    return whole / part if part > 0 else 1.0


def _l1_norm(block: torch.Tensor) -> float:
    # NumPy adds in one order; PyTorch's depends on the number of threads.
    return float(np.abs(block.numpy()).sum(dtype=np.float64))
