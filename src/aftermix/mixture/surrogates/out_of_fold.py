"""Choosing a regressor for each capability by how it predicts points that it was not fitted to.

Points are divided into seeded folds, several times over; repeats of one mixture stay in one fold. A regressor's error:

    e = rmse / sd + 1 - rho,

with `sd` the spread of the measured scores and `rho` Spearman's rank correlation. Forty points tell close regressors
apart badly, and what suits one capability of a table mostly suits the next. So the chosen one has the smallest sum of
its own `e` and its `e` averaged over all capabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from aftermix.mixture.simplex import Floats
from aftermix.mixture.surrogates.gaussian_process import GaussianProcess
from aftermix.mixture.surrogates.item_response import RESPONSE, ItemResponse
from aftermix.mixture.surrogates.regressors import BLENDS, REGRESSORS
from aftermix.seeds import generator

# N points, K domains, R repeats of the division into folds

FOLDS = 8
REPEATS = 2
TOP_SHARE = 0.1
"""Share of points, ranked by prediction, over which optimism is taken."""
SPREAD = "gaussian_process"
"""The regressor whose standard deviations are kept."""
CONSTANT = "constant"
"""The choice for a capability that scored the same everywhere."""


@dataclass(frozen=True)
class OutOfFold:
    """Quality of one regressor's predictions of one capability at points that it was not fitted to."""

    spearman: float
    rmse: float
    regret: float
    """Best measured score minus the score of the point predicted best; 0 or above."""
    optimism: float
    """Predicted minus measured score, mean over the tenth of the points that is predicted best."""
    error: float
    """`rmse / sd + 1 - spearman`."""


@dataclass(frozen=True)
class CapabilityReport:
    """Every regressor's out-of-fold figures for one capability, and the one chosen."""

    capability: str
    choice: str
    candidates: Mapping[str, OutOfFold]
    """By regressor or blend; empty for a constant capability."""

    @property
    def chosen(self) -> OutOfFold | None:
        """The figures of the chosen regressor."""
        return self.candidates.get(self.choice)


@dataclass(frozen=True)
class HeldOut:
    """Predictions of one capability out of fold."""

    predicted: Mapping[str, Floats]
    """(R, N) by regressor."""
    spread_RN: Floats
    """Standard deviation that the Gaussian process gave."""


def draw_folds(weights_NK: Floats, *, seed: int) -> NDArray[np.int64]:
    """(R, N) number of the fold of each point, equal mixtures in one fold, of about equal sizes."""
    _, group_N = np.unique(weights_NK.round(9), axis=0, return_inverse=True)
    groups = int(group_N.max()) + 1
    drawn = [generator(seed, "surrogate folds", repeat).permutation(groups) for repeat in range(REPEATS)]
    return np.stack([(order % min(FOLDS, groups))[group_N.reshape(-1)] for order in drawn])


def predict_held_out(
    weights_NK: Floats, values_N: Floats, folds_RN: NDArray[np.int64], response: ItemResponse | None = None
) -> HeldOut:
    """Each point predicted by every regressor, and by every blend, fitted to the points of the other folds.

    So it is by the `response` of the items, where there is one.
    """
    predicted = {name: np.empty(folds_RN.shape) for name in REGRESSORS}
    spread_RN = np.empty(folds_RN.shape)
    for repeat, fold_N in enumerate(folds_RN):
        for fold in range(int(fold_N.max()) + 1):
            out_N = fold_N == fold
            for name, fit in REGRESSORS.items():
                model = fit(weights_NK[~out_N], values_N[~out_N])
                predicted[name][repeat, out_N] = model.predict(weights_NK[out_N])
                if name == SPREAD and isinstance(model, GaussianProcess):
                    spread_RN[repeat, out_N] = model.std(weights_NK[out_N])
    blended = {name: np.mean([predicted[member] for member in members], axis=0) for name, members in BLENDS.items()}
    by_items = {RESPONSE: response.predict_held_out(values_N, folds_RN)} if response is not None else {}
    return HeldOut({**predicted, **blended, **by_items}, spread_RN)


def score_predictions(predicted_RN: Floats, values_N: Floats, *, larger_is_better: bool) -> OutOfFold:
    """Quality of `predicted_RN` as a forecast of `values_N`, mean over the repeats."""
    signed_N = values_N if larger_is_better else -values_N
    signed_RN = predicted_RN if larger_is_better else -predicted_RN
    top = max(1, round(TOP_SHARE * len(values_N)))
    best_RT = np.argsort(-signed_RN, axis=1, kind="stable")[:, :top]

    rmse = float(np.sqrt(np.mean((predicted_RN - values_N) ** 2)))
    spearman = float(np.mean([rank_correlation(row_N, values_N) for row_N in predicted_RN]))
    return OutOfFold(
        spearman=spearman,
        rmse=rmse,
        regret=float(signed_N.max() - signed_N[best_RT[:, 0]].mean()),
        optimism=float(np.mean(np.take_along_axis(signed_RN, best_RT, axis=1) - signed_N[best_RT])),
        error=rmse / float(values_N.std()) + 1 - spearman,
    )


def rank_correlation(left_N: Floats, right_N: Floats) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 when one side does not vary.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([5.0, 9.0, 7.0]))
    0.5
    """
    ranks = np.stack([rankdata(left_N), rankdata(right_N)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = float(np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    return float(ranks[0] @ ranks[1]) / norm if norm else 0.0


def choose(found: Mapping[int, Mapping[str, OutOfFold]]) -> dict[int, str]:
    """The regressor of each capability, from the figures of all by capability and regressor; the first at a tie.

    Errors are averaged over the capabilities that have all regressors of the one at hand: not every task has a response
    of its items.
    """
    chosen = {}
    for m, of in found.items():
        alike = [others for others in found.values() if others.keys() >= of.keys()]
        pooled = {name: float(np.mean([others[name].error for others in alike])) for name in of}
        chosen[m] = min(of, key=lambda name: of[name].error + pooled[name])
    return chosen
