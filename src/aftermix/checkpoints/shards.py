"""Safetensors files written as a stream of pieces: the header is known beforehand, so no tensor is held whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from aftermix.checkpoints.formats.weight_files import INDEX, SINGLE
from aftermix.checkpoints.model import TensorInfo
from aftermix.checkpoints.reader import DTYPES
from aftermix.errors import CheckpointError

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
NO_MORE: Mapping[str, str] = {}


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and stored type of a tensor that is going to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def from_info(info: TensorInfo, dtype: torch.dtype | None = None) -> TensorSpec:
        """The place of a stored tensor in a result whose real-valued tensors are stored as `dtype`."""
        return TensorSpec(info.name, info.shape, dtype if dtype is not None and info.mergeable else info.dtype)

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return int(torch.Size(self.shape).numel())

    @property
    def nbytes(self) -> int:
        """Stored size in bytes."""
        return self.elements * self.dtype.itemsize


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


def name_shards(count: int) -> list[str]:
    """File names in Hugging Face's scheme.

    >>> name_shards(1), name_shards(2)
    (['model.safetensors'], ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'])
    """
    return [SINGLE] if count == 1 else [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]


@dataclass(frozen=True)
class TensorPiece:
    """A run of elements of a flattened tensor, from element `start` on."""

    name: str
    start: int
    values: torch.Tensor


def stream_whole_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[TensorPiece]:
    """Each tensor as one piece; an empty one has none."""
    return (TensorPiece(name, 0, tensor) for name, tensor in tensors if tensor.numel())


def write_shards(folder: Path, pieces: Iterable[TensorPiece], shards: list[list[TensorSpec]]) -> None:
    """Write `pieces`, which cover every tensor of `shards` once in order, and the index when there are several files.

    Raises :class:`CheckpointError` when a piece is not the one that the shards announce.
    """
    stream = iter(pieces)
    names = name_shards(len(shards))
    for file_name, shard in zip(names, shards, strict=True):
        with (folder / file_name).open("wb") as file:
            _write_shard(file, stream, shard)

    if next(stream, None) is not None:
        raise CheckpointError(str(folder), "more tensors arrived than were announced", "Report this as a fault.")

    if len(shards) > 1:
        write_index(folder, shards)


def write_index(folder: Path, shards: Sequence[Sequence[TensorSpec]]) -> None:
    """Write the index of `shards`, which says what of `folder` are the weights: servers open nothing else then."""
    total = sum(spec.nbytes for shard in shards for spec in shard)
    names = name_shards(len(shards))
    weight_map = {spec.name: file for file, shard in zip(names, shards, strict=True) for spec in shard}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_tensor_file(
    path: Path, pieces: Iterable[TensorPiece], layout: Sequence[TensorSpec], *, metadata: Mapping[str, str]
) -> None:
    """Write `pieces`, which cover every tensor of `layout` once in order, as one file with `metadata` in its header."""
    with path.open("wb") as file:
        _write_shard(file, iter(pieces), layout, metadata)


def _write_shard(
    file: IO[bytes], stream: Iterator[TensorPiece], shard: Sequence[TensorSpec], metadata: Mapping[str, str] = NO_MORE
) -> None:
    file.write(_build_header(shard, metadata))
    for spec in shard:
        written = 0
        while written < spec.elements:
            piece = next(stream, None)
            if piece is None or (piece.name, piece.start, piece.values.dtype) != (spec.name, written, spec.dtype):
                found = (
                    f"expected {spec.dtype} of '{spec.name}' from element {written} on, found {_describe_piece(piece)}"
                )
                raise CheckpointError(spec.name, found, "Report this as a fault.")
            file.write(piece.values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            written += piece.values.numel()

        if written != spec.elements:
            raise CheckpointError(spec.name, f"expected {spec.elements} elements, found {written}", "Report this.")


def _describe_piece(piece: TensorPiece | None) -> str:
    return "nothing" if piece is None else f"{piece.values.dtype} of '{piece.name}' from element {piece.start} on"


def _build_header(shard: Sequence[TensorSpec], metadata: Mapping[str, str] = NO_MORE) -> bytes:
    """Length-prefixed JSON of the safetensors format, padded so that the data begins at a multiple of 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
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
