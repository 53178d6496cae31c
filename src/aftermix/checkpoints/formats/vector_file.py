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
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from pydantic import ValidationError

from aftermix.checkpoints.formats.int8 import dequantised
from aftermix.checkpoints.formats.on_base import OnBase
from aftermix.checkpoints.formats.spans import row_count, row_length, runs
from aftermix.checkpoints.model import Bounds, Model, TensorInfo
from aftermix.checkpoints.reader import Checkpoint, open_checkpoint, read_json
from aftermix.config import Section
from aftermix.errors import CheckpointError, Problem, refuse_if_any

FACTS = "vector.json"
DIFFERENCE = "difference"
VALUES, SCALES = "values.", "scales."
START_ELEMENTS = 256
"""Elements of each tensor of the base that are compared whenever a vector is opened."""
LISTED = 5

StoredType = Literal["bfloat16", "int8"]


class TensorPrint(Section):
    """Fingerprint of one tensor, by which the base is told from another base."""

    shape: tuple[int, ...]
    dtype: str
    start: str
    """XXH3-64 of the first elements."""
    content: str
    """XXH3-128 of all elements."""


class BaseFacts(Section):
    """The base that a vector was taken from."""

    model: str
    tensors: dict[str, TensorPrint]


class Accuracy(Section):
    """Distance of the stored difference from the float32 one."""

    relative_l2: float
    """Norm of the error over norm of the difference."""
    max_abs: float


class Error(Accuracy):
    """Of the whole vector, and tensor by tensor."""

    tensors: dict[str, Accuracy]


class Facts(Section):
    """Content of `vector.json`."""

    format: Literal["aftermix vector"]
    version: Literal[1]
    dtype: StoredType
    expert: str
    base: BaseFacts
    unchanged: tuple[str, ...]
    """Real-valued tensors that do not differ from the base's, which are not stored."""
    error: Error

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
    description: Facts
    stored: Checkpoint

    def difference(self, name: str, bounds: Bounds) -> torch.Tensor | None:
        """Elements `span` of the difference in float32; None for a tensor that does not differ."""
        name = self.info(name).name
        if VALUES + name not in self.stored.tensors:
            return None
        values = self.stored.block(VALUES + name, bounds)
        if self.description.dtype != "int8":
            return values.to(torch.float32)

        row = row_length(self.info(name).shape)
        scales = self.stored.block(SCALES + name, (bounds[0] // row, -(-bounds[1] // row)))
        return dequantised(values, bounds, scales, row=row)

    def files(self) -> list[Path]:
        """The files that hold the difference."""
        return self.stored.files()

    def storage_facts(self) -> list[str]:
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

    facts = _facts(folder / FACTS)
    config = read_json(folder / "config.json", remedy="Make the vector again with `aftermix diff`.")

    # Stored names only look like a model's: nothing is tied among them.
    stored = dataclasses.replace(
        open_checkpoint(folder / DIFFERENCE, label=label), config={"tie_word_embeddings": False}
    )

    refuse_if_any(_listed(list(_other_base(facts, base, label)), label))
    refuse_if_any(_listed(list(_unlike_its_description(facts, stored)), label))
    return VectorFile(folder=folder, label=label, config=config, base=base, description=facts, stored=stored)


def tensor_print(base: Model, info: TensorInfo, *, content: str) -> TensorPrint:
    """Fingerprint of one tensor of the base, given the digest of its whole content."""
    return TensorPrint(shape=info.shape, dtype=_dtype(info), start=_start(base, info), content=content)


def element_bytes(values: torch.Tensor) -> memoryview:
    """The bytes of `values`, for hashing."""
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().data


def content_problems(vector: VectorFile) -> list[Problem]:
    """Tensors of the base that differ anywhere from those the vector was taken from. Reads the whole base."""
    return _listed(list(_other_content(vector)), vector.label)


def _facts(path: Path) -> Facts:
    remedy = "Make the vector again with `aftermix diff`."
    try:
        return Facts.model_validate(read_json(path, remedy=remedy))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        found = f"does not describe a vector that this version reads ({place}: {first['msg']})"
        raise CheckpointError(str(path), found, remedy) from error


def _unlike_its_description(facts: Facts, stored: Checkpoint) -> Iterator[Problem]:
    """Stored tensors that are missing, unknown, or of another shape or type than `vector.json` says."""
    remedy = "Download the vector again, or make it again with `aftermix diff`."
    expected = {name: (shape, dtype) for name, shape, dtype in _layout(facts)}
    found = {name: (info.shape, info.dtype) for name, info in stored.tensors.items()}

    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            shown = "nothing" if name not in found else "{} {}".format(*found[name])
            wanted = "nothing" if name not in expected else "{} {}".format(*expected[name])
            yield Problem(f"{stored.folder}: {name}", f"expected {wanted}, found {shown}", remedy)


def _layout(facts: Facts) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    """Name, shape and type of every tensor that the description says is stored."""
    kind = torch.int8 if facts.dtype == "int8" else torch.bfloat16
    for name in facts.error.tensors:
        entry = facts.base.tensors.get(name)
        shape = entry.shape if entry else ()
        yield VALUES + name, shape, kind
        if kind == torch.int8:
            yield SCALES + name, (row_count(shape),), torch.float32


def _other_base(facts: Facts, base: Model, label: str) -> Iterator[Problem]:
    remedy = f"Name the base that it was taken from: {facts.base.model}."
    # What a model computes for itself may be stored with one copy of a base and not with another.
    learned = {name: info for name, info in base.tensors.items() if not info.computed}

    for name in sorted(facts.base.tensors.keys() | learned.keys()):
        info, known = learned.get(name), facts.base.tensors.get(name)
        if info is None or known is None:
            found = f"vector '{label}' was taken from a base {'with' if info is None else 'without'} this tensor"
            yield Problem(name, found, remedy)
        elif (known.shape, known.dtype) != (info.shape, _dtype(info)):
            ours, theirs = f"{info.shape} {_dtype(info)}", f"{known.shape} {known.dtype}"
            yield Problem(name, f"vector '{label}' was taken from a base with {theirs}, this base has {ours}", remedy)
        elif known.start != _start(base, info):
            yield Problem(name, f"vector '{label}' was taken from a base with other values", remedy)


def _other_content(vector: VectorFile) -> Iterator[Problem]:
    for name, known in vector.description.base.tensors.items():
        digest = xxhash.xxh3_128()
        for bounds in runs(vector.base.info(name).elements):
            digest.update(element_bytes(vector.base.block(name, bounds)))
        if digest.hexdigest() != known.content:
            found = f"vector '{vector.label}' was taken from a base with other values"
            yield Problem(name, found, f"Name the base that it was taken from: {vector.description.base.model}.")


def _start(base: Model, info: TensorInfo) -> str:
    values = base.block(info.name, (0, min(START_ELEMENTS, info.elements)))
    return xxhash.xxh3_64(element_bytes(values)).hexdigest()


def _dtype(info: TensorInfo) -> str:
    return str(info.dtype).removeprefix("torch.")


def _listed(problems: list[Problem], label: str) -> list[Problem]:
    """The first few, and how many more there are."""
    rest = len(problems) - LISTED
    if rest <= 0:
        return problems
    return [*problems[:LISTED], Problem(label, f"{rest} more tensors like these", problems[-1].remedy)]
