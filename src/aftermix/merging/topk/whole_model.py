"""Selection over a whole vector, streamed over its tensors in order of name."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch

from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.merging.topk.magnitude import TensorBlocks, TopKMask, count_kept, find_top_k


def select_over_model(tensors: Sequence[tuple[TensorInfo, TensorBlocks]], *, density: float) -> dict[str, TopKMask]:
    """By tensor, the mask that keeps the `floor(density * n)` largest entries of a vector, n counted over all tensors.

    Equal magnitudes at the threshold go to the earlier tensor. Memory is :func:`find_top_k`'s on the whole vector.
    """
    vector, offsets = _lay_end_to_end([blocks for _, blocks in tensors])
    if not vector.elements:
        return {}
    mask = find_top_k(vector, count_kept(vector.elements, density))
    return {info.name: mask.shift_indices(offset) for (info, _), offset in zip(tensors, offsets, strict=True)}


def _lay_end_to_end(parts: Sequence[TensorBlocks]) -> tuple[TensorBlocks, list[int]]:
    """The blocks of several tensors as those of one, and where each tensor begins in it."""
    offsets = list(accumulate((part.elements for part in parts), initial=0))[:-1]

    def read(span: Span) -> torch.Tensor:
        number = bisect_right(offsets, span[0]) - 1
        offset = offsets[number]
        return parts[number].read((span[0] - offset, span[1] - offset))

    spans = [
        (start + offset, end + offset) for part, offset in zip(parts, offsets, strict=True) for start, end in part.spans
    ]
    return TensorBlocks(spans, read), offsets
