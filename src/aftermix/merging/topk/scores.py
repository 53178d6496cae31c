"""The best-ranked entries of a tensor by score, equal scores by magnitude, then by index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.checkpoints.model import Span
from aftermix.merging.topk.magnitude import (
    TensorBlocks,
    TopKMask,
    TopKThreshold,
    find_threshold,
    find_top_k,
    read_magnitude_bits,
)

Score = Callable[[torch.Tensor, Sequence[Span]], torch.Tensor]
"""Non-negative scores of flat entries, given with the runs of the tensor that they are, end to end.

The result is the entries themselves or a new tensor.
"""
GATHERED = 512
"""Entries of equal score that are read one by one."""


def score_by_magnitude(deltas: torch.Tensor, runs: Sequence[Span]) -> torch.Tensor:  # noqa: ARG001 - every score has this signature
    """The entries themselves: what ranks them is their magnitude."""
    return deltas


@dataclass(frozen=True)
class ScoredEntries:
    """The entries of one tensor: what they are, and what they are ranked by."""

    deltas: TensorBlocks
    score: Score = score_by_magnitude
    only_magnitude: bool = True
    """True where entries of equal score have equal magnitudes, so that nothing but their index is left to decide."""

    @property
    def scores(self) -> TensorBlocks:
        """The scores, read like the entries."""
        read_runs = self.deltas.read_runs
        return TensorBlocks(
            self.deltas.spans,
            lambda span: self.score(self.deltas.read(span), [span]),
            read_runs and (lambda runs: self.score(read_runs(runs), runs)),
        )


@dataclass(frozen=True)
class TopScoreMask:
    """Choose what scores above `threshold` (in magnitude bits), and part of what equals it."""

    threshold: int
    last: int
    """Of what equals it: up to this index, where magnitudes do not decide."""
    magnitude: int | None = None
    """Bits where they do: chosen is what is larger than these, and what equals them up to `last`."""

    def choose(self, deltas: torch.Tensor, scores: torch.Tensor, start: int) -> NDArray[np.bool_]:
        """Mark the chosen entries of a block whose first has index `start`."""
        bits = read_magnitude_bits(scores)
        chosen: NDArray[np.bool_] = bits > self.threshold
        if self.magnitude is None:
            inside = min(max(self.last + 1 - start, 0), len(bits))
            np.greater_equal(bits[:inside], self.threshold, out=chosen[:inside])
            return chosen

        places = np.flatnonzero(bits == self.threshold)
        magnitudes = read_magnitude_bits(deltas)[places]
        earlier = (magnitudes == self.magnitude) & (places + start <= self.last)
        chosen[places[(magnitudes > self.magnitude) | earlier]] = True
        return chosen


def find_top_scored(entries: ScoredEntries, count: int) -> TopScoreMask:
    """Mask that chooses exactly `count` entries: by score, then by larger magnitude, then by lower index."""
    scores = entries.scores
    threshold = find_threshold(scores, count)
    if entries.only_magnitude or threshold.takes_all:
        return TopScoreMask(threshold.bits, threshold.find_last_equal(scores))
    mask = _select_among_equal(entries, threshold)
    return TopScoreMask(threshold.bits, mask.last, mask.threshold)


def _select_among_equal(entries: ScoredEntries, threshold: TopKThreshold) -> TopKMask:
    """Selection by magnitude among the entries that score `threshold`."""
    deltas = entries.deltas
    if threshold.places is not None and sum(threshold.equal) <= GATHERED:
        starts = [start for start, _ in deltas.spans]
        indices = np.concatenate([places + start for start, places in zip(starts, threshold.places, strict=True)])
        values = [deltas.read((int(index), int(index) + 1)) for index in indices]
        bits = read_magnitude_bits(torch.cat(values))
        last = np.lexsort((indices, -bits))[threshold.wanted - 1]
        return TopKMask(int(bits[last]), int(indices[last]))

    def mark_equal(span: Span) -> torch.Tensor:
        delta = deltas.read(span)
        # One step up, so that an entry of magnitude 0 still comes before one of another score.
        bits = read_magnitude_bits(delta) + np.int32(1)
        bits *= read_magnitude_bits(entries.score(delta, [span])) == threshold.bits
        return torch.from_numpy(bits).view(torch.float32)

    mask = find_top_k(TensorBlocks(deltas.spans, mark_equal), threshold.wanted)
    return TopKMask(mask.threshold - 1, mask.last)
