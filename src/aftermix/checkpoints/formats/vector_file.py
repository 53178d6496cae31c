"""A distribution vector stored as a folder, read back as the expert that it makes of its base.

    VECTOR/vector.json      what it is: format, type, the base's fingerprint, what was left out, the measured error
    VECTOR/difference/      safetensors: `values.NAME`, and `scales.NAME` beside 8-bit integers
    VECTOR/config.json ...  configuration, tokenizer, chat template and generation settings of the expert

No loader of models takes the folder for one: the weights do not lie beside the configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from pydantic import ValidationError

from aftermix.checkpoints.formats.int8 import dequantise
from aftermix.checkpoints.formats.on_base import OnBase
from aftermix.checkpoints.formats.spans import compute_row_length, count_rows, split_into_spans
from aftermix.checkpoints.model import Model, Span, TensorInfo
from aftermix.checkpoints.names import is_computed
from aftermix.checkpoints.reader import Checkpoint, open_checkpoint
from aftermix.checkpoints.safe_files import read_json
from aftermix.config import ConfigSection
from aftermix.errors import CheckpointError, Problem, refuse_if_any

FACTS = "vector.json"
DIFFERENCE = "difference"
VALUES, SCALES = "values.", "scales."
START_ELEMENTS = 256
"""Elements of each tensor of the base that are compared whenever a vector is opened."""
LISTED = 5

StoredType = Literal["bfloat16", "int8"]


class TensorFingerprint(ConfigSection):
    """Fingerprint of one tensor, by which the base is told from another base."""

    shape: tuple[int, ...]
    dtype: str
    start: str
    """XXH3-64 of the first elements."""
    content: str
    """XXH3-128 of all elements."""


class BaseFacts(ConfigSection):
    """The base that a vector was taken from."""

    model: str
    tensors: dict[str, TensorFingerprint]


class StorageAccuracy(ConfigSection):
    """Distance of the stored difference from the float32 one."""

    relative_l2: float
    """Norm of the error over norm of the difference."""
    max_abs: float


class VectorAccuracy(StorageAccuracy):
    """Of the whole vector, and tensor by tensor."""

    tensors: dict[str, StorageAccuracy]


class VectorFacts(ConfigSection):
    """Content of `vector.json`."""

    format: Literal["aftermix vector"]
    version: Literal[1]
    dtype: StoredType
    expert: str
    base: BaseFacts
    unchanged: tuple[str, ...]
    """Real-valued tensors that do not differ from the base's, which are not stored."""
    error: VectorAccuracy

    @property
    def summary(self) -> str:
        """The error in words."""
        return f"{self.error.relative_l2:.3%} of the vector's norm; largest {self.error.max_abs:.3g}"


@dataclass(frozen=True)
class VectorFile(OnBase):
    """A stored vector on its base: a :class:`~aftermix.checkpoints.model.Model` with a `StoredDifference`."""

    folder: Path
    label: str
    config: dict[str, Any]
    """The expert's."""
    base: Model
    description: VectorFacts
    stored: Checkpoint

    @cached_property
    def alias(self) -> dict[str, str]:
        """The base's ties, but for a head whose own difference is stored."""
        return {head: name for head, name in self.base.alias.items() if VALUES + head not in self.stored.tensors}

    def difference(self, name: str, span: Span) -> torch.Tensor | None:
        """Elements `span` of the difference in float32; None for a tensor that does not differ."""
        name = self.info(name).name
        if VALUES + name not in self.stored.tensors:
            return None
        values = self.stored.read_block(VALUES + name, span)
        if self.description.dtype != "int8":
            return values.to(torch.float32)

        row = compute_row_length(self.info(name).shape)
        scales = self.stored.read_block(SCALES + name, (span[0] // row, -(-span[1] // row)))
        return dequantise(values, span, scales, row=row)

    def files(self) -> list[Path]:
        """The files that hold the difference."""
        return self.stored.files()

    def describe_storage(self) -> list[str]:
        """Sentence on the stored type and its error, for `aftermix doctor`."""
        facts = self.description
        tensors = f"{len(facts.error.tensors)} tensors moved, {len(facts.unchanged)} left out"
        return [f"is a vector stored as {facts.dtype}: {tensors}, error {facts.summary}"]


def is_vector(folder: Path) -> bool:
    """Tell whether a distribution vector lies in `folder`."""
    return (folder / FACTS).is_file()


def open_vector(folder: Path, *, label: str, base: Model | None) -> VectorFile:
    """Open the vector in `folder` on `base`: its description, its headers and the first elements of the base.

    Raises :class:`CheckpointError` or :class:`ManyProblemsError` without a base, on another base than the vector's
    own, and for a folder that is incomplete or not what its description says. That the base's values are the same to
    the last element is for :func:`find_content_problems`.
    """
    if base is None:
        found = "is a distribution vector, which is no model without its base"
        raise CheckpointError(label, found, "Name it under `vectors:` beside the `base:` that it was taken from.")

    facts = _read_facts(folder / FACTS)
    config = read_json(folder / "config.json", remedy="Make the vector again with `aftermix diff`.")

    # Stored names only look like a model's: nothing is tied among them.
    stored = dataclasses.replace(
        open_checkpoint(folder / DIFFERENCE, label=label), config={"tie_word_embeddings": False}
    )

    refuse_if_any(_shorten_problems(list(_compare_base(facts, base, label)), label))
    refuse_if_any(_shorten_problems(list(_compare_description(facts, stored)), label))
    return VectorFile(folder=folder, label=label, config=config, base=base, description=facts, stored=stored)


def take_fingerprint(base: Model, info: TensorInfo, *, content: str) -> TensorFingerprint:
    """Fingerprint of one tensor of the base, given the digest of its whole content."""
    return TensorFingerprint(shape=info.shape, dtype=_name_dtype(info), start=_hash_start(base, info), content=content)


def view_bytes(values: torch.Tensor) -> memoryview:
    """The bytes of `values`, for hashing."""
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().data


def find_content_problems(vector: VectorFile) -> list[Problem]:
    """Tensors of the base that differ anywhere from those the vector was taken from. Reads the whole base."""
    return _shorten_problems(list(_compare_content(vector)), vector.label)


def _read_facts(path: Path) -> VectorFacts:
    remedy = "Make the vector again with `aftermix diff`."
    try:
        return VectorFacts.model_validate(read_json(path, remedy=remedy))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        found = f"does not describe a vector that this version reads ({place}: {first['msg']})"
        raise CheckpointError(str(path), found, remedy) from error


def _compare_description(facts: VectorFacts, stored: Checkpoint) -> Iterator[Problem]:
    """Stored tensors that are missing, unknown, or of another shape or type than `vector.json` says."""
    remedy = "Download the vector again, or make it again with `aftermix diff`."
    expected = {name: (shape, dtype) for name, shape, dtype in _list_layout(facts)}
    found = {name: (info.shape, info.dtype) for name, info in stored.tensors.items()}

    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            shown = "nothing" if name not in found else "{} {}".format(*found[name])
            wanted = "nothing" if name not in expected else "{} {}".format(*expected[name])
            yield Problem(f"{stored.folder}: {name}", f"expected {wanted}, found {shown}", remedy)


def _list_layout(facts: VectorFacts) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    """Name, shape and type of every tensor that the description says is stored."""
    kind = torch.int8 if facts.dtype == "int8" else torch.bfloat16
    for name in facts.error.tensors:
        entry = facts.base.tensors.get(name)
        shape = entry.shape if entry else ()
        yield VALUES + name, shape, kind
        if kind == torch.int8:
            yield SCALES + name, (count_rows(shape),), torch.float32


def _compare_base(facts: VectorFacts, base: Model, label: str) -> Iterator[Problem]:
    remedy = f"Name the base that it was taken from: {facts.base.model}."
    # What a model computes for itself may be stored with one copy of a base and not with another.
    learned = {name: info for name, info in base.tensors.items() if not info.computed}
    recorded = {name for name, entry in facts.base.tensors.items() if not is_computed(name, entry.shape)}

    for name in sorted(recorded | learned.keys()):
        info, known = learned.get(name), facts.base.tensors.get(name)
        if info is None or known is None:
            found = f"vector '{label}' was taken from a base {'with' if info is None else 'without'} this tensor"
            yield Problem(name, found, remedy)
        elif (known.shape, known.dtype) != (info.shape, _name_dtype(info)):
            ours, theirs = f"{info.shape} {_name_dtype(info)}", f"{known.shape} {known.dtype}"
            yield Problem(name, f"vector '{label}' was taken from a base with {theirs}, this base has {ours}", remedy)
        elif known.start != _hash_start(base, info):
            yield Problem(name, f"vector '{label}' was taken from a base with other values", remedy)


def _compare_content(vector: VectorFile) -> Iterator[Problem]:
    for name, known in vector.description.base.tensors.items():
        if is_computed(name, known.shape):
            continue
        digest = xxhash.xxh3_128()
        for span in split_into_spans(vector.base.info(name).elements):
            digest.update(view_bytes(vector.base.read_block(name, span)))
        if digest.hexdigest() != known.content:
            found = f"vector '{vector.label}' was taken from a base with other values"
            yield Problem(name, found, f"Name the base that it was taken from: {vector.description.base.model}.")


def _hash_start(base: Model, info: TensorInfo) -> str:
    values = base.read_block(info.name, (0, min(START_ELEMENTS, info.elements)))
    return xxhash.xxh3_64(view_bytes(values)).hexdigest()


def _name_dtype(info: TensorInfo) -> str:
    return str(info.dtype).removeprefix("torch.")


def _shorten_problems(problems: list[Problem], label: str) -> list[Problem]:
    """The first few, and how many more there are."""
    rest = len(problems) - LISTED
    if rest <= 0:
        return problems
    return [*problems[:LISTED], Problem(label, f"{rest} more tensors like these", problems[-1].remedy)]
