"""The null proxy: a mixture's score as the mean of its experts' scores, without any merge.

    score_t(w) = (1 - sum_k w_k) s_t(base) + sum_k w_k s_t(expert k)

On the simplex the base has no part. To first order in the vectors this is what a merge, and a model trained on the
mixture, would score; so what a merge tells beyond it is what merging is worth.
"""

from __future__ import annotations

import numpy as np

from aftermix.mixture.simplex import Floats

# N mixtures, K domains, T columns of scores


def predict_null(weights_NK: Floats, experts_KT: Floats, base_T: Floats | None = None) -> Floats:
    """(N, T) scores of mixtures from those of their experts alone; `base_T` has the weight that is left to 1.

    >>> predict_null(np.array([[0.25, 0.75]]), np.array([[0.4], [0.8]]))
    array([[0.7]])
    """
    mixed_NT = np.asarray(weights_NK) @ np.asarray(experts_KT)
    if base_T is None:
        return np.asarray(mixed_NT)
    return np.asarray(mixed_NT + np.outer(1 - np.asarray(weights_NK).sum(axis=1), base_T))
