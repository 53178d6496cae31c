"""Elements of a parameter that this process holds: all of them, or its shard of a DTensor (FSDP2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed import tensor as distributed_tensor

from aftermix.errors import TrainingError
from aftermix.training.optimizers.noise import count_block_elements


@dataclass(frozen=True)
class LocalShard:
    """The local part of one parameter."""

    local: torch.Tensor
    """The storage that training moves; contiguous, or else handled whole."""
    shape: tuple[int, ...]
    """Shape of the whole parameter."""
    offset: tuple[int, ...]
    """First element of `local` in it, by dimension."""

    @property
    def total(self) -> int:
        """Elements of the whole parameter."""
        return math.prod(self.shape)

    @property
    def is_one_run(self) -> bool:
        """True when the local elements are one run of the whole parameter's row-major order."""
        return self.local.is_contiguous() and tuple(self.local.shape[1:]) == self.shape[1:]

    @property
    def start(self) -> int:
        """First element of the rows that `local` has a part in."""
        return self.offset[0] * math.prod(self.shape[1:]) if self.shape else 0

    @property
    def stop(self) -> int:
        """Behind the last element of those rows."""
        return self.start + (len(self.local) * math.prod(self.shape[1:]) if self.shape else 1)

    def select_columns(self) -> tuple[slice, ...]:
        """Slices of those rows that are local, for every dimension but the first."""
        sizes = self.local.shape[1:]
        return tuple(slice(first, first + size) for first, size in zip(self.offset[1:], sizes, strict=True))

    def copy_part(self, whole: torch.Tensor) -> torch.Tensor:
        """A copy of the local part of a tensor that has the parameter's whole shape."""
        bounds = zip(self.offset, self.local.shape, strict=True)
        return whole[tuple(slice(first, first + size) for first, size in bounds)].clone()


def locate_shard(parameter: torch.Tensor) -> LocalShard:
    """Local part of `parameter`, and its position in the whole.

    Raises :class:`TrainingError` for FSDP1's flat parameters, which hide what they are made of.
    """
    if getattr(parameter, "_is_flat_param", False):
        found = "its parameters are flattened by FSDP version 1"
        raise TrainingError("optimizer", found, "Use FSDP version 2 (`fully_shard`, `fsdp_version: 2`).")

    sharded: Any = parameter
    if not isinstance(parameter, distributed_tensor.DTensor):
        shape = tuple(parameter.shape)
        return LocalShard(parameter.detach(), shape, (0,) * len(shape))

    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(sharded.shape, sharded.device_mesh, sharded.placements)
    return LocalShard(sharded.to_local().detach(), tuple(sharded.shape), tuple(offset))


def iterate_blocks(shard: LocalShard) -> Iterator[tuple[int, int, slice, slice]]:
    """The noise blocks that meet the local rows: index, elements of the block, part of the block, part of the rows."""
    start, stop, size = shard.start, shard.stop, count_block_elements(shard.local.device)
    for index in range(start // size, -(-stop // size)):
        first = index * size
        count = min(size, shard.total - first)
        begin, end = max(start, first), min(stop, first + count)
        yield index, count, slice(begin - first, end - first), slice(begin - start, end - start)
