"""Margins of choices, in the unit that the metric ranks them by, through a transform that broken merges cannot rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aftermix.response.surface.coordinates import Floats, Integers

# N merges, R requests, I items

Margins = NDArray[np.float32]
UNBOUNDED = float("inf")


@dataclass(frozen=True)
class ChoiceItems:
    """Items of a task whose answers are choices, and which requests are theirs."""

    offsets: Integers
    """(I + 1,) item i has the requests `offsets[i]` to `offsets[i + 1]`."""
    gold_I: Integers
    """Number of the right choice within the item."""
    lengths_R: Floats
    """Divisors of the metric: characters, bytes, or 1."""

    @property
    def counts(self) -> Integers:
        """Number of choices of each item."""
        return np.diff(self.offsets)

    def center(self, loglikelihood_NR: NDArray[np.floating]) -> Margins:
        """(N, R) each choice's log-likelihood in the metric's unit, minus the mean over the choices of its item."""
        divided_NR = np.asarray(loglikelihood_NR, dtype=np.float64) / self.lengths_R
        mean_NI = np.add.reduceat(divided_NR, self.offsets[:-1], axis=1) / self.counts
        return (divided_NR - np.repeat(mean_NI, self.counts, axis=1)).astype(np.float32)

    def compute_gaps(self, margins_NR: NDArray[np.floating]) -> Margins:
        """(N, I) the right choice over the best other; infinite where there is no other."""
        rights_I = self.offsets[:-1] + self.gold_I
        others_NR = np.array(margins_NR, dtype=np.float32)
        others_NR[:, rights_I] = -np.inf
        best_NI = np.maximum.reduceat(others_NR, self.offsets[:-1], axis=1)
        return np.asarray(margins_NR[:, rights_I] - best_NI, dtype=np.float32)


def bound_outputs(outputs: NDArray[np.floating], bound: float) -> Margins:
    """`bound tanh(outputs / bound)`: nearly the same where outputs are small, and never beyond `bound`.

    It keeps the order of an item's choices, so that the metric is not touched.
    """
    if bound == UNBOUNDED:
        return np.asarray(outputs, dtype=np.float32)
    return np.asarray(bound * np.tanh(np.asarray(outputs, dtype=np.float32) / np.float32(bound)), dtype=np.float32)
