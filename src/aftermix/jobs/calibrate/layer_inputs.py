"""Inputs of one expert's linear layers: its values put into a live model that is watched while it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter

from aftermix import progress
from aftermix.checkpoints.model import Model, read_tensor
from aftermix.config import CalibrateConfig
from aftermix.errors import CheckpointError
from aftermix.evaluation.engines.live_weights import LiveWeights
from aftermix.saliency.calibration_text import CalibrationSamples
from aftermix.saliency.naming import ChannelStatistic, ParameterLocation, name_statistics
from aftermix.saliency.observer import LayerObserver, list_linear_weights
from aftermix.saliency.passes import run_layer_by_layer, run_whole_model
from aftermix.saliency.statistics import ChannelSums
from aftermix.saliency.streamed_model import StreamedModel, build_empty_model
from aftermix.terminal import quiet_transformers


def measure_layer_inputs(
    expert: Model,
    architecture: dict[str, Any],
    samples: CalibrationSamples,
    settings: CalibrateConfig,
    device: torch.device,
    *,
    label: str,
) -> dict[str, ChannelStatistic]:
    """Measure the statistics, by stored name, of the forward passes of `expert` over `samples`."""
    dtype = _choose_dtype(expert, settings.dtype, device)
    with quiet_transformers():
        model = build_empty_model(architecture, dtype=dtype, label=expert.label)

    stored = StoredValues(expert, LiveWeights(model, expert))
    stored.refuse_homeless()
    live = StreamedModel(model, stored, device=device, label=expert.label)

    linear = list_linear_weights(model)
    observer = LayerObserver(settings.x_statistic)
    passes = run_layer_by_layer if settings.stream else run_whole_model
    batches = samples.build_batches(settings.batch_size, device=device)
    masks = samples.build_masks(settings.batch_size, device=device)
    passes(live, batches, observer, bar=_label_bar(f"calibrate {label}"), masks=masks)

    # A weight that no token reached is in the file all the same, with a total of nothing.
    unseen = {live.first_names[name]: ChannelSums(shape, axis, device) for name, (shape, axis) in linear.items()}
    places = stored.locate_tensors(live.first_names)
    return name_statistics(unseen | observer.totals, expert, places, statistic=settings.x_statistic)


@dataclass(frozen=True)
class StoredValues:
    """The values of a live model, by its own names, read from `checkpoint`."""

    checkpoint: Model
    weights: LiveWeights

    def stream_tensors(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
        """Name in the live model and values of what is `wanted`, one after the other."""
        done: set[str] = set()
        for name in self.checkpoint.tensors:
            route = self.weights.find_route(name)
            if route is None or route.target in done or not wanted(route.target):
                continue

            done.add(route.target)
            if route.pattern is None:
                yield route.target, read_tensor(self.checkpoint, name)
            else:
                parts = {part: self.weights.read_stored(part) for part in self.weights.list_members(route.target)}
                yield from self.weights.convert(route.target, parts).items()

    def locate_tensors(self, first_names: Mapping[str, str]) -> dict[str, ParameterLocation]:
        """Places of the stored tensors in the live model, by the first name of a tied parameter."""
        transposing = self._find_transposing()
        routes = {
            name: route for name in self.checkpoint.tensors if (route := self.weights.find_route(name)) is not None
        }
        return {
            name: ParameterLocation(
                first_names.get(route.target, route.target), route.pattern is not None, route.pattern in transposing
            )
            for name, route in routes.items()
        }

    def refuse_homeless(self) -> None:
        """Raise for tensors that transformers would leave out: the model would not be the one that is merged."""
        homeless = [
            info.name
            for info in self.checkpoint.tensors.values()
            if info.mergeable and self.weights.find_route(info.name) is None
        ]

        if homeless:
            found = f"{len(homeless)} of its tensors have no place in its architecture, first {homeless[0]}"
            raise CheckpointError(self.checkpoint.label, found, "Check that config.json belongs to these weights.")

    def _find_transposing(self) -> set[str | None]:
        """Patterns of converters that may exchange the dimensions of a tensor."""
        return {
            pattern
            for entry in get_model_conversion_mapping(self.weights._model)
            if isinstance(entry, WeightConverter)
            and any(type(operation).__name__ == "Transpose" for operation in entry.operations)
            for pattern in entry.source_patterns
        }


def _label_bar(label: str) -> Any:
    return lambda items, total, unit: progress.bar(items, label=label, total=total, unit=unit)


def _choose_dtype(model: Model, wanted: str, device: torch.device) -> torch.dtype:
    if wanted != "auto":
        return cast(torch.dtype, getattr(torch, wanted))
    if device.type == "cpu":
        return torch.float32
    return max(model.tensors.values(), key=lambda info: (info.mergeable, info.elements)).dtype
