"""Prepared vectors beside a live model on an accelerator: resident there, or streamed from pinned host memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from aftermix.merging.blocks import in_order, worker_threads
from aftermix.merging.merge import Merger, Weights, check_weights
from aftermix.merging.prepared import Kept, PreparedVectors, prepared_bytes
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
    kept: dict[str, Kept]

    @property
    def merger(self) -> Merger:
        """The merge that is prepared."""
        return self.prepared.merger

    @property
    def unchanged(self) -> frozenset[str]:
        """Tensors that no weight moves."""
        return self.prepared.unchanged

    def merged(
        self,
        weights: Weights,
        *,
        place: Callable[[str], torch.Tensor | None] | None = None,  # noqa: ARG002 - copies on the device cost little
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The moved tensors for `weights` on the device, in their stored type.

        The same operations in the same order as on the CPU; devices may round a fused multiply-add differently.
        """
        check_weights(self.merger.recipe, weights)
        with worker_threads(1) as pool:
            # On the CPU, where the coefficients of a tensor come out as they do for every other merge.
            combiners = in_order(pool, partial(self.prepared.combiner, weights), self.prepared.moved, threads=1)
            yield from self._merged(weights, combiners)

    def _merged(self, weights: Weights, combiners: Iterator[Combiner | None]) -> Iterator[tuple[str, torch.Tensor]]:
        for info, combiner in zip(self.prepared.moved, combiners, strict=True):
            dtype = self.merger.recipe.dtype or info.dtype
            result = torch.empty(info.elements, dtype=dtype, device=self.device)
            for start in range(0, info.elements, CHUNK_ELEMENTS):
                bounds = (start, min(start + CHUNK_ELEMENTS, info.elements))
                base = self._here(self.base[info.name][slice(*bounds)])
                kept = {vector: self._here(tensor[slice(*bounds)]) for vector, tensor in self.kept[info.name].items()}
                result[slice(*bounds)] = self.merger.combine(info, bounds, base, kept, weights, combiner=combiner)
            yield info.name, result.view(info.shape)

    def _here(self, part: torch.Tensor) -> torch.Tensor:
        return part.to(self.device, non_blocking=True)


def beside(prepared: PreparedVectors, device: torch.device) -> PreparedVectors | ResidentVectors:
    """`prepared` as it serves a model on `device` best: unchanged on the CPU; on an accelerator resident where vectors
    and base fit into its free memory, else in pinned host memory, from which copies need not wait.
    """
    if device.type == "cpu":
        return prepared
    base = {info.name: prepared.merger.pool.base_block(info.name, (0, info.elements)) for info in prepared.moved}
    needed = prepared_bytes(prepared.merger) + sum(tensor.nbytes for tensor in base.values())
    free, _ = torch.cuda.mem_get_info(device)
    fits = needed <= free * (1 - SPARE_SHARE)

    def placed(tensor: torch.Tensor) -> torch.Tensor:
        if fits:
            return tensor.to(device)
        return tensor if prepared.scratch is not None else tensor.pin_memory()  # what is on disk stays there

    kept = {name: {v: placed(tensor) for v, tensor in tensors.items()} for name, tensors in prepared.kept.items()}
    return ResidentVectors(prepared, device, {name: placed(tensor) for name, tensor in base.items()}, kept)
