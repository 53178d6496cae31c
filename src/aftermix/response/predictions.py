"""Expected scores with their intervals at any merge.

    low, high = mean -+ sqrt((q scale sqrt(v))^2 + (z s)^2 + (z d)^2)

with `q` of Student's distribution and `scale sqrt(v)` the error of the response (:mod:`aftermix.response.calibration`),
`s` the standard error that the drawing of the documents leaves, and `d` the deviation of the metric about what its
tempered score says at the measured merges, beyond what the drawing of the items explains. The interval is of the metric
of this merge over all documents that a task's are a sample of, as the bound of a certificate is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from aftermix.response.calibration import CONFIDENCE
from aftermix.response.measurements import compute_sampling_variance
from aftermix.response.response_model import ResponseModel
from aftermix.response.surface.coordinates import Floats, MergePoints

# C merges, I items, G documents


@dataclass(frozen=True)
class PredictedScores:
    """One score at C merges."""

    mean_C: Floats
    low_C: Floats
    high_C: Floats


def predict_scores(
    model: ResponseModel, points: MergePoints, scores: Mapping[str, Mapping[str, float]]
) -> dict[str, PredictedScores]:
    """Scores by name at `points`; each is a weighted sum of tasks, e.g. `{"mean": {"ja": 0.5, "math": 0.5}}`."""
    deviation_C = np.sqrt(model.process.compute_variances(points))
    items = {name: task.predict_items(points) for name, task in model.tasks.items()}
    sampling = {
        name: compute_sampling_variance(items[name], task.shares_I, task.documents_I)
        for name, task in model.tasks.items()
    }

    predicted = {}
    for name, weights in scores.items():
        mean_C = np.zeros(len(points))
        variance_C = np.zeros(len(points))
        for task, weight in weights.items():
            mean_C += weight * np.asarray(items[task] @ model.tasks[task].shares_I, dtype=np.float64)
            variance_C += weight**2 * sampling[task]
        calibration = model.calibrate(weights)
        spread_C = variance_C + calibration.line_deviation**2
        response_C = calibration.half_width * deviation_C
        half_C = np.sqrt(response_C**2 + norm.ppf(0.5 + CONFIDENCE / 2) ** 2 * spread_C)
        predicted[name] = PredictedScores(mean_C, mean_C - half_C, mean_C + half_C)
    return predicted
