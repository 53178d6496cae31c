"""The part of a merged vector that rounding takes: measured while a merge runs, on runs of elements of every block."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from threading import Lock

import torch

from aftermix.checkpoints.formats.spans import list_sample_spans
from aftermix.merging.watchers.merged_block import MergedBlock

SMALL = 0.01
"""A share of the norm below which nothing is advised."""


@dataclass
class RoundingTally:
    """Squares of the merged vector and of what its stored type lost of it; shown every block of a merge.

    Of a large block a sample is taken, which stands for all of it. Blocks are added up in their order, so that the
    result is the same for any number of threads.
    """

    squares: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    """Of the error and of the vector, by tensor and first element of the block."""
    kinds: set[torch.dtype] = field(default_factory=set)
    """Stored types that round."""
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, block: MergedBlock) -> None:
        """Add one block."""
        lost, moved, taken = 0.0, 0.0, 0
        for start, end in list_sample_spans(block.exact.numel()):
            exact, merged, base = (part[start:end].double() for part in (block.exact, block.merged, block.base))
            lost += float((merged - exact).square_().sum())
            moved += float((exact - base).square_().sum())
            taken += end - start

        scale = block.exact.numel() / max(taken, 1)
        with self._lock:
            self.squares[block.info.name, block.span[0]] = lost * scale, moved * scale
            if block.merged.dtype.itemsize < block.exact.dtype.itemsize:
                self.kinds.add(block.merged.dtype)

    @property
    def lost(self) -> float:
        """Norm of what was rounded over that of the merged vector; 0 for a merge that is the base."""
        blocks = [self.squares[key] for key in sorted(self.squares)]
        moved = math.fsum(block[1] for block in blocks)
        return math.sqrt(math.fsum(block[0] for block in blocks) / moved) if moved else 0.0

    def summarise(self) -> str:
        """Line for a terminal; empty where nothing is rounded, or nothing was merged."""
        if not self.kinds or not self.lost:
            return ""
        kinds = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in self.kinds))
        advice = "; with `merge: {dtype: float32}` nothing is rounded" if self.lost >= SMALL else ""
        return f"rounding to {kinds} took {self.lost:.2%} of the norm of what was merged into the base{advice}"
