"""Merges of an earlier run on tasks that it has no scores of: each is made again, and scored on these tasks alone.

The measurements are a study of their own in `RUN/reused`, with its journal: one that was stopped goes on there. The
run's own journal begins when all of them are there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aftermix import progress
from aftermix.config import Objective, SearchConfig, Split
from aftermix.evaluation.places import ItemPlaces
from aftermix.jobs.evaluator import MergeEvaluator, ModelEvaluator
from aftermix.runs.journal import read_trials
from aftermix.runs.records import ReusedRecord
from aftermix.runs.trials import ItemMeasurement, Point, Suggestion, Trial, describe_point
from aftermix.search.budget import ReusedTrials
from aftermix.search.objective import ObjectiveSet
from aftermix.search.space import SearchSpace
from aftermix.search.study import run_study
from aftermix.search.warm_start import ImportedTrial, ScoredPart, complete_trial

REUSED_FOLDER = "reused"
"""Folder of the study, in that of the run or of a tree's group."""
SPLIT: Split = "search"


@dataclass(frozen=True)
class MissingTaskScorer:
    """Scorer of imported trials on `tasks`, which the run that they come from has no scores of."""

    evaluator: MergeEvaluator
    tasks: Sequence[str]
    objectives: ObjectiveSet
    space: SearchSpace

    def complete(self, folder: Path, imported: Sequence[ImportedTrial]) -> list[ImportedTrial]:
        """`imported` with scores of all tasks, numbered from 0; those that could not be scored are left out, and told.

        What the study in `folder` has measured is not measured again. Raises as
        :func:`~aftermix.search.study.run_study` does.
        """
        home, wanted = folder / REUSED_FOLDER, [each.trial for each in imported]
        ended = {describe_point(trial.point): trial for trial in self._measure(home, wanted)}
        parts = [(each, ended.get(describe_point(each.trial.point))) for each in imported]
        scored = [(each, part) for each, part in parts if part is not None and part.is_complete]

        failed = [trial for trial in ended.values() if trial.error]
        if failed:
            noun, verb = ("merge", "is") if len(failed) == 1 else ("merges", "are")
            told = f"{len(failed)} {noun} failed on {', '.join(self.tasks)} and {verb} left out"
            progress.say(f"{told}, the last with: {failed[-1].error}")

        # Whoever is left takes the number that the journal begins with.
        return [
            complete_trial(
                each,
                ScoredPart(home, part, tuple(self.tasks)),
                number=number,
                tasks=self.evaluator.tasks,
                objectives=self.objectives,
            )
            for number, (each, part) in enumerate(scored)
        ]

    def _measure(self, home: Path, wanted: Sequence[Trial]) -> list[Trial]:
        """The trials of the study at the points `wanted`."""
        points = [trial.point for trial in wanted]
        others = sum(trial.point not in points for trial in read_trials(home))

        def propose(trials: Sequence[Trial], _: int) -> list[Suggestion]:
            done = [trial.point for trial in trials]
            return [
                Suggestion(trial.weights, _describe_origin(trial), trial.settings, strategy="reused")
                for trial in wanted
                if trial.point not in done
            ]

        config = SearchConfig(
            trials=len(points) + others,
            objective=(Objective(tasks=dict.fromkeys(self.tasks, 1.0)),),
            max_consecutive_failures=self.evaluator.config.search.max_consecutive_failures,
        )
        places = list_task_places(self.evaluator.model_evaluator, self.tasks)
        return run_study(
            home,
            space=self.space,
            config=config,
            tasks=self.tasks,
            measure=lambda point, split: self._score(point, split, places),
            announce=lambda point, split: self.evaluator.announce_point(point, split, places),
            propose=propose,
            label=REUSED_FOLDER,
        )

    def _score(self, point: Point, split: Split, places: ItemPlaces) -> ItemMeasurement:
        """The merge at `point` on the items at `places`, without the tasks that have none there."""
        measured = self.evaluator.evaluate(point, split, places)
        items = {task: measured.items[task] for task in self.tasks}
        answers = measured.answers
        return replace(
            measured,
            items=items,
            answers=None if answers is None else {task: answers[task] for task in answers if task in items},
        )


def list_task_places(evaluator: ModelEvaluator, tasks: Collection[str]) -> ItemPlaces:
    """All search items of `tasks`, and none of the others."""
    return {
        name: tuple(range(len(items.of(SPLIT)))) if name in tasks else ()
        for name, items in evaluator.suite.tasks.items()
    }


def count_reused(merges: int, tasks: Collection[str], evaluator: ModelEvaluator) -> ReusedTrials:
    """So many merges of an earlier run as a budget has them, with the tokens of scoring them on `tasks` alone."""
    if not merges or not tasks:
        return ReusedTrials(merges)
    return ReusedTrials(merges, merges * evaluator.count_positions(SPLIT, list_task_places(evaluator, tasks)))


def describe_missing(reasons: Mapping[str, str]) -> str:
    """`scored on 'numbers' alone (the run has not measured it)`"""
    names = " and ".join(f"'{task}'" for task in reasons)
    told = "; ".join(dict.fromkeys(reasons.values()))
    return f"scored on {names} alone ({told})"


def read_reused(folder: Path) -> dict[str, ReusedRecord]:
    """The key `reused` of `best.json`, of the run or group in `folder`; none where no merge was scored in part."""
    return sum_reused([folder])


def sum_reused(folders: Iterable[Path]) -> dict[str, ReusedRecord]:
    """As :func:`read_reused`, of all groups in `folders` together."""
    trials = [trial for folder in folders for trial in read_trials(folder / REUSED_FOLDER)]
    complete = [trial for trial in trials if trial.is_complete]
    if not complete:
        return {}
    return {
        "reused": ReusedRecord(
            merges=len(complete),
            failed=len(trials) - len(complete),
            tasks=tuple(complete[0].scores),
            tokens=sum(trial.tokens or 0 for trial in complete),
        )
    }


def _describe_origin(trial: Trial) -> str:
    """`trial 3 of runs/first`, of an imported trial, whose origin is `runs/first#3`."""
    name, _, number = (trial.origin or "").rpartition("#")
    return f"trial {number} of {name}"
