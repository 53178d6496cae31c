"""A Hugging Face model folder read lazily: headers on opening, a tensor's bytes when it is asked for.

Only safetensors are read. Nothing in a checkpoint is executed, and no index leads out of its folder.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.checkpoints.names import find_tied_head
from aftermix.checkpoints.safe_files import holds_file, read_entry, take_stamp
from aftermix.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
COMPARE_AFTER_S = 0.02
"""A file is compared with what it was at opening at each new tensor, and when so much time has passed."""
MAX_JSON_BYTES = 256 << 20
MAX_JSON_DEPTH = 64
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
    _handles: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)
    _mapped: dict[str, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)
    _stamps: dict[Path, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)
    """Stamps of the files from when their headers were read: a mapped file that shrinks would end the process."""
    _compared_s: dict[Path, float] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def alias(self) -> dict[str, str]:
        """Output head by the embedding it is tied to; empty for an untied model."""
        return find_tied_head(self.tensors.keys(), self.config)

    def has(self, name: str) -> bool:
        """Tell whether the model has this tensor, stored or through a tie."""
        return self.alias.get(name, name) in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Header entry of `name`, through a tie if it is tied."""
        return self.tensors[self.alias.get(name, name)]

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored, memory-mapped: treat it as read-only."""
        info = self.info(name)
        try:
            self._refuse_changed(info.file, now=info.name not in self._mapped)
            if info.name in self._mapped:
                return self._mapped[info.name]

            if info.file not in self._handles:
                self._handles[info.file] = safe_open(str(info.file), framework="pt")
            tensor: torch.Tensor = self._handles[info.file].get_tensor(info.name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                str(info.file), f"tensor '{info.name}' cannot be read ({error})", "Copy the file again."
            ) from error
        return self._mapped.setdefault(info.name, tensor)

    def _refuse_changed(self, file: Path, *, now: bool) -> None:
        passed_s = monotonic() - self._compared_s.get(file, 0.0)
        if file in self._stamps and (now or passed_s > COMPARE_AFTER_S):
            self._compared_s[file] = monotonic()
            if take_stamp(file) != self._stamps[file]:
                raise CheckpointError(str(file), "has changed since it was opened", "Merge when it is at rest.")

    def read_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of the flattened tensor as stored, memory-mapped."""
        return self.read(name).reshape(-1)[span[0] : span[1]]

    def files(self) -> list[Path]:
        """The safetensors files, in order of name."""
        return sorted({info.file for info in self.tensors.values()})


def open_checkpoint(folder: Path, *, label: str | None = None) -> Checkpoint:
    """Open the model in `folder`: read its configuration and every tensor's header, and no weights.

    Raises :class:`CheckpointError` for a missing folder or configuration, pickled weights, a damaged or truncated
    file, an index that leads out of the folder or disagrees with the files, and an element type that is not read.
    """
    label = label or str(folder)
    if not folder.is_dir():
        raise CheckpointError(label, "is not a folder", "Name a Hugging Face model folder, or a hub name.")

    config = read_json(folder / "config.json", remedy="Copy the model's config.json into the folder.")
    tensors: dict[str, TensorInfo] = {}
    stamps: dict[Path, tuple[int, ...]] = {}
    weight_map = _read_weight_map(folder)
    for file in sorted(set(weight_map.values())) if weight_map else [_find_single_file(folder, label)]:
        stamps[file] = take_stamp(file)
        for info in read_headers(file):
            if weight_map and weight_map.get(info.name) != file:
                raise CheckpointError(
                    str(file), f"holds '{info.name}', which {INDEX} places elsewhere", "Download the model again."
                )
            tensors[info.name] = info

    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise CheckpointError(
            str(folder / INDEX),
            f"names {len(absent)} tensors that no file holds, first '{absent[0]}'",
            "Download it again.",
        )

    return Checkpoint(folder, label, dict(sorted(tensors.items())), config, _stamps=stamps)


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """The JSON object in `path`, a file of a model folder; :class:`CheckpointError` with `remedy` for anything else."""
    try:
        content = read_entry(path, folder=path.parent, remedy=remedy, max_bytes=MAX_JSON_BYTES)
        value = json.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(str(path), f"cannot be read as JSON ({error})", remedy) from error
    if not isinstance(value, dict):
        raise CheckpointError(str(path), f"expected a JSON object, found {type(value).__name__}", remedy)

    if _is_deep(value):
        raise CheckpointError(str(path), f"is nested deeper than {MAX_JSON_DEPTH}", remedy)
    return value


def _is_deep(value: Any) -> bool:
    """Tell whether values lie so deep that comparing or showing them would exhaust the stack."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
    return bool(level)


def _read_weight_map(folder: Path) -> dict[str, Path]:
    """File by tensor name from the index; empty when the folder has none."""
    path = folder / INDEX
    if not path.exists():
        return {}
    entries = read_json(path, remedy="Download the index again.").get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError(str(path), "has no 'weight_map'", "Download the index again.")

    # The index may be a stranger's: only plain names of files in the folder are followed.
    for name, file in entries.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(
                str(path),
                f"places '{name}' in {file!r}, which is not a plain file name in the folder",
                "Do not use this checkpoint before you know who wrote that index.",
            )
        if not holds_file(folder / file):
            raise CheckpointError(str(path), f"names '{file}', which is not there", "Download the missing file.")
    return {name: folder / file for name, file in entries.items()}


def _find_single_file(folder: Path, label: str) -> Path:
    if holds_file(folder / SINGLE):
        return folder / SINGLE

    # A folder without weights that are read is refused with the remedy for what it holds.
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            label,
            "is an adapter, not a full model",
            "Name it under `vectors:`, beside its base; where a full model is needed, fold it (`merge_and_unload`).",
        )

    pickled = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickled:
        convert = (
            f'python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\""
        )
        raise CheckpointError(
            label,
            f"expected safetensors, found pickled weights ({pickled[0]}), which can run code when they are opened",
            f"If you trust the source, convert it: {convert}",
        )

    raise CheckpointError(label, f"expected {SINGLE} or {INDEX}, found neither", "Name a complete model folder.")


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


def _describe_damage(file: Path, error: Exception) -> str:
    with file.open("rb") as opened:
        start = opened.read(2)
    if start[:1] == b"\x80" or start == b"PK":
        return "is a pickled file under a safetensors name"
    return f"is truncated or not a safetensors file ({error})"
