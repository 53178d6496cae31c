"""Objectives of a search: weighted means of task scores, with floors that other tasks must not fall below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aftermix.config import Objective
from aftermix.errors import SearchError, ask_meant
from aftermix.runs.records import ObjectiveRecord
from aftermix.search.intervals import describe_resolution


@dataclass(frozen=True)
class TaskGoal:
    """One objective: `sum_t w_t score_t / sum_t w_t`, to be maximised."""

    name: str
    weights: Mapping[str, float]
    """Task -> weight, as the file gives it."""
    floors: Mapping[str, float]
    """Task -> lowest acceptable score."""

    @property
    def shares(self) -> dict[str, float]:
        """Task -> weight, summing to 1."""
        total = math.fsum(self.weights.values())
        return {task: weight / total for task, weight in self.weights.items()}

    def value(self, scores: Mapping[str, float]) -> float:
        """The objective at these task scores."""
        weighted = math.fsum(weight * scores[task] for task, weight in self.weights.items())
        return weighted / math.fsum(self.weights.values())


@dataclass(frozen=True)
class ObjectiveSet:
    """All objectives of a search and the floors under them."""

    goals: tuple[TaskGoal, ...]

    @classmethod
    def build(cls, objectives: Sequence[Objective], *, tasks: Sequence[str]) -> ObjectiveSet:
        """Bind the file's objectives to the evaluated `tasks`.

        Raises :class:`SearchError` for no objective, a task that is not evaluated, or two objectives of one name.
        """
        if not objectives:
            raise SearchError("search.objective", "expected at least one objective, found none", "Leave the key out.")
        goals = tuple(_bind_objective(objective, tasks) for objective in objectives)
        names = [goal.name for goal in goals]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            found = f"expected distinct objectives, found '{doubled[0]}' twice"
            raise SearchError("search.objective", found, "Give each its own `name:`.")
        return cls(goals)

    @property
    def is_single(self) -> bool:
        """True if there is one objective, so that trials have a best one and no front."""
        return len(self.goals) == 1

    @property
    def floors(self) -> dict[str, float]:
        """Task -> the highest floor that any objective sets."""
        tasks = [task for goal in self.goals for task in goal.floors]
        return {task: max(goal.floors.get(task, -math.inf) for goal in self.goals) for task in tasks}

    def describe_resolution(self, tested: Mapping[str, int]) -> tuple[str, ...]:
        """The least difference that `tested` items by task can tell in each objective, in words.

        Of an objective with another task, whose items are not answered right or wrong, nothing is said.
        """
        return tuple(
            describe_resolution(tested, goal.shares, objective=None if self.is_single else goal.name)
            for goal in self.goals
            if goal.shares.keys() <= tested.keys()
        )

    def values(self, scores: Mapping[str, float]) -> tuple[float, ...]:
        """One value per objective; larger is better."""
        return tuple(goal.value(scores) for goal in self.goals)

    def constraints(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Task -> floor minus score: above 0 where the floor is broken."""
        return {task: floor - scores[task] for task, floor in self.floors.items()}

    def violation(self, scores: Mapping[str, float]) -> float:
        """By how much floors are broken, summed over tasks; 0 when all are met."""
        return math.fsum(max(0.0, amount) for amount in self.constraints(scores).values())

    def feasible(self, scores: Mapping[str, float]) -> bool:
        """Say if every floor is met (a score equal to its floor meets it)."""
        return all(amount <= 0 for amount in self.constraints(scores).values())

    def build_records(self) -> tuple[ObjectiveRecord, ...]:
        """The objectives as `best.json` tells them; task weights sum to 1."""
        return tuple(
            ObjectiveRecord(name=goal.name, tasks=goal.shares, floors=dict(goal.floors)) for goal in self.goals
        )


def _bind_objective(objective: Objective, tasks: Sequence[str]) -> TaskGoal:
    name = objective.name or " + ".join(objective.tasks) or "mean"
    for key, named in (("tasks", objective.tasks), ("floors", objective.floors)):
        unknown = [task for task in named if task not in tasks]
        if unknown:
            shown = ", ".join(f"'{task}'" for task in unknown)
            found = f"expected tasks that are evaluated ({', '.join(tasks)}), found {shown}"
            remedy = ask_meant("Correct it, or add it to `evaluate.tasks`.", unknown[0], tasks)
            raise SearchError(f"search.objective '{name}'.{key}", found, remedy)
    return TaskGoal(name, dict(objective.tasks) or dict.fromkeys(tasks, 1.0), dict(objective.floors))
