"""The metric of a task that counts, settled before any model is loaded: a mean over items, higher is better.

Of the metrics of texts it is bits per byte, which counts with a minus sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.metrics import mean, nanmean
from lm_eval.api.registry import HIGHER_IS_BETTER_REGISTRY

from aftermix.config import TaskConfig
from aftermix.errors import EvaluationError, ask_meant
from aftermix.evaluation.scoring.metrics import TaskMetric, Weighting, is_bits_per_byte
from aftermix.evaluation.scoring.probe import find_keys

BY_HAND = (
    "Take another task, or score each document by a number of which more is better, in `process_results: !function "
    "FILE.NAME` with `metric_list: [{metric: NAME, aggregation: mean, higher_is_better: true}]`."
)

SET_METRIC, SET_FILTER = "Set `metric` to one of:", "Set `filter` to one of:"
PROBED_ITEMS = 20
"""Items of a leaf whose scoring is tried for the metrics that the tasks of a group share."""


def choose_metric(task: TaskConfig, leaves: Mapping[str, Any], *, aggregates: Sequence[Any] = ()) -> TaskMetric:
    """The metric and filter that `task` names, else the group's own first ones, else those of its first leaf.

    `aggregates` is the `aggregate_metric_list` of a group. The metric found there counts as it says: leaves alike
    (`weight_by_size: false`) or by their items. A metric may be any key that the task's scoring returns, declared in
    `metric_list` or not: one metric for the whole task.

    Raises :class:`EvaluationError` unless every leaf that counts has metric and filter, the task's score is the mean of
    the metric over the items that have a value, and higher is better: a search compares items and maximises. Bits per
    byte are such a mean with a minus sign, in which items count by their bytes.
    """
    first = next(iter(leaves.values()))
    own = next((each for each in aggregates if task.metric in (None, each.metric)), None)
    name = task.metric or (own.metric if own else next(iter(first._metric_fn_list)))

    holders = {leaf_name: leaf for leaf_name, leaf in leaves.items() if own is None or has_metric(leaf, name)}
    if not holders:
        holders = dict(leaves)
    filters = _list_filters(next(iter(holders.values())))
    chosen = task.filter or (own.filter_list[0] if own and own.filter_list else filters[0])

    try:
        settled = {leaf_name: _settle(name, chosen, leaf_name, leaf) for leaf_name, leaf in holders.items()}
    except EvaluationError as error:
        raise _explain_member(error, chosen, holders) from error
    metrics = dict.fromkeys(settled.values())
    if len(metrics) > 1:
        found = f"metric '{name}' is {' here and '.join(str(metric) for metric in metrics)} there"
        raise EvaluationError(f"task '{task.task}'", found, "Name the leaf tasks one by one, each with its `metric`.")

    metric = next(iter(metrics))
    followed = own is not None and (own.filter_list is None or chosen in own.filter_list)
    if metric.weighting == "bytes" and not (followed and len(holders) > 1):
        return metric
    if metric.weighting == "bytes":
        found = f"expected one ratio of bits to bytes, found '{name}' averaged over the tasks of a group"
        raise EvaluationError(f"task '{task.task}'", found, "Name its tasks one by one in `evaluate.tasks`.")
    weighting: Weighting = ("sizes" if own.weight_by_size else "equal") if own and followed else "items"
    return TaskMetric(metric.name, metric.filter, weighting, metric.skips_nan)


def has_metric(leaf: Any, name: str) -> bool:
    """True if the scoring gives the metric; a group leaves out members without it, as lm-eval's own mean does."""
    if name in leaf._metric_fn_list:
        return True
    return _computes_keys(leaf) and any(name in find_keys(leaf, each, name).keys for each in _list_filters(leaf))


def refuse_no_values(
    task: str, metric: TaskMetric, leaves: Mapping[str, Any], items: Mapping[str, Sequence[str]]
) -> None:
    """Refuse a split none of whose items can have a value of `metric`; `items` are item ids by split."""
    if not any(_computes_keys(leaf) for leaf in leaves.values()):
        return

    for split, members in items.items():
        found = [
            find_keys(leaf, metric.filter, metric.name, documents=_list_numbers(members, leaf_name))
            for leaf_name, leaf in leaves.items()
        ]
        if all(each.complete and metric.name not in each.keys for each in found):
            raise EvaluationError(
                f"task '{task}'",
                f"none of its {len(members)} {split} items has a value of metric '{metric.name}'",
                f"Name another metric, or raise `evaluate.items.{split}`.",
            )


def _list_numbers(items: Sequence[str], leaf_name: str) -> list[int]:
    return [int(item.rpartition("/")[2]) for item in items if item.rpartition("/")[0] == leaf_name]


def _settle(name: str, filter_name: str, leaf_name: str, leaf: Any) -> TaskMetric:
    """The key of the leaf's scores that `name` stands for."""
    where, declared = f"task '{leaf_name}'", list(leaf._metric_fn_list)
    if filter_name not in _list_filters(leaf):
        known = ", ".join(_list_filters(leaf))
        remedy = ask_meant(f"{SET_FILTER} {known}.", filter_name, _list_filters(leaf))
        raise EvaluationError(where, f"has no filter '{filter_name}'", remedy)

    found: tuple[str, ...] = ()
    if _computes_keys(leaf):
        probed = find_keys(leaf, filter_name, name)
        found = probed.keys
        # A function of a metric may return its number under another name, or several.
        returned = [key for key in found if key not in declared]
        if name in declared and name not in found and len(returned) == 1:
            name = returned[0]
        elif name in declared and name not in found and returned:
            remedy = f"{SET_METRIC} {', '.join(returned)}."
            raise EvaluationError(where, f"metric '{name}' gives several values for each item", remedy)
        is_known = name in found or name in declared or not probed.complete
    else:
        is_known = name in declared

    usable = _list_usable(leaf, found)
    remedy = f"{SET_METRIC} {', '.join(usable)}." if usable else BY_HAND
    if not is_known:
        raise EvaluationError(where, f"has no metric '{name}'", ask_meant(remedy, name, usable))
    if not _is_usable(name, leaf):
        found_text = "it is not a mean over items" if not _is_mean(name, leaf) else "lower is better"
        raise EvaluationError(
            where,
            f"expected a metric that is a mean over items with higher better, found '{name}': {found_text}",
            remedy,
        )
    weighting: Weighting = "bytes" if is_bits_per_byte(leaf, name) else "items"
    return TaskMetric(name, filter_name, weighting, skips_nan=leaf.aggregation().get(name) is nanmean)


def _explain_member(error: EvaluationError, filter_name: str, leaves: Mapping[str, Any]) -> EvaluationError:
    """The refusal of one member of a group, whose other members may lack the metrics or filters that it would take."""
    where, found, remedy = error.problem.parts
    if len(leaves) == 1 or not remedy.startswith((SET_METRIC, SET_FILTER)):
        return error

    if remedy.startswith(SET_FILTER):
        noun, opening, known = "filter", SET_FILTER, [_list_filters(leaf) for leaf in leaves.values()]
    else:
        usable = [_list_usable(leaf, _find_returned(leaf, filter_name)) for leaf in leaves.values()]
        noun, opening, known = "metric", SET_METRIC, usable
    common = [key for key in known[0] if all(key in others for others in known[1:])]
    if common:
        return EvaluationError(where, found, f"{opening} {', '.join(common)}.")
    remedy = f"Its group has no {noun} that all of its tasks have: name them one by one in `evaluate.tasks`, each with "
    return EvaluationError(where, found, f"{remedy}its `{noun}`, or make a group for each.")


def _find_returned(leaf: Any, filter_name: str) -> tuple[str, ...]:
    """Keys that the scoring of the first documents returns."""
    numbers = range(min(PROBED_ITEMS, len(leaf.task_docs)))
    return find_keys(leaf, filter_name, "", documents=numbers).keys if _computes_keys(leaf) else ()


def _list_usable(leaf: Any, found: Sequence[str]) -> list[str]:
    """Metrics that could count, of those that the leaf declares or that were `found` in its scores."""
    keys = dict.fromkeys([*leaf._metric_fn_list, *found])
    return [key for key in keys if _is_usable(key, leaf) and _is_number(key, found, leaf)]


def _computes_keys(leaf: Any) -> bool:
    """True where code decides under which keys an item's scores come: `process_results`, or functions of metrics."""
    return callable(leaf.config.process_results) or leaf.OUTPUT_TYPE == "generate_until"


def _is_number(key: str, found: Sequence[str], leaf: Any) -> bool:
    """False for the name of a function whose numbers come under other keys."""
    return key in found or not (_computes_keys(leaf) and found)


def _is_usable(key: str, leaf: Any) -> bool:
    """A key that the task gives no direction has that of lm-eval's metric of the same name, else higher is better."""
    if is_bits_per_byte(leaf, key):
        return True
    direction = leaf.higher_is_better().get(key, HIGHER_IS_BETTER_REGISTRY.get(key, True))
    return _is_mean(key, leaf) and bool(direction)


def _is_mean(key: str, leaf: Any) -> bool:
    """lm-eval takes the mean of a key without an aggregation."""
    return leaf.aggregation().get(key, mean) in (mean, nanmean)


def _list_filters(leaf: Any) -> list[str]:
    return [ensemble.name for ensemble in leaf._filters]
