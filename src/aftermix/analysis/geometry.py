"""Norms of distribution vectors, the angles between them, and how much of the base they move: one reading of all.

Each tensor gives a Gram matrix of the vectors, in float64. Inner products add up over tensors, so norms and cosines of
any part of the model (a layer, a kind, the whole) come from sums of these matrices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.analysis.storage.rounding import StoredRounding
from aftermix.analysis.tensor_kinds import KINDS, TensorKind, label_layers, read_tensor_kind
from aftermix.checkpoints.formats.spans import split_into_spans
from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.checkpoints.pool import ModelPool, is_finite
from aftermix.errors import Problem, refuse_if_any
from aftermix.progress import bar

# V vectors, N elements

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GeometryPart:
    """Sums over some tensors, for all vectors together; parts of one model add up."""

    elements: int
    base: float
    """Squared norm of the base."""
    gram_VV: Floats
    """Inner products of the vectors."""
    changed_V: NDArray[np.int64]
    """Elements that differ from the base's."""
    max_abs_V: Floats

    @property
    def norms(self) -> Floats:
        """(V,) L2 norms of the vectors."""
        return np.sqrt(np.diagonal(self.gram_VV))

    @property
    def relative(self) -> Floats:
        """(V,) norms over the base's; infinite where only the base is 0, and 0 where both are."""
        norms_V = self.norms
        base = float(np.sqrt(self.base))
        return norms_V / base if base else np.where(norms_V > 0, np.inf, 0.0)

    @property
    def shares(self) -> Floats:
        """(V,) share of elements that differ."""
        return self.changed_V / max(1, self.elements)

    @property
    def cosines(self) -> Floats:
        """(V, V) cosine of the angle between each two vectors; NaN for a vector of 0."""
        norms_V = self.norms
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines_VV = np.clip(self.gram_VV / np.outer(norms_V, norms_V), -1.0, 1.0)
        np.fill_diagonal(cosines_VV, np.where(norms_V > 0, 1.0, np.nan))
        return cosines_VV


def join_parts(parts: Sequence[GeometryPart]) -> GeometryPart:
    """The part that all of `parts` (at least one) make."""
    return GeometryPart(
        elements=sum(part.elements for part in parts),
        base=float(np.sum([part.base for part in parts])),
        gram_VV=np.sum([part.gram_VV for part in parts], axis=0),
        changed_V=np.sum([part.changed_V for part in parts], axis=0),
        max_abs_V=np.max([part.max_abs_V for part in parts], axis=0),
    )


@dataclass(frozen=True)
class VectorGeometry:
    """Sums of every tensor that holds real numbers; tied tensors stand once."""

    vectors: tuple[str, ...]
    tensors: dict[str, GeometryPart]
    rounding: Mapping[str, StoredRounding] = field(default_factory=dict)
    """By vector, where the expert is stored in a type that rounds and that was looked at."""

    @cached_property
    def places(self) -> dict[str, TensorKind]:
        """Place by tensor."""
        return {name: read_tensor_kind(name) for name in self.tensors}

    @cached_property
    def whole(self) -> GeometryPart:
        """All tensors."""
        return join_parts(list(self.tensors.values()))

    @cached_property
    def layers(self) -> dict[str, GeometryPart]:
        """By label of the layer, in order."""
        labels = label_layers(self.places.values())
        return {
            label: self._join_tensors(
                [name for name, place in self.places.items() if (place.stack, place.number) == key]
            )
            for key, label in labels.items()
        }

    @cached_property
    def kinds(self) -> dict[str, GeometryPart]:
        """By kind, in the order of `KINDS`; kinds that the model lacks are left out."""
        present = {place.kind for place in self.places.values()}
        return {
            kind: self._join_tensors([name for name, place in self.places.items() if place.kind == kind])
            for kind in KINDS
            if kind in present
        }

    @cached_property
    def cells(self) -> dict[tuple[str, str], GeometryPart]:
        """By label of the layer and kind."""
        labels = label_layers(self.places.values())
        groups: dict[tuple[str, str], list[GeometryPart]] = {}
        for name, place in self.places.items():
            groups.setdefault((labels[place.stack, place.number], place.kind), []).append(self.tensors[name])
        return {key: join_parts(parts) for key, parts in groups.items()}

    def list_unmoved(self, vector: str) -> list[str]:
        """Tensors in which `vector` differs nowhere from the base."""
        row = self.vectors.index(vector)
        return [name for name, part in self.tensors.items() if not part.changed_V[row]]

    def _join_tensors(self, names: Sequence[str]) -> GeometryPart:
        return join_parts([self.tensors[name] for name in names])


def measure_geometry(pool: ModelPool) -> VectorGeometry:
    """Read base and vectors of `pool` once; memory is one run of elements of each.

    Raises :class:`ManyProblemsError` with every model and tensor that holds NaN or Inf.
    """
    non_finite: Counter[tuple[str, str]] = Counter()
    counted = [info for info in pool.layout if info.mergeable and info.name not in pool.frame.alias]
    tensors = {
        info.name: _sum_tensor(pool, info, non_finite) for info in bar(counted, label="Measuring", unit="tensor")
    }
    remedy = "Use an earlier checkpoint of that model, or train it again."
    refuse_if_any(
        [
            Problem(name, f"{owner} holds {count} NaN or Inf values", remedy)
            for (name, owner), count in non_finite.items()
        ]
    )
    return VectorGeometry(tuple(pool.experts), tensors)


def _sum_tensor(pool: ModelPool, info: TensorInfo, non_finite: Counter[tuple[str, str]]) -> GeometryPart:
    """The sums of one tensor, added up run by run."""
    count, base = len(pool.experts), 0.0
    gram_VV, changed_V, max_abs_V = np.zeros((count, count)), np.zeros(count, dtype=np.int64), np.zeros(count)

    for span in split_into_spans(info.elements):
        base_N = pool.read_base_block(info.name, span).to(torch.float32)
        differences_VN = torch.stack(
            [_read_difference(pool, info.name, vector, span, base_N) for vector in pool.experts]
        )
        if not (is_finite(base_N) and is_finite(differences_VN)):
            non_finite.update(_count_non_finite(pool, info.name, span, differences_VN))

        exact_VN = differences_VN.to(torch.float64)
        base += float(base_N.to(torch.float64).square().sum())
        gram_VV += (exact_VN @ exact_VN.T).numpy()
        changed_V += differences_VN.count_nonzero(dim=1).numpy()
        np.maximum(max_abs_V, exact_VN.abs().amax(dim=1).numpy(), out=max_abs_V)
    return GeometryPart(info.elements, base, gram_VV, changed_V, max_abs_V)


def _read_difference(pool: ModelPool, name: str, vector: str, span: Span, base: torch.Tensor) -> torch.Tensor:
    return pool.read_difference_block(name, vector, span, base=base, out=torch.empty(span[1] - span[0]))


def _count_non_finite(pool: ModelPool, name: str, span: Span, differences_VN: torch.Tensor) -> Counter[tuple[str, str]]:
    """NaN and Inf of this run by tensor and owner: models, or else differences that float32 cannot hold."""
    owners = {f"vector '{vector}' ({expert.label})": expert for vector, expert in pool.experts.items()}
    blocks = {owner: model.read_block(name, span) for owner, model in ({pool.frame.label: pool.frame} | owners).items()}
    counts = Counter({(name, owner): int((~block.isfinite()).sum()) for owner, block in blocks.items()})
    if not +counts:
        counts[name, "a difference in float32"] = int((~differences_VN.isfinite()).sum())
    return +counts
