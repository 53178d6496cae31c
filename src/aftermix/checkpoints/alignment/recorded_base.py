"""The base that an expert's `train.json` records, held against the base that the expert is opened on.

An expert is opened on no other base than the one it was trained from: a difference from another base with the same
shapes is no distribution vector. What counts are the values of the tensors, not folder, shards or stored type, so a
base that was moved, sharded anew or rounded to another type passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash

from aftermix.checkpoints.alignment.view import ModelView
from aftermix.checkpoints.formats.content_hash import hash_weights
from aftermix.checkpoints.formats.gguf import GGUFCheckpoint
from aftermix.checkpoints.formats.spans import list_sample_spans, split_into_spans
from aftermix.checkpoints.formats.vector_file import VectorFile, view_bytes
from aftermix.checkpoints.model import Model, StoredDifference, TensorInfo
from aftermix.checkpoints.reader import Checkpoint
from aftermix.checkpoints.safe_files import read_json
from aftermix.errors import CheckpointError, Problem

TRAINING_FILE = "train.json"
COMPARED_AS = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""Types that round what a wider type holds; all others are compared as float32."""
MOST_HASHED_BYTES = 8_000_000_000
"""Of the files of a base whose record has hashes of files alone; one file is compared whatever its size."""


@dataclass(frozen=True)
class TensorDigests:
    """Digests of one tensor of a base; as text `bfloat16 64x16 float32:HEX bfloat16:HEX float16:HEX whole:HEX`."""

    dtype: str
    shape: tuple[int, ...]
    values: Mapping[str, str]
    """XXH3-64 of the sample (:func:`list_sample_spans`) as each type, and XXH3-128 of the stored tensor as `whole`."""

    @staticmethod
    def parse(text: str) -> TensorDigests:
        """The digests that `text` holds. Raises `ValueError` for any other text."""
        dtype, shape, *values = text.split(" ")
        lengths = () if shape == "scalar" else tuple(int(length) for length in shape.split("x"))
        return TensorDigests(dtype, lengths, dict(value.split(":", 1) for value in values))

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return " ".join([self.dtype, shape, *(f"{name}:{digest}" for name, digest in self.values.items())])


@dataclass(frozen=True)
class BaseDigests:
    """A base's tensors as their digests, each computed once."""

    base: Model
    _known: dict[tuple[str, str], str] = field(default_factory=dict, repr=False, compare=False)

    def digest_sample(self, name: str, kind: str) -> str:
        """Digest of the sample of tensor `name` as the type `kind`."""
        if (name, kind) not in self._known:
            sample = read_sample(self.base, name).to(getattr(torch, kind))
            self._known[name, kind] = xxhash.xxh3_64(view_bytes(sample)).hexdigest()
        return self._known[name, kind]

    def digest_whole(self, name: str) -> str:
        """Digest of all of tensor `name` as it is stored."""
        if (name, "whole") not in self._known:
            digest = xxhash.xxh3_128()
            for span in split_into_spans(self.base.info(name).elements):
                digest.update(view_bytes(self.base.read_block(name, span)))
            self._known[name, "whole"] = digest.hexdigest()
        return self._known[name, "whole"]


@dataclass(frozen=True)
class BaseRecord:
    """Part of an expert's `train.json` that says which base it was trained from."""

    label: str
    """Folder or hub name of the base in the training file."""
    tensors: Mapping[str, TensorDigests]
    """By name; empty in the record of an older version."""
    files: Mapping[str, str]
    """Fingerprint by name of the base's weight files."""

    def compare(self, digests: BaseDigests, *, whole: bool) -> tuple[list[str], int]:
        """Tensors (or files) of the base that are not those of the record, and how many could be compared.

        None can where base and record share no name, or the base is stored in a form that changes its values. Samples
        are read, with `whole` all tensors that are stored as they were.
        """
        base = digests.base
        if not _is_stored_plainly(base):
            return [], 0
        if not self.tensors:
            return self._compare_files(base)

        # Rows that were added, or a head that one copy of the base stores and another leaves out, are passed over.
        known = self.tensors.items()
        shared = [name for name, entry in known if base.has(name) and base.info(name).shape == entry.shape]
        return [name for name in shared if self._differs(name, digests, whole=whole)], len(shared)

    def _differs(self, name: str, digests: BaseDigests, *, whole: bool) -> bool:
        known, info = self.tensors[name], digests.base.info(name)
        kind = COMPARED_AS.get(info.dtype, "float32")
        if digests.digest_sample(name, kind) != known.values.get(kind):
            return True
        stored_alike = _name_dtype(info) == known.dtype
        return whole and stored_alike and digests.digest_whole(name) != known.values.get("whole")

    def _compare_files(self, base: Model) -> tuple[list[str], int]:
        shared = sorted((file.stat().st_size, file) for file in base.files() if file.name in self.files)
        differing, compared, hashed_bytes = [], 0, 0
        for size, file in shared:
            if compared and hashed_bytes + size > MOST_HASHED_BYTES:
                break
            compared, hashed_bytes = compared + 1, hashed_bytes + size
            if hash_weights(file) != self.files[file.name]:
                differing.append(file.name)
        return differing, compared


@dataclass(frozen=True)
class BaseComparison:
    """Result of holding an expert's record against the base it is opened on."""

    problem: Problem | None = None
    is_confirmed: bool = False
    """True where a record was found, and is of this base."""


def digest_tensors(base: Model) -> dict[str, str]:
    """Digests by name of the base's learned tensors, for `train.json`. Reads the whole base."""
    digests, found = BaseDigests(base), {}
    for name, info in base.tensors.items():
        if info.mergeable:
            values = {kind: digests.digest_sample(name, kind) for kind in ("float32", "bfloat16", "float16")}
            values["whole"] = digests.digest_whole(name)
            found[name] = str(TensorDigests(_name_dtype(info), info.shape, values))
    return found


def read_sample(model: Model, name: str) -> torch.Tensor:
    """The sample of tensor `name` as one flat tensor, in the type in which it is read."""
    info = model.info(name)
    blocks = [model.read_block(name, span) for span in list_sample_spans(info.elements)]
    return torch.cat(blocks) if blocks else torch.empty(0, dtype=info.dtype)


def compare_recorded_base(digests: BaseDigests, expert: Model, *, vector: str, whole: bool = False) -> BaseComparison:
    """Hold the record in the folder of `expert` against the base that it is opened on; no record is no problem.

    The base itself, as a vector of zeros, is of this base whatever it was trained from. With `whole` all values of the
    base are read, not samples alone. A stored vector has been compared on opening.
    """
    if isinstance(expert, StoredDifference):
        return BaseComparison(is_confirmed=isinstance(expert, VectorFile))
    if expert.folder.resolve() == digests.base.folder.resolve():
        return BaseComparison(is_confirmed=True)
    record = read_base_record(expert.folder)
    if record is None:
        return BaseComparison()

    differing, compared = record.compare(digests, whole=whole)
    if not differing:
        return BaseComparison(is_confirmed=compared > 0)
    return BaseComparison(_describe_other_base(record, digests.base, expert, vector, differing, compared))


def holds_recorded_values(base: Model, expert: Model) -> bool:
    """Tell whether `base` has every tensor that the record of `expert` names, with its values; the base is read whole.

    Of a base that is stored in another type, samples are compared.
    """
    record = read_base_record(expert.folder)
    if record is None or not record.tensors:
        return False
    differing, compared = record.compare(BaseDigests(base), whole=True)
    return not differing and compared == len(record.tensors)


def read_base_record(folder: Path) -> BaseRecord | None:
    """The base that `train.json` in `folder` records; None without a record of ours."""
    if not (folder / TRAINING_FILE).is_file():
        return None
    try:
        record = read_json(folder / TRAINING_FILE, remedy="Train again.")
        digests = {name: TensorDigests.parse(text) for name, text in _select_texts(record, "base_tensors").items()}
    except (CheckpointError, ValueError):
        return None  # any program may write a file of this name

    files = _select_texts(record, "recipe", "base", "weights")
    return BaseRecord(str(record.get("base")), digests, files) if digests or files else None


def _select_texts(value: Any, *path: str) -> dict[str, str]:
    """The texts by name that lie at `path` in nested JSON objects; none where there is no such place."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return {name: text for name, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}


def _describe_other_base(
    record: BaseRecord, base: Model, expert: Model, vector: str, differing: list[str], compared: int
) -> Problem:
    what = "tensors" if record.tensors else "weight files"
    other = f"{len(differing)} of {compared} {what} differ, first {differing[0]}"
    if record.label == base.label:
        found = f"vector '{vector}' was trained from {base.label} when it held other values ({other})"
        return Problem(expert.label, found, "Restore that base, or train the expert again from this one.")

    found = f"vector '{vector}' was trained from another base: its {TRAINING_FILE} records {record.label}, found "
    remedy = f"Name the base that it was trained from, `base: {record.label}`."
    return Problem(expert.label, f"{found}{base.label} ({other})", remedy)


def _is_stored_plainly(model: Model) -> bool:
    """Tell whether the tensors beneath the views of `model` are those of its files: neither FP8 nor GGUF."""
    if isinstance(model, ModelView):
        return _is_stored_plainly(model.inner)
    return isinstance(model, Checkpoint) and not isinstance(model, GGUFCheckpoint)


def _name_dtype(info: TensorInfo) -> str:
    return str(info.dtype).removeprefix("torch.")
