"""Safetensors files written as a stream: the header is known beforehand, so no more than one tensor is in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from aftermix.checkpoints.reader import DTYPES, INDEX, SINGLE, TensorInfo
from aftermix.errors import CheckpointError

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and stored type of a tensor that is going to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(info: TensorInfo, dtype: torch.dtype | None = None) -> TensorSpec:
        """The place of a stored tensor in a result whose real-valued tensors are stored as `dtype`."""
        return TensorSpec(info.name, info.shape, dtype if dtype is not None and info.mergeable else info.dtype)

    @property
    def nbytes(self) -> int:
        """Stored size in bytes."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


def plan_shards(layout: Sequence[TensorSpec], max_shard_bytes: int) -> list[list[TensorSpec]]:
    """Split `layout`, kept in order, into files of at most `max_shard_bytes`; a larger tensor gets a file alone."""
    shards: list[list[TensorSpec]] = [[]]
    used = 0
    for spec in layout:
        if shards[-1] and used + spec.nbytes > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(spec)
        used += spec.nbytes
    return shards


def shard_names(count: int) -> list[str]:
    """File names in Hugging Face's scheme.

    >>> shard_names(1), shard_names(2)
    (['model.safetensors'], ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'])
    """
    return [SINGLE] if count == 1 else [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]


def write_shards(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], shards: list[list[TensorSpec]]) -> None:
    """Write `tensors`, which must arrive in the order of `shards`, and the index when there are several files.

    Raises :class:`CheckpointError` when a tensor is not the one announced.
    """
    stream = iter(tensors)
    names = shard_names(len(shards))
    for file_name, shard in zip(names, shards, strict=True):
        with (folder / file_name).open("wb") as file:
            _write_shard(file, stream, shard)
            file.flush()
            os.fsync(file.fileno())
    if next(stream, None) is not None:
        raise CheckpointError(str(folder), "more tensors arrived than were announced", "Report this as a fault.")
    if len(shards) > 1:
        total = sum(spec.nbytes for shard in shards for spec in shard)
        weight_map = {spec.name: file for file, shard in zip(names, shards, strict=True) for spec in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_shard(file: IO[bytes], stream: Iterator[tuple[str, torch.Tensor]], shard: list[TensorSpec]) -> None:
    file.write(_header(shard))
    for spec in shard:
        name, tensor = next(stream)
        if (name, tuple(tensor.shape), tensor.dtype) != (spec.name, spec.shape, spec.dtype):
            found = f"expected {spec}, found {name} {tuple(tensor.shape)} {tensor.dtype}"
            raise CheckpointError(spec.name, found, "Report this as a fault.")
        file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _header(shard: list[TensorSpec]) -> bytes:
    """Length-prefixed JSON of the safetensors format, padded so that the data begins at a multiple of 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in shard:
        entries[spec.name] = {
            "dtype": DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
