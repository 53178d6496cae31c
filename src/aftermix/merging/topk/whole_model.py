"""Selection over a whole vector, streamed over its tensors in order of name."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch

from aftermix.checkpoints.model import Bounds, TensorInfo
from aftermix.merging.topk.magnitude import Blocks, Cut, find_cut, kept_count


def cuts_over_model(tensors: Sequence[tuple[TensorInfo, Blocks]], *, density: float) -> dict[str, Cut]:
    """By tensor, the mask that keeps the `floor(density * n)` largest entries of a vector, n counted over all tensors.

    Equal magnitudes at the threshold go to the earlier tensor. Memory is that of :func:`find_cut` on the whole vector.
    """
    vector, offsets = _laid_end_to_end([blocks for _, blocks in tensors])
    if not vector.elements:
        return {}
    cut = find_cut(vector, kept_count(vector.elements, density))
    return {info.name: cut.seen_from(offset) for (info, _), offset in zip(tensors, offsets, strict=True)}


def _laid_end_to_end(parts: Sequence[Blocks]) -> tuple[Blocks, list[int]]:
    """The blocks of several tensors as those of one, and where each tensor begins in it."""
    offsets = list(accumulate((part.elements for part in parts), initial=0))[:-1]

    def read(bounds: Bounds) -> torch.Tensor:
        number = bisect_right(offsets, bounds[0]) - 1
        offset = offsets[number]
        return parts[number].read((bounds[0] - offset, bounds[1] - offset))

    bounds = [
        (start + offset, end + offset)
        for part, offset in zip(parts, offsets, strict=True)
        for start, end in part.bounds
    ]
    return Blocks(bounds, read), offsets
