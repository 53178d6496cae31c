"""Intra-model rules: what a distribution vector keeps, independent of all weights.

A rule is given one tensor of a vector as flat float32 blocks and its :class:`Place`. It surveys them as far as it has
to and returns a pruner: a function of a block and the index of its first element that gives the block with the dropped
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

from aftermix.merging.saliency import Ranking, score_of
from aftermix.merging.topk.magnitude import Blocks, Cut, find_cut, kept_count, whole_count
from aftermix.merging.topk.rows import Ranks, row_places
from aftermix.merging.topk.scores import Candidates, find_ranked_cut
from aftermix.seeds import keep_mask

Density = Annotated[float, Field(gt=0, le=1)]
Keeper = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Place:
    """Key of a tensor of a vector: what its random choices depend on, and what is known of the whole vector."""

    seed: int
    vector: str
    tensor: str
    elements: int
    row: int
    """Entries of one row: the tensor's last dimension, 1 for a scalar."""
    model_cut: Cut | None = None
    """The selection over the whole vector, seen from this tensor; set for `scope: model`."""
    ranking: Ranking = "magnitude"
    """By what the vector's statistics rank the tensor; set for `saliency`."""


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


def saliency(blocks: Blocks, place: Place, *, density: Density = 0.2) -> Keeper:
    """The `floor(density * n)`, at least 1, entries of largest saliency; equal ones by magnitude, then by index.

    Source: OBIM, section 3.1: `s_ij = 1/2 h_jj delta_ij^2`, with `h_jj` twice the mean square of input channel j over
    the calibration tokens. :func:`aftermix.merging.saliency.ranking_of` says what ranks other tensors.
    """
    count = kept_count(place.elements, density)
    if count == place.elements:
        return keep_all(blocks, place)
    candidates = candidates_of(blocks, place)
    cut = find_ranked_cut(candidates, count)

    def kept(delta: torch.Tensor, start: int) -> torch.Tensor:
        scores = candidates.score(delta, [(start, start + len(delta))])
        np.multiply(delta.numpy(), cut.chosen(delta, scores, start), out=delta.numpy())
        return delta

    return kept


def candidates_of(blocks: Blocks, place: Place) -> Candidates:
    """Entries of a tensor with the scores that its key asks for."""
    if place.ranking == "magnitude":
        return Candidates(blocks)
    score = score_of(place.ranking, blocks.bounds, seed=place.seed, key=(place.vector, place.tensor))
    return Candidates(blocks, score, only_magnitude=False)


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

    # The expectation is restored entry by entry, the norm over the whole tensor, which a block does not know.
    if rescale == "none":
        return kept
    if rescale == "density":
        return lambda delta, start: kept(delta, start).div_(density)
    ratio = _l1_ratio(blocks, kept)
    return lambda delta, start: kept(delta, start).mul_(ratio)


def magnitude_sampled(
    blocks: Blocks,
    place: Place,
    *,
    density: Density = 0.5,
    epsilon: Annotated[float, Field(ge=0, lt=0.5)] = 0.1,
    rescale: Literal["probability", "l1", "none"] = "probability",
) -> Keeper:
    """Each entry kept with a probability that grows with its rank in its row, and divided by that probability.

    Formula: `p = density - epsilon + 2 epsilon r`, clipped to [0, 1], with `r` from 0 for the smallest magnitude of a
    row to 1 for its largest. Source: DELLA (Deep et al., 2024), MagPrune; the authors' code has `2 epsilon` as its
    `window_size`. Rows longer than a block are ranked in parts. Departure: a row of one entry has rank 1/2, where the
    formula divides by zero. With `epsilon` 0 this is DARE. `rescale: l1` restores the delta's L1 norm instead, as
    mergekit does.
    """

    def kept(delta: torch.Tensor, start: int) -> torch.Tensor:
        rank = 1 - row_places(delta, place.row) / max(place.row - 1, 1) if place.row > 1 else 0.5
        probability = np.clip(density - epsilon + 2 * epsilon * np.broadcast_to(rank, len(delta)), 0, 1)

        key = ("magnitude sampled", place.vector, place.tensor, start)
        values = delta.numpy()
        np.multiply(values, keep_mask(len(delta), probability, place.seed, *key), out=values)
        if rescale == "probability":
            np.divide(values, np.maximum(probability, np.finfo(np.float32).tiny), out=values, casting="same_kind")
        return delta

    if rescale != "l1":
        return kept

    # The norm over the whole tensor, which a block does not know.
    ratio = _l1_ratio(blocks, kept)
    return lambda delta, start: kept(delta, start).mul_(ratio)


def band(
    blocks: Blocks,
    place: Place,
    *,
    density: Density = 0.15,
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.006,
    scope: Literal["tensor", "row"] = "tensor",
    excess: Literal["density", "gamma"] = "density",
) -> Keeper:
    """Without the `floor(gamma * n)` entries of largest magnitude, the next `floor(density * n)`; at least 1 is kept.

    Source: Model Breadcrumbs (Davari and Belilovsky, 2024): outliers are dropped as well as the small; the defaults are
    where the authors' code begins its search. n counts a tensor, or with `scope: row` a row, as the authors' code does.
    Rows longer than a block are counted in parts. `excess` is what gives way when gamma and density exceed 1 together:
    `density` keeps all but the largest, `gamma` drops fewer of them, as mergekit does.
    """
    elements = place.row if scope == "row" else place.elements
    kept = kept_count(elements, density)
    dropped = min(whole_count(elements, gamma), max(elements - (kept if excess == "gamma" else 1), 0))
    reach = min(dropped + kept, elements)
    if scope == "row":
        return lambda delta, _: _within(delta, row_places(delta, place.row), dropped, reach)
    lower = find_cut(blocks, reach)
    if not dropped:
        return lower.kept
    upper = find_cut(blocks, dropped)
    return lambda delta, start: lower.kept(delta, start).sub_(upper.kept(delta.clone(), start))


def _within(delta: torch.Tensor, places: Ranks, first: int, end: int) -> torch.Tensor:
    np.multiply(delta.numpy(), (places >= first) & (places < end), out=delta.numpy())
    return delta


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
