"""Intra-model rules: what a distribution vector keeps, independent of all weights.

A rule is given one tensor of a vector as flat blocks, float32 or float64, and its :class:`TensorKey`. It surveys them
as far as it has to and returns a pruner: a function of a block and the index of its first element that gives the block
with the dropped entries zero, in the block's own memory where that saves a copy. Keyword-only arguments are the rule's
options; their annotations are their bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from aftermix.merging.saliency import Ranking, build_score
from aftermix.merging.topk.magnitude import TensorBlocks, TopKMask, count_kept, count_share, find_top_k
from aftermix.merging.topk.rows import Ranks, rank_by_row
from aftermix.merging.topk.scores import ScoredEntries, find_top_scored
from aftermix.seeds import keep_mask

Density = Annotated[float, Field(gt=0, le=1)]
Pruner = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class TensorKey:
    """Key of a tensor of a vector: what its random choices depend on, and what is known of the whole vector."""

    seed: int
    vector: str
    tensor: str
    elements: int
    row: int
    """Entries of one row: the tensor's last dimension, 1 for a scalar."""
    model_mask: TopKMask | None = None
    """The selection over the whole vector, seen from this tensor; set for `scope: model`."""
    ranking: Ranking = "magnitude"
    """By what the vector's statistics rank the tensor; set for `saliency`."""


def keep_all(blocks: TensorBlocks, key: TensorKey) -> Pruner:  # noqa: ARG001 - every rule has this signature
    """Every entry (Task Arithmetic)."""
    return lambda delta, _: delta


def magnitude(
    blocks: TensorBlocks, key: TensorKey, *, density: Density = 0.2, scope: Literal["tensor", "model"] = "tensor"
) -> Pruner:
    """The `floor(density * n)`, at least 1, entries of largest magnitude; equal magnitudes by lower index.

    Source: TIES (Yadav et al., 2023), trimming; its density is the default. `scope: tensor` counts n per tensor.
    `scope: model` counts over all merged tensors of the vector, as the original does; it settles equal magnitudes by
    tensor name, then by index, and keeps exactly the count where the original keeps one entry more.
    """
    if scope == "model":
        if key.model_mask is None:
            raise ValueError("scope 'model' needs the selection over the whole vector")
        mask = key.model_mask
    else:
        count = count_kept(key.elements, density)
        if count == key.elements:
            return keep_all(blocks, key)
        mask = find_top_k(blocks, count)
    return mask.apply


def saliency(blocks: TensorBlocks, key: TensorKey, *, density: Density = 0.2) -> Pruner:
    """The `floor(density * n)`, at least 1, entries of largest saliency; equal ones by magnitude, then by index.

    Source: OBIM, section 3.1: `s_ij = 1/2 h_jj delta_ij^2`, with `h_jj` twice the mean square of input channel j over
    the calibration tokens. :func:`aftermix.merging.saliency.choose_ranking` says what ranks other tensors.
    """
    count = count_kept(key.elements, density)
    if count == key.elements:
        return keep_all(blocks, key)
    entries = score_entries(blocks, key)
    mask = find_top_scored(entries, count)

    def prune(delta: torch.Tensor, start: int) -> torch.Tensor:
        scores = entries.score(delta, [(start, start + len(delta))])
        np.multiply(delta.numpy(), mask.choose(delta, scores, start), out=delta.numpy())
        return delta

    return prune


def score_entries(blocks: TensorBlocks, key: TensorKey) -> ScoredEntries:
    """Entries of a tensor with the scores that its key asks for."""
    if key.ranking == "magnitude":
        return ScoredEntries(blocks)
    score = build_score(key.ranking, blocks.spans, seed=key.seed, key=(key.vector, key.tensor))
    return ScoredEntries(blocks, score, only_magnitude=False)


def random_rescale(
    blocks: TensorBlocks,
    key: TensorKey,
    *,
    density: Density = 1.0,
    rescale: Literal["density", "l1", "none"] = "density",
) -> Pruner:
    """Each entry kept with probability `density` and divided by it, so that the expectation stays.

    Source: DARE (Yu et al., 2024), with drop rate 1 - density. `rescale: l1` restores the delta's L1 norm instead, as
    mergekit does. The mask is a function of (seed, vector, tensor, block), fixed over a whole search.
    """

    def prune(delta: torch.Tensor, start: int) -> torch.Tensor:
        mask = keep_mask(delta.numel(), density, key.seed, "random mask", key.vector, key.tensor, start)
        np.multiply(delta.numpy(), mask, out=delta.numpy())  # NaN stays NaN, so a faulty input is not hidden
        return delta

    if density == 1.0:
        return keep_all(blocks, key)

    # The expectation is restored entry by entry, the norm over the whole tensor, which a block does not know.
    if rescale == "none":
        return prune
    if rescale == "density":
        return lambda delta, start: prune(delta, start).div_(density)
    ratio = _compute_l1_ratio(blocks, prune)
    return lambda delta, start: prune(delta, start).mul_(ratio)


def magnitude_sampled(
    blocks: TensorBlocks,
    key: TensorKey,
    *,
    density: Density = 0.5,
    epsilon: Annotated[float, Field(ge=0, lt=0.5)] = 0.1,
    rescale: Literal["probability", "l1", "none"] = "probability",
) -> Pruner:
    """Each entry kept with a probability that grows with its rank in its row, and divided by that probability.

    Formula: `p = density - epsilon + 2 epsilon r`, clipped to [0, 1], with `r` from 0 for the smallest magnitude of a
    row to 1 for its largest. Source: DELLA (Deep et al., 2024), MagPrune; the authors' code has `2 epsilon` as its
    `window_size`. Rows longer than a block are ranked in parts. Departure: a row of one entry has rank 1/2, where the
    formula divides by zero. With `epsilon` 0 this is DARE. `rescale: l1` restores the delta's L1 norm instead, as
    mergekit does; with it and with `rescale: none` a `density` of 1 keeps all.
    """

    def prune(delta: torch.Tensor, start: int) -> torch.Tensor:
        rank = 1 - rank_by_row(delta, key.row) / max(key.row - 1, 1) if key.row > 1 else 0.5
        probability = np.clip(density - epsilon + 2 * epsilon * np.broadcast_to(rank, len(delta)), 0, 1)

        mask_key = ("magnitude sampled", key.vector, key.tensor, start)
        values = delta.numpy()
        np.multiply(values, keep_mask(len(delta), probability, key.seed, *mask_key), out=values)
        if rescale == "probability":
            np.divide(values, np.maximum(probability, np.finfo(np.float32).tiny), out=values, casting="same_kind")
        return delta

    if density == 1 and rescale != "probability":
        return keep_all(blocks, key)
    if rescale != "l1":
        return prune

    # The norm over the whole tensor, which a block does not know.
    ratio = _compute_l1_ratio(blocks, prune)
    return lambda delta, start: prune(delta, start).mul_(ratio)


def band(
    blocks: TensorBlocks,
    key: TensorKey,
    *,
    density: Density = 0.15,
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.006,
    scope: Literal["tensor", "row"] = "tensor",
    excess: Literal["density", "gamma"] = "density",
) -> Pruner:
    """Without the `floor(gamma * n)` entries of largest magnitude, the next `floor(density * n)`; at least 1 is kept.

    Source: Model Breadcrumbs (Davari and Belilovsky, 2024): outliers are dropped as well as the small; the defaults are
    where the authors' code begins its search. n counts a tensor, or with `scope: row` a row, as the authors' code does.
    Rows longer than a block are counted in parts. `excess` is what gives way when gamma and density exceed 1 together:
    `density` keeps all but the largest, `gamma` drops fewer of them, as mergekit does.
    """
    elements = key.row if scope == "row" else key.elements
    count = count_kept(elements, density)
    dropped = min(count_share(elements, gamma), max(elements - (count if excess == "gamma" else 1), 0))
    end = min(dropped + count, elements)
    if scope == "row":
        return lambda delta, _: _keep_ranks(delta, rank_by_row(delta, key.row), dropped, end)
    lower = find_top_k(blocks, end)
    if not dropped:
        return lower.apply
    upper = find_top_k(blocks, dropped)
    return lambda delta, start: lower.apply(delta, start).sub_(upper.apply(delta.clone(), start))


def _keep_ranks(delta: torch.Tensor, places: Ranks, first: int, end: int) -> torch.Tensor:
    np.multiply(delta.numpy(), (places >= first) & (places < end), out=delta.numpy())
    return delta


def _compute_l1_ratio(blocks: TensorBlocks, pruner: Pruner) -> float:
    """The L1 norm of all entries over that of the kept ones; 1 when nothing was kept."""
    whole, part, start = 0.0, 0.0, 0
    for block in blocks:
        whole += _compute_l1_norm(block)
        part += _compute_l1_norm(pruner(block, start))
        start += block.numel()
    return whole / part if part > 0 else 1.0


def _compute_l1_norm(block: torch.Tensor) -> float:
    # NumPy adds in one order; PyTorch's depends on the number of threads.
    return float(np.abs(block.numpy()).sum(dtype=np.float64))
