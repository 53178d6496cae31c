"""Storing a distribution vector: one reading to see what differs and how far, one to write it, a run at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from aftermix.checkpoints.formats.int8 import compute_scales, dequantise, quantise, raise_largest
from aftermix.checkpoints.formats.spans import compute_row_length, count_rows, split_into_spans
from aftermix.checkpoints.formats.vector_file import (
    DIFFERENCE,
    FACTS,
    SCALES,
    VALUES,
    BaseFacts,
    StorageAccuracy,
    StoredType,
    TensorFingerprint,
    VectorAccuracy,
    VectorFacts,
    take_fingerprint,
    view_bytes,
)
from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.checkpoints.pool import ModelPool, is_finite, refuse_non_finite
from aftermix.checkpoints.shards import TensorPiece, TensorSpec, plan_shards, write_shards
from aftermix.checkpoints.writer import refuse_occupied, stage_folder
from aftermix.errors import CheckpointError
from aftermix.progress import bar

STORED = {"bfloat16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True)
class TensorSurvey:
    """Result of the first reading of one tensor: its base's fingerprint, and how far its rows differ."""

    info: TensorInfo
    base: TensorFingerprint
    largest_R: torch.Tensor
    """Largest magnitude of each row of the difference; empty for a tensor without real numbers."""

    @property
    def differs(self) -> bool:
        """True if any element differs from the base's."""
        return bool(self.largest_R.any())


@dataclass
class StorageDeviation:
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

    def compute_accuracy(self) -> StorageAccuracy:
        """Relative L2 error and largest error."""
        return StorageAccuracy(
            relative_l2=math.sqrt(self.error / self.total) if self.total else 0.0, max_abs=self.max_abs
        )


@dataclass(frozen=True)
class VectorWriter:
    """One vector of a pool, to be stored as `dtype`."""

    pool: ModelPool
    vector: str
    dtype: StoredType

    def write(self, output: Path, *, companions: Mapping[str, bytes], max_shard_bytes: int) -> VectorFacts:
        """Write the new folder `output` and return what its `vector.json` says; memory is a few runs of elements.

        Raises :class:`CheckpointError`, with nothing written, for an occupied `output`, NaN or Inf in base or expert,
        an expert equal to the base, and a difference beyond the stored type.
        """
        refuse_occupied(output)
        learned = [info for info in self.pool.layout if not info.computed]
        surveys = [self._survey_tensor(info) for info in bar(learned, label="Reading", unit="tensor")]
        differing = [entry for entry in surveys if entry.differs]
        if not differing:
            found = f"no tensor differs from the base {self.pool.frame.label}"
            raise CheckpointError(self.pool.experts[self.vector].label, found, "Name the model trained from it.")

        deviations = {entry.info.name: StorageDeviation() for entry in differing}
        shards = plan_shards([spec for entry in differing for spec in self._list_specs(entry)], max_shard_bytes)

        with stage_folder(output) as hidden:
            (hidden / DIFFERENCE).mkdir()
            write_shards(hidden / DIFFERENCE, self._encode_pieces(differing, deviations), shards)

            # The error is known once everything is written: the description comes last.
            facts = self._build_facts(surveys, deviations)
            about = {
                f"{DIFFERENCE}/config.json": b'{"model_type": "aftermix_difference"}\n',
                FACTS: _serialise_facts(facts),
            }
            for name, content in {**companions, **about}.items():
                (hidden / name).parent.mkdir(parents=True, exist_ok=True)
                (hidden / name).write_bytes(content)
        return facts

    def _read_difference(self, info: TensorInfo, span: Span) -> torch.Tensor:
        """One run of expert - base in float32."""
        base = self.pool.read_base_block(info.name, span).to(torch.float32)
        return self.pool.read_difference_block(
            info.name, self.vector, span, base=base, out=torch.empty(span[1] - span[0])
        )

    def _survey_tensor(self, info: TensorInfo) -> TensorSurvey:
        """The first reading of one tensor: the base's hash, the largest differences, NaN and Inf."""
        digest = xxhash.xxh3_128()
        largest_R = torch.zeros(count_rows(info.shape) if info.mergeable else 0)
        for span in split_into_spans(info.elements):
            digest.update(view_bytes(self.pool.read_base_block(info.name, span)))
            if not info.mergeable:
                continue

            difference = self._read_difference(info, span)
            if not is_finite(difference):
                self.pool.refuse_non_finite_inputs(info.name, span, vectors=[self.vector])
                refuse_non_finite(difference, info.name, f"the difference of {self.pool.experts[self.vector].label}")
            raise_largest(largest_R, difference, span, row=compute_row_length(info.shape))

        base = take_fingerprint(self.pool.frame, info, content=digest.hexdigest())
        return TensorSurvey(info, base, largest_R)

    def _list_specs(self, entry: TensorSurvey) -> Iterator[TensorSpec]:
        yield TensorSpec(VALUES + entry.info.name, entry.info.shape, STORED[self.dtype])
        if self.dtype == "int8":
            yield TensorSpec(SCALES + entry.info.name, (len(entry.largest_R),), torch.float32)

    def _encode_pieces(
        self, differing: list[TensorSurvey], deviations: Mapping[str, StorageDeviation]
    ) -> Iterator[TensorPiece]:
        """The second reading: what is stored, in order, its error measured on the way."""
        for entry in bar(differing, label="Writing", unit="tensor"):
            name, scales = entry.info.name, compute_scales(entry.largest_R)
            for span in split_into_spans(entry.info.elements):
                exact = self._read_difference(entry.info, span)
                values, read_back = self._encode_span(exact, span, scales, row=compute_row_length(entry.info.shape))
                refuse_non_finite(read_back, name, f"the difference stored as {self.dtype}")
                deviations[name].add(exact, read_back)
                yield TensorPiece(VALUES + name, span[0], values)

            if self.dtype == "int8":
                yield TensorPiece(SCALES + name, 0, scales)

    def _encode_span(
        self, exact: torch.Tensor, span: Span, scales: torch.Tensor, *, row: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One run as it is stored, and as a reader will see it."""
        if self.dtype == "bfloat16":
            values = exact.to(torch.bfloat16)
            return values, values.to(torch.float32)

        values = quantise(exact, span, scales, row=row)
        return values, dequantise(values, span, scales[span[0] // row :], row=row)

    def _build_facts(self, surveys: list[TensorSurvey], deviations: Mapping[str, StorageDeviation]) -> VectorFacts:
        whole = StorageDeviation()
        for deviation in deviations.values():
            whole.error += deviation.error
            whole.total += deviation.total
            whole.max_abs = max(whole.max_abs, deviation.max_abs)

        tensors = {name: deviation.compute_accuracy() for name, deviation in deviations.items()}
        return VectorFacts(
            format="aftermix vector",
            version=1,
            dtype=self.dtype,
            expert=self.pool.experts[self.vector].label,
            base=BaseFacts(model=self.pool.frame.label, tensors={entry.info.name: entry.base for entry in surveys}),
            unchanged=tuple(e.info.name for e in surveys if e.info.mergeable and not e.differs),
            error=VectorAccuracy(**whole.compute_accuracy().model_dump(), tensors=tensors),
        )


def _serialise_facts(facts: VectorFacts) -> bytes:
    return (json.dumps(facts.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
