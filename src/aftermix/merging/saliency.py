"""Scores that rank the entries of a tensor: saliency from activation statistics, and what stands in for it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from aftermix.checkpoints.model import Bounds
from aftermix.merging.selection import Blocks
from aftermix.seeds import derived_seed


class Statistics(Protocol):
    """What was measured of one vector's model: :class:`aftermix.saliency.storage.Statistics`."""

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Linear weights whose layer saw no token."""

    def factor(self, name: str) -> torch.Tensor | None:
        """Mean squares of the input channels in a shape that multiplies the tensor; None for what has none."""


@dataclass(frozen=True)
class Importance:
    """Mean squares of the inputs of a linear layer, for every entry of its weight."""

    factor: torch.Tensor
    """Float32, of a shape that broadcasts to the weight's, e.g. (1, C), (C, 1) or (E, 1, C)."""
    shape: tuple[int, ...]

    def run(self, bounds: Bounds) -> torch.Tensor:
        """The factor of elements `bounds` of the flattened weight."""
        width, rows = self.shape[-1], self.shape[-2]
        first, last = bounds[0] // width, -(-bounds[1] // width)
        matrices = self.factor.expand(self.shape).reshape(-1, rows, width) if len(self.shape) > 3 else self._matrices()
        parts = [
            matrices[number][max(first - number * rows, 0) : min(last - number * rows, rows)]
            for number in range(first // rows, (last - 1) // rows + 1)
        ]
        return torch.cat(parts).reshape(-1)[bounds[0] - first * width : bounds[1] - first * width]

    def _matrices(self) -> torch.Tensor:
        """One matrix for each expert; a view, whatever the size."""
        whole = self.factor.expand(self.shape)
        return whole if whole.dim() == 3 else whole.unsqueeze(0)


Ranking = Importance | Literal["magnitude", "random"]
"""How the entries of one tensor are ranked."""


def ranking_of(statistics: Statistics, name: str, shape: tuple[int, ...]) -> Ranking:
    """Saliency for a linear weight; magnitude where its layer saw no token; a seeded random choice for all else.

    Within a tensor of experts, one that saw no token takes the mean of the others' factors, and so is ranked by
    magnitude among them. Source: SPEC section 2.
    """
    factor = statistics.factor(name)
    if factor is None:
        return "magnitude" if name in statistics.uncovered else "random"
    if len(shape) > 2:
        seen = factor.flatten(1).any(1)
        mean = factor[seen].mean(0, keepdim=True)
        factor = torch.where(seen.view(-1, *[1] * (factor.dim() - 1)), factor, mean)
    return Importance(factor, shape)


def scores(deltas: Blocks, ranking: Ranking, *, seed: int, key: tuple[str, str]) -> Blocks:
    """Non-negative scores of the entries of `deltas`, read block by block; larger comes first.

    Formula: `s_ij = h_jj * delta_ij^2`, `h_jj` the mean square of input channel j (OBIM, section 3.1, without the
    constant factor). `key` names vector and tensor for a random ranking, which is drawn block by block.
    """
    if ranking == "magnitude":
        return deltas
    if ranking == "random":
        starts = [bounds[0] for bounds in deltas.bounds]

        def drawn(bounds: Bounds) -> torch.Tensor:
            number = bisect_right(starts, bounds[0]) - 1
            start, end = deltas.bounds[number]
            raw = np.random.SFC64(derived_seed(seed, "random selection", *key, start)).random_raw(
                (end - start + 1) // 2
            )
            # 30 bits, so that every value is a finite number when its bits are read as one.
            bits = raw.astype("<u8", copy=False).view("<u4")[bounds[0] - start : bounds[1] - start] >> np.uint32(2)
            return torch.from_numpy(bits.view(np.float32))

        return Blocks(deltas.bounds, drawn)

    def salient(bounds: Bounds) -> torch.Tensor:
        return deltas.read(bounds).square_().mul_(ranking.run(bounds))

    return Blocks(deltas.bounds, salient)
