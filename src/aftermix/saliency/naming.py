"""From the parameters of a live model to the tensors that a merge streams: which statistic belongs to which name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aftermix.checkpoints.model import Model
from aftermix.errors import CheckpointError
from aftermix.saliency.statistics import ChannelSums, XStatistic, average_squares

EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True)
class ParameterLocation:
    """Location of a stored tensor in the live model."""

    target: str
    """Name of the parameter."""
    converted: bool = False
    """True if it is a part of the parameter, or in another layout."""
    transposed: bool = False
    """True if two of its dimensions may be exchanged in the live model."""


@dataclass(frozen=True, eq=False)
class ChannelStatistic:
    """Statistic of the inputs of one stored weight."""

    mean_square: torch.Tensor
    """float32 (C,), or (E, C) for experts that are stored in one tensor; 0 where no token came."""
    tokens: tuple[int, ...]
    """One count, or one for each of these experts."""
    axis: int
    """Dimension of the stored tensor that is the input channel."""


def name_statistics(
    totals: Mapping[str, ChannelSums], model: Model, places: Mapping[str, ParameterLocation], *, statistic: XStatistic
) -> dict[str, ChannelStatistic]:
    """Statistics by stored name, in order of name. `places` tells where the tensors of `model` lie.

    Raises :class:`CheckpointError` for a layout in which the input channel cannot be told, and for NaN or Inf.
    """
    means = {name: average_squares(total.sums_EC, total.tokens, statistic).cpu() for name, total in totals.items()}
    statistics = {}
    for name, place in sorted(places.items()):
        if place.target in totals:
            statistics[name] = _build_statistic(
                name, place, model.info(name).shape, totals[place.target], means[place.target]
            )
            if not bool(torch.isfinite(statistics[name].mean_square).all()):
                fault = f"the inputs of this layer of {model.label} hold NaN or Inf"
                raise CheckpointError(name, fault, "Use an earlier checkpoint, or `calibrate: {dtype: float32}`.")
    return statistics


def _build_statistic(
    name: str, place: ParameterLocation, shape: tuple[int, ...], total: ChannelSums, means_EC: torch.Tensor
) -> ChannelStatistic:
    axis = _find_channel_axis(name, place, shape, total)
    number = EXPERT.search(name)
    if len(shape) == 3:
        return ChannelStatistic(means_EC, tuple(total.tokens), axis)
    expert = int(number[1]) if number and len(total.shape) == 3 else 0
    # Cloned: safetensors stores no two tensors that share memory.
    return ChannelStatistic(means_EC[expert].clone(), (total.tokens[expert],), axis)


def _find_channel_axis(name: str, place: ParameterLocation, shape: tuple[int, ...], total: ChannelSums) -> int:
    """The dimension that has one entry for each input channel."""
    usual = total.axis - len(total.shape) + len(shape)
    channels = total.shape[total.axis]
    first = 1 if len(shape) == 3 else 0
    fitting = [axis for axis in range(first, len(shape)) if shape[axis] == channels]
    if not place.converted or (usual in fitting and not (place.transposed and len(fitting) > 1)):
        return usual
    if len(fitting) == 1:
        return fitting[0]
    fault = f"is stored as {shape} for a layer of {channels} inputs; which dimension they are cannot be told"
    raise CheckpointError(name, fault, "Save the model again with transformers' `save_pretrained`.")
