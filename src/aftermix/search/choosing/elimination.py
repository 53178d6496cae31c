"""Paired elimination: finalists are measured in rounds of select items, and one that is surely beaten goes no further.

After each round but the last, with `q` Student's quantile at `1 - ERROR / comparisons`, a finalist is dropped if

    S(leader) - S(finalist) > q e

`S` being the objective on the items so far and `e` the paired standard error of the difference over documents. The
leader must hold every floor as surely. `comparisons` counts all that a search may make (Bonferroni): the chance that
the merge which is truly best among the finalists is dropped is at most `ERROR`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from aftermix.config import Split
from aftermix.runs.answers.requests import RequestTable, SplitRequests
from aftermix.runs.item_scores import count_values
from aftermix.runs.trials import ItemScores, average_scores
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.measured_tasks import compute_paired_error
from aftermix.seeds import generator

ROUNDS = 3
"""Parts that the select items are dealt out to."""
ERROR = 0.05
LEAST_DOCUMENTS = 10
"""Documents of all tasks below which nobody is dropped: a standard error of fewer tells little."""

RoundPlaces = Mapping[str, tuple[int, ...]]
"""Task -> places of the items of one round, ascending."""


def deal_rounds(requests: Mapping[str, SplitRequests], *, seed: int) -> tuple[RoundPlaces, ...]:
    """Deal the items of a split out to at most `ROUNDS` rounds, by chance and evenly, each document whole to one."""
    groups = {
        task: np.arange(len(of_task.gold)) if of_task.documents is None else of_task.documents
        for task, of_task in requests.items()
    }
    rounds = max(1, min(ROUNDS, *(len(np.unique(documents_I)) for documents_I in groups.values())))
    places: list[dict[str, tuple[int, ...]]] = [{} for _ in range(rounds)]
    for task, documents_I in groups.items():
        documents = generator(seed, "select rounds", task).permutation(np.unique(documents_I))
        for number, part in enumerate(np.array_split(documents, rounds)):
            places[number][task] = tuple(np.flatnonzero(np.isin(documents_I, part)).tolist())
    return tuple(places)


@dataclass(frozen=True)
class EliminationRule:
    """The rule of one search, for its finalists."""

    objectives: ObjectiveSet
    documents: Mapping[str, NDArray[np.int64]]
    """Task -> number of each item's document."""
    comparisons: int
    """Tests that the search may make."""

    @staticmethod
    def build(
        objectives: ObjectiveSet, requests: RequestTable, *, split: Split, finalists: int, rounds: int
    ) -> EliminationRule:
        """The rule for so many finalists; of several objectives nobody is dropped, since none of them decides alone."""
        documents = {
            task: np.arange(len(of_task.splits[split].gold)) if numbers is None else numbers.astype(np.int64)
            for task, of_task in requests.items()
            for numbers in [of_task.splits[split].documents]
        }
        tests = (rounds - 1) * (finalists - 1 + len(objectives.floors)) if objectives.is_single else 0
        return EliminationRule(objectives, documents, max(0, tests))

    def list_beaten(self, items: Mapping[int, ItemScores]) -> list[int]:
        """Numbers of the finalists that are dropped, whose scores on the same items so far are `items`."""
        first, goal = next(iter(items.values())), self.objectives.goals[0]
        is_valued = all(count_values(scores) for each in items.values() for scores in each.values())
        if not self.comparisons or len(items) < 2 or not is_valued:
            return []

        scores = {number: average_scores(each) for number, each in items.items()}
        leader = min(items, key=lambda number: (self.objectives.violation(scores[number]), -goal.value(scores[number])))
        documents = sum(len(np.unique(self._list_measured(first, task))) for task in goal.shares)
        if documents < LEAST_DOCUMENTS or not self._holds_floors(items[leader], scores[leader]):
            return []

        quantile = float(student.ppf(1 - ERROR / self.comparisons, documents - len(goal.shares)))
        ahead = {number: goal.value(scores[leader]) - goal.value(scores[number]) for number in items}
        errors = {
            number: compute_paired_error(items[leader], each, goal.shares, self.documents)
            for number, each in items.items()
        }
        return [number for number in items if ahead[number] > quantile * errors[number]]

    def _holds_floors(self, items: ItemScores, scores: Mapping[str, float]) -> bool:
        """True if the score of every task with a floor is surely above it."""
        for task, floor in self.objectives.floors.items():
            nothing = {task: [None if score is None else 0.0 for score in items[task]]}
            error = compute_paired_error(items, nothing, {task: 1.0}, self.documents)
            degrees = max(1, len(np.unique(self._list_measured(items, task))) - 1)
            if scores[task] - floor <= float(student.ppf(1 - ERROR / self.comparisons, degrees)) * error:
                return False
        return True

    def _list_measured(self, items: ItemScores, task: str) -> NDArray[np.int64]:
        """Documents of the items that have a score."""
        return self.documents[task][[score is not None for score in items[task]]]
