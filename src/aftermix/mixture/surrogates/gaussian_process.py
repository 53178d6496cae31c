"""A Gaussian process over mixtures: a smooth surface through few points, with an error bar that grows between them.

Kernel: Matern-5/2 over warped shares, each domain with a rate of its own, and a line over the breadth of a mixture,

    k(v, w) = a (1 + s + s^2 / 3) exp(-s) + c b(v) b(w),  s = sqrt(5 sum_k exp(2 t_k) (v_k^p - w_k^p)^2),

with `b` the sum of the fourth roots of the shares, standardised over the points: the more domains, the larger. A mean
of many losses hangs on little else.

A capability most often hangs on few domains, and 40 points cannot tell 17 rates. So the rates are drawn to a common
one, `t_k ~ N(m, 1)`, or are all equal to it (`shared_rate`). `p` bends the axis: where the first percent of a domain
counts most, as in losses of trained models, p is about 1/4; merged models are smooth in the shares themselves. All of
`t, m, a, c, p` and the noise are found together, at the maximum of the posterior (L-BFGS-B, exact gradients). Values
are standardised; their mean is unknown, with a variance of `MEAN_VARIANCE`.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, eq. 2.23-2.25, 4.17, 5.8-5.9. We depart in the
warp, in the prior over rates and in the breadth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize

from aftermix.mixture.simplex import Floats

# N points, C candidates, K domains

MEAN_VARIANCE = 9.0
CHUNK = 4096
"""Candidates predicted at once: their kernel rows stay in the processor's cache."""
STEPS = 40
MOST_POINTS = 160
"""Points that hyper-parameters are fitted to, evenly taken from all: a step costs the cube of their number."""

IMPOSSIBLE = 1e10
"""Loss where rounding leaves no covariance."""
BREADTH_POWER = 0.25

LOGS = ("rate", "amplitude", "breadth", "noise", "exponent")
START = {"rate": 0.0, "amplitude": 0.0, "breadth": -2.0, "noise": -4.0, "exponent": float(np.log(0.4))}
"""Logarithms from which the fit begins."""
PRIOR = {
    "rate": (0.0, 2.0),
    "amplitude": (0.0, 3.0),
    "breadth": (-2.0, 3.0),
    "noise": (-6.0, 3.0),
    "exponent": (float(np.log(0.5)), 0.5),
}
"""Mean and standard deviation of each logarithm; of the common rate for `rate`."""
PRIOR_MEANS, PRIOR_STDS = np.array([PRIOR[name] for name in LOGS]).T
BOUNDS = {
    "rate": (-6.0, 5.0),
    "amplitude": (-4.0, 8.0),
    "breadth": (-9.0, 4.0),
    "noise": (-12.0, 2.0),
    "exponent": (-2.0, 0.2),
}


@dataclass(frozen=True)
class ProcessHyperparameters:
    """Logarithms of what shapes the surface."""

    rates_K: Floats
    common_rate: float
    amplitude: float
    breadth: float
    noise: float
    """Like the two before, of a variance."""
    exponent: float

    @classmethod
    def start(cls, domains: int) -> ProcessHyperparameters:
        """Start of a fit when nothing is known."""
        return cls(np.full(domains, START["rate"]), *(START[name] for name in LOGS))

    @classmethod
    def unpacked(cls, flat: Floats) -> ProcessHyperparameters:
        """The inverse of `pack_stream`."""
        return cls(flat[: -len(LOGS)], *map(float, flat[-len(LOGS) :]))

    @property
    def packed(self) -> Floats:
        """(K + 5,) all of them, for the optimiser."""
        return np.concatenate([self.rates_K, self.logs])

    @property
    def logs(self) -> Floats:
        """(5,) all but the domains' own rates, in the order of `LOGS`."""
        return np.array([self.common_rate, self.amplitude, self.breadth, self.noise, self.exponent])


@dataclass(frozen=True)
class BreadthScale:
    """Over how many domains a mixture spreads, in standard deviations of the points."""

    mean: float
    unit: float

    @classmethod
    def of(cls, weights_NK: Floats) -> BreadthScale:
        """The scale that standardises `weights_NK`."""
        sums_N = (weights_NK**BREADTH_POWER).sum(axis=1)
        return cls(float(sums_N.mean()), _measure_unit(sums_N))

    def __call__(self, weights_CK: Floats) -> Floats:
        """(C,) breadths."""
        return np.asarray(((weights_CK**BREADTH_POWER).sum(axis=1) - self.mean) / self.unit)


@dataclass(frozen=True)
class ProcessData:
    """Points and standardised values of a fit, with what is the same at each of its steps."""

    weights_NK: Floats
    standard_N: Floats
    log_weights_NK: Floats
    breadths_NN: Floats
    """Products of the points' breadths."""
    identity_NN: Floats

    @classmethod
    def build(cls, weights_NK: Floats, standard_N: Floats) -> ProcessData:
        """Data of a fit of `standard_N` at the points `weights_NK`."""
        breadth_N = BreadthScale.of(weights_NK)(weights_NK)
        logs_NK = np.log(np.maximum(weights_NK, 1e-300))
        return cls(weights_NK, standard_N, logs_NK, np.outer(breadth_N, breadth_N), np.eye(len(standard_N)))


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted surface."""

    hyper: ProcessHyperparameters
    weights_NK: Floats
    offset: float
    unit: float
    """Mean and standard deviation of the values it was fitted to."""
    breadth: BreadthScale
    scaled_NK: Floats
    lower_NN: Floats
    """Cholesky factor of the covariance of the points."""
    alpha_N: Floats

    @classmethod
    def fit(cls, weights_NK: Floats, values_N: Floats, *, shared_rate: bool = False) -> GaussianProcess:
        """The surface through `values_N` with the most probable hyper-parameters."""
        taken = np.unique(np.linspace(0, len(values_N) - 1, min(len(values_N), MOST_POINTS)).round().astype(int))
        standard_N = (values_N - values_N.mean()) / _measure_unit(values_N)

        domains = weights_NK.shape[1]
        free = len(LOGS) if shared_rate else domains + len(LOGS)
        found = minimize(
            compute_tied_loss if shared_rate else compute_posterior_loss,
            ProcessHyperparameters.start(domains).packed[-free:],
            args=(ProcessData.build(weights_NK[taken], standard_N[taken]),),
            jac=True,
            method="L-BFGS-B",
            bounds=([BOUNDS["rate"]] * domains + [BOUNDS[name] for name in LOGS])[-free:],
            options={"maxiter": STEPS},
        )

        flat = np.concatenate([np.full(domains, found.x[0]), found.x]) if shared_rate else found.x
        return cls.at(ProcessHyperparameters.unpacked(flat), weights_NK, values_N)

    @classmethod
    def at(cls, hyper: ProcessHyperparameters, weights_NK: Floats, values_N: Floats) -> GaussianProcess:
        """The surface through `values_N` at given hyper-parameters."""
        scaled_NK = _scale_points(weights_NK, hyper)
        breadth = BreadthScale.of(weights_NK)
        lower_NN = np.linalg.cholesky(_compute_covariance(scaled_NK, breadth(weights_NK), hyper))
        offset, unit = float(values_N.mean()), _measure_unit(values_N)
        alpha_N = cho_solve((lower_NN, True), (values_N - offset) / unit)
        return cls(hyper, weights_NK, offset, unit, breadth, scaled_NK, np.asarray(lower_NN, dtype=np.float64), alpha_N)

    def refitted(self, values_N: Floats) -> GaussianProcess:
        """The surface of the same shape through other values at the same points."""
        return GaussianProcess.at(self.hyper, self.weights_NK, values_N)

    def predict(self, candidates_CK: Floats) -> Floats:
        """(C,) expected values."""
        return np.concatenate(
            [self.offset + self.unit * (rows_CN @ self.alpha_N) for rows_CN in self._kernel_rows(candidates_CK)]
        )

    def std(self, candidates_CK: Floats) -> Floats:
        """(C,) standard deviation of a new measurement there: of the surface and of the noise."""
        prior_C = np.exp(self.hyper.amplitude) + np.exp(self.hyper.breadth) * self.breadth(candidates_CK) ** 2
        parts = []
        for rows_CN in self._kernel_rows(candidates_CK):
            explained_NC = solve_triangular(self.lower_NN, rows_CN.T, lower=True, check_finite=False)
            parts.append(np.einsum("nc,nc->c", explained_NC, explained_NC))
        left_C = np.maximum(prior_C + MEAN_VARIANCE - np.concatenate(parts), 0.0)
        return np.asarray(self.unit * np.sqrt(left_C + np.exp(self.hyper.noise)))

    def _kernel_rows(self, candidates_CK: Floats) -> Iterator[Floats]:
        line_N = np.exp(self.hyper.breadth) * self.breadth(self.weights_NK)
        for begin in range(0, len(candidates_CK), CHUNK):
            chunk_CK = candidates_CK[begin : begin + CHUNK]
            scaled_CK = _scale_points(chunk_CK, self.hyper)
            line_CN = np.outer(self.breadth(chunk_CK), line_N) + MEAN_VARIANCE
            square_CN = (
                _square_distances(scaled_CK)[:, None]
                + _square_distances(self.scaled_NK)
                - 2 * scaled_CK @ self.scaled_NK.T
            )
            yield np.exp(self.hyper.amplitude) * _correlate_matern(np.maximum(square_CN, 0.0)) + line_CN


def compute_posterior_loss(flat: Floats, data: ProcessData) -> tuple[float, Floats]:
    """Loss that the fit makes smallest, with its gradient by `flat` (see `ProcessHyperparameters.packed`)."""
    hyper = ProcessHyperparameters.unpacked(flat)
    standard_N = data.standard_N
    warped_NK = _warp(data.weights_NK, hyper.exponent)
    rates_K = np.exp(2 * hyper.rates_K)

    scaled_NK = warped_NK * np.exp(hyper.rates_K)
    squares_N = _square_distances(scaled_NK)
    square_NN = np.maximum(squares_N[:, None] + squares_N - 2 * scaled_NK @ scaled_NK.T, 0.0)
    np.fill_diagonal(square_NN, 0.0)

    amplitude, noise = np.exp(hyper.amplitude), np.exp(hyper.noise)
    correlation_NN, slope_NN = _correlate_with_slope(square_NN)
    line_NN = np.exp(hyper.breadth) * data.breadths_NN
    covariance_NN = amplitude * correlation_NN + line_NN + MEAN_VARIANCE + noise * data.identity_NN
    lower_NN, failed = dpotrf(covariance_NN, lower=1)
    if failed:
        return IMPOSSIBLE, np.zeros_like(flat)

    half_NN, _ = dpotri(lower_NN, lower=1)  # the upper triangle is not filled
    inverse_NN = np.tril(half_NN) + np.tril(half_NN, -1).T
    alpha_N = inverse_NN @ standard_N
    value = 0.5 * standard_N @ alpha_N + np.log(np.diag(lower_NN)).sum()

    by_covariance_NN = 0.5 * (inverse_NN - np.outer(alpha_N, alpha_N))
    by_square_NN = amplitude * by_covariance_NN * slope_NN
    # sum_ij S_ij (v_i - v_j) (u_i - u_j) = 2 (sum_i r_i v_i u_i - v' S u) for a symmetric S with row sums r
    row_N = by_square_NN.sum(axis=1)
    spread_K = 2 * (row_N @ warped_NK**2 - np.einsum("nk,nk->k", warped_NK, by_square_NN @ warped_NK))
    slope_NK = warped_NK * data.log_weights_NK * np.exp(hyper.exponent)
    bend_K = 4 * (row_N @ (warped_NK * slope_NK) - np.einsum("nk,nk->k", slope_NK, by_square_NN @ warped_NK))
    penalty, by_penalty = _compute_penalty(hyper)
    gradient = by_penalty + np.concatenate(
        [
            2 * rates_K * spread_K,
            [
                0.0,
                amplitude * (by_covariance_NN * correlation_NN).sum(),
                (by_covariance_NN * line_NN).sum(),
                noise * np.trace(by_covariance_NN),
                rates_K @ bend_K,
            ],
        ]
    )
    return float(value + penalty), gradient


def compute_tied_loss(logs: Floats, data: ProcessData) -> tuple[float, Floats]:
    """The same by (5,) `logs` alone, all domains at the common rate."""
    domains = data.weights_NK.shape[1]
    value, gradient = compute_posterior_loss(np.concatenate([np.full(domains, logs[0]), logs]), data)
    by_logs = gradient[domains:].copy()
    by_logs[0] += gradient[:domains].sum()
    return value, by_logs


def _compute_penalty(hyper: ProcessHyperparameters) -> tuple[float, Floats]:
    """Minus the logarithm of the prior, with its gradient."""
    apart_K = hyper.rates_K - hyper.common_rate
    standard = (hyper.logs - PRIOR_MEANS) / PRIOR_STDS
    by_logs = standard / PRIOR_STDS
    by_logs[0] -= apart_K.sum()
    return float(0.5 * (apart_K @ apart_K + standard @ standard)), np.concatenate([apart_K, by_logs])


def _measure_unit(values_N: Floats) -> float:
    return float(values_N.std()) or 1.0


def _warp(weights_NK: Floats, exponent: float) -> Floats:
    return np.asarray(weights_NK ** np.exp(exponent))


def _scale_points(weights_NK: Floats, hyper: ProcessHyperparameters) -> Floats:
    return _warp(weights_NK, hyper.exponent) * np.exp(hyper.rates_K)


def _square_distances(rows: Floats) -> Floats:
    return np.asarray(np.einsum("nk,nk->n", rows, rows))


def _compute_covariance(scaled_NK: Floats, breadth_N: Floats, hyper: ProcessHyperparameters) -> Floats:
    # Differences, not the expanded square: cancellation would make close points differ.
    square_NN = ((scaled_NK[:, None] - scaled_NK[None]) ** 2).sum(axis=2)
    line_NN = np.exp(hyper.breadth) * np.outer(breadth_N, breadth_N) + MEAN_VARIANCE
    smooth_NN = np.exp(hyper.amplitude) * _correlate_matern(square_NN) + line_NN
    return np.asarray(smooth_NN + np.exp(hyper.noise) * np.eye(len(scaled_NK)))


def _correlate_matern(square: Floats) -> Floats:
    """Matern-5/2 correlation at a squared scaled distance."""
    root = np.sqrt(5 * square)
    return np.asarray((1 + root + root**2 / 3) * np.exp(-root))


def _correlate_with_slope(square: Floats) -> tuple[Floats, Floats]:
    """The correlation, and its derivative by the squared distance."""
    root = np.sqrt(5 * square)
    decay = np.exp(-root)
    return (1 + root + root**2 / 3) * decay, -5 / 6 * (1 + root) * decay
