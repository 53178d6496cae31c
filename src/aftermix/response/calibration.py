"""Error of a predicted score: measured with each merge left out in turn, for the score itself and not for its items.

    z_i = (predicted without merge i - measured at merge i) / sqrt(v_i),    scale^2 = mean of z_i^2

with `v_i` the variance that the process gives at merge i without it. A new merge with variance `v` is off by
`scale sqrt(v) t`, `t` of Student's distribution with `N / 2` degrees of freedom, the same error for all items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from scipy.stats import t as student

from aftermix.response.surface.coordinates import Floats

# N measured merges, C candidates

CONFIDENCE = 0.95
LEAST_DEGREES = 3.0
LINE_PARAMETERS = 2
"""Slope and intercept, which the measured merges have settled."""


@dataclass(frozen=True)
class ScoreCalibration:
    """The error of one score, left one out."""

    scale: float
    degrees: float
    spearman: float
    rmse: float
    spearman_upper: float
    """Over the better half of the measured merges, like `rmse_upper`."""
    rmse_upper: float
    rmse_mean: float
    """Error of predicting the mean of the other merges."""
    line_deviation: float
    """Standard deviation of the metric at a measured merge about what its tempered score says, beyond what the drawing
    of the items explains."""
    slope_error: float
    """Standard error of the line's slope, over the slope."""

    @property
    def half_width(self) -> float:
        """Half of the interval at a variance of 1."""
        return self.scale * float(student.ppf(0.5 + CONFIDENCE / 2, self.degrees))

    @property
    def lower_margin(self) -> float:
        """Distance below the expected score that it keeps with the confidence, one-sided, at a variance of 1."""
        return self.scale * float(student.ppf(CONFIDENCE, self.degrees))


def calibrate_score(
    predicted_N: Floats, measured_N: Floats, smooth_N: Floats, variances_N: Floats, *, sampling: float = 0.0
) -> ScoreCalibration:
    """The error of `predicted_N`, each made without its merge: the scale from `smooth_N`, the rest from the metric.

    `sampling` is the variance of the metric about its tempered score that the drawing of the items explains.
    """
    error_N = predicted_N - measured_N
    count = len(error_N)
    upper = measured_N >= np.median(measured_N)
    mean_N = (measured_N.sum() - measured_N) / max(count - 1, 1)
    line_variance = float(np.sum((measured_N - smooth_N) ** 2)) / max(count - LINE_PARAMETERS, 1)
    variation = float(np.sum((smooth_N - smooth_N.mean()) ** 2))

    return ScoreCalibration(
        scale=float(np.sqrt(np.mean((predicted_N - smooth_N) ** 2 / variances_N))),
        degrees=max(LEAST_DEGREES, count / 2),
        spearman=correlate_ranks(predicted_N, measured_N),
        rmse=float(np.sqrt(np.mean(error_N**2))),
        spearman_upper=correlate_ranks(predicted_N[upper], measured_N[upper]),
        rmse_upper=float(np.sqrt(np.mean(error_N[upper] ** 2))),
        rmse_mean=float(np.sqrt(np.mean((mean_N - measured_N) ** 2))),
        line_deviation=float(np.sqrt(max(line_variance - sampling, 0.0))),
        slope_error=float(np.sqrt(line_variance / variation)) if variation > 0 else 0.0,
    )


def correlate_ranks(ours: Floats, theirs: Floats) -> float:
    """Spearman's correlation; 0 where one side does not vary."""
    if len(ours) < 2 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return 0.0
    return float(spearmanr(ours, theirs).statistic)
