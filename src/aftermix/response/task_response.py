"""The response of one task: from rows of the process to the expected metric of each item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aftermix.response.margins import ChoiceItems, Margins, bound_outputs
from aftermix.response.surface.coordinates import Floats, Integers, MergePoints
from aftermix.response.surface.process import ResponseProcess
from aftermix.response.tempered import TemperedScore

# N measured merges, C candidates, R requests, I items

CHUNK = 256
"""Candidates whose outputs are held at once."""


@dataclass(frozen=True)
class OutputScale:
    """The way from log-likelihoods to what the process sees: `bound tanh((x - level) / bound)` over `unit`."""

    level: float
    bound: float
    unit: float

    def apply(self, outputs: NDArray[np.floating]) -> Margins:
        """Outputs in the common unit."""
        return bound_outputs(np.asarray(outputs, dtype=np.float32) - np.float32(self.level), self.bound) / np.float32(
            self.unit
        )


@dataclass(frozen=True)
class TaskResponse:
    """A task as the process predicts it."""

    name: str
    used: Literal["loglikelihood", "score"]
    process: ResponseProcess
    """The process of all tasks, or one of this task's score alone."""
    whitened_NR: Margins
    """Outputs that are predicted, whitened: bounded log-likelihoods, or the items' scores."""
    shares_I: Floats
    documents_I: Integers
    scale: OutputScale | None = None
    items: ChoiceItems | None = None
    tempered: TemperedScore | None = None
    """None where the score itself is predicted."""

    def read_gaps(self, outputs_CR: NDArray[np.floating]) -> Margins:
        """(C, I) how far each right answer is ahead, from outputs of the process."""
        if self.items is None:
            return np.asarray(outputs_CR, dtype=np.float32)
        return self.items.compute_gaps(outputs_CR)

    def score_outputs(self, outputs_CR: NDArray[np.floating]) -> Margins:
        """(C, I) expected metric of each item, from outputs of the process."""
        if self.tempered is None:
            return np.asarray(outputs_CR, dtype=np.float32)
        return self.tempered.score_items(self.read_gaps(outputs_CR))

    def predict_items(self, candidates: MergePoints) -> Margins:
        """(C, I) expected metric of each item at the candidates."""
        rows_CN = self.process.compute_rows(candidates).astype(np.float32)
        parts = [
            self.score_outputs(rows_CN[begin : begin + CHUNK] @ self.whitened_NR)
            for begin in range(0, len(rows_CN), CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.shares_I)), dtype=np.float32)

    def predict(self, candidates: MergePoints) -> Floats:
        """(C,) expected score of the task at the candidates."""
        return np.asarray(self.predict_items(candidates) @ self.shares_I, dtype=np.float64)
