"""An expert with its own vector: what training changed, stored beside the rounded model that serves.

    EXPERT/model.safetensors    the expert in the base's type, which has rounded it
    EXPERT/vector.safetensors   `values.NAME`, as in a vector folder: the difference before that rounding; in the
                                metadata `base` and `model`, the hashes of the weight files of both, by file name

The vector is taken only where both hashes are those of the files at hand: of anything else it is no difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from aftermix.checkpoints.formats.content_hash import hash_all_weights
from aftermix.checkpoints.formats.on_base import OnBase
from aftermix.checkpoints.formats.vector_file import VALUES
from aftermix.checkpoints.model import Model, Span, TensorInfo
from aftermix.checkpoints.reader import Checkpoint, read_headers
from aftermix.checkpoints.safe_files import holds_file, take_stamp
from aftermix.errors import CheckpointError

OWN_VECTOR = "vector.safetensors"
KINDS = (torch.bfloat16, torch.float32)
"""Types in which a vector is stored beside its expert."""
REMOVE = "remove it, and the rounded weights of the model are subtracted from the base's"


@dataclass(frozen=True)
class OwnVector:
    """The file `vector.safetensors` of an expert: differences by tensor name, and the weight files they belong to."""

    values: Checkpoint
    base: Mapping[str, str]
    """Hash by file name of the weights that the expert was trained from."""
    model: Mapping[str, str]
    """Hash by file name of the weights beside the vector."""

    @property
    def file(self) -> Path:
        """The file itself."""
        return self.values.folder / OWN_VECTOR

    @property
    def dtype(self) -> str:
        """Stored type, as `bfloat16`."""
        kinds = {str(info.dtype).removeprefix("torch.") for info in self.values.tensors.values()}
        return " and ".join(sorted(kinds)) or "nothing"

    def belongs_to(self, base: Model) -> bool:
        """Tell whether the files of `base` are those that the expert was trained from, whatever their names are."""
        return sorted(hash_all_weights(base.files()).values()) == sorted(self.base.values())

    def refuse_other_model(self, expert: Model) -> None:
        """Raise :class:`CheckpointError` when the weights of `expert` are not those that were written with it."""
        files = [file for file in expert.files() if file != self.file]
        if sorted(hash_all_weights(files).values()) != sorted(self.model.values()):
            names = ", ".join(map(str, files[:2]))
            found = f"does not belong to the weights beside it: {names} has other content than when both were written"
            raise CheckpointError(str(self.file), found, f"Restore those weights; or {REMOVE}.")

    def explain_other_base(self, base: Model) -> CheckpointError:
        """The error for a `base` that is not the one the vector was taken from."""
        names = ", ".join(str(file) for file in base.files()[:2])
        found = f"was not taken from the base {base.label}: {names} has other content than that which it records"
        return CheckpointError(str(self.file), found, f"Name the base that the expert was trained from; or {REMOVE}.")


@dataclass(frozen=True)
class TrainedExpert(OnBase):
    """A model with its own vector: a :class:`~aftermix.checkpoints.model.Model` with a `StoredDifference`."""

    base: Model
    served: Checkpoint
    """The model beside the vector."""
    vector: OwnVector
    origin: Model | None = None
    """The model that it was trained from where that is not `base`: the vector is counted from there."""

    @property
    def folder(self) -> Path:
        """Folder of the expert."""
        return self.served.folder

    @property
    def label(self) -> str:
        """Name that the user gave the expert."""
        return self.served.label

    @property
    def config(self) -> dict[str, Any]:
        """The expert's."""
        return self.served.config

    def difference(self, name: str, span: Span) -> torch.Tensor | None:
        """Elements `span` of the difference in float32; None for a tensor that does not differ.

        What the expert stores in float32 has lost nothing, and is subtracted.
        """
        info = self.info(name)
        stored = VALUES + info.name
        if self._is_exact(info.name):
            return self.served.read_block(info.name, span).to(torch.float32) - self.base.read_block(info.name, span)

        values = self.vector.values.read_block(stored, span).float() if stored in self.vector.values.tensors else None
        if self.origin is None:
            return values
        before = self.origin.read_block(info.name, span).float() - self.base.read_block(info.name, span).float()
        return before if values is None else before + values

    def read_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of the expert before it was rounded, in float32; as stored where nothing was."""
        name = self.info(name).name
        return self.served.read_block(name, span) if self._is_exact(name) else super().read_block(name, span)

    def _is_exact(self, name: str) -> bool:
        """Tell whether the model beside the vector stores tensor `name` as it was trained."""
        return self.served.has(name) and self.served.info(name).dtype.itemsize >= torch.float32.itemsize

    def files(self) -> list[Path]:
        """The files of the model, and the vector."""
        return sorted([*self.served.files(), self.vector.file])

    def describe_storage(self) -> list[str]:
        """Sentence on the vector that is taken, for `aftermix doctor`, after those on the model's own files."""
        counted = f", counted from {self.origin.label}" if self.origin is not None else ""
        line = f"is read from its own {OWN_VECTOR} ({self.vector.dtype}){counted}, not from its rounded weights"
        return [*self.served.describe_storage(), line]


def find_own_vector(folder: Path) -> OwnVector | None:
    """The vector beside the model in `folder`; None where there is none, or a file of that name by another program.

    Raises :class:`CheckpointError` for one of ours that is damaged: another type, another layout, no hashes.
    """
    file = folder / OWN_VECTOR
    if not holds_file(file):
        return None

    remedy = f"Train the expert again; or {REMOVE}."
    try:
        infos = read_headers(file)
        with safe_open(str(file), framework="pt") as handle:
            metadata = handle.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(str(file), f"cannot be read ({error})", remedy) from error

    if not {"base", "model"} & metadata.keys() and not all(info.name.startswith(VALUES) for info in infos):
        return None
    hashes = {key: _parse_hashes(metadata.get(key), file, key, remedy) for key in ("base", "model")}
    for info in infos:
        if not info.name.startswith(VALUES) or info.dtype not in KINDS:
            found = f"expected tensors `{VALUES}NAME` in bfloat16 or float32, found '{info.name}' in {info.dtype}"
            raise CheckpointError(str(file), found, remedy)

    # Stored names only look like a model's: nothing is tied among them.
    tensors = {info.name: info for info in sorted(infos, key=lambda info: info.name)}
    untied = {"tie_word_embeddings": False}
    values = Checkpoint(folder, str(file), tensors, untied, _stamps={file: take_stamp(file)})
    return OwnVector(values, **hashes)


def build_trained_expert(served: Model, vector: OwnVector, *, base: Model, origin: Model | None) -> TrainedExpert:
    """`served` with its vector on `base`; the vector is counted from `origin` where one is given.

    Raises :class:`CheckpointError` where the vector has a tensor that the base lacks or has in another shape, and for
    weights in a form that training does not write.
    """
    if not isinstance(served, Checkpoint):
        found = f"lies beside weights that training does not write ({served.label})"
        raise CheckpointError(str(vector.file), found, f"Name the expert as it was written; or {REMOVE}.")

    for name, info in vector.values.tensors.items():
        known: TensorInfo | None = base.tensors.get(name.removeprefix(VALUES))
        if known is None or known.shape != info.shape:
            wanted = "no such tensor" if known is None else f"the shape {known.shape}"
            found = f"holds '{name}' of shape {info.shape}, where the base has {wanted}"
            raise CheckpointError(str(vector.file), found, f"Train the expert again; or {REMOVE}.")
    return TrainedExpert(base, served, vector, origin)


def have_one_layout(ours: Model, theirs: Model) -> bool:
    """Tell whether two models have the same learned tensors in the same shapes."""
    mine, other = (
        {name: info.shape for name, info in model.tensors.items() if info.mergeable} for model in (ours, theirs)
    )
    return mine == other and ours.alias == theirs.alias


def _parse_hashes(text: str | None, file: Path, key: str, remedy: str) -> dict[str, str]:
    """Hash by file name, from the metadata's JSON."""
    try:
        hashes = json.loads(text or "")
    except (ValueError, RecursionError):
        hashes = None
    if not isinstance(hashes, dict) or not hashes or not all(isinstance(value, str) for value in hashes.values()):
        shown = "nothing" if text is None else repr(text[:60])
        found = f"expected hashes of weight files as `{key}` in its metadata, found {shown}"
        raise CheckpointError(str(file), found, remedy)
    return hashes
