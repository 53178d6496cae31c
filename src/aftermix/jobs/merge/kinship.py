"""Vectors that may be of another base, found in a sample: remarks for whoever is about to merge, which stop nothing.

A vector whose expert records its base (`train.json`, a stored vector) has been compared with it and is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.checkpoints.formats.spans import list_sample_spans
from aftermix.checkpoints.model import TensorInfo
from aftermix.checkpoints.pool import ModelPool
from aftermix.errors import Problem

# V vectors, N elements of a sample

SAME_WAY = 0.8
"""Cosine above which two differences point the same way: experts of different data have 0.0 to 0.5."""
SAMPLED = "of a sample of each tensor, up to 16,384 elements"


@dataclass(frozen=True)
class SampledGeometry:
    """Estimates from samples, each weighed by the elements of its tensor."""

    vectors: tuple[str, ...]
    base: float
    """Norm of the base."""
    gram_VV: NDArray[np.float64]
    """Inner products of the vectors."""

    def compute_relative_norm(self, vector: str) -> float:
        """Norm of a vector over that of the base; 0 where both are."""
        row = self.vectors.index(vector)
        norm = math.sqrt(self.gram_VV[row, row])
        return norm / self.base if self.base else math.inf * norm if norm else 0.0

    def compute_cosine(self, one: str, other: str) -> float:
        """Cosine of the angle between two vectors; 0 where one of them is 0."""
        row, column = self.vectors.index(one), self.vectors.index(other)
        lengths = math.sqrt(self.gram_VV[row, row] * self.gram_VV[column, column])
        return float(self.gram_VV[row, column] / lengths) if lengths else 0.0


def list_kinship_remarks(pool: ModelPool) -> list[Problem]:
    """Remarks on vectors of several trainings, on those longer than the base, and on those that point the same way.

    The last two are what experts of another base look like: their differences hold the way from one base to the other.
    Looked at for them are vectors of which no record says that they were trained from this base; of a pair, one such
    vector is enough.
    """
    remarks = [_describe_lineage(pool, vector, folders) for vector, folders in pool.lineages.items()]
    unconfirmed = [vector for vector in pool.experts if vector not in pool.confirmed]
    if pool.base is None or not unconfirmed:
        return remarks

    geometry, base = measure_sample(pool), pool.base.label
    for vector in unconfirmed:
        relative = geometry.compute_relative_norm(vector)
        if relative > 1:
            found = f"vector '{vector}' is {relative:.3g} times as long as the base ({SAMPLED})"
            remarks.append(Problem(pool.experts[vector].label, found, f"Check that it was trained from {base}."))

    for names, cosine in _group_pairs(_find_pairs(geometry, unconfirmed)):
        shown = ", ".join(f"'{name}'" for name in names)
        found = f"{shown} point the same way (cosine {cosine:.2f}{' or more' if len(names) > 2 else ''}, {SAMPLED})"
        remedy = f"Check that they were trained from {base}; checkpoints of one training look like this, too."
        remarks.append(Problem("vectors", found, remedy))
    return remarks


def measure_sample(pool: ModelPool) -> SampledGeometry:
    """Norms and inner products from a few runs of each tensor that all models share."""
    vectors = tuple(pool.experts)
    base, gram_VV = 0.0, np.zeros((len(vectors), len(vectors)))
    for info in pool.layout:
        spans = list_sample_spans(info.elements)
        if not spans or not _is_shared(pool, info):
            continue

        weight = info.elements / sum(end - start for start, end in spans)
        blocks = [pool.read_base_block(info.name, span).to(torch.float64) for span in spans]
        base += weight * sum(float(block.square().sum()) for block in blocks)
        sampled_VN = torch.stack([pool.read_spans(info.name, v, spans, difference=True) for v in vectors])
        exact_VN = sampled_VN.to(torch.float64)
        gram_VV += weight * (exact_VN @ exact_VN.T).numpy()
    return SampledGeometry(vectors, math.sqrt(base), gram_VV)


def _is_shared(pool: ModelPool, info: TensorInfo) -> bool:
    experts = pool.experts.values()
    counted = info.mergeable and info.name not in pool.frame.alias
    return counted and all(e.has(info.name) and e.info(info.name).shape == info.shape for e in experts)


def _describe_lineage(pool: ModelPool, vector: str, folders: Sequence[Path]) -> Problem:
    """Note on a vector that was trained from `folders[0]`, that from the next, and the last from the base."""
    chain = ", that from ".join(map(str, folders))
    found = f"vector '{vector}' was trained from {chain}, and that from this base: its difference holds all of it"
    places = {folder.resolve() for folder in folders}
    twice = [f"'{name}'" for name, expert in pool.experts.items() if expert.folder.resolve() in places]
    if twice:
        found += f", what is in {', '.join(twice)} once more"
    return Problem(pool.experts[vector].label, found, f"Name `base: {folders[0]}` for the last training alone.")


def _find_pairs(geometry: SampledGeometry, unconfirmed: Sequence[str]) -> dict[tuple[str, str], float]:
    """Cosine by pair, of the pairs that point the same way."""
    pairs = {}
    for row, one in enumerate(geometry.vectors):
        for other in geometry.vectors[row + 1 :]:
            cosine = geometry.compute_cosine(one, other)
            if cosine > SAME_WAY and (one in unconfirmed or other in unconfirmed):
                pairs[one, other] = cosine
    return pairs


def _group_pairs(pairs: dict[tuple[str, str], float]) -> list[tuple[list[str], float]]:
    """Vectors that pairs connect, with the lowest cosine of their pairs: ten experts of one base are one remark."""
    groups: list[tuple[set[str], float]] = []
    for pair, cosine in pairs.items():
        touching = [group for group in groups if group[0] & set(pair)]
        joined = set(pair).union(*(names for names, _ in touching))
        lowest = min([cosine, *(value for _, value in touching)])
        groups = [group for group in groups if group not in touching] + [(joined, lowest)]
    return [(sorted(names), lowest) for names, lowest in groups]
