"""Documents with the scores of one side of a comparison, by task and metric."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval.utils import handle_non_serializable, hash_string

DocumentFields = Mapping[str, Any]
"""Values of one document by field; none of a document that is no mapping."""


@dataclass(frozen=True)
class ScoredDocument:
    """One document and its score."""

    hash: str
    """As lm-eval hashes it: `doc_hash` of its samples."""
    value: float | None
    """None where it has no value of the metric, or one that is no finite number."""
    weight: float = 1.0
    fields: DocumentFields = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ScoredTask:
    """One task: its documents by metric, and what of it has no score of a document."""

    metrics: Mapping[str, Sequence[ScoredDocument]]
    """`metric,filter` -> its documents, in any order."""
    left_out: tuple[str, ...] = ()
    """Metrics whose documents have no number each."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Hash of a document -> hash of the prompt that asked it, where it is known."""


ScoredTasks = Mapping[str, ScoredTask]
"""Task -> its scores."""


def hash_as_samples(document: Any) -> str:
    """`doc_hash` of lm-eval's samples."""
    return str(hash_string(json.dumps(document, indent=2, default=handle_non_serializable, ensure_ascii=False)))


def read_value(metric: str, value: Any) -> tuple[float, float] | None:
    """Score and weight of one document by a metric of a sample; None for what is no number.

    `bits_per_byte` of lm-eval is a log-likelihood with its bytes: the score is minus the bits per byte, and the bytes
    are the weight. NaN and infinity are numbers, and no scores.
    """
    if isinstance(value, bool | int | float):
        return float(value), 1.0
    if metric == "bits_per_byte" and isinstance(value, list) and len(value) == 2 and value[1]:
        return float(value[0]) / (float(value[1]) * math.log(2)), float(value[1])
    return None
