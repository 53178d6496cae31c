"""Joint draws of an objective over many merges: what the response leaves open, and what the items leave open.

    S_b(w) = sum_t a_t sum_i p_ib E_ti(w) + scale sqrt(nu / chi2_b) (L z_b)(w)

with `E_ti(w)` the expected metric of an item, `p_b` its share under a Bayesian bootstrap of the documents (exponential
weights; the shares themselves where items are held fixed), `L L'` the posterior covariance of the process over the
merges, and `scale`, `nu` the error of the objective with a merge left out. An error of the response is common to all
items: it moves the whole score.

Source: Rubin, The Bayesian Bootstrap (1981).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky

from aftermix.response.margins import Margins
from aftermix.response.response_model import ResponseModel
from aftermix.response.surface.coordinates import Floats, MergePoints

# C merges, I items, B draws

DRAWS = 1000
JITTER = 1e-9
"""Added to the diagonal over its largest entry, where candidates nearly coincide."""


@dataclass(frozen=True)
class CandidateScores:
    """Expected metrics of every item at the candidates, and the root of what the response leaves open there."""

    candidates: MergePoints
    items: dict[str, Margins]
    """Task -> (C, I) expected metric."""
    root_CC: Floats
    """Cholesky factor of the posterior covariance, in the common unit."""

    @classmethod
    def predict(cls, model: ResponseModel, candidates: MergePoints) -> CandidateScores:
        """Predict all items of all tasks at `candidates`."""
        covariance_CC = model.process.compute_covariance(candidates)
        jitter = JITTER * max(1.0, float(np.diag(covariance_CC).max())) + model.process.kernel.noise * 1e-3
        covariance_CC[np.diag_indices_from(covariance_CC)] += jitter
        items = {name: task.predict_items(candidates) for name, task in model.tasks.items()}
        return cls(candidates, items, np.asarray(cholesky(covariance_CC, lower=True, check_finite=False)))

    def compute_means(self, model: ResponseModel) -> dict[str, Floats]:
        """Task -> (C,) expected score."""
        return {name: np.asarray(self.items[name] @ task.shares_I, float) for name, task in model.tasks.items()}


def draw_objective(
    model: ResponseModel,
    scores: CandidateScores,
    weights: Mapping[str, float],
    *,
    rng: np.random.Generator,
    draws: int = DRAWS,
    items_fixed: bool = False,
) -> NDArray[np.float32]:
    """(B, C) draws of `sum_t weights_t score_t`."""
    calibration = model.calibrate(weights)
    size = len(scores.candidates)
    error_BC = rng.standard_normal((draws, size)) @ scores.root_CC.T
    tails_B1 = np.sqrt(calibration.degrees / rng.chisquare(calibration.degrees, (draws, 1)))
    total_BC = (calibration.scale * tails_B1 * error_BC).astype(np.float32)

    # Tasks share documents only by name within a task: each is drawn on its own.
    for name, weight in weights.items():
        task = model.tasks[name]
        if items_fixed:
            total_BC += np.float32(weight) * (scores.items[name] @ task.shares_I.astype(np.float32))
        else:
            shares_BI = _draw_shares(task.shares_I, task.documents_I, draws, rng)
            total_BC += np.float32(weight) * (shares_BI @ scores.items[name].T)
    return total_BC


def _draw_shares(
    shares_I: Floats, documents_I: NDArray[np.int64], draws: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(B, I) shares under a Bayesian bootstrap of the documents; each row sums to 1."""
    drawn_BG = rng.standard_exponential((draws, int(documents_I.max()) + 1), dtype=np.float32)
    weighted_BI = drawn_BG[:, documents_I] * shares_I.astype(np.float32)
    return np.asarray(weighted_BI / weighted_BI.sum(axis=1, keepdims=True), dtype=np.float32)
