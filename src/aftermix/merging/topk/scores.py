"""The best-ranked entries of a tensor by score, equal scores by magnitude, then by index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.checkpoints.model import Bounds
from aftermix.merging.topk.magnitude import Blocks, Cut, Threshold, find_cut, find_threshold, magnitude_bits

Score = Callable[[torch.Tensor, Sequence[Bounds]], torch.Tensor]
"""Non-negative scores of flat entries, given with the runs of the tensor that they are, end to end.

The result is the entries themselves or a new tensor.
"""
GATHERED = 512
"""Entries of equal score that are read one by one."""


def by_magnitude(deltas: torch.Tensor, runs: Sequence[Bounds]) -> torch.Tensor:  # noqa: ARG001 - every score has this signature
    """The entries themselves: what ranks them is their magnitude."""
    return deltas


@dataclass(frozen=True)
class Candidates:
    """The entries of one tensor: what they are, and what they are ranked by."""

    deltas: Blocks
    score: Score = by_magnitude
    only_magnitude: bool = True
    """True where entries of equal score have equal magnitudes, so that nothing but their index is left to decide."""

    @property
    def scores(self) -> Blocks:
        """The scores, read like the entries."""
        read_runs = self.deltas.read_runs
        return Blocks(
            self.deltas.bounds,
            lambda bounds: self.score(self.deltas.read(bounds), [bounds]),
            read_runs and (lambda runs: self.score(read_runs(runs), runs)),
        )


@dataclass(frozen=True)
class RankedCut:
    """Choose what scores above `threshold` (in magnitude bits), and part of what equals it."""

    threshold: int
    last: int
    """Of what equals it: up to this index, where magnitudes do not decide."""
    magnitude: int | None = None
    """Bits where they do: chosen is what is larger than these, and what equals them up to `last`."""

    def chosen(self, deltas: torch.Tensor, scores: torch.Tensor, start: int) -> NDArray[np.bool_]:
        """Mark the chosen entries of a block whose first has index `start`."""
        bits = magnitude_bits(scores)
        chosen: NDArray[np.bool_] = bits > self.threshold
        if self.magnitude is None:
            inside = min(max(self.last + 1 - start, 0), len(bits))
            np.greater_equal(bits[:inside], self.threshold, out=chosen[:inside])
            return chosen

        places = np.flatnonzero(bits == self.threshold)
        magnitudes = magnitude_bits(deltas)[places]
        earlier = (magnitudes == self.magnitude) & (places + start <= self.last)
        chosen[places[(magnitudes > self.magnitude) | earlier]] = True
        return chosen


def find_ranked_cut(candidates: Candidates, count: int) -> RankedCut:
    """Mask that chooses exactly `count` entries: by score, then by larger magnitude, then by lower index."""
    scores = candidates.scores
    found = find_threshold(scores, count)
    if candidates.only_magnitude or found.takes_all:
        return RankedCut(found.bits, found.last_equal(scores))
    cut = _cut_among(candidates, found)
    return RankedCut(found.bits, cut.last, cut.threshold)


def _cut_among(candidates: Candidates, found: Threshold) -> Cut:
    """Selection by magnitude among the entries that score `found`."""
    deltas = candidates.deltas
    if found.places is not None and sum(found.equal) <= GATHERED:
        starts = [start for start, _ in deltas.bounds]
        indices = np.concatenate([places + start for start, places in zip(starts, found.places, strict=True)])
        values = [deltas.read((int(index), int(index) + 1)) for index in indices]
        bits = magnitude_bits(torch.cat(values))
        last = np.lexsort((indices, -bits))[found.wanted - 1]
        return Cut(int(bits[last]), int(indices[last]))

    def equals(bounds: Bounds) -> torch.Tensor:
        delta = deltas.read(bounds)
        # One step up, so that an entry of magnitude 0 still comes before one of another score.
        bits = magnitude_bits(delta) + np.int32(1)
        bits *= magnitude_bits(candidates.score(delta, [bounds])) == found.bits
        return torch.from_numpy(bits).view(torch.float32)

    cut = find_cut(Blocks(deltas.bounds, equals), found.wanted)
    return Cut(cut.threshold - 1, cut.last)
