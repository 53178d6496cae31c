"""An ensemble of the experts in place of a merge: their probabilities are averaged, item by item.

    p_i(c; w) = sum_k w_k softmax_c(l_ki(c) / length_i(c))

with `l_ki(c)` the log-likelihood of choice c under expert k, in the unit of the metric. It asks each expert once and no
merge at all, and unlike the null proxy it lets the surer expert decide an item.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aftermix.mixture.simplex import Floats
from aftermix.response.margins import ChoiceItems

# N mixtures, K domains, R requests, I items


def score_ensemble(weights_NK: Floats, loglikelihood_KR: NDArray[np.floating], items: ChoiceItems) -> Floats:
    """(N, I) 1 where the ensemble's most probable choice is the right one, else 0; of equal choices the first counts.

    Weights are shares: none is negative.
    """
    probability_NR = np.asarray(weights_NK) @ _normalise_choices(loglikelihood_KR, items)
    starts, counts = items.offsets[:-1], items.counts
    best_NI = np.maximum.reduceat(probability_NR, starts, axis=1)

    # The number of the first choice that is as probable as the best.
    numbers_R = np.arange(probability_NR.shape[1]) - np.repeat(starts, counts)
    is_best_NR = probability_NR >= np.repeat(best_NI, counts, axis=1)
    first_NI = np.minimum.reduceat(np.where(is_best_NR, numbers_R, counts.max()), starts, axis=1)
    return np.asarray(first_NI == items.gold_I, dtype=np.float64)


def _normalise_choices(loglikelihood_KR: NDArray[np.floating], items: ChoiceItems) -> Floats:
    """(K, R) probabilities that sum to 1 over each item's choices."""
    divided_KR = np.asarray(loglikelihood_KR, dtype=np.float64) / items.lengths_R
    top_KI = np.maximum.reduceat(divided_KR, items.offsets[:-1], axis=1)
    weight_KR = np.exp(divided_KR - np.repeat(top_KI, items.counts, axis=1))
    total_KI = np.add.reduceat(weight_KR, items.offsets[:-1], axis=1)
    return np.asarray(weight_KR / np.repeat(total_KI, items.counts, axis=1))
