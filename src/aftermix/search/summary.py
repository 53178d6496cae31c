"""A measurement as `best.json` tells it: scores with intervals, and differences from another measurement."""

from __future__ import annotations

from aftermix.runs.item_scores import WeightedScores, WholeScore, count_values, is_whole
from aftermix.runs.records import ScoresRecord, TaskScore
from aftermix.runs.trials import ItemScores, average_scores
from aftermix.search.intervals import Interval, bootstrap_mean, bootstrap_task, subtract_items
from aftermix.search.objective import ObjectiveSet


def summarise(items: ItemScores, *, objectives: ObjectiveSet, seed: int) -> ScoresRecord:
    """Values of the objectives and mean scores of the tasks, each with its interval: None where a task has a score
    and no items.
    """
    scores = average_scores(items)
    tasks = {
        task: TaskScore(
            score=scores[task],
            interval=None
            if isinstance(values, WholeScore)
            else _widen_interval(scores[task], bootstrap_task(values, seed=seed, task=task)),
            items=count_values(values),
            **({"bytes": round(sum(values.weights))} if isinstance(values, WeightedScores) else {}),
        )
        for task, values in items.items()
    }

    return ScoresRecord(
        objective=objectives.values(scores),
        interval=_bootstrap_objectives(items, objectives=objectives, seed=seed),
        tasks=tasks,
    )


def compare(ours: ItemScores, theirs: ItemScores, *, objectives: ObjectiveSet, seed: int) -> ScoresRecord:
    """Ours minus theirs on the same items, paired: values of the objectives with their intervals."""
    differences = subtract_items(ours, theirs)
    return ScoresRecord(
        objective=objectives.values(average_scores(differences)),
        interval=_bootstrap_objectives(differences, objectives=objectives, seed=seed),
    )


def _bootstrap_objectives(items: ItemScores, *, objectives: ObjectiveSet, seed: int) -> tuple[Interval | None, ...]:
    scores = average_scores(items)
    return tuple(
        None
        if is_whole({task: items[task] for task in goal.shares})
        else _widen_interval(
            goal.value(scores), bootstrap_mean(items, weights=goal.shares, seed=seed, key=f"objective {goal.name}")
        )
        for goal in objectives.goals
    )


def _widen_interval(value: float, interval: Interval) -> Interval:
    """The interval, widened by a rounding error where that alone would leave `value` outside."""
    return min(interval[0], value), max(interval[1], value)
