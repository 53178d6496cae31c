"""Vectors prepared once for a whole search: a trial then costs one weighted combination.

What does not depend on the weights (trimming, masks, rescaling) is done when this is made. Kept tensors stay in memory
in float32 while they fit into `memory_bytes`, and go to a memory-mapped scratch file beyond that, which the operating
system keeps cached as far as it can.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from safetensors import safe_open

from aftermix.checkpoints.reader import TensorInfo
from aftermix.checkpoints.shards import TensorSpec, write_shards
from aftermix.merging.merge import Merger, Weights, check_weights
from aftermix.progress import bar

MEMORY_SHARE = 0.5
"""Share of the available memory that prepared vectors may fill."""


@dataclass(frozen=True)
class PreparedVectors:
    """Kept tensors of every vector, and the base's tensors that the merge moves."""

    merger: Merger
    moved: tuple[TensorInfo, ...]
    base: dict[str, torch.Tensor]
    kept: dict[str, dict[str, torch.Tensor]]
    """By tensor, then by vector."""
    scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def unchanged(self) -> frozenset[str]:
        """Tensors that no weight moves: they keep what the live model already holds."""
        moved = {info.name for info in self.moved}
        return frozenset(info.name for info in self.merger.pool.layout if info.name not in moved)

    def merged(self, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
        """The moved tensors for `weights`, in their stored type: to the bit what a merge to disk writes."""
        check_weights(self.merger.recipe, weights)
        for info in self.moved:
            yield info.name, self.merger.combine(info, self.base[info.name], self.kept[info.name], weights)


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
        merger.pool.base_tensor(info.name)  # excluded tensors are checked too: the result holds them
    base = {info.name: merger.pool.base_tensor(info.name) for info in moved}
    budget = int(psutil.virtual_memory().available * MEMORY_SHARE) if memory_bytes is None else memory_bytes
    if prepared_bytes(merger) <= budget:
        kept = {info.name: _kept(merger, info) for info in bar(moved, label="Preparing vectors", unit="tensor")}
        return PreparedVectors(merger, moved, base, kept)
    folder = tempfile.TemporaryDirectory(prefix="aftermix-prepared-", dir=scratch)
    _spill(merger, moved, Path(folder.name))
    return PreparedVectors(merger, moved, base, _mapped(moved, merger.vectors, Path(folder.name)), folder)


def _kept(merger: Merger, info: TensorInfo) -> dict[str, torch.Tensor]:
    base = merger.pool.base_tensor(info.name).to(torch.float32)
    return {vector: merger.prepare(info, vector, base) for vector in merger.vectors}


def _spill(merger: Merger, moved: tuple[TensorInfo, ...], folder: Path) -> None:
    layout = [TensorSpec(f"{v}/{info.name}", info.shape, torch.float32) for info in moved for v in merger.vectors]

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for info in bar(moved, label="Preparing vectors (on disk)", unit="tensor"):
            for vector, tensor in _kept(merger, info).items():
                yield f"{vector}/{info.name}", tensor

    write_shards(folder, stream(), [layout])


def _mapped(
    moved: tuple[TensorInfo, ...], vectors: tuple[str, ...], folder: Path
) -> dict[str, dict[str, torch.Tensor]]:
    with safe_open(str(folder / "model.safetensors"), framework="pt") as handle:
        return {info.name: {v: handle.get_tensor(f"{v}/{info.name}") for v in vectors} for info in moved}
