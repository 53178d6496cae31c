"""A distributed checkpoint as a model: chunks are read when a block of theirs is asked for, and a few are kept.

Files of ranks hold one `torch.save` after another. Each is loaded with `weights_only=True`.
"""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from aftermix.checkpoints.formats.configuration import untie_configuration
from aftermix.checkpoints.formats.distributed.metadata import (
    METADATA,
    StoredChunk,
    StoredTensor,
    is_distributed,
    read_stored_tensors,
    refuse_uncovered,
)
from aftermix.checkpoints.formats.distributed.naming import LISTED, NamedParts, NameMap, TensorPart, name_tensors
from aftermix.checkpoints.model import Model, Span, TensorInfo, hold_equal
from aftermix.checkpoints.names import find_tied_head
from aftermix.checkpoints.safe_files import holds_file, read_json
from aftermix.errors import CheckpointError, InputFaultError

CONFIG = "config.json"
CHUNKS_KEPT = 8
"""Of a checkpoint, those read last: blocks of a tensor are asked for in order, by a few threads."""
COPY = "Copy the file again."


@dataclass(frozen=True)
class DistributedCheckpoint:
    """An opened checkpoint: a :class:`~aftermix.checkpoints.model.Model`."""

    home: Path
    """Folder of `.metadata`."""
    folder: Path
    """Folder of the configuration and the tokenizer."""
    label: str
    named: NamedParts
    settings: dict[str, Any]
    """Content of `config.json`."""
    _chunks: OrderedDict[StoredChunk, torch.Tensor] = field(default_factory=OrderedDict, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor of the model by name, in order of name."""
        return {
            name: TensorInfo(name, part.shape, part.stored.dtype, part.stored.chunks[0].file)
            for name, part in sorted(self.named.parts.items())
        }

    @cached_property
    def alias(self) -> dict[str, str]:
        """Embedding by the output head that is tied to it: not stored, or stored with the same values."""
        ties = find_tied_head(self.tensors.keys(), self.settings)
        return {head: name for head, name in ties.items() if head not in self.tensors or self._holds_equal(head, name)}

    def _holds_equal(self, head: str, name: str) -> bool:
        shapes = {self.tensors[each].shape for each in (head, name)}
        return len(shapes) == 1 and hold_equal(*(self._read_whole(each) for each in (head, name)))

    def _read_whole(self, name: str) -> torch.Tensor:
        info = self.tensors[name]
        return self._read_part(self.named.parts[name], (0, info.elements)).view(info.shape)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of `config.json`, with a head that has values of its own untied."""
        own = [head for head in find_tied_head(self.tensors.keys(), self.settings) if head not in self.alias]
        return untie_configuration(self.settings, self.tensors) if own else self.settings

    def has(self, name: str) -> bool:
        """Tell whether the model has this tensor, stored or through a tie."""
        return self.alias.get(name, name) in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Entry of `name`, through a tie if it is tied."""
        return self.tensors[self.alias.get(name, name)]

    def read_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of the flattened tensor, in its stored type."""
        return self._read_part(self.named.parts[self.info(name).name], span)

    def files(self) -> list[Path]:
        """`.metadata` and the files of the ranks."""
        used = {chunk.file for part in self.named.parts.values() for chunk in part.stored.chunks}
        return sorted({self.home / METADATA, *used})

    def describe_storage(self) -> list[str]:
        """Sentences on the form, and on what of it is no part of the model."""
        chunks = {chunk for part in self.named.parts.values() for chunk in part.stored.chunks}
        lines = [f"is a distributed checkpoint: {len(chunks)} chunks in {len(self.files()) - 1} files"]
        for keys, what in ((self.named.states, "of its training"), (self.named.unnamed, "that the map does not name")):
            if keys:
                more = ", ..." if len(keys) > LISTED else ""
                lines.append(f"has {len(keys)} tensors {what}, left out: {', '.join(keys[:LISTED])}{more}")
        return lines

    def _read_part(self, part: TensorPart, span: Span) -> torch.Tensor:
        """Elements of a part, gathered row by row of the stored tensor from the chunks that hold them."""
        stored = part.stored
        first, last = part.start + span[0], part.start + span[1]
        if first >= last:
            return torch.empty(0, dtype=stored.dtype)
        width = math.prod(stored.shape[1:])
        start, stop = first // width, -(-last // width)

        rows = torch.empty((stop - start, *stored.shape[1:]), dtype=stored.dtype)
        for chunk in stored.chunks:
            self._copy_rows(stored, chunk, rows, start, stop)
        return rows.reshape(-1)[first - start * width : last - start * width]

    def _copy_rows(self, stored: StoredTensor, chunk: StoredChunk, rows: torch.Tensor, start: int, stop: int) -> None:
        """Copy the part of `chunk` that lies in the rows `start` to `stop` of its tensor."""
        if not stored.shape:
            rows.copy_(self._load_chunk(stored, chunk).reshape(rows.shape))
            return
        low, high = max(start, chunk.offsets[0]), min(stop, chunk.offsets[0] + chunk.sizes[0])
        if low >= high or not math.prod(chunk.sizes):
            return
        others = tuple(slice(o, o + s) for o, s in zip(chunk.offsets[1:], chunk.sizes[1:], strict=True))
        own = self._load_chunk(stored, chunk)[low - chunk.offsets[0] : high - chunk.offsets[0]]
        rows[(slice(low - start, high - start), *others)] = own

    def _load_chunk(self, stored: StoredTensor, chunk: StoredChunk) -> torch.Tensor:
        with self._lock:
            if chunk in self._chunks:
                self._chunks.move_to_end(chunk)
                return self._chunks[chunk]
            tensor = self._chunks[chunk] = _load(stored, chunk)
            while len(self._chunks) > CHUNKS_KEPT:
                self._chunks.popitem(last=False)
            return tensor


def _load(stored: StoredTensor, chunk: StoredChunk) -> torch.Tensor:
    where = f"{chunk.file}: {stored.key}"
    try:
        with chunk.file.open("rb") as opened:
            opened.seek(chunk.start)
            tensor = torch.load(io.BytesIO(opened.read(chunk.length)), map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zip raise errors of many kinds on such bytes
        found = f"its chunk at {chunk.offsets} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})"
        raise InputFaultError(where, found, COPY) from error

    found = f"{tuple(tensor.shape)} of {tensor.dtype}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
    if not isinstance(tensor, torch.Tensor) or (tuple(tensor.shape), tensor.dtype) != (chunk.sizes, stored.dtype):
        expected = f"expected a chunk of {chunk.sizes} of {stored.dtype}, as {METADATA} says"
        raise InputFaultError(where, f"{expected}, found {found}", COPY)
    return tensor.detach()


def find_distributed_folder(folder: Path) -> Path | None:
    """The distributed checkpoint that `folder` holds, itself or in the subfolder of Accelerate; None where none is."""
    if is_distributed(folder):
        return folder
    inner = folder / "pytorch_model_fsdp_0"
    return inner if is_distributed(inner) else None


def open_distributed(
    home: Path, *, label: str, base: Model | None = None, names: NameMap | None = None, needs_config: bool = True
) -> DistributedCheckpoint:
    """Open the checkpoint in `home`; no tensor is read but a tied head that is stored beside its embedding.

    The configuration is its own, that of the folder above, or the base's. `names` is the map of the file. Raises as
    :func:`~aftermix.checkpoints.formats.distributed.metadata.read_stored_tensors`, and :class:`AftermixError` for
    chunks that do not cover a tensor, for a checkpoint without a configuration, unless it is not needed, and for one
    without a tensor of a model.
    """
    stored = read_stored_tensors(home)
    named = name_tensors(stored, names or {}, known=base.has if base is not None else lambda _: False)
    if not named.parts:
        found = f"expected tensors of a model, found {len(stored)} others" + (
            f", first '{named.unnamed[0]}'" if named.unnamed else ""
        )
        raise CheckpointError(label, found, "Correct `tensor_names`, which says what a tensor is called in the model.")

    refuse_uncovered(home, {part.stored.key: part.stored for part in named.parts.values()}.values())

    folder = next((each for each in (home, *home.parents[:2]) if holds_file(each / CONFIG)), None)
    if folder is None and base is None and needs_config:
        found = f"expected {CONFIG} beside a distributed checkpoint or above it, found none"
        raise CheckpointError(label, found, f"Copy the model's {CONFIG} and tokenizer into {home}.")
    if folder is not None:
        settings = read_json(folder / CONFIG, remedy="Copy the model's config.json into the folder.")
    else:
        settings = base.config if base is not None else {}
    owner = folder or (base.folder if base is not None else home)
    return DistributedCheckpoint(home, owner, label, named, dict(settings))
