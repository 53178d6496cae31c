"""Vectors prepared once for a whole search: a trial then costs one weighted combination.

What does not depend on the weights (trimming, masks, rescaling) is done when this is made. Kept tensors stay in memory
in float32 while they fit into `memory_bytes`, and go to a memory-mapped scratch file beyond that, which the operating
system keeps cached as far as it can.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import safe_open

from aftermix.checkpoints.model import Bounds, TensorInfo
from aftermix.checkpoints.pool import largest_of, refuse_non_finite
from aftermix.checkpoints.reader import SINGLE
from aftermix.checkpoints.shards import TensorSpec, whole_tensors, write_shards
from aftermix.merging.blocks import BLOCK_ELEMENTS, block_bounds, in_order, worker_threads
from aftermix.merging.merge import Merger, Weights, check_weights
from aftermix.merging.rules.intra import Keeper
from aftermix.merging.rules.surveys import Combiner
from aftermix.merging.topk.magnitude import Blocks
from aftermix.progress import bar

MEMORY_SHARE = 0.5
"""Share of the available memory that prepared vectors may fill."""

COMBINED_ELEMENTS = 1 << 22
"""Most elements that a thread combines, block by block, before it takes the next: handing over costs time, too."""

Unit = tuple[TensorInfo, torch.Tensor, Bounds, bool, Combiner | None]
"""A run of blocks of a tensor, the flat tensor for the result, whether that is known to be finite, its combiner."""
Largest = tuple[float, dict[str, float]]
"""The largest magnitude in the base, and in what each vector keeps."""
Kept = dict[str, torch.Tensor]
"""By vector, one flattened tensor in float32."""


@dataclass(frozen=True)
class PreparedVectors:
    """Kept tensors of every vector, for the tensors that the merge moves."""

    merger: Merger
    moved: tuple[TensorInfo, ...]
    kept: dict[str, Kept]
    """By tensor."""
    largest: dict[str, Largest]
    """By tensor, what tells beforehand that no trial can overflow."""
    scratch: tempfile.TemporaryDirectory[str] | None = None
    facts: dict[tuple[str, ...], Any] = field(default_factory=dict)
    """By the name of a tensor and the vectors in use, what the inter rule has seen of them."""

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
            combiners = in_order(pool, partial(self.combiner, weights), self.moved, threads=threads)
            units = self._units(weights, combiners, place or (lambda _: None))
            for info, result, bounds, *_ in in_order(pool, partial(self._combine, weights), units, threads=threads):
                if bounds[1] == info.elements:
                    yield info.name, result.view(info.shape)

    def combiner(self, weights: Weights, info: TensorInfo) -> Combiner | None:
        """Combiner of the blocks of one tensor; None where no vector has a weight. What it takes to know is kept."""
        active = self.merger.active(weights)
        if not active:
            return None

        key = (info.name, *active)
        facts = self.facts.get(key)
        if facts is None:
            kept = {v: _blocks_of(info, tensor) for v, tensor in self.kept[info.name].items()}
            facts = self.merger.survey(info, weights, kept=kept)
            if not self.merger.recipe.method.needs_whole_tensors:
                self.facts[key] = facts
        return self.merger.combiner(facts, weights)

    def _units(
        self, weights: Weights, combiners: Iterator[Combiner | None], place: Callable[[str], torch.Tensor | None]
    ) -> Iterator[Unit]:
        for info, combiner in zip(self.moved, combiners, strict=True):
            finite = self._is_within_range(info, weights)
            result = place(info.name)
            if result is None:
                result = torch.empty(info.elements, dtype=self.merger.recipe.dtype or info.dtype)
            for bounds in block_bounds(info.shape, COMBINED_ELEMENTS) or [(0, 0)]:
                yield info, result, bounds, finite, combiner

    def _combine(self, weights: Weights, unit: Unit) -> Unit:
        info, result, (first, last), finite, combiner = unit
        with torch.no_grad():
            for start in range(first, last, BLOCK_ELEMENTS):
                bounds = (start, min(start + BLOCK_ELEMENTS, last))
                kept = {vector: tensor[slice(*bounds)] for vector, tensor in self.kept[info.name].items()}
                base = self.merger.pool.frame.block(info.name, bounds)
                merged = self.merger.combine(info, bounds, base, kept, weights, combiner=combiner, known_finite=finite)
                result[slice(*bounds)] = merged
        return unit

    def _is_within_range(self, info: TensorInfo, weights: Weights) -> bool:
        """True where no entry of the merged tensor can exceed its stored type, whatever its block."""
        recipe, (base, kept) = self.merger.recipe, self.largest[info.name]
        reach = abs(recipe.scale) * recipe.method.reach({v: weights[v] for v in self.merger.active(weights)}, kept)
        # Half of the range leaves room for the rounding of a few sums.
        return base + reach < torch.finfo(recipe.dtype or info.dtype).max / 2


def _blocks_of(info: TensorInfo, tensor: torch.Tensor) -> Blocks:
    return Blocks(block_bounds(info.shape), lambda bounds: tensor[slice(*bounds)].clone())


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

    # Memory as far as it goes; one scratch file for all where it does not.
    budget = int(psutil.virtual_memory().available * MEMORY_SHARE) if memory_bytes is None else memory_bytes
    largest: dict[str, Largest] = {}
    if prepared_bytes(merger) <= budget:
        kept = dict(_prepare(merger, moved, largest, label="Preparing vectors"))
        return PreparedVectors(merger, moved, kept, largest)

    folder = tempfile.TemporaryDirectory(prefix="aftermix-prepared-", dir=scratch)
    _spill(merger, moved, largest, Path(folder.name))
    return PreparedVectors(merger, moved, _mapped(merger, moved, Path(folder.name)), largest, folder)


def _prepare(
    merger: Merger, moved: tuple[TensorInfo, ...], largest: dict[str, Largest], *, label: str
) -> Iterator[tuple[str, Kept]]:
    """Kept tensors by tensor name; `largest` is filled on the way."""
    threads = torch.get_num_threads()
    with worker_threads(threads) as pool:
        for info in bar(moved, label=label, unit="tensor"):
            surveys = merger.surveys(info, merger.vectors)
            found = in_order(pool, lambda survey: survey(), surveys, threads=threads)
            keepers = {vector: keeper for part in found for vector, keeper in part.items()}

            prepare = partial(_kept_tensor, merger, info, keepers)
            tensors = dict(zip(merger.vectors, in_order(pool, prepare, merger.vectors, threads=threads), strict=True))
            largest[info.name] = _largest_of_base(merger, info), {v: reach for v, (_, reach) in tensors.items()}
            yield info.name, {vector: tensor for vector, (tensor, _) in tensors.items()}


def _largest_of_base(merger: Merger, info: TensorInfo) -> float:
    largest = 0.0
    for bounds in block_bounds(info.shape):
        reach = largest_of(merger.pool.base_block(info.name, bounds))
        if not math.isfinite(reach):
            merger.pool.refuse_non_finite_inputs(info.name, bounds, vectors=[])
        largest = max(largest, reach)
    return largest


def _kept_tensor(
    merger: Merger, info: TensorInfo, keepers: Mapping[str, Keeper], vector: str
) -> tuple[torch.Tensor, float]:
    """Entries that `vector` keeps of one tensor, flattened, and the largest magnitude of them."""
    keeper, largest = keepers[vector], 0.0
    kept = torch.empty(info.elements, dtype=torch.float32)
    for start, end in block_bounds(info.shape):
        kept[start:end] = keeper(merger.operand(info, vector, (start, end)), start)
        reach = largest_of(kept[start:end])
        if not math.isfinite(reach):
            merger.pool.refuse_non_finite_inputs(info.name, (start, end), vectors=[vector])
            refuse_non_finite(kept[start:end], info.name, f"what vector '{vector}' keeps")
        largest = max(largest, reach)
    return kept, largest


def _spill(merger: Merger, moved: tuple[TensorInfo, ...], largest: dict[str, Largest], folder: Path) -> None:
    layout = [TensorSpec(f"{v}/{info.name}", (info.elements,), torch.float32) for info in moved for v in merger.vectors]
    prepared = _prepare(merger, moved, largest, label="Preparing vectors (on disk)")
    tensors = ((f"{vector}/{name}", kept[vector]) for name, kept in prepared for vector in merger.vectors)
    write_shards(folder, whole_tensors(tensors), [layout])


def _mapped(merger: Merger, moved: tuple[TensorInfo, ...], folder: Path) -> dict[str, Kept]:
    with safe_open(str(folder / SINGLE), framework="pt") as handle:
        return {info.name: {v: handle.get_tensor(f"{v}/{info.name}") for v in merger.vectors} for info in moved}
