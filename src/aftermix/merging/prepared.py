"""Vectors prepared once for a whole search: a trial then costs one weighted combination.

What does not depend on the weights (trimming, masks, rescaling) is done when this is made. Kept tensors stay in memory
in their working type while they fit into `memory_bytes`, and go to a memory-mapped scratch file beyond that, which the
operating system keeps cached as far as it can.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import safe_open

from aftermix.checkpoints.formats.weight_files import SINGLE
from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.checkpoints.pool import find_largest_magnitude, refuse_non_finite
from aftermix.checkpoints.shards import TensorSpec, stream_whole_tensors, write_shards
from aftermix.merging.blocks import BLOCK_ELEMENTS, list_block_spans, run_in_order, start_threads
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe, TensorWeights, Weights
from aftermix.merging.rules.intra import Pruner
from aftermix.merging.rules.surveys import Combiner
from aftermix.merging.temporaries import choose_working_type
from aftermix.merging.topk.magnitude import TensorBlocks
from aftermix.progress import bar

MEMORY_SHARE = 0.5
"""Share of the available memory that prepared vectors may fill."""

COMBINED_ELEMENTS = 1 << 22
"""Most elements that a thread combines, block by block, before it takes the next: handing over costs time, too."""

LargestMagnitudes = tuple[float, dict[str, float]]
"""The largest magnitude in the base, and in what each vector keeps."""
KeptTensors = dict[str, torch.Tensor]
"""By vector, one flattened tensor in its working type."""


@dataclass(frozen=True)
class CombinationPlan:
    """One tensor to combine for a trial."""

    info: TensorInfo
    weights: TensorWeights
    combiner: Combiner | None
    result: torch.Tensor
    """Flat, for the values to be written to."""
    known_finite: bool
    """True where no entry can exceed the stored type, so that none is looked at."""


@dataclass(frozen=True)
class BlockRun:
    """A run of blocks of one tensor, which a thread combines one after the other."""

    plan: CombinationPlan
    span: Span

    @property
    def spans(self) -> Iterator[Span]:
        """The blocks."""
        start, stop = self.span
        return ((first, min(first + BLOCK_ELEMENTS, stop)) for first in range(start, stop, BLOCK_ELEMENTS))

    @property
    def ends_tensor(self) -> bool:
        """True for the last run of its tensor."""
        return self.span[1] == self.plan.info.elements


@dataclass(frozen=True)
class PreparedVectors:
    """Kept tensors of every vector, for the tensors that the merge moves."""

    merger: Merger
    moved: tuple[TensorInfo, ...]
    kept: dict[str, KeptTensors]
    """By tensor."""
    largest: dict[str, LargestMagnitudes]
    """By tensor, what tells beforehand that no trial can overflow."""
    scratch: tempfile.TemporaryDirectory[str] | None = None
    is_mapped: bool = False
    """True where the kept tensors are those of a file."""
    facts: dict[tuple[str, ...], Any] = field(default_factory=dict)
    """By the name of a tensor and the vectors in use, what the inter rule has seen of them."""

    @property
    def unchanged(self) -> frozenset[str]:
        """Tensors that no weight moves: they keep the base's values."""
        moved = {info.name for info in self.moved}
        return frozenset(info.name for info in self.merger.pool.layout if info.name not in moved)

    def with_recipe(self, recipe: MergeRecipe) -> PreparedVectors:
        """The same vectors, combined by another recipe: one under which each of them keeps what it has kept."""
        if recipe is self.merger.recipe:
            return self
        # What was found out over whole vectors holds under it too, so the merger is not built anew.
        return replace(self, merger=replace(self.merger, recipe=recipe))

    def stream_merged(
        self, weights: Weights, *, place: Callable[[str], torch.Tensor | None] | None = None, threads: int | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The moved tensors for `weights`, in their stored type: to the bit what a merge to disk writes.

        Where `place` has a flat tensor for a name, the values are written there, block by block and cast to its type
        after that one rounding, and it is what comes out: a live model needs no second pass.
        """
        self.merger.refuse_unfit_weights(weights)
        threads = threads or torch.get_num_threads()
        with start_threads(threads) as pool:
            combiners = run_in_order(pool, partial(self.build_combiner, weights), self.moved, threads=threads)
            plans = self._plan_tensors(weights, combiners, place or (lambda _: None))
            runs = (
                BlockRun(plan, span)
                for plan in plans
                for span in list_block_spans(plan.info.shape, COMBINED_ELEMENTS) or [(0, 0)]
            )
            for run in run_in_order(pool, self._combine, runs, threads=threads):
                if run.ends_tensor:
                    yield run.plan.info.name, run.plan.result.view(run.plan.info.shape)

    def build_combiner(self, weights: Weights, info: TensorInfo) -> Combiner | None:
        """Combiner of the blocks of one tensor; None where no vector has a weight. What it takes to know is kept."""
        own = self.merger.weigh(info, weights)
        active = self.merger.list_active(own)
        if not active:
            return None

        key = (info.name, *active)
        facts = self.facts.get(key)
        if facts is None:
            kept = {v: _open_blocks(info, tensor) for v, tensor in self.kept[info.name].items()}
            facts = self.merger.survey(info, own, kept=kept)
            if not self.merger.recipe.method.needs_whole_tensors:
                self.facts[key] = facts
        return self.merger.build_combiner(facts, own)

    def _plan_tensors(
        self, weights: Weights, combiners: Iterator[Combiner | None], place: Callable[[str], torch.Tensor | None]
    ) -> Iterator[CombinationPlan]:
        for info, combiner in zip(self.moved, combiners, strict=True):
            own = self.merger.weigh(info, weights)
            known_finite = self._is_within_range(info, own)
            result = place(info.name)
            if result is None:
                result = torch.empty(info.elements, dtype=self.merger.recipe.dtype or info.dtype)
            yield CombinationPlan(info, own, combiner, result, known_finite)

    def _combine(self, run: BlockRun) -> BlockRun:
        """The run itself, when its values are in the result."""
        plan, info = run.plan, run.plan.info
        with torch.no_grad():
            for span in run.spans:
                kept = {vector: tensor[slice(*span)] for vector, tensor in self.kept[info.name].items()}
                base = self.merger.pool.frame.read_block(info.name, span)
                plan.result[slice(*span)] = self.merger.combine(
                    info, span, base, kept, plan.weights, combiner=plan.combiner, known_finite=plan.known_finite
                )
        return run

    def _is_within_range(self, info: TensorInfo, weights: TensorWeights) -> bool:
        """True where no entry of the merged tensor can exceed its stored type, whatever its block."""
        recipe, (base, kept) = self.merger.recipe, self.largest[info.name]
        largest_possible = abs(recipe.scale) * recipe.method.largest_possible(
            {v: weights[v] for v in self.merger.list_active(weights)}, kept
        )
        # Half of the range leaves room for the rounding of a few sums.
        return base + largest_possible < torch.finfo(recipe.dtype or info.dtype).max / 2


def _open_blocks(info: TensorInfo, tensor: torch.Tensor) -> TensorBlocks:
    return TensorBlocks(list_block_spans(info.shape), lambda span: tensor[slice(*span)].clone())


def count_prepared_bytes(merger: Merger) -> int:
    """Size in bytes of all kept tensors in their working types."""
    sizes = (info.elements * choose_working_type(info.dtype).itemsize for info in list_moved(merger))
    return len(merger.vectors) * sum(sizes)


def prepare_vectors(merger: Merger, *, memory_bytes: int | None = None, scratch: Path | None = None) -> PreparedVectors:
    """Prepare every vector of `merger`, checking each input tensor for NaN and Inf on the way.

    `memory_bytes` defaults to half of the memory that is free now. Raises :class:`CheckpointError` for unusable input.
    """
    moved = list_moved(merger)

    # Memory as far as it goes; one scratch file for all where it does not.
    budget = int(psutil.virtual_memory().available * MEMORY_SHARE) if memory_bytes is None else memory_bytes
    if count_prepared_bytes(merger) <= budget:
        largest: dict[str, LargestMagnitudes] = {}
        kept = dict(_prepare(merger, moved, largest, label="Preparing vectors"))
        return PreparedVectors(merger, moved, kept, largest)

    folder = tempfile.TemporaryDirectory(prefix="aftermix-prepared-", dir=scratch)
    largest = spill_vectors(merger, moved, Path(folder.name), label="Preparing vectors (on disk)")
    kept = map_tensors(merger, moved, Path(folder.name))
    return PreparedVectors(merger, moved, kept, largest, folder, is_mapped=True)


def list_moved(merger: Merger) -> tuple[TensorInfo, ...]:
    """Tensors that `merger` moves."""
    return tuple(info for info in merger.pool.layout if merger.moves(info))


def _prepare(
    merger: Merger, moved: tuple[TensorInfo, ...], largest: dict[str, LargestMagnitudes], *, label: str
) -> Iterator[tuple[str, KeptTensors]]:
    """Kept tensors by tensor name; `largest` is filled on the way."""
    for info in merger.pool.layout:
        if not merger.moves(info):  # checked here, since the result holds them and nothing else reads them
            for span in list_block_spans(info.shape):
                merger.read_unmoved(info, span)

    threads = torch.get_num_threads()
    with start_threads(threads) as pool:
        for info in bar(moved, label=label, unit="tensor"):
            groups = merger.group_surveys(merger.vectors)
            pruners_by_group = run_in_order(pool, partial(merger.build_pruners, info), groups, threads=threads)
            pruners = {vector: pruner for part in pruners_by_group for vector, pruner in part.items()}

            prepare = partial(_prune_tensor, merger, info, pruners)
            tensors = dict(
                zip(merger.vectors, run_in_order(pool, prepare, merger.vectors, threads=threads), strict=True)
            )
            largest[info.name] = (
                _find_base_largest(merger, info),
                {v: magnitude for v, (_, magnitude) in tensors.items()},
            )
            yield info.name, {vector: tensor for vector, (tensor, _) in tensors.items()}


def _find_base_largest(merger: Merger, info: TensorInfo) -> float:
    largest = 0.0
    for span in list_block_spans(info.shape):
        magnitude = find_largest_magnitude(merger.pool.read_base_block(info.name, span))
        if not math.isfinite(magnitude):
            merger.pool.refuse_non_finite_inputs(info.name, span, vectors=[])
        largest = max(largest, magnitude)
    return largest


def _prune_tensor(
    merger: Merger, info: TensorInfo, pruners: Mapping[str, Pruner], vector: str
) -> tuple[torch.Tensor, float]:
    """Entries that `vector` keeps of one tensor, flattened, and the largest magnitude of them."""
    pruner, largest = pruners[vector], 0.0
    kept = torch.empty(info.elements, dtype=choose_working_type(info.dtype))
    for start, end in list_block_spans(info.shape):
        kept[start:end] = pruner(merger.read_operand(info, vector, (start, end)), start)
        magnitude = find_largest_magnitude(kept[start:end])
        if not math.isfinite(magnitude):
            merger.pool.refuse_non_finite_inputs(info.name, (start, end), vectors=[vector])
            refuse_non_finite(kept[start:end], info.name, f"what vector '{vector}' keeps")
        largest = max(largest, magnitude)
    return kept, largest


def spill_vectors(
    merger: Merger, moved: tuple[TensorInfo, ...], folder: Path, *, label: str = "Preparing vectors"
) -> dict[str, LargestMagnitudes]:
    """Write the kept tensors of every vector into `folder`, and return what tells that no trial can overflow."""
    layout = [
        TensorSpec(f"{v}/{info.name}", (info.elements,), choose_working_type(info.dtype))
        for info in moved
        for v in merger.vectors
    ]
    largest: dict[str, LargestMagnitudes] = {}
    prepared = _prepare(merger, moved, largest, label=label)
    tensors = ((f"{vector}/{name}", kept[vector]) for name, kept in prepared for vector in merger.vectors)
    write_shards(folder, stream_whole_tensors(tensors), [layout])
    return largest


def map_tensors(merger: Merger, moved: tuple[TensorInfo, ...], folder: Path) -> dict[str, KeptTensors]:
    """The kept tensors in `folder`, memory-mapped."""
    with safe_open(str(folder / SINGLE), framework="pt") as handle:
        return {info.name: {v: handle.get_tensor(f"{v}/{info.name}") for v in merger.vectors} for info in moved}
