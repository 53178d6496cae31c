"""A score that holds on new items: how surely the right answer wins, at a temperature that other items chose.

    soft(w) = sum_i p_i sigmoid(gap_i(w) / T),    score(w) = intercept + slope soft(w)

with `p` the share of each item in the task's score. At a low temperature this is the accuracy of these items, whose
ties are broken by chance; at a higher one, items that nearly changed count too. Sought is the `T` at which half of the
items ranks merges most like the metric on the other half, over many halvings. On a hundred items that is itself a noisy
answer: tasks of choices, whose gaps differ in size alone, choose `T` over that size together, and of temperatures that
agree alike the highest is taken, at which most items count. The line is fitted on all items of a task.
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
ALIKE = 0.02
"""Two temperatures agree alike where what the other half leaves of a correlation of 1 differs by so small a part."""
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
    gaps_NI: Margins, scores_NI: NDArray[np.floating], shares_I: Floats, *, factor: float
) -> TemperedScore:
    """The score at `factor` times the median size of a gap, on the line that gives the metric.

    `scores_NI` are the metric's values; items without a share count nowhere.
    """
    temperature = factor * measure_gap(gaps_NI)
    soft_N = np.asarray(expit(gaps_NI / temperature) @ shares_I)
    return TemperedScore(temperature, *fit_line(soft_N, np.asarray(scores_NI @ shares_I, dtype=np.float64)))


def measure_gap(gaps_NI: Margins) -> float:
    """Median size of a gap, the unit of temperatures."""
    sizes = np.abs(gaps_NI[np.isfinite(gaps_NI)])
    return float(np.median(sizes)) if sizes.size and np.median(sizes) > 0 else 1.0


def fit_line(soft_N: Floats, score_N: Floats) -> tuple[float, float]:
    """Slope and intercept of the least squares line, whose slope is not negative: a likelier answer is no worse."""
    centred_N = soft_N - soft_N.mean()
    variation = float(centred_N @ centred_N)
    slope = max(0.0, float(centred_N @ score_N) / variation) if variation > LEAST_VARIATION else 1.0
    return slope, float(score_N.mean() - slope * soft_N.mean())


def measure_agreements(
    gaps_NI: Margins,
    scores_NI: NDArray[np.floating],
    shares_I: Floats,
    *,
    documents_I: Integers,
    rng: np.random.Generator,
) -> Floats:
    """(len(TEMPERATURES),) mean correlation over merges of one half's tempered score with the other half's metric."""
    groups = int(documents_I.max()) + 1
    halves_HG = np.argsort(rng.random((HALVINGS, groups)), axis=1) < groups // 2
    ours_HI = halves_HG[:, documents_I] * shares_I
    theirs_HI = ~halves_HG[:, documents_I] * shares_I

    unit = measure_gap(gaps_NI)
    metric_HN = _normalise_rows(theirs_HI @ scores_NI.T)
    agreements = []
    for factor in TEMPERATURES:
        soft_HN = _normalise_rows(ours_HI @ expit(gaps_NI / (factor * unit)).T)
        agreements.append(float((soft_HN * metric_HN).sum(axis=1).mean()))
    return np.array(agreements)


def choose_factor(agreements: Floats) -> float:
    """The highest of the `TEMPERATURES` that agree alike with the best one."""
    left = 1 - agreements
    return TEMPERATURES[int(np.flatnonzero(left <= (1 + ALIKE) * left.min())[-1])]


def _normalise_rows(values_HN: Floats) -> Floats:
    centred_HN = values_HN - values_HN.mean(axis=1, keepdims=True)
    return np.asarray(centred_HN / np.sqrt(np.maximum((centred_HN**2).sum(axis=1, keepdims=True), LEAST_VARIATION)))
