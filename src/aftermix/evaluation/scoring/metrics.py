"""Values of a task's metrics: the metric that counts, and the numbers of one item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from lm_eval.api.metrics import bits_per_byte

from aftermix.errors import EvaluationError

Weighting = Literal["items", "sizes", "equal", "bytes"]
"""Weights of leaf tasks: their items with values; or all their items, or equal ones, as a group of lm-eval says.
`bytes`: items count by the bytes of their texts, in one ratio of sums."""
BYTES_OF = ".bytes"
"""Ending of the key under which the bytes of an item stand beside its bits per byte."""


@dataclass(frozen=True)
class TaskMetric:
    """A metric as computed on the answers that one filter leaves, and how the leaves of a group count in it."""

    name: str
    filter: str
    weighting: Weighting = "items"
    skips_nan: bool = False
    """True where NaN means no value (lm-eval's aggregation `nanmean`)."""

    def __str__(self) -> str:
        """As lm-eval writes it.

        >>> str(TaskMetric("acc", "none"))
        'acc,none'
        """
        return f"{self.name},{self.filter}"


def is_bits_per_byte(leaf: Any, key: str) -> bool:
    """True for a metric that lm-eval sums as bits over bytes: its items are log-likelihoods with their bytes."""
    return leaf.aggregation().get(key) is bits_per_byte


def read_item_values(leaf: Any, results: Mapping[str, Any]) -> dict[str, float]:
    """The results of one item of the lm-eval task `leaf` that are numbers.

    An array or a tensor of one element is a number, as lm-eval's mean takes it. Of bits per byte an item has its own,
    with a minus sign, since higher is better in all scores, and its bytes under a key of their own; a text without
    bytes has none. Parts of other corpus metrics (pairs, texts) are left out.
    """
    numbers = {name: _read_number(value) for name, value in results.items()}
    for name, value in results.items():
        if is_bits_per_byte(leaf, name) and isinstance(value, tuple | list) and value[1]:
            loglikelihood, count = value
            numbers |= {name: loglikelihood / (count * math.log(2)), name + BYTES_OF: float(count)}
    return {name: number for name, number in numbers.items() if number is not None}


def _read_number(value: Any) -> float | None:
    if isinstance(value, np.ndarray | torch.Tensor) and value.shape.count(1) == len(value.shape):
        value = value.item()
    return float(value) if isinstance(value, Real | np.bool_) else None


def read_primary_values(
    values: Sequence[Mapping[str, float]], metric: TaskMetric, *, where: str, declared: Sequence[str]
) -> list[float | None]:
    """The value of the metric for every item of a task, None for an item that has none.

    The key is settled for the whole task: it is the metric's name; or, where no item has a value of that name and all
    values that the task does not declare have one other key, that key (a function `pass_at_k` may return `pass@1`).

    Raises :class:`EvaluationError` when no item has a value, or one is NaN or infinite.
    """
    keys = dict.fromkeys(key for each in values for key in each)
    others = [key for key in keys if key not in declared]
    key = others[0] if metric.name not in keys and len(others) == 1 else metric.name

    found = [each.get(key) for each in values]
    if metric.skips_nan:
        found = [None if value is None or math.isnan(value) else value for value in found]
    if not all(value is None or math.isfinite(value) for value in found):
        raise EvaluationError(where, f"metric {metric} gives NaN or Inf", "Name another metric.")

    if all(value is None for value in found):
        given = f"its scoring returned {', '.join(keys)}" if keys else "its scoring returned no number"
        raise EvaluationError(
            where,
            f"none of these {len(values)} items has a value of metric '{metric.name}'; {given}",
            "Name another metric, or give the split more items.",
        )
    return found
