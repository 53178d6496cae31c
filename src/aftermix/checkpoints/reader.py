"""A Hugging Face model folder read lazily: headers on opening, a tensor's bytes when it is asked for.

Only safetensors are read. Nothing in a checkpoint is executed, and no index leads out of its folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from aftermix.checkpoints.model import Bounds, TensorInfo
from aftermix.checkpoints.names import tied_head
from aftermix.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
MAX_JSON_BYTES = 256 << 20

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
}
"""Element types by their safetensors name."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened folder of safetensors files: a :class:`~aftermix.checkpoints.model.Model` stored plainly."""

    folder: Path
    label: str
    """What the user calls it: the path or hub name in the YAML file."""
    tensors: dict[str, TensorInfo]
    config: dict[str, Any]
    _handles: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def alias(self) -> dict[str, str]:
        """Output head by the embedding it is tied to; empty for an untied model."""
        return tied_head(self.tensors.keys(), self.config)

    def has(self, name: str) -> bool:
        """Whether the model has this tensor, stored or through a tie."""
        return self.alias.get(name, name) in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Header entry of `name`, through a tie if it is tied."""
        return self.tensors[self.alias.get(name, name)]

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored, memory-mapped: treat it as read-only."""
        info = self.info(name)
        try:
            if info.file not in self._handles:
                self._handles[info.file] = safe_open(str(info.file), framework="pt")
            tensor: torch.Tensor = self._handles[info.file].get_tensor(info.name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                str(info.file), f"tensor '{info.name}' cannot be read ({error})", "Copy the file again."
            ) from error
        return tensor

    def block(self, name: str, bounds: Bounds) -> torch.Tensor:
        """Elements `bounds` of the flattened tensor as stored, memory-mapped."""
        return self.read(name).reshape(-1)[bounds[0] : bounds[1]]

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
    weight_map = _weight_map(folder)
    for file in sorted(set(weight_map.values())) if weight_map else [_single_file(folder, label)]:
        for info in _headers(file):
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
    return Checkpoint(folder=folder, label=label, tensors=dict(sorted(tensors.items())), config=config)


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """The JSON object in `path`; :class:`CheckpointError` with `remedy` when there is none."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(str(path), f"is larger than {MAX_JSON_BYTES} bytes", remedy)
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(str(path), f"cannot be read as JSON ({error})", remedy) from error
    if not isinstance(value, dict):
        raise CheckpointError(str(path), f"expected a JSON object, found {type(value).__name__}", remedy)
    return value


def _weight_map(folder: Path) -> dict[str, Path]:
    """File by tensor name from the index; empty when the folder has none."""
    path = folder / INDEX
    if not path.exists():
        return {}
    entries = read_json(path, remedy="Download the index again.").get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError(str(path), "has no 'weight_map'", "Download the index again.")
    for name, file in entries.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(
                str(path),
                f"places '{name}' in {file!r}, which is not a plain file name in the folder",
                "Do not use this checkpoint before you know who wrote that index.",
            )
        if not (folder / file).is_file():
            raise CheckpointError(str(path), f"names '{file}', which is not there", "Download the missing file.")
    return {name: folder / file for name, file in entries.items()}


def _single_file(folder: Path, label: str) -> Path:
    if (folder / SINGLE).is_file():
        return folder / SINGLE
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            label, "is an adapter, not a full model", "Fold it into its base first (PEFT's `merge_and_unload`)."
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


def _headers(file: Path) -> list[TensorInfo]:
    try:
        with safe_open(str(file), framework="pt") as handle:
            slices = [(name, handle.get_slice(name)) for name in handle.keys()]  # noqa: SIM118 - not a mapping
            entries = [(name, tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices]
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(str(file), _damage(file, error), "Download or copy the file again.") from error
    for name, _, dtype in entries:
        if dtype not in DTYPES:
            raise CheckpointError(
                f"{file}: {name}",
                f"expected one of {', '.join(DTYPES)}, found {dtype}",
                "Save the model in one of these types (dequantise it).",
            )
    return [TensorInfo(name, shape, DTYPES[dtype], file) for name, shape, dtype in entries]


def _damage(file: Path, error: Exception) -> str:
    with file.open("rb") as opened:
        start = opened.read(2)
    if start[:1] == b"\x80" or start == b"PK":
        return "is a pickled file under a safetensors name"
    return f"is truncated or not a safetensors file ({error})"
