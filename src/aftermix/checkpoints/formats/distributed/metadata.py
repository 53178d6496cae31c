"""Tensors of a distributed checkpoint by `.metadata`: sizes, types, and where each chunk of them lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.formats.distributed.unpickler import PickledRecord, unpickle_metadata
from aftermix.checkpoints.reader import MAX_ELEMENTS
from aftermix.checkpoints.safe_files import holds_file, read_entry
from aftermix.errors import CheckpointError, Problem, refuse_if_any

METADATA = ".metadata"
SHARD_ENDING = ".distcp"
MAX_METADATA_BYTES = 1 << 30
"""Of a checkpoint of a million chunks it is a fifth of that."""
COPY = "Copy the checkpoint again, with the files of all ranks."
LISTED = 5


@dataclass(frozen=True)
class StoredChunk:
    """A box of a tensor, and the bytes of a file that hold it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the file, in chunks that cover it."""

    key: str
    path: tuple[str | int, ...]
    """Keys of the nested state that was saved; `key` joins them."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[StoredChunk, ...]


def is_distributed(folder: Path) -> bool:
    """Tell whether `folder` holds a distributed checkpoint, or a part of one."""
    return folder.is_dir() and (holds_file(folder / METADATA) or any(folder.glob(f"*{SHARD_ENDING}")))


def read_stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor that `.metadata` in `folder` names, by key; what is no tensor (counters, settings) is passed over.

    Raises :class:`CheckpointError` or :class:`ManyProblemsError` for a file that is missing, cut short, damaged or
    names what it must not, and for transformed (compressed) tensors.
    """
    file = folder / METADATA
    try:
        content = read_entry(file, folder=folder, remedy=COPY, max_bytes=MAX_METADATA_BYTES)
    except OSError as error:
        found = f"expected {METADATA} beside the files of the ranks, found none ({error.strerror or error})"
        raise CheckpointError(str(folder), found, "Wait until the save has ended, or copy that file, too.") from error

    root = unpickle_metadata(content, where=str(file))
    try:
        places = _list_places(root)
        tensors = {key: _read_tensor(folder, root, key, entry, places) for key, entry in _list_tensors(root)}
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(str(file), f"is damaged ({error})", COPY) from error

    refuse_if_any(_shorten(list(_find_missing_files(tensors))))
    return tensors


def _list_tensors(root: PickledRecord) -> Iterator[tuple[str, PickledRecord]]:
    for key, entry in dict(root.read("state_dict_metadata")).items():
        if entry.kind == "TensorStorageMetadata":
            yield str(key), entry


def _list_places(root: PickledRecord) -> dict[tuple[str, tuple[int, ...]], PickledRecord]:
    """Place in a file by key of the tensor and offsets of the chunk."""
    places = {}
    for index, info in dict(root.read("storage_data")).items():
        offset = index.read("offset")
        places[str(index.read("fqn")), tuple(offset) if offset is not None else ()] = info
    return places


def _read_tensor(
    folder: Path,
    root: PickledRecord,
    key: str,
    entry: PickledRecord,
    places: Mapping[tuple[str, tuple[int, ...]], PickledRecord],
) -> StoredTensor:
    properties = entry.read("properties").state
    dtype = properties[0] if isinstance(properties, tuple) else properties["dtype"]
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"the type of '{key}' is {dtype!r}")

    shape = _check_sizes(entry.read("size"), key)
    chunks = []
    for chunk in entry.read("chunks"):
        offsets, sizes = _check_sizes(chunk.read("offsets"), key), _check_sizes(chunk.read("sizes"), key)
        if (place := places.get((key, offsets))) is None:
            found = f"has no place for the chunk of '{key}' at {offsets}"
            raise CheckpointError(str(folder / METADATA), found, COPY)
        chunks.append(_read_chunk(folder, key, offsets, sizes, place))
        if chunks[-1].length < (needed := math.prod(sizes) * dtype.itemsize):
            found = f"expected at least {needed} bytes for a chunk of {sizes} of {dtype}, found {chunks[-1].length}"
            raise CheckpointError(f"{folder / METADATA}: {key}", found, COPY)

    mappings = root.read("planner_data")
    path = mappings.get(key) if isinstance(mappings, dict) else None
    parts = tuple(path) if isinstance(path, tuple | list) and path else (key,)
    if not all(isinstance(part, str | int) for part in parts):
        raise TypeError(f"the path of '{key}' is {parts!r}")
    return StoredTensor(key, parts, shape, dtype, tuple(chunks))


def _read_chunk(
    folder: Path, key: str, offsets: tuple[int, ...], sizes: tuple[int, ...], place: PickledRecord
) -> StoredChunk:
    name, start, length = place.read("relative_path"), place.read("offset"), place.read("length")
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        found = f"places '{key}' in {name!r}, which is not a plain file name in the folder"
        remedy = "Do not use this checkpoint before you know who wrote that file."
        raise CheckpointError(str(folder / METADATA), found, remedy)
    if place.read("transform_descriptors"):
        found = f"'{key}' is stored through {place.read('transform_descriptors')}, expected plain tensors"
        raise CheckpointError(str(folder / METADATA), found, "Save it without extensions (compression).")
    if not (type(start) is int and type(length) is int and start >= 0 and length > 0):
        raise ValueError(f"'{key}' lies at {start!r}, {length!r} bytes")
    return StoredChunk(offsets, sizes, folder / name, start, length)


def _check_sizes(sizes: Any, key: str) -> tuple[int, ...]:
    numbers = tuple(sizes)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"a size of '{key}' is {numbers!r}")
    if math.prod(max(number, 1) for number in numbers) > MAX_ELEMENTS:
        raise ValueError(f"'{key}' has the shape {numbers}, beyond any memory")
    return numbers


def _find_missing_files(tensors: Mapping[str, StoredTensor]) -> Iterator[Problem]:
    """Files of ranks that are not there, or that end before the last of their chunks."""
    ends: dict[Path, int] = {}
    for chunk in (chunk for tensor in tensors.values() for chunk in tensor.chunks):
        ends[chunk.file] = max(ends.get(chunk.file, 0), chunk.start + chunk.length)

    for file, end in sorted(ends.items()):
        if not holds_file(file):
            yield Problem(str(file), f"expected this file of a rank, which {METADATA} names, found none", COPY)
        elif (size := file.stat().st_size) < end:
            yield Problem(str(file), f"expected at least {end} bytes, found {size}", COPY)


def refuse_uncovered(folder: Path, tensors: Iterable[StoredTensor]) -> None:
    """Raise :class:`ManyProblemsError` for tensors whose chunks leave their bounds, or do not add up to them.

    The state of an optimizer may be stored so, flattened over its ranks.
    """
    refuse_if_any(_shorten(list(_find_uncovered(folder / METADATA, tensors))))


def _find_uncovered(file: Path, tensors: Iterable[StoredTensor]) -> Iterator[Problem]:
    for tensor in tensors:
        total = sum(math.prod(chunk.sizes) for chunk in tensor.chunks)
        inside = all(
            len(chunk.offsets) == len(chunk.sizes) == len(tensor.shape)
            and all(o + s <= n for o, s, n in zip(chunk.offsets, chunk.sizes, tensor.shape, strict=True))
            for chunk in tensor.chunks
        )
        distinct = len({chunk.offsets for chunk in tensor.chunks}) == len(tensor.chunks)
        if not (inside and distinct and total == math.prod(tensor.shape)):
            found = f"expected chunks that cover its {tensor.shape}, found {total} elements in {len(tensor.chunks)}"
            yield Problem(f"{file}: {tensor.key}", found, COPY)


def _shorten(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= LISTED:
        return problems
    last = problems[-1]
    return [*problems[:LISTED], Problem("...", f"{len(problems) - LISTED} more, the last at {last.where}", last.remedy)]
