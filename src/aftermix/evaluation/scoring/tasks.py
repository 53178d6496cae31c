"""Scores of a task's items from the answers to its requests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from aftermix.evaluation.requests import LeafRequests, score_items
from aftermix.evaluation.scoring.metrics import BYTES_OF, TaskMetric, read_primary_values
from aftermix.runs.item_scores import GroupScores, LeafShare, WeightedScores


def score_task(
    task: str, parts: Sequence[LeafRequests], metric: TaskMetric, *, in_part: bool
) -> tuple[list[float | None], dict[str, list[float]]]:
    """The metric that counts, and all metrics that every item has, by `metric,filter`; `parts` are of its leaves.

    `in_part` where others of its items are scored at another time.
    """
    if not parts:
        return [], {}
    scored = [score_items(part) for part in parts]
    declared = [key for part in parts for key in part.leaf._metric_fn_list]
    values = [numbers for by_filter in scored for numbers in by_filter[metric.filter]]
    primary = read_primary_values(values, metric, where=f"task '{task}'", declared=declared)

    columns: dict[str, list[float]] = defaultdict(list)
    for by_filter in scored:
        for name, of_items in by_filter.items():
            for numbers in of_items:
                for key, number in numbers.items():
                    columns[f"{key},{name}"].append(number)

    metrics = {name: column for name, column in columns.items() if len(column) == len(primary)}
    if metric.weighting == "bytes":
        return WeightedScores(primary, [numbers.get(metric.name + BYTES_OF, 0.0) for numbers in values]), metrics
    return _weigh_leaves(primary, scored, metric, in_part=in_part), metrics


def _weigh_leaves(
    primary: list[float | None],
    scored: Sequence[Mapping[str, Sequence[Mapping[str, float]]]],
    metric: TaskMetric,
    *,
    in_part: bool,
) -> list[float | None]:
    """`primary` with the weights of its leaves, where they are not those of their items.

    lm-eval's groups weigh a leaf by the most values that any of its metrics has. Of items `in_part` the weights are
    told in any case: other items of the same leaves may have none.
    """
    if metric.weighting == "items":
        return primary
    if not in_part and (len(scored) == 1 or (metric.weighting == "sizes" and None not in primary)):
        return primary

    leaves = []
    for by_filter in scored:
        counts = Counter((name, key) for name, of_items in by_filter.items() for each in of_items for key in each)
        weight = 1.0 if metric.weighting == "equal" else float(max(counts.values(), default=0))
        leaves.append(LeafShare(len(by_filter[metric.filter]), weight))
    return GroupScores(primary, leaves)
