"""Scores of a mixture, predicted from the few that were measured.

Each capability has a regressor of its own, chosen out of fold (`out_of_fold.py`) among those of `regressors.py`.

The variance of a prediction is the mean of two: that of a Gaussian process, which knows how far the measured points
are, scaled to the chosen regressor's out-of-fold errors; and the mean square of those errors. The first alone is
overconfident on tables of real losses, the second knows no place. Both speak of a new measurement, with its noise.

Source: MergeMix, section 3.2 (one LightGBM regressor per capability); docs/mixture.md. We depart in the settings of the
trees, the regressors beside them and the choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from aftermix.blas_threads import hold_one_thread
from aftermix.errors import MixtureError
from aftermix.mixture.simplex import Floats, check_distinct, check_simplex, check_table
from aftermix.mixture.surrogates.gaussian_process import GaussianProcess
from aftermix.mixture.surrogates.item_response import RESPONSE, ItemResponse
from aftermix.mixture.surrogates.out_of_fold import (
    CONSTANT,
    SPREAD,
    CapabilityReport,
    HeldOut,
    OutOfFold,
    choose,
    draw_folds,
    predict_held_out,
    score_predictions,
)
from aftermix.mixture.surrogates.regressors import FittedRegressor, fit
from aftermix.seeds import generator

# N points, C candidates, K domains, M capabilities, R repeats of the division into folds

FEWEST_POINTS = 5


@dataclass(frozen=True)
class CapabilityModel:
    """Predictor of one capability."""

    regressor: FittedRegressor
    spread: GaussianProcess
    spread_factor: float
    """Root mean square of out-of-fold errors over the standard deviations that the Gaussian process gave there."""
    rmse: float
    """Out of fold."""

    def std(self, candidates_CK: Floats) -> Floats:
        """(C,) standard deviation of a new measurement."""
        local_C = self.spread_factor * self.spread.std(candidates_CK)
        return np.asarray(np.sqrt((local_C**2 + self.rmse**2) / 2))


@dataclass(frozen=True)
class Surrogate:
    """Fitted regressors, one for each capability."""

    capabilities: tuple[str, ...]
    choice: tuple[str, ...]
    """Name of the chosen regressor, by capability."""
    report: tuple[CapabilityReport, ...]
    weights_NK: Floats
    scores_NM: Floats
    residuals_NM: Floats
    """Measured minus predicted scores out of fold, mean over the repeats; 0 for a constant capability."""
    held_out_RNM: Floats
    """Predictions of the chosen regressors out of fold, by repeat; the score of a constant capability."""
    models: tuple[CapabilityModel | None, ...]
    """None for a constant capability."""

    @classmethod
    def fit(
        cls,
        weights: ArrayLike,
        scores: ArrayLike,
        *,
        seed: int = 0,
        capabilities: Sequence[str] | None = None,
        larger_is_better: bool = True,
        responses: Mapping[str, ItemResponse] | None = None,
        only: str | None = None,
    ) -> Surrogate:
        """Choose and fit one regressor for each column of `scores`.

        `weights` is (N, K), rows on the simplex; `scores` is (N, M). `capabilities` names the columns (default "0",
        "1", ...). `larger_is_better` matters to the regret and the optimism that are reported, not to the choice.
        `responses` of items at these points, by capability, are regressors beside the others for theirs. `only` names
        the regressor that is taken whatever the errors, which are reported all the same.
        Raises :class:`MixtureError` for rows off the simplex, numbers that are not finite, tables that do not match,
        and fewer points than domains.
        """
        weights_NK, scores_NM = check_simplex(weights), check_table(scores, where="scores")
        names, by_items = _check_names(capabilities, scores_NM), dict(responses or {})
        _refuse_too_few(weights_NK, scores_NM)
        varying = [m for m, column_N in enumerate(scores_NM.T) if not is_constant(column_N)]

        with hold_one_thread():
            folds_RN = draw_folds(weights_NK, seed=seed)
            out = {m: predict_held_out(weights_NK, scores_NM[:, m], folds_RN, by_items.get(names[m])) for m in varying}
            scores_by_capability = {m: _score_regressors(out[m], scores_NM[:, m], larger_is_better) for m in varying}
            chosen = choose(scores_by_capability) if only is None else dict.fromkeys(varying, only)
            models = {
                m: _fit_model(weights_NK, scores_NM[:, m], chosen[m], out[m], by_items.get(names[m])) for m in varying
            }

        choice = tuple(chosen.get(m, CONSTANT) for m in range(len(names)))
        report = tuple(
            CapabilityReport(name, choice[m], scores_by_capability.get(m, {})) for m, name in enumerate(names)
        )

        residuals_NM, held_out_RNM = np.zeros_like(scores_NM), np.tile(scores_NM, (len(folds_RN), 1, 1))
        for m in varying:
            held_out_RNM[:, :, m] = out[m].predicted[chosen[m]]
            residuals_NM[:, m] = scores_NM[:, m] - out[m].predicted[chosen[m]].mean(axis=0)

        ordered = tuple(models.get(m) for m in range(len(names)))
        return cls(names, choice, report, weights_NK, scores_NM, residuals_NM, held_out_RNM, ordered)

    def predict(self, candidates: ArrayLike) -> tuple[Floats, Floats]:
        """(C, M) expected scores of (C, K) `candidates`, and (C, M) standard deviations of a measurement there.

        Raises :class:`MixtureError` for candidates off the simplex or of other domains.
        """
        candidates_CK = self._checked(candidates)
        std_CM = np.zeros((len(candidates_CK), len(self.capabilities)))
        with hold_one_thread():
            for m, model in enumerate(self.models):
                if model is not None:
                    std_CM[:, m] = model.std(candidates_CK)
        return self.mean(candidates_CK), std_CM

    def mean(self, candidates: ArrayLike) -> Floats:
        """(C, M) expected scores of (C, K) `candidates`, in about half the time of `predict`."""
        candidates_CK = self._checked(candidates)
        mean_CM = np.tile(self.scores_NM[0], (len(candidates_CK), 1))
        with hold_one_thread():
            for m, model in enumerate(self.models):
                if model is not None:
                    mean_CM[:, m] = model.regressor.predict(candidates_CK)
        return mean_CM

    def resampled(self, *, seed: int, draws: int) -> Iterator[Surrogate]:
        """`draws` surrogates as other measurements of the same points might have given (residual bootstrap).

        Fitted scores plus out-of-fold residuals drawn with replacement, whole rows, so that capabilities err together
        as they did. Each regressor keeps its kind and settings.
        """
        fitted_NM = self.mean(self.weights_NK)
        centred_NM = self.residuals_NM - self.residuals_NM.mean(axis=0)
        size = len(fitted_NM)
        for draw in range(draws):
            rows_N = generator(seed, "surrogate bootstrap", draw).integers(size, size=size)
            yield self._through(fitted_NM + centred_NM[rows_N])

    def _through(self, scores_NM: Floats) -> Surrogate:
        with hold_one_thread():
            models = tuple(
                model and replace(model, regressor=model.regressor.refitted(scores_NM[:, m]))
                for m, model in enumerate(self.models)
            )
        return replace(self, scores_NM=scores_NM, models=models)

    def _checked(self, candidates: ArrayLike) -> Floats:
        candidates_CK = check_simplex(candidates, where="candidates")
        expected, found = self.weights_NK.shape[1], candidates_CK.shape[1]
        if found != expected:
            told = f"expected {expected} domains as in the fit, found {found}"
            raise MixtureError("candidates", told, "Give one column for each domain, in the same order.")
        return candidates_CK


def is_constant(values_N: Floats) -> bool:
    """Say if values differ by no more than rounding."""
    return bool(np.ptp(values_N) <= 1e-12 * np.abs(values_N).max())


def _score_regressors(out: HeldOut, values_N: Floats, larger_is_better: bool) -> dict[str, OutOfFold]:
    return {
        name: score_predictions(predicted_RN, values_N, larger_is_better=larger_is_better)
        for name, predicted_RN in out.predicted.items()
    }


def _fit_model(
    weights_NK: Floats, values_N: Floats, choice: str, out: HeldOut, response: ItemResponse | None
) -> CapabilityModel:
    spread = GaussianProcess.fit(weights_NK, values_N)
    regressor: FittedRegressor
    if choice == RESPONSE and response is not None:
        regressor = response.fit(values_N)
    else:
        regressor = spread if choice == SPREAD else fit(choice, weights_NK, values_N)
    errors_RN = values_N - out.predicted[choice]
    return CapabilityModel(
        regressor, spread, _measure_root_mean_square(errors_RN / out.spread_RN), _measure_root_mean_square(errors_RN)
    )


def _measure_root_mean_square(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _check_names(capabilities: Sequence[str] | None, scores_NM: Floats) -> tuple[str, ...]:
    columns = scores_NM.shape[1]
    names = check_distinct(
        list(map(str, range(columns))) if capabilities is None else capabilities, where="capabilities"
    )
    if len(names) != columns:
        found = f"expected {columns} names, one for each column of the scores, found {len(names)}"
        raise MixtureError("capabilities", found, "Name every column.")
    return names


def _refuse_too_few(weights_NK: Floats, scores_NM: Floats) -> None:
    points, domains = weights_NK.shape
    if len(scores_NM) != points:
        found = f"expected one row for each of the {points} points, found {len(scores_NM)}"
        raise MixtureError("scores", found, "Give the scores of the same points, in the same order.")
    distinct, needed = len(np.unique(weights_NK.round(9), axis=0)), max(domains, FEWEST_POINTS)
    if distinct < needed:
        found = f"expected at least {needed} distinct points for {domains} domains, found {distinct}"
        raise MixtureError("weights", found, "Measure more points, or join domains.")
