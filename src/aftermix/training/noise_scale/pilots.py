"""The scale of noise by the vectors of siblings: each tensor's noise has the norm that their vectors have there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from aftermix.checkpoints.formats.spans import split_into_spans
from aftermix.checkpoints.pool import ModelPool
from aftermix.errors import CheckpointError, TrainingError
from aftermix.training.optimizers.merge_aware import Distribution

UNIT_DEVIATIONS: Mapping[Distribution, float] = {"laplace": math.sqrt(2.0), "gaussian": 1.0}
"""Standard deviation of noise of scale 1."""


@dataclass(frozen=True)
class PilotScales:
    """Scales by tensor, and the norm that noise of these scales has in all."""

    by_tensor: dict[str, float]
    norm: float

    @property
    def tensors(self) -> int:
        """Number of tensors that move."""
        return len(self.by_tensor)


def measure_pilot_scales(pool: ModelPool, names: Sequence[str], *, distribution: Distribution) -> PilotScales:
    """Scale of each tensor of `names`: noise of that scale has the root mean square of the pilots' norms there.

    `pool` holds the pilots. A tensor that no pilot moved has no scale. Raises :class:`TrainingError` for a tensor
    that the base's files do not have, and where no pilot moved anything; :class:`CheckpointError` for NaN and Inf.
    """
    squares = {name: _measure_square(pool, name) for name in names}
    moved = {name: square for name, square in squares.items() if square > 0}
    if not moved:
        found = "no pilot moved any of the tensors that are trained"
        raise TrainingError("train.optimizer.scale.pilot", found, "Name experts trained from this base.")

    unit = UNIT_DEVIATIONS[distribution]
    scales = {name: math.sqrt(square / pool.frame.info(name).elements) / unit for name, square in moved.items()}
    return PilotScales(scales, math.sqrt(sum(moved.values())))


def _measure_square(pool: ModelPool, name: str) -> float:
    """Mean over the pilots of the squared norm of their vectors in one tensor."""
    if not pool.frame.has(name):
        found = f"transformers calls a weight '{name}', but the files have no such tensor to compare the pilots in"
        raise TrainingError("train.optimizer.scale.pilot", found, "Use `scale: {damage: 0.05}`, which needs no files.")

    info, total = pool.frame.info(name), 0.0
    for span in split_into_spans(info.elements):
        base = pool.read_base_block(info.name, span).to(torch.float32)
        for vector in pool.experts:
            out = torch.empty(span[1] - span[0])
            difference = pool.read_difference_block(info.name, vector, span, base=base, out=out)
            total += float(difference.double().square().sum())
    if not math.isfinite(total):
        raise CheckpointError(info.name, "a pilot holds NaN or Inf", "Use an earlier checkpoint of that model.")
    return total / len(pool.experts)
