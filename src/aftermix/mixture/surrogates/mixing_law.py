"""Data mixing law `y = a + s exp(t'w)`, fitted in the unit of the values by the Huber loss.

The shares of a mixture sum to 1, so the constant of the exponent is in `t`. With `v` the values in standard deviations
from their mean, `r = a + s exp(t'w) - v`, and `h` the Huber loss, which is quadratic up to `KNEE`, the fit makes

    sum_n h(r_n) + STRENGTH / 2 sum_k (t_k - mean t)^2

smallest, by Levenberg-Marquardt steps on the weighted least squares that stand for the Huber loss where it is. Source:
Ye et al. 2025 (Data Mixing Laws), eq. 6; Olmix (arXiv 2602.12237), whose code makes a Huber loss smallest from some
hundred random starts. We depart in one start, a ridge through the logarithms, in the knee, which is relative, and in
the penalty, without which 40 points of 17 domains leave slopes undecided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aftermix.mixture.simplex import Floats

# N points, C candidates, K domains, P parameters: a, then t

KNEE = 1.0
"""Residual, in standard deviations of the values, beyond which the loss grows linearly."""
STRENGTH = 1e-3
MOST_STEPS = 15
FIRST_DAMPING, MOST_DAMPING = 1e-2, 1e8
DAMPING_FACTOR = 5.0
GAIN = 1e-6
"""Share of the loss by which a step has to lower it, or it was the last."""
LARGEST_LOG = 50.0
"""Beyond it an extrapolation is absurd anyway, and its exponential would overflow."""


@dataclass(frozen=True)
class LawCoefficients:
    """One law."""

    asymptote: float
    sign: float
    slopes_K: Floats

    def predict(self, candidates_CK: Floats) -> Floats:
        """(C,) values by the law."""
        return np.asarray(self.asymptote + self.sign * _exponentiate(candidates_CK, self.slopes_K))


def fit_mixing_law(weights_NK: Floats, values_N: Floats, start: LawCoefficients) -> LawCoefficients:
    """The law of least loss near `start`, whose sign it keeps; `start` itself where values do not vary."""
    centre, spread = float(values_N.mean()), float(values_N.std())
    if spread <= 1e-12 * np.abs(values_N).max():
        return start

    # In standard deviations: v = (y - centre) / spread, so exp(t'w) is divided by it too.
    problem = _LawProblem(weights_NK, (values_N - centre) / spread, start.sign)
    first_P = np.concatenate([[(start.asymptote - centre) / spread], start.slopes_K - np.log(spread)])
    found_P = problem.minimise(first_P)
    return LawCoefficients(centre + spread * float(found_P[0]), start.sign, found_P[1:] + np.log(spread))


@dataclass(frozen=True)
class _LawProblem:
    weights_NK: Floats
    values_N: Floats
    sign: float

    def measure_residuals(self, found_P: Floats) -> Floats:
        return np.asarray(found_P[0] + self.sign * _exponentiate(self.weights_NK, found_P[1:]) - self.values_N)

    def measure_loss(self, found_P: Floats) -> float:
        return compute_loss(self.measure_residuals(found_P), found_P[1:])

    def minimise(self, found_P: Floats) -> Floats:
        loss, damping = self.measure_loss(found_P), FIRST_DAMPING
        for _ in range(MOST_STEPS):
            curvature_PP, slope_P = self._expand(found_P)
            scale_P = np.diag(curvature_PP) + 1e-9
            improved = None
            while improved is None and damping < MOST_DAMPING:
                moved_P = found_P - np.linalg.solve(curvature_PP + damping * np.diag(scale_P), slope_P)
                lower = self.measure_loss(moved_P)
                improved = loss - lower if lower < loss else None
                damping = damping / DAMPING_FACTOR if improved is not None else damping * DAMPING_FACTOR
            if improved is None:
                break
            found_P, loss = moved_P, lower
            if improved < GAIN * loss:
                break
        return found_P

    def _expand(self, found_P: Floats) -> tuple[Floats, Floats]:
        """Curvature of the weighted least squares at a law, and the gradient of the loss."""
        residuals_N = self.measure_residuals(found_P)
        weight_N = np.minimum(1.0, KNEE / np.maximum(np.abs(residuals_N), 1e-12))
        grown_NK = self.sign * _exponentiate(self.weights_NK, found_P[1:])[:, None] * self.weights_NK
        jacobian_NP = np.concatenate([np.ones((len(grown_NK), 1)), grown_NK], axis=1)

        domains = len(found_P) - 1
        curvature_PP = jacobian_NP.T @ (jacobian_NP * weight_N[:, None])
        curvature_PP[1:, 1:] += STRENGTH * (np.eye(domains) - 1 / domains)
        slope_P = jacobian_NP.T @ (weight_N * residuals_N)
        slope_P[1:] += STRENGTH * (found_P[1:] - found_P[1:].mean())
        return curvature_PP, slope_P


def compute_loss(residuals_N: Floats, slopes_K: Floats) -> float:
    """Huber loss of residuals in standard deviations, and the penalty on slopes."""
    size_N = np.abs(residuals_N)
    huber_N = np.where(size_N <= KNEE, residuals_N**2 / 2, KNEE * (size_N - KNEE / 2))
    return float(huber_N.sum() + STRENGTH / 2 * ((slopes_K - slopes_K.mean()) ** 2).sum())


def _exponentiate(weights_CK: Floats, slopes_K: Floats) -> Floats:
    return np.asarray(np.exp(np.minimum(weights_CK @ slopes_K, LARGEST_LOG)))
