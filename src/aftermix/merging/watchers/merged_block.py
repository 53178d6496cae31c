"""One block of a merge, shown to whoever counts or checks while the merge runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.merging.rules.intra import Pruner


@dataclass(frozen=True)
class MergedBlock:
    """One block of the result with all that it was made of, for a look at it; nothing of it may be changed."""

    info: TensorInfo
    span: Span
    pruners: Mapping[str, Pruner]
    """Of every vector that was surveyed: those of weight 0 are among them where vectors share a tensor out."""
    kept: Mapping[str, torch.Tensor]
    """Of the vectors that have a weight."""
    merged: torch.Tensor
    exact: torch.Tensor
    """The result before it was rounded."""
    base: torch.Tensor


Watch = Callable[[MergedBlock], None]
"""Is shown every block of the tensors that move, on the thread that made it."""
