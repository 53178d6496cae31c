"""Intervals of scores: percentile bootstrap over items.

Items are drawn with replacement within each task, tasks are fixed. The interval speaks of other items of the same
tasks, not of other tasks, seeds or trainings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from aftermix.errors import SearchError
from aftermix.seeds import generator

CONFIDENCE = 0.95
RESAMPLES = 2000
BATCH = 100
"""Resamples held in memory at once."""

Interval = tuple[float, float]


def bootstrap_mean(
    items: Mapping[str, Sequence[float]], *, weights: Mapping[str, float], seed: int, key: str = "objective"
) -> Interval:
    """The 95% interval of `sum_t weights_t * mean(items_t)`.

    A task whose items all score the same (one item, say) shifts the interval and does not widen it; if every task is
    such, both ends are the score itself.
    """
    samples = {task: np.asarray(items[task], dtype=np.float64) for task in weights}
    fixed = sum(weights[task] * float(x[0]) for task, x in samples.items() if _is_constant(x))
    varying = [task for task, x in samples.items() if not _is_constant(x)]
    if not varying:
        return fixed, fixed

    # The fixed tasks' part is added inside, so that both ends are shifted by the same float operations.
    def weigh_means(*drawn: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        total = np.asarray(fixed, dtype=np.float64)
        for task, x in zip(varying, drawn, strict=True):
            total = total + weights[task] * x.mean(axis=axis)
        return total

    interval = bootstrap(
        tuple(samples[task] for task in varying),
        weigh_means,
        n_resamples=RESAMPLES,
        batch=BATCH,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=generator(seed, "bootstrap", key),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def bootstrap_task(scores: Sequence[float], *, seed: int, task: str) -> Interval:
    """The 95% interval of the mean of one task's item scores.

    >>> bootstrap_task([1.0, 1.0, 1.0], seed=0, task="gsm8k")
    (1.0, 1.0)
    """
    return bootstrap_mean({task: scores}, weights={task: 1.0}, seed=seed, key=task)


def subtract_items(
    ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]
) -> dict[str, list[float]]:
    """Ours minus theirs, item by item. Both must have been measured on the same items.

    The bootstrap of these differences is the paired one: an item's difficulty cancels.
    """
    differences = {}
    for task, scores in ours.items():
        others = theirs.get(task, ())
        if len(others) != len(scores):
            found = f"expected {len(scores)} item scores on the other side, found {len(others)}"
            raise SearchError(f"task '{task}'", found, "Compare two measurements of one run on one split.")
        differences[task] = [mine - other for mine, other in zip(scores, others, strict=True)]
    return differences


def _is_constant(sample: NDArray[np.float64]) -> bool:
    return bool((sample == sample[0]).all())
