"""Selection over a whole vector, streamed over its tensors in order of name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from aftermix.checkpoints.model import TensorInfo
from aftermix.merging.selection import Blocks, Cut, find_cut, kept_count


def cuts_over_model(tensors: Sequence[tuple[TensorInfo, Blocks]], *, density: float) -> dict[str, Cut]:
    """By tensor, the cut that keeps the `floor(density * n)` largest entries of a vector, n counted over all `tensors`.

    Equal magnitudes at the threshold go to the earlier tensor. Memory is one block, whatever the model's size.
    """
    elements = sum(info.elements for info, _ in tensors)
    if not elements:
        return {}

    def whole_vector() -> Iterator[torch.Tensor]:
        for _, blocks in tensors:
            yield from blocks()

    cut = find_cut(whole_vector, kept_count(elements, density))
    found, offset = {}, 0
    for info, _ in tensors:
        found[info.name] = cut.seen_from(offset)
        offset += info.elements
    return found
