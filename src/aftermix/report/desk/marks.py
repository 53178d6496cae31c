"""Merges that were measured, as marks on the axes of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aftermix.report.trials import select_measured
from aftermix.runs.reader import RunContents
from aftermix.runs.records import BestRecord, ScoresRecord


@dataclass(frozen=True)
class DeskMerge:
    """A merge with its measured scores: trials on search items, winner and baselines on test items."""

    kind: Literal["trial", "winner trial", "winner", "baseline"]
    name: str
    values: tuple[float | None, ...]
    """In the order of the scores that are shown; None where one was not measured."""


def list_merges(run: RunContents, objectives: int, tasks: Sequence[str]) -> list[DeskMerge]:
    """All measured merges, with the values of the first `objectives` objectives and of `tasks`."""
    best = run.best if isinstance(run.best, BestRecord) else None
    merges = []
    for trial in select_measured(run.trials):
        values = _list_values(trial.objective or (), trial.scores, objectives, tasks)
        is_winner = best is not None and trial.number == best.winner.trial
        merges.append(DeskMerge("winner trial" if is_winner else "trial", f"trial {trial.number}", values))

    if best:
        merges += [
            DeskMerge("baseline", baseline.name, read_scores(baseline.test, objectives, tasks))
            for baseline in best.baselines
        ]
        merges.append(DeskMerge("winner", "winner", read_scores(best.test, objectives, tasks)))
    return merges


def read_scores(scores: ScoresRecord, objectives: int, tasks: Sequence[str]) -> tuple[float | None, ...]:
    """Values of a measurement, in the order of a desk's scores."""
    by_task = {name: task.score for name, task in scores.tasks.items()}
    return _list_values(scores.objective, by_task, objectives, tasks)


def _list_values(
    objective: Sequence[float], scores: Mapping[str, float], objectives: int, tasks: Sequence[str]
) -> tuple[float | None, ...]:
    first = [objective[place] if place < len(objective) else None for place in range(objectives)]
    return (*first, *(scores.get(task) for task in tasks))
