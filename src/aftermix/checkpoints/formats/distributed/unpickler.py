"""The pickle in `.metadata`, read without running anything of it: only records, sizes and element types come out.

A pickle calls what it names. Here the few names that PyTorch writes stand for inert things made anew for each file: a
record that keeps its state, a tuple, a text. Any other name ends the reading.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import torch

from aftermix.errors import CheckpointError

CHECKPOINT = "torch.distributed.checkpoint"
RECORDS = frozenset(
    {
        (f"{CHECKPOINT}.metadata", "Metadata"),
        (f"{CHECKPOINT}.metadata", "TensorStorageMetadata"),
        (f"{CHECKPOINT}.metadata", "BytesStorageMetadata"),
        (f"{CHECKPOINT}.metadata", "ChunkStorageMetadata"),
        (f"{CHECKPOINT}.metadata", "TensorProperties"),
        (f"{CHECKPOINT}.metadata", "MetadataIndex"),
        (f"{CHECKPOINT}.metadata", "StorageMeta"),
        (f"{CHECKPOINT}.filesystem", "_StorageInfo"),
        (f"{CHECKPOINT}.filesystem", "_StoragePrefix"),
    }
)
"""Classes of which a record is made."""
MEGATRON = ("megatron.core.dist_checkpointing.", "MCoreMetadata")
"""Beginning of the module and name of the class in which Megatron wraps `Metadata`."""
VALUES: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch", "Size"): tuple,
    (f"{CHECKPOINT}.metadata", "_MEM_FORMAT_ENCODING"): int,
    ("torch.serialization", "_get_layout"): str,
    ("pathlib", "PosixPath"): lambda *parts: "/".join(map(str, parts)),
    ("pathlib", "PurePosixPath"): lambda *parts: "/".join(map(str, parts)),
    ("pathlib", "WindowsPath"): lambda *parts: "\\".join(map(str, parts)),
    ("collections", "OrderedDict"): dict,
}
"""Calls that stand for a value."""
REMEDY = "Do not use this file before you know who wrote it; save the checkpoint as safetensors where it was made."


class PickledRecord:
    """An object of the file: the name of its class, and its state."""

    kind = ""
    state: Any = None

    def __init__(self, *state: Any) -> None:
        """Keep what a call would have been made with."""
        if state:
            self.state = state

    def __setstate__(self, state: Any) -> None:
        """Keep the state, whatever it is."""
        object.__setattr__(self, "state", state)

    def read(self, field: str) -> Any:
        """A field of the state; None where there is none."""
        return self.state.get(field) if isinstance(self.state, dict) else None


def unpickle_metadata(content: bytes, *, where: str) -> PickledRecord:
    """The record in `content`. Raises :class:`CheckpointError` for any other name than PyTorch's, and for damage."""
    unpickler = _build_unpickler(content, where)
    try:
        root = unpickler.load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile pickle raises anything
        found = f"is damaged or no metadata of a distributed checkpoint ({type(error).__name__}: {error})"
        raise CheckpointError(where, found, "Copy the checkpoint again.") from error

    if not isinstance(root, PickledRecord) or root.kind not in ("Metadata", MEGATRON[1]):
        found = f"expected a record `Metadata`, found {type(root).__name__}"
        raise CheckpointError(where, found, "Copy the checkpoint again.")
    return root


def _build_unpickler(content: bytes, where: str) -> pickle.Unpickler:
    """An unpickler with stand-ins of its own: a file that changes them changes nothing for the next one."""
    classes: dict[str, type[PickledRecord]] = {}

    class MetadataUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> Any:
            if (module, name) in RECORDS or (module.startswith(MEGATRON[0]) and name == MEGATRON[1]):
                return classes.setdefault(name, type(name, (PickledRecord,), {"kind": name}))
            if (module, name) in VALUES:
                make = VALUES[module, name]
                return lambda *parts: make(*parts)
            if module == "torch" and isinstance(kind := getattr(torch, name, None), torch.dtype):
                return kind
            found = f"names {module}.{name}, which no metadata of a distributed checkpoint needs: nothing of it was run"
            raise CheckpointError(where, found, REMEDY)

    return MetadataUnpickler(io.BytesIO(content))
