"""A Hugging Face model folder read lazily: headers on opening, a tensor's bytes when it is asked for.

Only safetensors are read. Nothing in a checkpoint is executed, and no index leads out of its folder.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from aftermix.checkpoints.formats.weight_files import SHOWN, SINGLE, WeightFiles, find_weight_files
from aftermix.checkpoints.model import Span, TensorInfo, hold_equal
from aftermix.checkpoints.names import find_tied_head
from aftermix.checkpoints.safe_files import Stamp, holds_file, read_json, refuse_changed_file, take_stamp
from aftermix.errors import CheckpointError, InputFaultError

COMPARE_AFTER_S = 0.02
"""A file is compared with what it was at opening at each new tensor, and when so much time has passed."""
MAX_ELEMENTS = 1 << 59
"""Of a tensor, with its empty dimensions counted as one: sizes in bytes can then be computed in 64 bits."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Element types by their safetensors name."""
if hasattr(torch, "float8_e8m0fnu"):  # scales that are powers of two; from torch 2.7 on
    DTYPES["F8_E8M0"] = torch.float8_e8m0fnu
FLOAT8 = frozenset(dtype for name, dtype in DTYPES.items() if name.startswith("F8_"))
"""Types that need a scale: :mod:`aftermix.checkpoints.formats.fp8` reads them."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened folder of safetensors files: a :class:`~aftermix.checkpoints.model.Model` stored plainly."""

    folder: Path
    label: str
    """Name that the user gave it: the path or hub name in the YAML file."""
    tensors: dict[str, TensorInfo]
    config: dict[str, Any]
    unindexed: frozenset[str] = frozenset()
    """Names of tensors that a shard holds and the index does not name."""
    notes: tuple[str, ...] = ()
    """Sentences without a subject: which files are read, what of `config.json` the tensors contradict."""
    _handles: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)
    _mapped: dict[str, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)
    _stamps: dict[Path, Stamp] = field(default_factory=dict, repr=False, compare=False)
    """Stamps of the files from when their headers were read: a mapped file that shrinks would end the process."""
    _compared_s: dict[Path, float] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def alias(self) -> dict[str, str]:
        """Embedding by the output head that is tied to it: not stored, or stored with the same values."""
        return {head: name for head, name in self._named_ties.items() if head not in self.own_heads}

    @cached_property
    def own_heads(self) -> dict[str, str]:
        """Embedding by the head that `config.json` ties to it, and that is stored with other values."""
        stored = {head: name for head, name in self._named_ties.items() if head in self.tensors}
        return {head: name for head, name in stored.items() if not hold_equal(*map(self._read_stored, (head, name)))}

    @cached_property
    def _named_ties(self) -> dict[str, str]:
        return find_tied_head(self.tensors.keys(), self.config)

    def has(self, name: str) -> bool:
        """Tell whether the model has this tensor, stored or through a tie."""
        return self.alias.get(name, name) in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Header entry of `name`, through a tie if it is tied."""
        return self.tensors[self.alias.get(name, name)]

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored, memory-mapped: treat it as read-only."""
        return self._read_stored(self.info(name).name)

    def _read_stored(self, name: str) -> torch.Tensor:
        """As :meth:`read`, whatever `name` is tied to."""
        info = self.tensors[name]
        try:
            self._refuse_changed(info.file, now=info.name not in self._mapped)
            if info.name in self._mapped:
                return self._mapped[info.name]

            if info.file not in self._handles:
                self._handles[info.file] = safe_open(str(info.file), framework="pt")
            tensor: torch.Tensor = self._handles[info.file].get_tensor(info.name)
        except (OSError, SafetensorError) as error:
            found = f"tensor '{info.name}' cannot be read ({error})"
            raise InputFaultError(str(info.file), found, "Copy the file again.") from error
        return self._mapped.setdefault(info.name, tensor)

    def _refuse_changed(self, file: Path, *, now: bool) -> None:
        passed_s = monotonic() - self._compared_s.get(file, 0.0)
        if file in self._stamps and (now or passed_s > COMPARE_AFTER_S):
            self._compared_s[file] = monotonic()
            refuse_changed_file(file, self._stamps[file])

    def read_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of the flattened tensor as stored, memory-mapped."""
        return self.read(name).reshape(-1)[span[0] : span[1]]

    def files(self) -> list[Path]:
        """The safetensors files, in order of name."""
        return sorted({info.file for info in self.tensors.values()})

    def describe_storage(self) -> list[str]:
        """Its notes; none for a folder that holds one model, described as it is."""
        kept = sorted(self.unindexed & self.tensors.keys())
        strays = sorted(self.unindexed - self.tensors.keys())
        lines = [*self.notes]
        for names, fate in ((kept, "read, as by transformers"), (strays, "left out, for no other model has them")):
            if names:
                lines.append(f"has tensors that its index does not name, {_summarise(names)}: {fate}")
        return lines

    def leave_out(self, names: Collection[str]) -> Checkpoint:
        """The checkpoint without the tensors `names`."""
        return replace(self, tensors={name: info for name, info in self.tensors.items() if name not in names})


def open_checkpoint(folder: Path, *, label: str | None = None) -> Checkpoint:
    """Open the model in `folder`: read its configuration and every tensor's header, and no weights.

    Raises :class:`CheckpointError` for a missing folder or configuration, pickled weights, a damaged or truncated
    file, an index that leads out of the folder or disagrees with the files, and an element type that is not read.
    """
    label = label or str(folder)
    if not folder.is_dir():
        raise CheckpointError(label, "is not a folder", "Name a Hugging Face model folder, or a hub name.")

    _refuse_folder_of_models(folder, label)
    config = read_json(folder / "config.json", remedy="Copy the model's config.json into the folder.")
    weights = find_weight_files(folder, config, label=label)
    tensors: dict[str, TensorInfo] = {}
    copies: list[TensorInfo] = []
    stamps: dict[Path, Stamp] = {}
    for file in weights.files:
        stamps[file] = take_stamp(file)
        for info in read_headers(file):
            is_first = info.name not in tensors and weights.index.get(info.name, file) == file
            if is_first:
                tensors[info.name] = info
            else:
                copies.append(info)

    _refuse_disagreement(weights, tensors, copies)
    unindexed = frozenset(tensors.keys() - weights.index.keys() if weights.index else ())
    notes = weights.describe()
    return Checkpoint(folder, label, dict(sorted(tensors.items())), config, unindexed, notes, _stamps=stamps)


def _refuse_folder_of_models(folder: Path, label: str) -> None:
    """Raise :class:`CheckpointError` for a folder without a model that holds others, as trainers leave it."""
    if (folder / "config.json").exists():
        return
    inner = sorted(path.parent.name for path in folder.glob("*/config.json") if holds_file(path))
    if inner and not any(folder.glob("*.safetensors")):
        found = f"holds no model, but folders of models: {', '.join(inner[:SHOWN])}{', ...' if inner[SHOWN:] else ''}"
        raise CheckpointError(label, found, f"Name one of them: {Path(label) / inner[-1]}.")


def _refuse_disagreement(weights: WeightFiles, tensors: Mapping[str, TensorInfo], copies: list[TensorInfo]) -> None:
    """Raise :class:`CheckpointError` where shards and index leave open what a tensor is; equal copies do not."""
    index = weights.chosen.name
    for copy in copies:
        kept = tensors.get(copy.name)
        if kept is None:
            found = f"holds '{copy.name}', which {index} places elsewhere"
            raise CheckpointError(str(copy.file), found, "Download the model again.")
        if not _are_equal(kept, copy):
            found = f"holds other values of '{copy.name}' than {kept.file.name}, which {index} also names"
            remedy = f"Keep the copy that is right: remove the other from its file, or save the model as one {SINGLE}."
            raise CheckpointError(str(copy.file), found, remedy)

    absent = sorted(weights.index.keys() - tensors.keys())
    if absent:
        found = f"names {len(absent)} tensors that no file holds, first '{absent[0]}'"
        raise CheckpointError(str(weights.chosen), found, "Download it again.")


def _are_equal(ours: TensorInfo, theirs: TensorInfo) -> bool:
    """Tell whether two entries of headers stand for the same type, shape and bits."""
    if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        return False
    tensors = []
    for info in (ours, theirs):
        with safe_open(str(info.file), framework="pt") as handle:
            tensors.append(handle.get_tensor(info.name))
    return hold_equal(*tensors)


def read_headers(file: Path) -> list[TensorInfo]:
    """Name, shape and type of every tensor of a safetensors file; :class:`CheckpointError` for a file that is none."""
    try:
        with safe_open(str(file), framework="pt") as handle:
            slices = [(name, handle.get_slice(name)) for name in handle.keys()]  # noqa: SIM118 - not a mapping
            entries = [(name, tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices]
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(str(file), _describe_damage(file, error), "Download or copy the file again.") from error

    for name, shape, dtype in entries:
        if math.prod(max(length, 1) for length in shape) > MAX_ELEMENTS:
            raise CheckpointError(
                f"{file}: {name}", f"has the shape {shape}, beyond any memory", "Do not use this file."
            )
        if dtype not in DTYPES:
            raise CheckpointError(
                f"{file}: {name}",
                f"expected one of {', '.join(DTYPES)}, found {dtype}",
                "Save the model in one of these types (dequantise it).",
            )

    return [TensorInfo(name, shape, DTYPES[dtype], file) for name, shape, dtype in entries]


def _summarise(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _describe_damage(file: Path, error: Exception) -> str:
    with file.open("rb") as opened:
        start = opened.read(2)
    if start[:1] == b"\x80" or start == b"PK":
        return "is a pickled file under a safetensors name"
    return f"is truncated or not a safetensors file ({error})"
