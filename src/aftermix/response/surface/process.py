"""One Gaussian process over merges for all outputs: one kernel, one factorisation, any number of columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from aftermix.response.surface.coordinates import Floats, MergePoints
from aftermix.response.surface.kernel import ResponseKernel

# N measured merges, C candidates, R outputs


@dataclass(frozen=True)
class ResponseProcess:
    """A kernel with its factorisation at the measured merges."""

    kernel: ResponseKernel
    points: MergePoints
    lower_NN: Floats
    """Cholesky factor of the covariance of the measurements."""

    @classmethod
    def build(cls, kernel: ResponseKernel, points: MergePoints) -> ResponseProcess:
        """Factorise `kernel` at `points`. Raises `numpy.linalg.LinAlgError` for points without a covariance."""
        return cls(kernel, points, np.asarray(cholesky(kernel.compute_measured(points), lower=True)))

    def whiten(self, outputs_NR: Floats) -> Floats:
        """(N, R) `L^-1 Y`: all that predictions need of the measured outputs."""
        return np.asarray(solve_triangular(self.lower_NN, outputs_NR, lower=True, check_finite=False))

    def compute_rows(self, candidates: MergePoints) -> Floats:
        """(C, N) `k(c)' L^-T`: the expected outputs at the candidates are these rows times the whitened outputs."""
        cross_NC = self.kernel.compute(self.points, candidates)
        return np.asarray(solve_triangular(self.lower_NN, cross_NC, lower=True, check_finite=False).T)

    def compute_variances(self, candidates: MergePoints) -> Floats:
        """(C,) variance of the smooth answer of an output in the common unit."""
        rows_CN = self.compute_rows(candidates)
        left_C = self.kernel.compute_variances(candidates) - np.einsum("cn,cn->c", rows_CN, rows_CN)
        return np.asarray(np.maximum(left_C, 0.0))

    def compute_covariance(self, candidates: MergePoints) -> Floats:
        """(C, C) posterior covariance of the smooth answer of one output in the common unit."""
        rows_CN = self.compute_rows(candidates)
        return self.kernel.compute(candidates, candidates) - rows_CN @ rows_CN.T

    def leave_one_out(self, outputs_NR: Floats) -> tuple[Floats, Floats]:
        """(N, R) outputs expected at each merge from all others, and (N,) the variance of a measurement there.

        `y_i - (K^-1 y)_i / (K^-1)_ii` and `1 / (K^-1)_ii` (Rasmussen and Williams, eq. 5.12), the kernel kept.
        """
        half_NN = self.whiten(np.eye(len(self.points)))
        inverse_NN = half_NN.T @ half_NN
        diagonal_N = np.diag(inverse_NN)
        return outputs_NR - (inverse_NN @ outputs_NR) / diagonal_N[:, None], 1 / diagonal_N
