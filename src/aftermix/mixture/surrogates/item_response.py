"""The response of a task's items as a regressor: its score at any mixture from the log-likelihoods at measured ones.

    score(w) = intercept + slope soft(w)

with `soft` the tempered score of the items, which a Gaussian process lays through their margins
(:mod:`aftermix.response`), and the line fitted to the measured scores. A score alone is as noisy as its items are few;
the margins of all of them are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aftermix.mixture.simplex import Floats
from aftermix.response.measurements import TaskMeasurements
from aftermix.response.response_model import LEAST_MERGES, ResponseModel
from aftermix.response.surface.coordinates import MergePoints
from aftermix.response.surface.process import ResponseProcess
from aftermix.response.task_response import TaskResponse
from aftermix.response.tempered import TemperedScore, fit_line

# N points, C candidates, K domains, R repeats of the division into folds

RESPONSE = "response"
"""Name of this regressor beside the others."""
KEPT_POOLS = 4
"""Tables of candidates whose soft scores are remembered: resampled surrogates look at the same ones."""


@dataclass(frozen=True)
class ItemResponse:
    """One task's items at N mixtures, fitted."""

    task: TaskResponse
    """With a line of slope 1 through 0: what it predicts is the soft score."""
    outputs_NR: NDArray[np.float32]
    """Measured outputs as the process sees them."""
    kept: dict[bytes, Floats] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def measured_soft(self) -> Floats:
        """(N,) soft score at the measured mixtures."""
        return self._soften(self.task, self.outputs_NR)

    def soften(self, candidates_CK: Floats) -> Floats:
        """(C,) soft score at candidates."""
        key = candidates_CK.tobytes()
        if key not in self.kept:
            while len(self.kept) >= KEPT_POOLS:
                del self.kept[next(iter(self.kept))]
            self.kept[key] = self.task.predict(place_mixtures(candidates_CK))
        return self.kept[key]

    def fit(self, values_N: Floats) -> ResponseLine:
        """The regressor through the scores `values_N` of the measured mixtures."""
        return ResponseLine(self, *fit_line(self.measured_soft, values_N))

    def predict_held_out(self, values_N: Floats, folds_RN: NDArray[np.int64]) -> Floats:
        """(R, N) each point predicted from those of the other folds: their margins and their line.

        Kernel, bound and temperature stay those of all points: they are a dozen numbers that thousands of margins fix.
        """
        predicted_RN = np.empty(folds_RN.shape)
        for repeat, fold_N in enumerate(folds_RN):
            for fold in range(int(fold_N.max()) + 1):
                out_N = fold_N == fold
                soft_C = self._soften_from(~out_N, out_N)
                slope, intercept = fit_line(self.measured_soft[~out_N], values_N[~out_N])
                predicted_RN[repeat, out_N] = intercept + slope * soft_C
        return predicted_RN

    def _soften_from(self, fitted_N: NDArray[np.bool_], wanted_N: NDArray[np.bool_]) -> Floats:
        """Soft scores at some measured mixtures by the margins of others."""
        process, points = self.task.process, self.task.process.points
        part = ResponseProcess.build(process.kernel, points.take(fitted_N))
        whitened = part.whiten(self.outputs_NR[fitted_N].astype(np.float64))
        rows_CN = part.compute_rows(points.take(wanted_N))
        return self._soften(self.task, (rows_CN @ whitened).astype(np.float32))

    @staticmethod
    def _soften(task: TaskResponse, outputs: NDArray[np.float32]) -> Floats:
        return np.asarray(task.score_outputs(outputs) @ task.shares_I, dtype=np.float64)


@dataclass(frozen=True)
class ResponseLine:
    """A fitted response with its line: a regressor like the others."""

    response: ItemResponse
    slope: float
    intercept: float

    def predict(self, candidates_CK: Floats) -> Floats:
        """(C,) expected scores."""
        return np.asarray(self.intercept + self.slope * self.response.soften(candidates_CK))

    def refitted(self, values_N: Floats) -> ResponseLine:
        """Through other scores: the line anew, the margins as they were measured."""
        return self.response.fit(values_N)


def fit_item_responses(
    weights_NK: Floats, measured: Mapping[str, TaskMeasurements], *, seed: int
) -> dict[str, ItemResponse]:
    """Task -> response of its items at the mixtures `weights_NK`, of those whose log-likelihoods tell the score.

    Empty where none has log-likelihoods, and for fewer than `LEAST_MERGES` points.
    """
    likelihoods = {name: task for name, task in measured.items() if task.loglikelihood_NR is not None}
    if len(weights_NK) < LEAST_MERGES or not likelihoods:
        return {}
    model = ResponseModel.fit(place_mixtures(weights_NK), likelihoods, seed=seed)

    responses = {}
    for name, task in model.tasks.items():
        if task.tempered is not None and task.scale is not None:
            soft = replace(task, tempered=TemperedScore(task.tempered.temperature, 1.0, 0.0))
            responses[name] = ItemResponse(soft, task.scale.apply(likelihoods[name].compute_outputs()))
    return responses


def place_mixtures(weights_CK: Floats) -> MergePoints:
    """Mixtures as points of a response: their shares."""
    table_CK = np.asarray(weights_CK, dtype=np.float64)
    return MergePoints(table_CK, np.zeros((len(table_CK), 0), dtype=np.int64))
