"""A paired test of two means over the same documents, clusters of documents drawn together.

    D = sum_i w_i (a_i - b_i) / sum_i w_i,    u_g = sum_{i in g} w_i (a_i - b_i - D)
    se^2 = G / (G - 1) sum_g u_g^2 / (sum_i w_i)^2

with `D / se` against Student's t of `G - 1` degrees of freedom. Of equal weights and clusters of one document it is
`scipy.stats.ttest_rel`; of weights it is the linearised ratio of sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

# D documents, G clusters

CONFIDENCE = 0.95
NO_SPREAD = 1e-12
"""Spread, over the size of the differences, that is rounding alone."""


@dataclass(frozen=True)
class PairedTest:
    """Means of both sides, and what their difference is worth."""

    a: float
    b: float
    difference: float
    """`a - b`."""
    interval: tuple[float, float] | None
    """Of the difference, at 95 %; None of one cluster."""
    p: float | None
    """Two-sided, against no difference; None of one cluster."""
    clusters: int


def run_paired_test(
    a_D: NDArray[np.float64],
    b_D: NDArray[np.float64],
    weights_D: NDArray[np.float64],
    clusters_D: NDArray[np.int64],
) -> PairedTest:
    """The test of scores `a_D` against `b_D`, clusters numbered from 0.

    Where all clusters differ alike, of which t knows no spread, p is that of their signs: `2^(1 - G)`.
    """
    total, count = float(weights_D.sum()), int(clusters_D.max()) + 1
    mean_a, mean_b = float(weights_D @ a_D) / total, float(weights_D @ b_D) / total
    differences_D = a_D - b_D
    difference = float(weights_D @ differences_D) / total
    if count == 1:
        return PairedTest(mean_a, mean_b, difference, None, None, 1)

    sums_G = np.bincount(clusters_D, weights_D * (differences_D - difference))
    error = float(np.sqrt(count / (count - 1) * (sums_G @ sums_G))) / total
    if error <= NO_SPREAD * float(np.abs(differences_D).max()):
        p = 1.0 if difference == 0 else 2.0 ** (1 - count)
        return PairedTest(mean_a, mean_b, difference, (difference, difference), p, count)

    half = error * float(student.ppf(0.5 + CONFIDENCE / 2, count - 1))
    p = 2 * float(student.sf(abs(difference) / error, count - 1))
    return PairedTest(mean_a, mean_b, difference, (difference - half, difference + half), p, count)
