"""The best-ranked entries of a tensor by score, equal scores by magnitude, then by index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.checkpoints.model import Bounds
from aftermix.merging.selection import Blocks, Cut, find_cut, find_threshold, magnitude_bits


@dataclass(frozen=True)
class Candidates:
    """The entries of one tensor: what they are, and what they are ranked by."""

    deltas: Blocks
    scores: Blocks
    """`deltas` itself for a ranking by magnitude."""


@dataclass(frozen=True)
class RankedCut:
    """Choose what scores above `threshold` (in magnitude bits), and of what equals it, what `among_equals` keeps."""

    threshold: int
    among_equals: Cut | None
    """None: all of them."""

    def chosen(self, deltas: torch.Tensor, scores: torch.Tensor, start: int) -> NDArray[np.bool_]:
        """Which entries of a block, whose first has index `start`, are chosen."""
        bits = magnitude_bits(scores)
        chosen: NDArray[np.bool_] = bits > self.threshold
        if self.among_equals is None:
            chosen |= bits == self.threshold
        else:
            equals = _equals_only(deltas, scores, self.threshold)
            chosen |= self.among_equals.kept(equals, start).numpy() != 0
        return chosen


def find_ranked_cut(candidates: Candidates, count: int) -> RankedCut:
    """The cut that chooses exactly `count` entries: by score, then by larger magnitude, then by lower index."""
    deltas, scores = candidates.deltas, candidates.scores
    threshold, wanted, equal = find_threshold(scores, count)
    if wanted == sum(equal):
        return RankedCut(threshold, None)

    def equals(bounds: Bounds) -> torch.Tensor:
        return _equals_only(deltas.read(bounds), scores.read(bounds), threshold)

    return RankedCut(threshold, find_cut(Blocks(scores.bounds, equals), wanted))


def _equals_only(deltas: torch.Tensor, scores: torch.Tensor, threshold: int) -> torch.Tensor:
    """Magnitudes of what scores `threshold`, one step up so that they exceed 0; 0 for all else."""
    bits = magnitude_bits(deltas) + np.int32(1)
    bits *= magnitude_bits(scores) == threshold
    return torch.from_numpy(bits).view(torch.float32)
