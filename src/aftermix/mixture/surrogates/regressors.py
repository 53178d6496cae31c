"""The regressors that a surrogate chooses from, each fitted to one capability by itself.

Every one is handed points on the simplex and their values, and returns what predicts. None knows whether larger is
better, or what the others do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import lightgbm
import numpy as np

from aftermix.mixture.simplex import Floats
from aftermix.mixture.surrogates.gaussian_process import GaussianProcess
from aftermix.mixture.surrogates.mixing_law import LARGEST_LOG, LawCoefficients, fit_mixing_law

# N points, C candidates, K domains, F features, S strengths

LOG_OFFSETS = (0.001, 0.003, 0.01, 0.1)
"""`c` of `log(w + c)`."""
STRENGTHS = np.logspace(-5, 3, 17)
"""Ridge penalties, on features that are not rescaled."""
ASYMPTOTES = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Distance beyond the extreme value where the start of a log-linear surface may level off, in ranges of the values."""
TREES: dict[str, Any] = {
    "objective": "regression",
    "learning_rate": 0.1,
    "num_leaves": 4,
    # The library's 20 and 3 leave nothing to split among 40 points.
    "min_data_in_leaf": 3,
    "min_data_in_bin": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
ROUNDS = 100


class FittedRegressor(Protocol):
    """Result of a fit."""

    def predict(self, candidates_CK: Floats) -> Floats:
        """(C,) expected values."""
        ...

    def refitted(self, values_N: Floats) -> FittedRegressor:
        """The same kind through other values at the same points, its own settings kept."""
        ...


Fit = Callable[[Floats, Floats], FittedRegressor]


@dataclass(frozen=True)
class BoostedTrees:
    """Gradient-boosted trees (LightGBM, as in MergeMix) with leaves that suit some tens of points."""

    weights_NK: Floats
    booster: lightgbm.Booster

    @classmethod
    def fit(cls, weights_NK: Floats, values_N: Floats) -> BoostedTrees:
        """`ROUNDS` trees; nothing in them is drawn at random."""
        data = lightgbm.Dataset(weights_NK, label=values_N, params=TREES)
        return cls(weights_NK, lightgbm.train(TREES, data, num_boost_round=ROUNDS))

    def predict(self, candidates_CK: Floats) -> Floats:
        """(C,) expected values."""
        return np.asarray(self.booster.predict(candidates_CK, num_threads=1), dtype=np.float64)

    def refitted(self, values_N: Floats) -> BoostedTrees:
        """Trees through other values."""
        return BoostedTrees.fit(self.weights_NK, values_N)


@dataclass(frozen=True)
class RidgeLine:
    """Ridge regression: `y = b + x' beta`, with `|beta|^2` times `strength` added to the squared error."""

    features_NF: Floats
    strength: float
    beta_F: Floats
    intercept: float

    @classmethod
    def at(cls, features_NF: Floats, values_N: Floats, strength: float) -> RidgeLine:
        """The line at a given strength; the intercept is not penalised."""
        centre_F = features_NF.mean(axis=0)
        centred_NF = features_NF - centre_F
        gram_FF = centred_NF.T @ centred_NF + strength * np.eye(len(centre_F))
        beta_F = np.linalg.solve(gram_FF, centred_NF.T @ (values_N - values_N.mean()))
        return cls(features_NF, strength, beta_F, float(values_N.mean() - centre_F @ beta_F))

    def predict(self, features_CF: Floats) -> Floats:
        """(C,) values on the line."""
        return np.asarray(self.intercept + features_CF @ self.beta_F)


@dataclass(frozen=True)
class LogRidge:
    """Ridge on `[w, log(w + c), sum log(w + c)]`; `c` and the strength have the smallest leave-one-out error.

    The sum adds nothing that a line could not have, but lets all domains share a slope at little cost.
    """

    weights_NK: Floats
    offset: float
    line: RidgeLine

    @classmethod
    def fit(cls, weights_NK: Floats, values_N: Floats) -> LogRidge:
        """The best of `LOG_OFFSETS` and `STRENGTHS`."""
        options = []
        for offset in LOG_OFFSETS:
            left_out_SN = predict_left_out(_add_logs(weights_NK, offset), values_N)
            options += [
                (error, offset, s) for error, s in zip(_sum_squares(left_out_SN - values_N), STRENGTHS, strict=True)
            ]
        _, offset, strength = min(options)
        return cls(weights_NK, offset, RidgeLine.at(_add_logs(weights_NK, offset), values_N, strength))

    def predict(self, candidates_CK: Floats) -> Floats:
        """(C,) expected values."""
        return self.line.predict(_add_logs(candidates_CK, self.offset))

    def refitted(self, values_N: Floats) -> LogRidge:
        """Through other values, at the same offset and strength."""
        return LogRidge(self.weights_NK, self.offset, RidgeLine.at(self.line.features_NF, values_N, self.line.strength))


@dataclass(frozen=True)
class LogLinear:
    """Data mixing law: `y = a + s exp(t'w)`, with `s` 1 or -1 (`mixing_law.py`).

    The fit starts where, for each `s` and each `a` outside the range of the values, a ridge of `log |y - a|` on `w` has
    the smallest leave-one-out error of `y`. Source: Ye et al. 2025 (Data Mixing Laws), eq. 6; Olmix.
    """

    weights_NK: Floats
    law: LawCoefficients

    @classmethod
    def fit(cls, weights_NK: Floats, values_N: Floats) -> LogLinear:
        """From the best of both signs, `ASYMPTOTES` and `STRENGTHS`."""
        return cls(weights_NK, fit_mixing_law(weights_NK, values_N, _find_first_law(weights_NK, values_N)))

    def predict(self, candidates_CK: Floats) -> Floats:
        """(C,) expected values."""
        return self.law.predict(candidates_CK)

    def refitted(self, values_N: Floats) -> LogLinear:
        """Through other values; the start is found again, since its asymptote must lie outside their range."""
        return LogLinear.fit(self.weights_NK, values_N)


def _find_first_law(weights_NK: Floats, values_N: Floats) -> LawCoefficients:
    """The law by a ridge through logarithms."""
    span = float(np.ptp(values_N)) or 1.0
    options = []
    for sign in (1.0, -1.0):
        extreme = float((sign * values_N).min())
        for asymptote in (sign * (extreme - span * beyond) for beyond in ASYMPTOTES):
            left_out_SN = predict_left_out(weights_NK, np.log(sign * (values_N - asymptote)))
            errors_S = _sum_squares(asymptote + sign * np.exp(np.minimum(left_out_SN, LARGEST_LOG)) - values_N)
            options += [(error, asymptote, sign, s) for error, s in zip(errors_S, STRENGTHS, strict=True)]
    _, asymptote, sign, strength = min(options)
    line = RidgeLine.at(weights_NK, np.log(sign * (values_N - asymptote)), strength)
    return LawCoefficients(asymptote, sign, line.beta_F + line.intercept)


REGRESSORS: dict[str, Fit] = {
    "gaussian_process": GaussianProcess.fit,
    "gaussian_process_shared": partial(GaussianProcess.fit, shared_rate=True),
    "lightgbm": BoostedTrees.fit,
    "ridge": LogRidge.fit,
    "log_linear": LogLinear.fit,
}


BLENDS: dict[str, tuple[str, ...]] = {"blend": ("gaussian_process", "gaussian_process_shared", "lightgbm")}
"""Means of regressors: unlike ones err in unlike places, which pays where a score hangs on many domains."""


@dataclass(frozen=True)
class RegressorBlend:
    """The mean of several regressors."""

    members: tuple[FittedRegressor, ...]

    def predict(self, candidates_CK: Floats) -> Floats:
        """(C,) expected values."""
        return np.asarray(np.mean([member.predict(candidates_CK) for member in self.members], axis=0))

    def refitted(self, values_N: Floats) -> RegressorBlend:
        """The blend of the refitted members."""
        return RegressorBlend(tuple(member.refitted(values_N) for member in self.members))


def fit(name: str, weights_NK: Floats, values_N: Floats) -> FittedRegressor:
    """The regressor or blend called `name`, fitted."""
    if name in BLENDS:
        return RegressorBlend(tuple(REGRESSORS[member](weights_NK, values_N) for member in BLENDS[name]))
    return REGRESSORS[name](weights_NK, values_N)


def predict_left_out(features_NF: Floats, values_N: Floats) -> Floats:
    """(S, N) prediction of each value by the ridge through all others, for each of `STRENGTHS`.

    Formula: `y_i - (y_i - yhat_i) / (1 - h_ii)`, with `h` the hat matrix of ridge and intercept, from one
    singular value decomposition.
    """
    centred_NF = features_NF - features_NF.mean(axis=0)
    left_NR, singular_R, _ = np.linalg.svd(centred_NF, full_matrices=False)
    shrunk_SR = singular_R**2 / (singular_R**2 + STRENGTHS[:, None])
    projected_R = left_NR.T @ (values_N - values_N.mean())
    fitted_SN = values_N.mean() + (shrunk_SR * projected_R) @ left_NR.T
    leverage_SN = 1 / len(values_N) + shrunk_SR @ (left_NR**2).T
    return np.asarray(values_N - (values_N - fitted_SN) / np.maximum(1 - leverage_SN, 1e-9))


def _sum_squares(errors_SN: Floats) -> Floats:
    return np.asarray(np.mean(np.square(np.nan_to_num(errors_SN, nan=np.inf)), axis=1))


def _add_logs(weights_NK: Floats, offset: float) -> Floats:
    logs_NK = np.log(weights_NK + offset)
    return np.concatenate([weights_NK, logs_NK, logs_NK.sum(axis=1, keepdims=True)], axis=1)
