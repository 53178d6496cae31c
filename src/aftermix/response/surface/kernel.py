"""Covariance of an item's answers at two merges: a level, a line, a parabola and what bends otherwise.

    k(v, w) = c + (l <v, w> + q <v, w>^2 + r exp(-|v - w|^2 / 2)) h(v, w) + n [v is w]

with coordinates in units of a length scale each, `<v, w>` their scalar product from the origin (the base), and
`h = exp(-u d)` for `d` settings without order that differ. An item's log-likelihood is nearly a parabola in the merge
weights; which of the two shrinks is settled by the data, and there is no explicit quadratic mean whose coefficients
would outnumber a dozen merges.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, sections 4.2.1-4.2.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from aftermix.response.surface.coordinates import Floats, MergePoints

# N, M merges; D coordinates

VARIANCES = ("constant", "linear", "quadratic", "radial", "noise", "unlike")
"""Names of the logarithms before those of the lengths; `unlike` is `u`, a rate."""


@dataclass(frozen=True)
class ResponseKernel:
    """Logarithms of variances and lengths."""

    logs: Floats
    """(6,) in the order of `VARIANCES`."""
    lengths_D: Floats
    """Logarithms of the length scales."""

    @classmethod
    def unpack(cls, flat: Floats) -> ResponseKernel:
        """Inverse of `packed`."""
        return cls(flat[: len(VARIANCES)], flat[len(VARIANCES) :])

    @property
    def packed(self) -> Floats:
        """(6 + D,) all of them, for the optimiser."""
        return np.concatenate([self.logs, self.lengths_D])

    @property
    def noise(self) -> float:
        """Variance of a measurement around the smooth answer."""
        return float(np.exp(self.logs[VARIANCES.index("noise")]))

    def compute(self, ours: MergePoints, theirs: MergePoints) -> Floats:
        """(N, M) covariances of the smooth answers, without noise."""
        constant, linear, quadratic, radial, _, unlike = np.exp(self.logs)
        product_NM, near_NM = self._compare(ours, theirs)
        bent_NM = linear * product_NM + quadratic * product_NM**2 + radial * near_NM

        if ours.choices_NS.shape[1]:
            bent_NM = bent_NM * np.exp(-unlike * _count_unlike(ours, theirs))
        return np.asarray(constant + bent_NM)

    def _compare(self, ours: MergePoints, theirs: MergePoints) -> tuple[Floats, Floats]:
        """(N, M) scalar products, and `exp(-|v - w|^2 / 2)`."""
        ours_ND = ours.numbers_ND * np.exp(-self.lengths_D)
        theirs_MD = theirs.numbers_ND * np.exp(-self.lengths_D)

        # Differences, not the expanded square: cancellation would make close points differ.
        square_NM = cdist(ours_ND, theirs_MD, "sqeuclidean")
        return ours_ND @ theirs_MD.T, np.exp(-0.5 * square_NM)

    def slope_measured(self, points: MergePoints, parts_NN: Floats) -> Floats:
        """(6 + D,) slopes in all logarithms of `sum_ij parts_ij k_ij` as measured, for `parts` that are symmetric."""
        constant, linear, quadratic, radial, noise, unlike = np.exp(self.logs)
        product_NN, near_NN = self._compare(points, points)
        differ_NN = _count_unlike(points, points)
        held_NN = parts_NN * np.exp(-unlike * differ_NN)

        terms = [linear * product_NN, quadratic * product_NN**2, radial * near_NN]
        sums = [float((held_NN * term_NN).sum()) for term_NN in terms]
        unlikeness = -unlike * float((held_NN * differ_NN * sum(terms)).sum())
        own = [constant * float(parts_NN.sum()), *sums, noise * float(parts_NN.trace()), unlikeness]

        # A length shrinks its coordinate's share of a product, and of a difference, by twice its own logarithm.
        scaled_ND = points.numbers_ND * np.exp(-self.lengths_D)
        along_NN = held_NN * (linear + 2 * quadratic * product_NN)
        apart_NN = held_NN * terms[2]
        products_D = np.einsum("nd,nm,md->d", scaled_ND, along_NN + apart_NN, scaled_ND, optimize=True)
        lengths_D = 2 * (apart_NN.sum(axis=1) @ scaled_ND**2 - products_D)
        return np.concatenate([own, lengths_D])

    def compute_variances(self, points: MergePoints) -> Floats:
        """(N,) the diagonal of `compute(points, points)`."""
        constant, linear, quadratic, radial, _, _ = np.exp(self.logs)
        square_N = ((points.numbers_ND * np.exp(-self.lengths_D)) ** 2).sum(axis=1)
        return np.asarray(constant + linear * square_N + quadratic * square_N**2 + radial)

    def compute_measured(self, points: MergePoints) -> Floats:
        """(N, N) covariances of measurements, noise included."""
        return self.compute(points, points) + self.noise * np.eye(len(points))


def _count_unlike(ours: MergePoints, theirs: MergePoints) -> NDArray[np.int64]:
    """(N, M) settings without order that differ."""
    return np.asarray((ours.choices_NS[:, None] != theirs.choices_NS[None]).sum(axis=2))
