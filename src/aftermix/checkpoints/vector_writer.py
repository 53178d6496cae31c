"""Storing a distribution vector: one reading to see what differs and how far, one to write it, a run at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from aftermix.checkpoints.formats.int8 import dequantised, quantised, raise_largest, scales_of
from aftermix.checkpoints.formats.spans import row_count, row_length, runs
from aftermix.checkpoints.formats.vector_file import (
    DIFFERENCE,
    FACTS,
    SCALES,
    VALUES,
    Accuracy,
    BaseFacts,
    Error,
    Facts,
    StoredType,
    TensorPrint,
    element_bytes,
    tensor_print,
)
from aftermix.checkpoints.model import Bounds, TensorInfo
from aftermix.checkpoints.pool import Pool, is_finite, refuse_non_finite
from aftermix.checkpoints.shards import Piece, TensorSpec, plan_shards, write_shards
from aftermix.checkpoints.writer import appearing_folder, refuse_occupied
from aftermix.errors import CheckpointError
from aftermix.progress import bar

STORED = {"bfloat16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True)
class Seen:
    """Result of the first reading of one tensor: its base's fingerprint, and how far its rows differ."""

    info: TensorInfo
    base: TensorPrint
    largest_R: torch.Tensor
    """Largest magnitude of each row of the difference; empty for a tensor without real numbers."""

    @property
    def differs(self) -> bool:
        """True if any element differs from the base's."""
        return bool(self.largest_R.any())


@dataclass
class Deviation:
    """Sums of squares of a difference and of the error of storing it, in float64."""

    error: float = 0.0
    total: float = 0.0
    max_abs: float = 0.0

    def add(self, exact: torch.Tensor, stored: torch.Tensor) -> None:
        """Take in one run of a difference and what will be read back for it."""
        error = (stored.to(torch.float64) - exact).abs_()
        self.max_abs = max(self.max_abs, float(error.max()))
        self.error += float(error.square_().sum())
        self.total += float(exact.to(torch.float64).square_().sum())

    def accuracy(self) -> Accuracy:
        """Relative L2 error and largest error."""
        return Accuracy(relative_l2=math.sqrt(self.error / self.total) if self.total else 0.0, max_abs=self.max_abs)


@dataclass(frozen=True)
class VectorWriter:
    """One vector of a pool, to be stored as `dtype`."""

    pool: Pool
    vector: str
    dtype: StoredType

    def write(self, output: Path, *, companions: Mapping[str, bytes], max_shard_bytes: int) -> Facts:
        """Write the new folder `output` and return what its `vector.json` says; memory is a few runs of elements.

        Raises :class:`CheckpointError`, with nothing written, for an occupied `output`, NaN or Inf in base or expert,
        an expert equal to the base, and a difference beyond the stored type.
        """
        refuse_occupied(output)
        learned = [info for info in self.pool.layout if not info.computed]
        seen = [self._seen(info) for info in bar(learned, label="Reading", unit="tensor")]
        differing = [entry for entry in seen if entry.differs]
        if not differing:
            found = f"no tensor differs from the base {self.pool.frame.label}"
            raise CheckpointError(self.pool.experts[self.vector].label, found, "Name the model trained from it.")

        deviations = {entry.info.name: Deviation() for entry in differing}
        shards = plan_shards([spec for entry in differing for spec in self._specs(entry)], max_shard_bytes)

        with appearing_folder(output) as hidden:
            (hidden / DIFFERENCE).mkdir()
            write_shards(hidden / DIFFERENCE, self._pieces(differing, deviations), shards)

            # The error is known once everything is written: the description comes last.
            facts = self._facts(seen, deviations)
            about = {f"{DIFFERENCE}/config.json": b'{"model_type": "aftermix_difference"}\n', FACTS: _as_json(facts)}
            for name, content in {**companions, **about}.items():
                (hidden / name).parent.mkdir(parents=True, exist_ok=True)
                (hidden / name).write_bytes(content)
        return facts

    def _difference(self, info: TensorInfo, bounds: Bounds) -> torch.Tensor:
        """One run of expert - base in float32."""
        base = self.pool.base_block(info.name, bounds).to(torch.float32)
        return self.pool.difference_block(
            info.name, self.vector, bounds, base=base, out=torch.empty(bounds[1] - bounds[0])
        )

    def _seen(self, info: TensorInfo) -> Seen:
        """The first reading of one tensor: the base's hash, the largest differences, NaN and Inf."""
        digest = xxhash.xxh3_128()
        largest_R = torch.zeros(row_count(info.shape) if info.mergeable else 0)
        for bounds in runs(info.elements):
            digest.update(element_bytes(self.pool.base_block(info.name, bounds)))
            if not info.mergeable:
                continue

            difference = self._difference(info, bounds)
            if not is_finite(difference):
                self.pool.refuse_non_finite_inputs(info.name, bounds, vectors=[self.vector])
                refuse_non_finite(difference, info.name, f"the difference of {self.pool.experts[self.vector].label}")
            raise_largest(largest_R, difference, bounds, row=row_length(info.shape))

        base = tensor_print(self.pool.frame, info, content=digest.hexdigest())
        return Seen(info, base, largest_R)

    def _specs(self, entry: Seen) -> Iterator[TensorSpec]:
        yield TensorSpec(VALUES + entry.info.name, entry.info.shape, STORED[self.dtype])
        if self.dtype == "int8":
            yield TensorSpec(SCALES + entry.info.name, (len(entry.largest_R),), torch.float32)

    def _pieces(self, differing: list[Seen], deviations: Mapping[str, Deviation]) -> Iterator[Piece]:
        """The second reading: what is stored, in order, its error measured on the way."""
        for entry in bar(differing, label="Writing", unit="tensor"):
            name, scales = entry.info.name, scales_of(entry.largest_R)
            for bounds in runs(entry.info.elements):
                exact = self._difference(entry.info, bounds)
                values, read_back = self._stored(exact, bounds, scales, row=row_length(entry.info.shape))
                refuse_non_finite(read_back, name, f"the difference stored as {self.dtype}")
                deviations[name].add(exact, read_back)
                yield Piece(VALUES + name, bounds[0], values)

            if self.dtype == "int8":
                yield Piece(SCALES + name, 0, scales)

    def _stored(
        self, exact: torch.Tensor, bounds: Bounds, scales: torch.Tensor, *, row: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One run as it is stored, and as a reader will see it."""
        if self.dtype == "bfloat16":
            values = exact.to(torch.bfloat16)
            return values, values.to(torch.float32)

        values = quantised(exact, bounds, scales, row=row)
        return values, dequantised(values, bounds, scales[bounds[0] // row :], row=row)

    def _facts(self, seen: list[Seen], deviations: Mapping[str, Deviation]) -> Facts:
        whole = Deviation()
        for deviation in deviations.values():
            whole.error += deviation.error
            whole.total += deviation.total
            whole.max_abs = max(whole.max_abs, deviation.max_abs)

        tensors = {name: deviation.accuracy() for name, deviation in deviations.items()}
        return Facts(
            format="aftermix vector",
            version=1,
            dtype=self.dtype,
            expert=self.pool.experts[self.vector].label,
            base=BaseFacts(model=self.pool.frame.label, tensors={entry.info.name: entry.base for entry in seen}),
            unchanged=tuple(e.info.name for e in seen if e.info.mergeable and not e.differs),
            error=Error(**whole.accuracy().model_dump(), tensors=tensors),
        )


def _as_json(facts: Facts) -> bytes:
    return (json.dumps(facts.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
