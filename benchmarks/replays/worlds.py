"""Worlds that a replayed search may look at: the merges of a pool alone, or any merge as an emulator answers it.

A merge is a number: of a recorded merge, or of one that was asked of the emulator. Strategies place the weights that
they want and are given the number of the merge that stands for them; they do not know which world they are in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from benchmarks.pools import RecordedPool, RecordedTask
from benchmarks.pools.coordinates import divides_by_weights, find_smooth
from benchmarks.pools.emulator import EmulatedTask, PoolEmulator

from aftermix.config import Objective
from aftermix.response.margins import ChoiceItems
from aftermix.response.measurements import TaskMeasurements
from aftermix.response.response_model import ResponseModel
from aftermix.response.surface.coordinates import MergeCoordinates
from aftermix.runs.trials import Point, Trial
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.response_fit import build_coordinates, locate_points
from aftermix.search.space import SearchSpace
from aftermix.seeds import generator

INSTRUCTION = ("it",)
"""Vectors of a pool that carry instruction following."""

# M merges, V vectors, N items, R requests


@dataclass(frozen=True)
class SeenItems:
    """Numbers of the items of each task that a search sees, and of those that judge what it chose."""

    search: Mapping[str, np.ndarray]
    test: Mapping[str, np.ndarray]

    @classmethod
    def draw(cls, pool: RecordedPool, share: float, *, seed: int) -> SeenItems:
        """A share of the documents of each task for the search, all others for the test."""
        search, test = {}, {}
        for name, task in pool.tasks.items():
            documents = np.unique(task.document_N)
            order = generator(seed, "replay items", name).permutation(documents)
            seen = np.isin(task.document_N, order[: round(share * len(order))])
            search[name], test[name] = np.flatnonzero(seen), np.flatnonzero(~seen)
        return cls(search, test)

    def judge_by(self, other: SeenItems) -> SeenItems:
        """These items for the search, judged by those of `other`."""
        return SeenItems(self.search, other.test)


@dataclass
class ReplayWorld(ABC):
    """Merges that answer on the items of a pool; the objective is the plain mean of its tasks."""

    pool: RecordedPool
    items: SeenItems

    @property
    @abstractmethod
    def weights(self) -> np.ndarray:
        """(M, V) of all merges that have a number."""

    @abstractmethod
    def place(self, point: Point, taken: Sequence[int]) -> int:
        """The number of the merge that stands for `point` where those `taken` are measured."""

    @abstractmethod
    def read_answers(self, rows: np.ndarray) -> dict[str, EmulatedTask]:
        """What every task answered to the merges of these numbers."""

    @abstractmethod
    def list_others(self, trials: Sequence[Trial]) -> list[Point] | None:
        """The merges that are no trial, where they are all there is; None where any weights may be asked."""

    @cached_property
    def space(self) -> SearchSpace:
        """The unit box of the vectors' weights."""
        bounds = dict.fromkeys(self.pool.vectors, (0.0, 1.0))
        return SearchSpace(bounds, tuple(name for name in INSTRUCTION if name in bounds))

    @cached_property
    def coordinates(self) -> MergeCoordinates:
        """The way from weights to the response's coordinates."""
        return build_coordinates(self.space, normalised=divides_by_weights(self.pool))

    @cached_property
    def objectives(self) -> ObjectiveSet:
        """The mean of all tasks."""
        return ObjectiveSet.build((Objective(),), tasks=list(self.pool.tasks))

    @property
    def shares(self) -> dict[str, float]:
        """Weight of each task in the objective."""
        return dict.fromkeys(self.pool.tasks, 1 / len(self.pool.tasks))

    def read_point(self, merge: int) -> Point:
        """The place of a merge."""
        return Point(dict(zip(self.pool.vectors, self.weights[merge].tolist(), strict=True)))

    def measure(self, rows: Sequence[int]) -> dict[str, TaskMeasurements]:
        """What a search knows of the merges of these numbers: the items that it sees."""
        answers = self.read_answers(np.asarray(rows, dtype=np.int64))
        return {name: measure_task(task, answers[name], self.items.search[name]) for name, task in self._list_tasks()}

    def build_trial(self, merge: int, number: int, *, origin: str, strategy: str | None = None) -> Trial:
        """A merge as the record of a trial that was measured."""
        scores = {name: float(means[0]) for name, means in self._average([merge], self.items.search).items()}
        return Trial(
            number=number,
            state="complete",
            weights=self.read_point(merge).weights,
            scores=scores,
            objective=self.objectives.values(scores),
            feasible=True,
            origin=origin,
            strategy=strategy,
        )

    def fit(self, rows: Sequence[int], *, seed: int) -> ResponseModel:
        """The response through the merges of these numbers."""
        points = locate_points(self.coordinates, [self.read_point(row) for row in rows])
        return ResponseModel.fit(points, self.measure(rows), seed=seed)

    def score(self, rows: Sequence[int]) -> np.ndarray:
        """(M,) objective on the items that the search sees."""
        return np.mean(list(self._average(rows, self.items.search).values()), axis=0)

    def judge(self, rows: Sequence[int]) -> np.ndarray:
        """(M,) objective on the items that judge."""
        return np.mean(list(self._average(rows, self.items.test).values()), axis=0)

    def judge_points(self, points: Sequence[Point]) -> np.ndarray:
        """(M,) objective on the items that judge, at any points that may be run."""
        return self.judge([self.place(point, []) for point in points])

    def score_items(self, rows: Sequence[int]) -> np.ndarray:
        """(M, I) metric of each item that the search sees, tasks of unlike size weighted to count alike."""
        answers = self.read_answers(np.asarray(rows, dtype=np.int64))
        parts = [answers[name].score_MN[:, self.items.search[name]] for name in self.pool.tasks]
        widest = max(part.shape[1] for part in parts)
        return np.concatenate([part * widest / part.shape[1] for part in parts], axis=1)

    def _average(self, rows: Sequence[int], items: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        answers = self.read_answers(np.asarray(rows, dtype=np.int64))
        return {name: answers[name].score_MN[:, items[name]].mean(axis=1) for name in self.pool.tasks}

    def _list_tasks(self) -> list[tuple[str, RecordedTask]]:
        return list(self.pool.tasks.items())


@dataclass
class FiniteWorld(ReplayWorld):
    """The recorded merges and no others: weights are moved to the nearest one that was not taken."""

    @property
    def weights(self) -> np.ndarray:
        return self.pool.weights_MV.astype(np.float64)

    def place(self, point: Point, taken: Sequence[int]) -> int:
        asked_V = np.array([point.weights[name] for name in self.pool.vectors])
        distances_M = ((self.weights - asked_V) ** 2).sum(axis=1)
        distances_M[list(taken)] = np.inf
        return int(np.argmin(distances_M))

    def read_answers(self, rows: np.ndarray) -> dict[str, EmulatedTask]:
        return {
            name: EmulatedTask(task.loglikelihood_MR[rows], task.score_MN[rows]) for name, task in self._list_tasks()
        }

    def list_others(self, trials: Sequence[Trial]) -> list[Point]:
        tried = [trial.point for trial in trials]
        return [point for point in map(self.read_point, self.list_reachable()) if point not in tried]

    def list_reachable(self) -> list[int]:
        """Numbers of the merges that others lie around (:func:`benchmarks.pools.coordinates.find_smooth`)."""
        return np.flatnonzero(find_smooth(self.pool, self.pool.weights_MV)).tolist()


@dataclass
class ContinuousWorld(ReplayWorld):
    """Any weights, as the emulator answers them.

    The metric of choices is read off emulated log-likelihoods. A written answer is right where its emulated expectation
    passes a draw that belongs to its item, so that near merges answer alike, as real ones do.
    """

    emulator: PoolEmulator
    asked: list[np.ndarray] = field(default_factory=list)
    answers: list[dict[str, EmulatedTask]] = field(default_factory=list)

    @property
    def weights(self) -> np.ndarray:
        return np.array(self.asked, dtype=np.float64).reshape(len(self.asked), len(self.pool.vectors))

    def place(self, point: Point, taken: Sequence[int]) -> int:  # noqa: ARG002 - another world moves to what is left
        weights_V = np.array([point.weights[name] for name in self.pool.vectors])
        self.asked.append(weights_V)
        self.answers.append(draw_answers(self.emulator, weights_V[None]))
        return len(self.asked) - 1

    def read_answers(self, rows: np.ndarray) -> dict[str, EmulatedTask]:
        chosen = [self.answers[row] for row in rows]
        return {
            name: EmulatedTask(
                np.concatenate([each[name].loglikelihood_MR for each in chosen]),
                np.concatenate([each[name].score_MN for each in chosen]),
            )
            for name in self.pool.tasks
        }

    def list_others(self, trials: Sequence[Trial]) -> None:  # noqa: ARG002 - any weights may be asked
        return None

    def judge_points(self, points: Sequence[Point]) -> np.ndarray:
        weights_MV = np.array([[point.weights[name] for name in self.pool.vectors] for point in points])
        answers = draw_answers(self.emulator, weights_MV)
        means = [task.score_MN[:, self.items.test[name]].mean(axis=1) for name, task in answers.items()]
        return np.asarray(np.mean(means, axis=0))


def list_first_merges(pool: RecordedPool, count: int, *, seed: int) -> list[int]:
    """Base, single vectors and even merges, then random ones."""
    fixed = min(len(pool.vectors) + 3, pool.merges)
    order = generator(seed, "replay design").permutation(np.arange(fixed, pool.merges))
    return [*range(fixed), *order.tolist()][:count]


def draw_answers(emulator: PoolEmulator, weights_MV: np.ndarray) -> dict[str, EmulatedTask]:
    """Answers to merges at any weights, every score right or wrong."""
    answers = emulator.answer(weights_MV)
    for name, task in emulator.pool.tasks.items():
        if task.kind != "multiple_choice":
            draws_N = generator(0, "emulated answers", name).random(task.items)
            right_MN = (answers[name].score_MN > draws_N).astype(np.float64)
            answers[name] = EmulatedTask(answers[name].loglikelihood_MR, right_MN)
    return answers


def measure_task(task: RecordedTask, answers: EmulatedTask, items: np.ndarray) -> TaskMeasurements:
    """What a search that sees `items` of a recorded task knows of the merges that `answers` are of."""
    requests = np.concatenate([np.arange(task.offsets[item], task.offsets[item + 1]) for item in items])
    offsets = np.concatenate([[0], np.cumsum(np.diff(task.offsets)[items])]).astype(np.int64)
    is_choice = task.kind == "multiple_choice"
    lengths = task.length_R[requests].astype(np.float64)
    return TaskMeasurements(
        kind="choice" if is_choice else "reference",
        scores_NI=answers.score_MN[:, items].astype(np.float32),
        shares_I=np.full(len(items), 1 / len(items)),
        documents_I=np.unique(task.document_N[items], return_inverse=True)[1].astype(np.int64),
        loglikelihood_NR=answers.loglikelihood_MR[:, requests].astype(np.float32),
        items=ChoiceItems(offsets, task.gold_N[items].astype(np.int64), lengths) if is_choice else None,
    )
