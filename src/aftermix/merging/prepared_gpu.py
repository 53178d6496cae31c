"""Prepared vectors beside a live model on an accelerator: resident there, or streamed from pinned host memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from aftermix.merging.blocks import run_in_order, start_threads
from aftermix.merging.merge import Merger
from aftermix.merging.prepared import KeptTensors, PreparedVectors, count_prepared_bytes
from aftermix.merging.recipe import MergeRecipe, Weights
from aftermix.merging.rules.surveys import Combiner

SPARE_SHARE = 0.25
"""Of the accelerator's free memory: for what the model needs when it runs."""
CHUNK_ELEMENTS = 1 << 25
"""Elements combined at once; they bound the temporaries."""


@dataclass(frozen=True)
class ResidentVectors:
    """Twin of :class:`PreparedVectors` that computes on `device`, from tensors that lie there or in host memory."""

    prepared: PreparedVectors
    device: torch.device
    base: dict[str, torch.Tensor]
    """By tensor, the frame's own values, flattened, in their stored type."""
    kept: dict[str, KeptTensors]

    @property
    def merger(self) -> Merger:
        """The merge that is prepared."""
        return self.prepared.merger

    @property
    def unchanged(self) -> frozenset[str]:
        """Tensors that no weight moves."""
        return self.prepared.unchanged

    def with_recipe(self, recipe: MergeRecipe) -> ResidentVectors:
        """The same vectors, combined by another recipe, as :meth:`PreparedVectors.with_recipe` does."""
        return replace(self, prepared=self.prepared.with_recipe(recipe))

    def stream_merged(
        self,
        weights: Weights,
        *,
        place: Callable[[str], torch.Tensor | None] | None = None,  # noqa: ARG002 - copies on the device cost little
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The moved tensors for `weights` on the device, in their stored type.

        The same operations in the same order as on the CPU; devices may round a fused multiply-add differently.
        """
        self.merger.refuse_unfit_weights(weights)
        with start_threads(1) as pool:
            # On the CPU, where the coefficients of a tensor come out as they do for every other merge.
            combiners = run_in_order(
                pool, partial(self.prepared.build_combiner, weights), self.prepared.moved, threads=1
            )
            yield from self._stream_merged(weights, combiners)

    def _stream_merged(
        self, weights: Weights, combiners: Iterator[Combiner | None]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        for info, combiner in zip(self.prepared.moved, combiners, strict=True):
            own, dtype = self.merger.weigh(info, weights), self.merger.recipe.dtype or info.dtype
            result = torch.empty(info.elements, dtype=dtype, device=self.device)
            for start in range(0, info.elements, CHUNK_ELEMENTS):
                span = (start, min(start + CHUNK_ELEMENTS, info.elements))
                base = self._move_here(self.base[info.name][slice(*span)])
                kept = {
                    vector: self._move_here(tensor[slice(*span)]) for vector, tensor in self.kept[info.name].items()
                }
                result[slice(*span)] = self.merger.combine(info, span, base, kept, own, combiner=combiner)
            yield info.name, result.view(info.shape)

    def _move_here(self, part: torch.Tensor) -> torch.Tensor:
        return part.to(self.device, non_blocking=True)


def move_to_device(prepared: PreparedVectors, device: torch.device) -> PreparedVectors | ResidentVectors:
    """`prepared` as it serves a model on `device` best: unchanged on the CPU; on an accelerator resident where vectors
    and base fit into its free memory, else in pinned host memory, from which copies need not wait.
    """
    if device.type == "cpu":
        return prepared
    base = {info.name: prepared.merger.pool.read_base_block(info.name, (0, info.elements)) for info in prepared.moved}
    needed = count_prepared_bytes(prepared.merger) + sum(tensor.nbytes for tensor in base.values())
    free, _ = torch.cuda.mem_get_info(device)
    fits = needed <= free * (1 - SPARE_SHARE)

    def place_tensor(tensor: torch.Tensor) -> torch.Tensor:
        if fits:
            return tensor.to(device)
        return tensor if prepared.is_mapped else tensor.pin_memory()  # what is in a file stays there

    kept = {name: {v: place_tensor(tensor) for v, tensor in tensors.items()} for name, tensors in prepared.kept.items()}
    return ResidentVectors(prepared, device, {name: place_tensor(tensor) for name, tensor in base.items()}, kept)
