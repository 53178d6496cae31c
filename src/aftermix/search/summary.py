"""A measurement as `best.json` tells it: scores with intervals, and differences from another measurement."""

from __future__ import annotations

from typing import Any

from aftermix.runs.trials import ItemScores, mean_scores
from aftermix.search.intervals import Interval, item_differences, task_interval, weighted_interval
from aftermix.search.objective import Objectives


def summarise(items: ItemScores, *, objectives: Objectives, seed: int) -> dict[str, Any]:
    """`{"objective": [...], "interval": [[low, high], ...], "tasks": {task: {"score", "interval", "items"}}}`."""
    scores = mean_scores(items)
    tasks = {
        task: {
            "score": scores[task],
            "interval": _around(scores[task], task_interval(values, seed=seed, task=task)),
            "items": len(values),
        }
        for task, values in items.items()
    }

    return {
        "objective": list(objectives.values(scores)),
        "interval": _intervals(items, objectives=objectives, seed=seed),
        "tasks": tasks,
    }


def compare(ours: ItemScores, theirs: ItemScores, *, objectives: Objectives, seed: int) -> dict[str, Any]:
    """Ours minus theirs on the same items, paired: `{"objective": [...], "interval": [[low, high], ...]}`."""
    differences = item_differences(ours, theirs)
    return {
        "objective": list(objectives.values(mean_scores(differences))),
        "interval": _intervals(differences, objectives=objectives, seed=seed),
    }


def _intervals(items: ItemScores, *, objectives: Objectives, seed: int) -> list[list[float]]:
    scores = mean_scores(items)
    return [
        _around(
            goal.value(scores), weighted_interval(items, weights=goal.shares, seed=seed, key=f"objective {goal.name}")
        )
        for goal in objectives.goals
    ]


def _around(value: float, interval: Interval) -> list[float]:
    """The interval, widened by a rounding error where that alone would leave `value` outside."""
    return [min(interval[0], value), max(interval[1], value)]
