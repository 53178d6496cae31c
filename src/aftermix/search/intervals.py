"""Intervals of scores: percentile bootstrap over items.

Items are drawn with replacement within each task, tasks are fixed. The interval speaks of other items of the same
tasks, not of other tasks, seeds or trainings.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from aftermix.errors import SearchError
from aftermix.runs.item_scores import OptionalScores, split_leaves, subtract_scores
from aftermix.runs.trials import ItemScores
from aftermix.seeds import generator

CONFIDENCE = 0.95
RESAMPLES = 2000
BATCH = 100
"""Resamples held in memory at once."""

Interval = tuple[float, float]


def bootstrap_mean(
    items: Mapping[str, OptionalScores], *, weights: Mapping[str, float], seed: int, key: str = "objective"
) -> Interval:
    """The 95% interval of `sum_t weights_t * score_t`, each score the mean over the task's items that have a value.

    Items are drawn within a task; within each leaf of a group whose leaves are weighted.

    A task whose items all score the same (one item, say) shifts the interval and does not widen it; if every task is
    such, both ends are the score itself.
    """
    samples = [
        (weights[task] * leaf.share, np.asarray(leaf.valued, dtype=np.float64))
        for task in weights
        for leaf in split_leaves(items[task])
        if leaf.share
    ]
    fixed = sum(weight * float(x[0]) for weight, x in samples if _is_constant(x))
    varying = [(weight, x) for weight, x in samples if not _is_constant(x)]
    if not varying:
        return fixed, fixed

    # The fixed tasks' part is added inside, so that both ends are shifted by the same float operations.
    def weigh_means(*drawn: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        total = np.asarray(fixed, dtype=np.float64)
        for (weight, _), x in zip(varying, drawn, strict=True):
            total = total + weight * x.mean(axis=axis)
        return total

    interval = bootstrap(
        tuple(x for _, x in varying),
        weigh_means,
        n_resamples=RESAMPLES,
        batch=BATCH,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=generator(seed, "bootstrap", key),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def bootstrap_task(scores: OptionalScores, *, seed: int, task: str) -> Interval:
    """The 95% interval of the mean of one task's item scores.

    >>> bootstrap_task([1.0, 1.0, 1.0], seed=0, task="gsm8k")
    (1.0, 1.0)
    """
    return bootstrap_mean({task: scores}, weights={task: 1.0}, seed=seed, key=task)


def subtract_items(ours: Mapping[str, OptionalScores], theirs: Mapping[str, OptionalScores]) -> ItemScores:
    """Ours minus theirs, item by item. Both must have been measured on the same items.

    The bootstrap of these differences is the paired one: an item's difficulty cancels. An item without a value on both
    sides has none here; where sides differ in which items have values, see :func:`~.item_scores.subtract_scores`.
    """
    differences: ItemScores = {}
    for task, scores in ours.items():
        others = theirs.get(task, ())
        if len(others) != len(scores):
            found = f"expected {len(scores)} item scores on the other side, found {len(others)}"
            raise SearchError(f"task '{task}'", found, "Compare two measurements of one run on one split.")
        differences[task] = subtract_scores(scores, others)
    return differences


def _is_constant(sample: NDArray[np.float64]) -> bool:
    return bool((sample == sample[0]).all())
