"""Intra-model rules: what a distribution vector keeps, one tensor at a time, independent of all weights.

A rule takes a float32 delta and a :class:`Place` and returns a delta of the same shape with the dropped entries zero.
Its keyword-only arguments are its options; their annotations are their bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from aftermix.merging.selection import kept_count, top_mask
from aftermix.seeds import keep_mask

Density = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Place:
    """Where a delta comes from: the key of its random choices, and its share of a selection over the whole model."""

    seed: int
    vector: str
    tensor: str
    model_count: int | None = None
    """Entries of this tensor among the largest of the whole vector; set for `scope: model`."""


def keep_all(delta: torch.Tensor, place: Place) -> torch.Tensor:  # noqa: ARG001 - every rule has this signature
    """Every entry (Task Arithmetic)."""
    return delta


def magnitude(
    delta: torch.Tensor, place: Place, *, density: Density = 0.2, scope: Literal["tensor", "model"] = "tensor"
) -> torch.Tensor:
    """The `floor(density * n)`, at least 1, entries of largest magnitude; equal magnitudes by lower index.

    Source: TIES (Yadav et al., 2023), trimming; its density is the default. `scope: tensor` counts n per tensor.
    `scope: model` counts over all merged tensors of the vector, as the original does; it settles equal magnitudes by
    tensor name, then by index, and keeps exactly the count where the original keeps one entry more.
    """
    count = kept_count(delta.numel(), density) if scope == "tensor" else place.model_count
    if count is None:
        raise ValueError("scope 'model' needs the tensor's share of the model-wide selection")
    return delta * top_mask(delta, count)


def random_rescale(
    delta: torch.Tensor,
    place: Place,
    *,
    density: Density = 1.0,
    rescale: Literal["density", "l1", "none"] = "density",
) -> torch.Tensor:
    """Each entry kept with probability `density` and divided by it, so that the expectation stays.

    Source: DARE (Yu et al., 2024), with drop rate 1 - density. `rescale: l1` restores the delta's L1 norm instead, as
    mergekit does. The mask is a function of (seed, vector, tensor), fixed over a whole search.
    """
    mask = keep_mask(delta.numel(), density, place.seed, "random mask", place.vector, place.tensor)
    kept = delta * torch.from_numpy(mask).view(delta.shape).to(delta.device)
    if rescale == "none":
        return kept
    if rescale == "density":
        return kept / density
    norm = kept.abs().sum(dtype=torch.float64)
    return kept * (delta.abs().sum(dtype=torch.float64) / norm).to(torch.float32) if norm > 0 else kept
