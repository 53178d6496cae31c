"""Measurements of one task at all merges so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aftermix.response.margins import ChoiceItems, Margins
from aftermix.response.surface.coordinates import Floats, Integers

# N merges, R requests, I items

ResponseKind = Literal["choice", "reference", "score"]
"""The answer to the weights: log-likelihoods of choices, of a reference answer for each item, or the score alone."""


@dataclass(frozen=True)
class TaskMeasurements:
    """One task at N merges."""

    kind: ResponseKind
    scores_NI: NDArray[np.float32]
    """The metric that counts, 0 for an item without a value."""
    shares_I: Floats
    """Share of each item in the task's score; they sum to 1, and are 0 without a value."""
    documents_I: Integers
    """Number of the document that an item is of: equal documents are drawn together."""
    loglikelihood_NR: NDArray[np.float32] | None = None
    items: ChoiceItems | None = None
    """Of `choice`: which requests are which item's."""

    def take(self, rows: NDArray[np.int64]) -> TaskMeasurements:
        """The same of some of the merges."""
        likelihood = self.loglikelihood_NR
        return TaskMeasurements(
            self.kind,
            self.scores_NI[rows],
            self.shares_I,
            self.documents_I,
            None if likelihood is None else likelihood[rows],
            self.items,
        )

    @property
    def means(self) -> Floats:
        """(N,) the task's score."""
        return np.asarray(self.scores_NI @ self.shares_I, dtype=np.float64)

    def compute_outputs(self) -> Margins:
        """(N, R) what the process is laid through: centred margins, or log-likelihoods of the references.

        Raises `ValueError` for a task that is measured by its score alone.
        """
        if self.loglikelihood_NR is None:
            raise ValueError("expected log-likelihoods, found scores alone")
        return self.loglikelihood_NR if self.items is None else self.items.center(self.loglikelihood_NR)


def compute_sampling_variance(items_CI: Margins, shares_I: Floats, documents_I: Integers) -> Floats:
    """(C,) variance of a task's score over other documents: `sum_g (sum_{i in g} p_i (E_i - mean))^2`."""
    centred_CI = items_CI - (items_CI @ shares_I)[:, None]
    weighted_CI = np.asarray(centred_CI * shares_I, dtype=np.float64)
    groups = int(documents_I.max(initial=-1)) + 1
    if groups == len(documents_I):
        return np.asarray((weighted_CI**2).sum(axis=1))
    sums_CG = np.zeros((len(items_CI), groups))
    np.add.at(sums_CG.T, documents_I, weighted_CI.T)
    return np.asarray((sums_CG**2).sum(axis=1))
