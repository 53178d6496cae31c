"""A task's score alone over the merges: for tasks whose likelihoods tell nothing of it, with the error of few items.

The shape is that of the process of all likelihoods; its size comes from the score. Noise is at least the sampling error
of the change of a score between merges, which the same items share.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize_scalar

from aftermix.response.measurements import TaskMeasurements
from aftermix.response.surface.coordinates import Floats, MergePoints
from aftermix.response.surface.kernel import VARIANCES, ResponseKernel
from aftermix.response.surface.process import ResponseProcess

# N merges, I items

LOG_SIZES = (-8.0, 8.0)
"""Logarithms of the factor on the changes of the shape, over the variance of the score."""
CONSTANT = 9.0
"""Variance of the level, over that of the score."""
LEAST_NOISE = 1e-4
"""Noise over the variance of the score, at the least."""


def fit_score_process(shape: ResponseProcess, task: TaskMeasurements) -> tuple[ResponseProcess, Floats]:
    """The process of the score of `task`, and (N,) the score at each merge predicted from the others."""
    means = task.means
    variance = float(means.var()) or 1.0
    noise = max(measure_sampling_variance(task), LEAST_NOISE * variance)

    def compute_loss(log_size: float) -> float:
        kernel = _resize(shape.kernel, shape.points, log_size, variance, noise)
        try:
            factor = cho_factor(kernel.compute_measured(shape.points), lower=True)
        except LinAlgError:
            return float("inf")
        centred_N = means - means.mean()
        return float(np.log(np.diag(factor[0])).sum() + 0.5 * centred_N @ cho_solve(factor, centred_N))

    found = minimize_scalar(compute_loss, bounds=LOG_SIZES, method="bounded")
    kernel = _resize(shape.kernel, shape.points, float(found.x), variance, noise)
    process = ResponseProcess.build(kernel, shape.points)

    offset = means.mean()
    expected_N1, _ = process.leave_one_out((means - offset)[:, None])
    return process, offset + expected_N1[:, 0]


def measure_sampling_variance(task: TaskMeasurements) -> float:
    """Variance of a score around its trend over merges that drawing other items would give.

    An item's difficulty is common to all merges and stays in the level, so that deviations from the item's own mean
    count alone.
    """
    changes_NI = task.scores_NI - task.scores_NI.mean(axis=0)
    centred_NI = changes_NI - (changes_NI @ task.shares_I)[:, None]
    return float(np.mean((centred_NI**2) @ task.shares_I**2))


def _resize(
    kernel: ResponseKernel, points: MergePoints, log_size: float, variance: float, noise: float
) -> ResponseKernel:
    """`kernel` with its changes over the measured merges scaled to `exp(log_size) variance` in the mean."""
    change = float(np.mean(kernel.compute_variances(points) - np.exp(kernel.logs[0]))) or 1.0
    logs = kernel.logs.copy()
    for name in ("linear", "quadratic", "radial"):
        logs[VARIANCES.index(name)] += log_size + np.log(variance / change)
    logs[VARIANCES.index("constant")] = np.log(CONSTANT * variance)
    logs[VARIANCES.index("noise")] = np.log(noise)
    return ResponseKernel(logs, kernel.lengths_D)
