"""The vector beside an expert: what training changed, before the expert's type rounded it, and what that lost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from aftermix.checkpoints.formats.content_hash import hash_all_weights
from aftermix.checkpoints.formats.spans import split_into_spans
from aftermix.checkpoints.formats.trained_expert import OWN_VECTOR
from aftermix.checkpoints.formats.vector_file import VALUES
from aftermix.checkpoints.reader import Checkpoint
from aftermix.checkpoints.shards import TensorPiece, TensorSpec, write_tensor_file
from aftermix.runs.verification_records import OwnVectorRecord

VectorType = Literal["bfloat16", "float32"]


@dataclass
class RoundingLoss:
    """Sums over the entries of a vector, in float64: its own square, and that of what storing the expert lost."""

    squares: float = 0.0
    lost_squares: float = 0.0
    moved: int = 0
    unmoved: int = 0
    """Entries that training moved, and that the stored expert has at the base's value."""
    differing: list[str] = field(default_factory=list)
    """Tensors that differ from the base's before rounding."""

    def add(self, name: str, base: torch.Tensor, trained: torch.Tensor, stored: torch.Tensor) -> None:
        """Take in tensor `name`: the base's, the trained one and the one that is written, all flattened."""
        moved = 0
        for start, end in split_into_spans(trained.numel()):
            before, after, kept = (tensor[start:end].to(torch.float64) for tensor in (base, trained, stored))
            difference = after - before
            is_moved = difference != 0
            moved += int(is_moved.sum())
            self.unmoved += int((is_moved & (kept == before)).sum())
            self.squares += float(difference.square().sum())
            self.lost_squares += float((kept - after).square().sum())

        self.moved += moved
        if moved:
            self.differing.append(name)

    def build_record(self, dtype: VectorType | None) -> OwnVectorRecord:
        """Part of `train.json` that tells of it; `dtype` is the type of the file, None where there is none."""
        return OwnVectorRecord(
            file=OWN_VECTOR if dtype is not None else None,
            dtype=dtype,
            norm=math.sqrt(self.squares),
            rounding_lost=math.sqrt(self.lost_squares / self.squares) if self.squares else 0.0,
            unmoved=self.unmoved / self.moved if self.moved else 0.0,
        )


def parse_vector_type(name: str) -> VectorType | None:
    """The type that `train.vector` names; None for `none`."""
    return None if name == "none" else "float32" if name == "float32" else "bfloat16"


def describe_rounding(vector: OwnVectorRecord, *, adapters: str | None = None) -> str:
    """Describe how much the stored weights of an expert lost of its vector; `adapters` names a folder that has it."""
    lost = f"rounding lost {vector.rounding_lost:.1%} of the vector's norm and {vector.unmoved:.1%} of its entries"
    if vector.file is None and adapters is not None:
        return f"{lost} from the weights that serve; {adapters}/ has them"
    if vector.file is None:
        return f"{lost}; `train.vector: bfloat16` keeps them"
    return f"{lost} from the weights that serve; {vector.file} has them ({vector.dtype})"


def write_own_vector(
    folder: Path,
    trained: Mapping[str, torch.Tensor],
    base: Checkpoint,
    *,
    differing: list[str],
    dtype: VectorType,
) -> None:
    """Write `vector.safetensors` into `folder`, where the weights of the expert are already.

    `trained` are its tensors before rounding, of which those that are `differing` are stored.
    """
    kind = getattr(torch, dtype)
    layout = [TensorSpec(VALUES + name, base.info(name).shape, kind) for name in differing]
    files = sorted(folder.glob("model*.safetensors"))
    metadata = {"base": json.dumps(hash_all_weights(base.files())), "model": json.dumps(hash_all_weights(files))}
    write_tensor_file(folder / OWN_VECTOR, _stream_differences(trained, base, layout), layout, metadata=metadata)


def _stream_differences(
    trained: Mapping[str, torch.Tensor], base: Checkpoint, layout: list[TensorSpec]
) -> Iterator[TensorPiece]:
    for spec in layout:
        name = spec.name.removeprefix(VALUES)
        after, before = trained[name].detach().cpu().reshape(-1), base.read(name).reshape(-1)
        for start, end in split_into_spans(spec.elements):
            difference = after[start:end].to(torch.float32) - before[start:end].to(torch.float32)
            yield TensorPiece(spec.name, start, difference.to(spec.dtype))
