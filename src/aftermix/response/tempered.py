"""A score that holds on new items: how surely the right answer wins, at a temperature that other items chose.

    soft(w) = sum_i p_i sigmoid(gap_i(w) / T),    score(w) = intercept + slope soft(w)

with `p` the share of each item in the task's score. At a low temperature this is the accuracy of these items, whose
ties are broken by chance; at a higher one, items that nearly changed count too. `T` is the one at which half of the
items ranks merges most like the metric on the other half, over many halvings; the line is fitted on all items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from aftermix.response.margins import Margins
from aftermix.response.surface.coordinates import Floats, Integers

# N merges, I items, G groups of equal documents

TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Temperatures that are tried, over the median size of a gap."""
HALVINGS = 32
LEAST_VARIATION = 1e-12


@dataclass(frozen=True)
class TemperedScore:
    """Temperature and line of one task."""

    temperature: float
    slope: float
    intercept: float

    def soften(self, gaps: Margins) -> Margins:
        """The gaps' sigmoids, of the same shape."""
        return np.asarray(expit(gaps / np.float32(self.temperature)), dtype=np.float32)

    def score_items(self, gaps_CI: Margins) -> Margins:
        """(C, I) expected metric of each item; its mean over items by their shares is the task's score."""
        return np.asarray(self.intercept + self.slope * self.soften(gaps_CI), dtype=np.float32)


def fit_tempered(
    gaps_NI: Margins,
    scores_NI: NDArray[np.floating],
    shares_I: Floats,
    *,
    documents_I: Integers,
    rng: np.random.Generator,
) -> TemperedScore:
    """Choose the temperature by halves of the documents, and fit the line that gives the metric.

    `scores_NI` are the metric's values; items without a share count nowhere.
    """
    sizes = np.abs(gaps_NI[np.isfinite(gaps_NI)])
    unit = float(np.median(sizes)) if sizes.size and np.median(sizes) > 0 else 1.0
    temperatures = [factor * unit for factor in TEMPERATURES]
    chosen = temperatures[_choose_temperature(gaps_NI, scores_NI, shares_I, temperatures, documents_I, rng)]

    soft_N = np.asarray(expit(gaps_NI / chosen) @ shares_I)
    return TemperedScore(chosen, *fit_line(soft_N, np.asarray(scores_NI @ shares_I, dtype=np.float64)))


def fit_line(soft_N: Floats, score_N: Floats) -> tuple[float, float]:
    """Slope and intercept of the least squares line, whose slope is not negative: a likelier answer is no worse."""
    centred_N = soft_N - soft_N.mean()
    variation = float(centred_N @ centred_N)
    slope = max(0.0, float(centred_N @ score_N) / variation) if variation > LEAST_VARIATION else 1.0
    return slope, float(score_N.mean() - slope * soft_N.mean())


def _choose_temperature(
    gaps_NI: Margins,
    scores_NI: NDArray[np.floating],
    shares_I: Floats,
    temperatures: list[float],
    documents_I: Integers,
    rng: np.random.Generator,
) -> int:
    """The number of the temperature with the highest mean correlation between halves."""
    groups = int(documents_I.max()) + 1
    halves_HG = np.argsort(rng.random((HALVINGS, groups)), axis=1) < groups // 2
    ours_HI = halves_HG[:, documents_I] * shares_I
    theirs_HI = ~halves_HG[:, documents_I] * shares_I

    metric_HN = _normalise_rows(theirs_HI @ scores_NI.T)
    agreements = []
    for temperature in temperatures:
        soft_HN = _normalise_rows(ours_HI @ expit(gaps_NI / temperature).T)
        agreements.append(float((soft_HN * metric_HN).sum(axis=1).mean()))
    return int(np.argmax(agreements))


def _normalise_rows(values_HN: Floats) -> Floats:
    centred_HN = values_HN - values_HN.mean(axis=1, keepdims=True)
    return np.asarray(centred_HN / np.sqrt(np.maximum((centred_HN**2).sum(axis=1, keepdims=True), LEAST_VARIATION)))
