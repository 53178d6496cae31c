"""The metric of a task that counts: a mean over items, higher is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from lm_eval.api.metrics import mean

from aftermix.config import TaskConfig
from aftermix.errors import EvaluationError


@dataclass(frozen=True)
class TaskMetric:
    """A metric as computed on the answers that one filter leaves."""

    name: str
    filter: str

    def __str__(self) -> str:
        """As lm-eval writes it.

        >>> str(TaskMetric("acc", "none"))
        'acc,none'
        """
        return f"{self.name},{self.filter}"


def choose_metric(task: TaskConfig, leaves: Mapping[str, Any]) -> TaskMetric:
    """The metric and filter that `task` names, else the first ones of its first leaf.

    Raises :class:`EvaluationError` unless every leaf has both, the task's score is the plain mean of the metric over
    items, and higher is better: a search compares items one by one and maximises.
    """
    first = next(iter(leaves.values()))
    metric = TaskMetric(task.metric or next(iter(first.aggregation())), task.filter or _list_filters(first)[0])
    for name, leaf in leaves.items():
        _refuse_unusable(metric, name, leaf)
    return metric


def _refuse_unusable(metric: TaskMetric, name: str, leaf: Any) -> None:
    where = f"task '{name}'"
    usable = [known for known in leaf.aggregation() if _is_usable(known, leaf)]
    remedy = f"Set `metric` to one of: {', '.join(usable)}." if usable else "Take another task: none of its metrics is."

    if metric.filter not in _list_filters(leaf):
        known = ", ".join(_list_filters(leaf))
        raise EvaluationError(where, f"has no filter '{metric.filter}'", f"Set `filter` to one of: {known}.")
    if metric.name not in leaf.aggregation():
        raise EvaluationError(where, f"has no metric '{metric.name}'", remedy)

    if metric.name not in usable:
        found = "lower is better" if leaf.aggregation()[metric.name] is mean else "it is not a mean over items"
        raise EvaluationError(
            where,
            f"expected a metric that is a mean over items with higher better, found '{metric.name}': {found}",
            remedy,
        )


def _is_usable(name: str, leaf: Any) -> bool:
    return leaf.aggregation()[name] is mean and bool(leaf.higher_is_better().get(name, False))


def _list_filters(leaf: Any) -> list[str]:
    return [ensemble.name for ensemble in leaf._filters]


def read_item_values(results: Mapping[str, Any]) -> dict[str, float]:
    """The results of one item that are numbers; parts of corpus metrics (pairs, texts) are left out.

    An array or a tensor of one element is a number, as lm-eval's mean takes it.
    """
    numbers = {name: _read_number(value) for name, value in results.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _read_number(value: Any) -> float | None:
    if isinstance(value, np.ndarray | torch.Tensor) and value.shape.count(1) == len(value.shape):
        value = value.item()
    return float(value) if isinstance(value, Real | np.bool_) else None


def read_primary_value(values: Mapping[str, float], metric: TaskMetric, *, item: str) -> float:
    """The primary metric of one item.

    A metric that a function computes may name its result otherwise (`pass_at_k` gives `pass@1`): where there is only
    one, it is meant.
    """
    if metric.name in values:
        return values[metric.name]
    if len(values) == 1:
        return next(iter(values.values()))
    raise EvaluationError(
        f"item '{item}'", f"got no value for metric '{metric.name}'", "Name another metric of this task."
    )
