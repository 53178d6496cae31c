"""Intervals of scores: percentile bootstrap over items.

Items are drawn with replacement within each task, tasks are fixed. The interval speaks of other items of the same
tasks, not of other tasks, seeds or trainings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from aftermix.errors import SearchError, printable
from aftermix.runs.item_scores import LeafScores, OptionalScores, split_leaves, subtract_scores
from aftermix.runs.trials import ItemScores
from aftermix.seeds import generator

CONFIDENCE = 0.95
RESAMPLES = 2000
BATCH = 100
"""Resamples held in memory at once."""
UNLIKE_SHARE = 0.2
"""Share of items that one of two merges answers right and the other wrong, as is assumed before anything is known."""
Z_95 = 1.959964
SHOWN_TASKS = 5

Interval = tuple[float, float]


def bootstrap_mean(
    items: Mapping[str, OptionalScores],
    *,
    weights: Mapping[str, float],
    seed: int,
    key: str = "objective",
    confidence: float = CONFIDENCE,
) -> Interval:
    """The interval of `sum_t weights_t * score_t`, each score the mean over the task's items that have a value.

    It is that of 95 %, or of `confidence`.

    Items are drawn within a task; within each leaf of a group whose leaves are weighted. Items with weights take these
    along: the score of a draw is a ratio of sums, as bits over bytes.

    A task whose items all score the same (one item, say) shifts the interval and does not widen it; if every task is
    such, both ends are the score itself.
    """
    samples = [
        (weights[task] * leaf.share, _DrawnItems.build(leaf))
        for task in weights
        for leaf in split_leaves(items[task])
        if leaf.share
    ]
    fixed = sum(weight * float(drawn.values[0]) for weight, drawn in samples if drawn.is_constant)
    varying = [(weight, drawn) for weight, drawn in samples if not drawn.is_constant]
    if not varying:
        return fixed, fixed

    # The fixed tasks' part is added inside, so that both ends are shifted by the same float operations.
    def weigh_means(*drawn: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        total = np.asarray(fixed, dtype=np.float64)
        for (weight, sample), x in zip(varying, drawn, strict=True):
            total = total + weight * sample.average(x, axis=axis)
        return total

    interval = bootstrap(
        tuple(sample.drawable for _, sample in varying),
        weigh_means,
        n_resamples=RESAMPLES,
        batch=BATCH,
        vectorized=True,
        confidence_level=confidence,
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


def compute_half_width(items: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Half the width of a paired 95 % interval of a difference, in points: `z sqrt(sum_t share_t^2 u / n_t)`.

    `items` are the items `n_t` by task, `shares` the weights of the tasks in the objective, which sum to 1; `u` is
    `UNLIKE_SHARE`, the variance of the difference of one item where level merges answer so many items unlike.

    >>> round(compute_half_width({"own": 34}, {"own": 1.0}), 1)
    15.0
    """
    variance = math.fsum(share**2 * UNLIKE_SHARE / items[task] for task, share in shares.items())
    return 100 * Z_95 * math.sqrt(variance)


def describe_resolution(tested: Mapping[str, int], shares: Mapping[str, float], *, objective: str | None = None) -> str:
    """The least difference that `tested` items by task can tell in the mean by `shares`, and what that assumes.

    `objective` is its name where there are several.
    """
    width = compute_half_width(tested, shares)
    of_objective = f" in '{objective}'" if objective is not None else ""
    alone = [f"{task} {compute_half_width(tested, {task: 1.0}):.1f}" for task in shares]
    more = f" and {len(alone) - SHOWN_TASKS} more" if len(alone) > SHOWN_TASKS else ""

    by_task = f" ({', '.join(alone[:SHOWN_TASKS])}{more})" if len(alone) > 1 else ""
    told = f"test items tell differences of {width:.1f} points and more{of_objective}{by_task}"
    return printable(
        f"{told}: half a paired 95 % interval, if two merges answer {UNLIKE_SHARE:.0%} of the items unlike"
    )


@dataclass(frozen=True, eq=False)
class _DrawnItems:
    """Items of one leaf as they are drawn: their values, or their places where each has a weight to take along."""

    values: NDArray[np.float64]
    weights: NDArray[np.float64] | None

    @classmethod
    def build(cls, leaf: LeafScores) -> _DrawnItems:
        weights = leaf.valued_weights
        return cls(np.asarray(leaf.valued, dtype=np.float64), None if weights is None else np.asarray(weights, float))

    @property
    def is_constant(self) -> bool:
        return bool((self.values == self.values[0]).all())

    @property
    def drawable(self) -> NDArray[np.float64]:
        """Sample that the bootstrap draws of."""
        return self.values if self.weights is None else np.arange(len(self.values), dtype=np.float64)

    def average(self, drawn: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
        """Scores of draws of :attr:`drawable`."""
        if self.weights is None:
            return np.asarray(drawn.mean(axis=axis))
        places = drawn.astype(np.int64)
        weights = self.weights[places]
        return np.asarray((weights * self.values[places]).sum(axis=axis) / weights.sum(axis=axis))
