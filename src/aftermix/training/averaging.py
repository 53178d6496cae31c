"""Weights of a run's checkpoints: their mean, or the one that stands for a learning rate that decays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from aftermix.training.schedules import DecayShape


def compute_decay_factor(shape: DecayShape, start: float, end: float, *, min_rate: float = 0.0) -> float:
    """Mean of `m + (1 - m) f(p)` for `p` from `start` to `end`, `m` being `min_rate`, `f` the decay's shape.

    >>> compute_decay_factor("linear", 0.0, 0.5), compute_decay_factor("linear", 0.5, 1.0)
    (0.75, 0.25)
    """
    width = end - start
    if shape == "linear":
        mean = 1 - (start + end) / 2
    elif shape == "cosine":
        mean = 0.5 + (math.sin(math.pi * end) - math.sin(math.pi * start)) / (2 * math.pi * width)
    else:
        mean = 1 - 2 / 3 * (end**1.5 - start**1.5) / width

    return min_rate + (1 - min_rate) * mean


def compute_decay_weights(tokens: Sequence[int], shape: DecayShape, *, min_rate: float = 0.0) -> list[float]:
    """Weights, with sum 1, of the checkpoints `theta_0 ... theta_k` of a run at a constant rate, taken after `tokens`.

    Between `theta_{i-1}` and `theta_i` lies the change `g_i`, so a merge `sum_j c_j theta_j` is
    `theta_0 + sum_i (sum_{j >= i} c_j) g_i`. It is the run whose rate fell from `theta_0` on, had the gradients stayed
    the same, when the inner sum is `f_i`, the factor on the rate over that stretch:

        c_k = f_k,    c_j = f_j - f_{j+1},    c_0 = 1 - f_1

    Source: WSM (warm-up, stable and merge), theorem on merging and decay. Departure: `f_i` is the factor's mean over
    the stretch, by tokens, so that checkpoints need not be evenly spaced. `min_rate` is the rate at the end as a share
    of the peak.

    >>> [round(weight, 3) for weight in compute_decay_weights([100, 200, 300], "linear")]
    [0.25, 0.5, 0.25]
    """
    span = tokens[-1] - tokens[0]
    places = [(count - tokens[0]) / span for count in tokens]
    factors = [compute_decay_factor(shape, a, b, min_rate=min_rate) for a, b in pairwise(places)]

    ends = [1.0, *factors, 0.0]
    return [before - after for before, after in pairwise(ends)]
