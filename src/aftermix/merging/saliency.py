"""Scores that rank the entries of a tensor: saliency from activation statistics, and what stands in for it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.checkpoints.model import Span
from aftermix.errors import MergeError
from aftermix.merging.temporaries import allocate_like
from aftermix.merging.topk.scores import Score
from aftermix.seeds import derived_seed


class ActivationStatistics(Protocol):
    """Measurements of one vector's model: :class:`aftermix.saliency.storage.StoredStatistics`."""

    @property
    def uncovered(self) -> Collection[str]:
        """Linear weights whose layer saw no token: `NAME`, or `NAME[3]` for an expert within a tensor of experts."""

    def factor(self, name: str) -> torch.Tensor | None:
        """Mean squares of the input channels in a shape that multiplies the tensor; None for what has none."""


@dataclass(frozen=True)
class MissingStatistics:
    """In the place of the statistics of a vector that was not calibrated: magnitude ranks all its `tensors`."""

    tensors: frozenset[str]

    @property
    def uncovered(self) -> Collection[str]:
        """Every tensor."""
        return self.tensors

    def factor(self, name: str) -> torch.Tensor | None:  # noqa: ARG002 - as statistics have it
        """None, whatever the tensor."""
        return None


@dataclass(frozen=True)
class ChannelImportance:
    """Mean squares of the inputs of a linear layer, for every entry of its weight."""

    factor: torch.Tensor
    """Float32, of a shape that broadcasts to the weight's, e.g. (1, C), (C, 1) or (E, 1, C)."""
    shape: tuple[int, ...]

    def multiply(self, values: torch.Tensor, runs: Sequence[Span]) -> torch.Tensor:
        """The flat entries `runs` of the weight, end to end in `values`, each times its factor, in place."""
        rows, width = self.shape[-2:]
        first, last = runs[0][0] // width, -(-runs[0][1] // width)

        # Whole rows of one matrix take a broadcast product; all else is looked up entry by entry.
        whole_rows = len(runs) == 1 and runs[0][0] % width == 0 and runs[0][1] % width == 0
        if whole_rows and len(self.shape) <= 3 and first // rows == (last - 1) // rows:
            matrix = self.factor.expand(self.shape).select(0, first // rows) if len(self.shape) == 3 else self.factor
            values.view(-1, width).mul_(matrix.expand(rows, width)[first % rows : (last - 1) % rows + 1])
            return values
        return values.mul_(self._look_up_factors(np.concatenate([np.arange(*run) for run in runs])))

    def _look_up_factors(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """The factor of each flat index, whichever dimensions the factor is repeated along."""
        places = zip(np.unravel_index(indices, self.shape), self.factor.shape, strict=True)
        return self.factor[tuple(torch.from_numpy(place) if size > 1 else 0 for place, size in places)]


Ranking = ChannelImportance | Literal["magnitude", "random"]
"""Order of the entries of one tensor: by saliency, by magnitude or by chance."""


def choose_ranking(statistics: ActivationStatistics, name: str, shape: tuple[int, ...]) -> Ranking:
    """Saliency for a linear weight; magnitude where its layer saw no token; a seeded random choice for all else.

    Within a tensor of experts, one that saw no token has the mean of the others' factors over all channels: magnitude
    decides among its own entries, at the level of the others. See docs/methods.md.
    """
    factor = statistics.factor(name)
    if factor is None:
        unseen = name in statistics.uncovered or f"{name}[0]" in statistics.uncovered
        return "magnitude" if unseen else "random"
    if len(shape) > 2:
        seen = factor.flatten(1).any(1)
        factor = torch.where(seen.view(-1, *[1] * (factor.dim() - 1)), factor, factor[seen].mean())
    return ChannelImportance(factor, shape)


def refuse_unmeasured(method: str, vectors: Sequence[str]) -> None:
    """Raise :class:`MergeError` when `method` ranks by saliency and there are `vectors` without statistics."""
    if vectors:
        found = f"{method} needs statistics, there are none of {', '.join(vectors)}"
        remedy = "Run `aftermix calibrate FILE -o DIR`, then add `statistics: DIR` to `merge`."
        raise MergeError("merge.statistics", found, remedy)


def build_score(
    ranking: ChannelImportance | Literal["random"], spans: Sequence[Span], *, seed: int, key: tuple[str, str]
) -> Score:
    """Score of the entries of a tensor that is read in blocks of `spans`; larger comes first.

    Formula: `s_ij = h_jj * delta_ij^2`, `h_jj` the mean square of input channel j (OBIM, section 3.1, without the
    constant factor). `key` names vector and tensor for a random ranking, which is drawn block by block.
    """
    if ranking != "random":
        return lambda deltas, runs: ranking.multiply(torch.mul(deltas, deltas, out=allocate_like(deltas)), runs)
    starts = [start for start, _ in spans]

    def draw(run: Span) -> NDArray[np.float32]:
        start, end = spans[bisect_right(starts, run[0]) - 1]
        raw = np.random.SFC64(derived_seed(seed, "random selection", *key, start)).random_raw((end - start + 1) // 2)
        # 30 bits, so that every value is a finite number when its bits are read as one.
        bits = raw.astype("<u8", copy=False).view("<u4")[run[0] - start : run[1] - start] >> np.uint32(2)
        return bits.view(np.float32)

    return lambda _, runs: torch.from_numpy(np.concatenate([draw(run) for run in runs]))
