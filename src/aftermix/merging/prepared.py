"""Vectors prepared once for a whole search: a trial then costs one weighted combination.

What does not depend on the weights (trimming, masks, rescaling) is done when this is made. Kept tensors stay in memory
in float32 while they fit into `memory_bytes`, and go to a memory-mapped scratch file beyond that, which the operating
system keeps cached as far as it can.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from safetensors import safe_open

from aftermix.checkpoints.model import Bounds, TensorInfo
from aftermix.checkpoints.pool import is_finite, refuse_non_finite
from aftermix.checkpoints.reader import SINGLE
from aftermix.checkpoints.shards import TensorSpec, whole_tensors, write_shards
from aftermix.merging.blocks import BLOCK_ELEMENTS, block_bounds, in_order, worker_threads
from aftermix.merging.intra import Keeper
from aftermix.merging.merge import Merger, Weights, check_weights
from aftermix.progress import bar

MEMORY_SHARE = 0.5
"""Share of the available memory that prepared vectors may fill."""

COMBINED_ELEMENTS = 1 << 22
"""Most elements that a thread combines, block by block, before it takes the next: handing over costs time, too."""

Unit = tuple[TensorInfo, torch.Tensor, Bounds]
"""A run of blocks of a tensor, and the flat tensor that takes the result."""
Kept = dict[str, torch.Tensor]
"""By vector, one flattened tensor in float32."""


@dataclass(frozen=True)
class PreparedVectors:
    """Kept tensors of every vector, for the tensors that the merge moves."""

    merger: Merger
    moved: tuple[TensorInfo, ...]
    kept: dict[str, Kept]
    """By tensor."""
    scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def unchanged(self) -> frozenset[str]:
        """Tensors that no weight moves: they keep the base's values."""
        moved = {info.name for info in self.moved}
        return frozenset(info.name for info in self.merger.pool.layout if info.name not in moved)

    def merged(
        self, weights: Weights, *, place: Callable[[str], torch.Tensor | None] | None = None, threads: int | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The moved tensors for `weights`, in their stored type: to the bit what a merge to disk writes.

        Where `place` has a flat tensor for a name, the values are written there, block by block and cast to its type
        after that one rounding, and it is what comes out: a live model needs no second pass.
        """
        check_weights(self.merger.recipe, weights)
        threads = threads or torch.get_num_threads()
        with worker_threads(threads) as pool:
            units = self._units(place or (lambda _: None))
            for info, result, bounds in in_order(pool, partial(self._combine, weights), units, threads=threads):
                if bounds[1] == info.elements:
                    yield info.name, result.view(info.shape)

    def _units(self, place: Callable[[str], torch.Tensor | None]) -> Iterator[Unit]:
        for info in self.moved:
            result = place(info.name)
            if result is None:
                result = torch.empty(info.elements, dtype=self.merger.recipe.dtype or info.dtype)
            for bounds in block_bounds(info.shape, COMBINED_ELEMENTS) or [(0, 0)]:
                yield info, result, bounds

    def _combine(self, weights: Weights, unit: Unit) -> Unit:
        info, result, (first, last) = unit
        with torch.no_grad():
            for start in range(first, last, BLOCK_ELEMENTS):
                bounds = (start, min(start + BLOCK_ELEMENTS, last))
                kept = {vector: tensor[slice(*bounds)] for vector, tensor in self.kept[info.name].items()}
                base = self.merger.pool.frame.block(info.name, bounds)
                result[slice(*bounds)] = self.merger.combine(info, bounds, base, kept, weights)
        return unit


def prepared_bytes(merger: Merger) -> int:
    """Size in bytes of all kept tensors in float32."""
    elements = sum(info.elements for info in merger.pool.layout if merger.moves(info))
    return 4 * elements * len(merger.vectors)


def prepare_vectors(merger: Merger, *, memory_bytes: int | None = None, scratch: Path | None = None) -> PreparedVectors:
    """Prepare every vector of `merger`, checking each input tensor for NaN and Inf on the way.

    `memory_bytes` defaults to half of the memory that is free now. Raises :class:`CheckpointError` for unusable input.
    """
    moved = tuple(info for info in merger.pool.layout if merger.moves(info))
    for info in merger.pool.layout:
        if not merger.moves(info):  # checked here, since the result holds them and nothing else reads them
            for bounds in block_bounds(info.shape):
                merger.unmoved(info, bounds)
    budget = int(psutil.virtual_memory().available * MEMORY_SHARE) if memory_bytes is None else memory_bytes
    if prepared_bytes(merger) <= budget:
        return PreparedVectors(merger, moved, dict(_prepare(merger, moved, label="Preparing vectors")))
    folder = tempfile.TemporaryDirectory(prefix="aftermix-prepared-", dir=scratch)
    _spill(merger, moved, Path(folder.name))
    return PreparedVectors(merger, moved, _mapped(merger, moved, Path(folder.name)), folder)


def _prepare(merger: Merger, moved: tuple[TensorInfo, ...], *, label: str) -> Iterator[tuple[str, Kept]]:
    threads = torch.get_num_threads()
    with worker_threads(threads) as pool:
        for info in bar(moved, label=label, unit="tensor"):
            surveys = merger.surveys(info, merger.vectors)
            found = in_order(pool, lambda survey: survey(), surveys, threads=threads)
            keepers = {vector: keeper for part in found for vector, keeper in part.items()}
            tensors = in_order(pool, partial(_kept_tensor, merger, info, keepers), merger.vectors, threads=threads)
            yield info.name, dict(zip(merger.vectors, tensors, strict=True))


def _kept_tensor(merger: Merger, info: TensorInfo, keepers: Mapping[str, Keeper], vector: str) -> torch.Tensor:
    """What `vector` keeps of one tensor, flattened."""
    keeper = keepers[vector]
    kept = torch.empty(info.elements, dtype=torch.float32)
    for start, end in block_bounds(info.shape):
        kept[start:end] = keeper(merger.operand(info, vector, (start, end)), start)
        if not is_finite(kept[start:end]):
            merger.pool.refuse_non_finite_inputs(info.name, (start, end), vectors=[vector])
            refuse_non_finite(kept[start:end], info.name, f"what vector '{vector}' keeps")
    return kept


def _spill(merger: Merger, moved: tuple[TensorInfo, ...], folder: Path) -> None:
    layout = [TensorSpec(f"{v}/{info.name}", (info.elements,), torch.float32) for info in moved for v in merger.vectors]
    prepared = _prepare(merger, moved, label="Preparing vectors (on disk)")
    tensors = ((f"{vector}/{name}", kept[vector]) for name, kept in prepared for vector in merger.vectors)
    write_shards(folder, whole_tensors(tensors), [layout])


def _mapped(merger: Merger, moved: tuple[TensorInfo, ...], folder: Path) -> dict[str, Kept]:
    with safe_open(str(folder / SINGLE), framework="pt") as handle:
        return {info.name: {v: handle.get_tensor(f"{v}/{info.name}") for v in merger.vectors} for info in moved}
