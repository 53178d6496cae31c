"""From the parameters of a live model to the tensors that a merge streams: which statistic belongs to which name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aftermix.checkpoints.model import Model
from aftermix.errors import CheckpointError
from aftermix.saliency.statistics import Total, XStatistic, mean_squares

EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True)
class Place:
    """Location of a stored tensor in the live model."""

    target: str
    """Name of the parameter."""
    converted: bool = False
    """True if it is a part of the parameter, or in another layout."""
    transposed: bool = False
    """True if two of its dimensions may be exchanged in the live model."""


@dataclass(frozen=True, eq=False)
class Statistic:
    """Statistic of the inputs of one stored weight."""

    mean_square: torch.Tensor
    """float32 (C,), or (E, C) for experts that are stored in one tensor; 0 where no token came."""
    tokens: tuple[int, ...]
    """One count, or one for each of these experts."""
    axis: int
    """Dimension of the stored tensor that is the input channel."""


def stored_statistics(
    totals: Mapping[str, Total], model: Model, places: Mapping[str, Place], *, statistic: XStatistic
) -> dict[str, Statistic]:
    """Statistics by stored name, in order of name. `places` tells where the tensors of `model` lie.

    Raises :class:`CheckpointError` for a layout in which the input channel cannot be told, and for NaN or Inf.
    """
    means = {name: mean_squares(total.sums_EC, total.tokens, statistic).cpu() for name, total in totals.items()}
    found = {}
    for name, place in sorted(places.items()):
        if place.target in totals:
            found[name] = _statistic(name, place, model.info(name).shape, totals[place.target], means[place.target])
            if not bool(torch.isfinite(found[name].mean_square).all()):
                told = f"the inputs of this layer of {model.label} hold NaN or Inf"
                raise CheckpointError(name, told, "Use an earlier checkpoint, or `calibrate: {dtype: float32}`.")
    return found


def _statistic(name: str, place: Place, shape: tuple[int, ...], total: Total, means_EC: torch.Tensor) -> Statistic:
    axis = _axis(name, place, shape, total)
    number = EXPERT.search(name)
    if len(shape) == 3:
        return Statistic(means_EC, tuple(total.tokens), axis)
    expert = int(number[1]) if number and len(total.shape) == 3 else 0
    # Cloned: safetensors stores no two tensors that share memory.
    return Statistic(means_EC[expert].clone(), (total.tokens[expert],), axis)


def _axis(name: str, place: Place, shape: tuple[int, ...], total: Total) -> int:
    """The dimension that has one entry for each input channel."""
    usual = total.axis - len(total.shape) + len(shape)
    channels = total.shape[total.axis]
    first = 1 if len(shape) == 3 else 0
    fitting = [axis for axis in range(first, len(shape)) if shape[axis] == channels]
    if not place.converted or (usual in fitting and not (place.transposed and len(fitting) > 1)):
        return usual
    if len(fitting) == 1:
        return fitting[0]
    told = f"is stored as {shape} for a layer of {channels} inputs; which dimension they are cannot be told"
    raise CheckpointError(name, told, "Save the model again with transformers' `save_pretrained`.")
