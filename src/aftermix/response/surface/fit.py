"""Length scales and variances of the response, at the maximum of their posterior over all outputs at once."""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs
from scipy.optimize import minimize

from aftermix.response.surface.coordinates import Floats, MergePoints
from aftermix.response.surface.kernel import VARIANCES, ResponseKernel

# N merges, D coordinates

EVIDENCE = 30.0
"""Independent outputs that all items together count as. Items answer alike: thousands would drown the priors."""
IMPOSSIBLE = 1e10
"""Loss where rounding leaves no covariance."""
LENGTH_DEVIATION = 1.0
"""Standard deviation of the prior of a logarithmic length."""
DEVIATIONS = np.array([2.0, 2.0, 2.0, 2.0, 2.0, 1.0])
"""The same of the variances, in the order of `VARIANCES`."""
LEAST_NOISE = 1e-7
"""Noise variance over that of the outputs, at the least: merges are rounded, and the factor stays exact."""


def fit_kernel(points: MergePoints, scatter_NN: Floats, *, steps: int = 200) -> ResponseKernel:
    """The most probable kernel of outputs `Y` (N, R) whose scatter is `Y Y' / R`, outputs in a common unit.

    Minus the logarithm of the posterior over `EVIDENCE` outputs is `E/2 (log |K| + tr K^-1 S)` and a normal prior of
    each logarithm: variances about the scatter's own, lengths about half the spread of a coordinate.
    """
    centre, spread = _centre_prior(points, scatter_NN)
    deviations = np.concatenate([DEVIATIONS, np.full(len(spread), LENGTH_DEVIATION)])
    least = np.log(LEAST_NOISE * np.trace(scatter_NN) / len(points))

    def compute_loss(standard: Floats) -> tuple[float, Floats]:
        kernel = ResponseKernel.unpack(centre + standard * deviations)
        loss, slopes = compute_evidence_loss(kernel, points, scatter_NN)
        return loss + 0.5 * float(standard @ standard), slopes * deviations + standard

    bounds = [(-4.0, 4.0)] * len(centre)
    noise = VARIANCES.index("noise")
    bounds[noise] = (max(-4.0, (least - centre[noise]) / deviations[noise]), 4.0)
    options = {"maxiter": steps}
    found = minimize(compute_loss, np.zeros_like(centre), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return ResponseKernel.unpack(centre + found.x * deviations)


def compute_evidence_loss(kernel: ResponseKernel, points: MergePoints, scatter_NN: Floats) -> tuple[float, Floats]:
    """Minus the logarithm of the marginal likelihood, without its constant, and its slopes in all logarithms.

    Of `log |K| + tr K^-1 S` the slope is `tr (K^-1 - K^-1 S K^-1) dK` (Rasmussen and Williams, eq. 5.9).
    """
    # A fit asks this a hundred times of a dozen merges: the routines themselves, whose checks would cost more.
    factor_NN, fault = dpotrf(kernel.compute_measured(points), lower=1, clean=0, overwrite_a=1)
    if fault:
        return IMPOSSIBLE, np.zeros(len(kernel.packed))
    solved_NN, _ = dpotrs(factor_NN, scatter_NN, lower=1)
    logarithm = 2 * np.log(factor_NN.diagonal()).sum()
    loss = float(0.5 * EVIDENCE * (logarithm + solved_NN.trace()))

    # `K^-1 (1 - S K^-1)`, whose second factor is the transpose of what was solved.
    parts_NN, _ = dpotrs(factor_NN, np.eye(len(points)) - solved_NN.T, lower=1)
    return loss, kernel.slope_measured(points, 0.25 * EVIDENCE * (parts_NN + parts_NN.T))


def _centre_prior(points: MergePoints, scatter_NN: Floats) -> tuple[Floats, Floats]:
    """Means of all logarithms, and of the lengths alone."""
    size = len(points)
    level = max(float(scatter_NN.mean()), 1e-12)
    change = max(float(np.trace(scatter_NN) / size - scatter_NN.mean()), 1e-6 * level, 1e-12)

    spread_D = 0.5 * np.ptp(points.numbers_ND, axis=0)
    spread_D = np.log(np.where(spread_D > 0, spread_D, 1.0))
    third = change / 3
    variances = np.log([level, third, third, third, 1e-3 * change])
    return np.concatenate([variances, [np.log(0.5)], spread_D]), spread_D
