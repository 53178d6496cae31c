"""Merges measured one by one in a living model: log-likelihoods of all requests, and the score of every item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config
from aftermix.evaluation.documents.rows import find_equal_items
from aftermix.evaluation.harness import TaskSuite
from aftermix.evaluation.requests import LeafRequests
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.jobs.merge.statistics import open_merger
from aftermix.merging.merge import MergeRecipe
from aftermix.merging.prepared import PreparedVectors, prepare_vectors

Arrays = dict[str, np.ndarray]
GENERATED = "generate_until"
CHOICES = "multiple_choice"


class AnswerRecorder:
    """An lm-eval model that remembers the log-likelihoods of the requests it was asked last."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm
        self.known: dict[int, float] = {}
        """Log-likelihood by the `id` of its request."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    def loglikelihood(self, requests: list[Any], **options: Any) -> list[tuple[float, bool]]:
        """The model's answers, kept."""
        answers: list[tuple[float, bool]] = self._lm.loglikelihood(requests, **options)
        self.known = {id(request): value for request, (value, _) in zip(requests, answers, strict=True)}
        return answers


@dataclass(frozen=True)
class RequestLayout:
    """The requests of one task, item after item; of generated answers the reference answer of each."""

    kind: str
    metric: str
    items: tuple[str, ...]
    groups: tuple[tuple[Any, ...], ...]
    gold: tuple[int, ...]
    length: tuple[int, ...]
    """By request."""
    rows: tuple[bytes, ...]
    """By item, equal for items of equal rows."""

    @staticmethod
    def build(parts: Sequence[LeafRequests], metric: str, equal: dict[str, bytes]) -> RequestLayout:
        """The layout of the requests of a task's leaves. Raises `ValueError` for a metric it cannot lay out."""
        kind = parts[0].leaf.OUTPUT_TYPE
        items = tuple(item for part in parts for item in part.items)
        groups = tuple((part.leaf, group) for part in parts for group in part.instances)
        rows = tuple(equal.get(item, item.encode()) for item in items)
        if kind == GENERATED:
            references = tuple((_build_reference(leaf, group[0]),) for leaf, group in groups)
            return RequestLayout(kind, metric, items, references, (0,) * len(items), (1,) * len(items), rows)

        if kind != CHOICES or metric not in ("acc", "acc_norm"):
            raise ValueError(f"a pool holds acc, acc_norm or generated answers, found {kind} by {metric}")
        gold = tuple(_find_gold(leaf, group) for leaf, group in groups)
        requests = tuple(group for _, group in groups)
        choices = chain.from_iterable(leaf.doc_to_choice(group[0].doc) for leaf, group in groups)
        length = tuple(len(choice) if metric == "acc_norm" else 1 for choice in choices)
        return RequestLayout(kind, metric, items, requests, gold, length, rows)

    @property
    def requests(self) -> list[Any]:
        """All requests, item after item."""
        return [request for group in self.groups for request in group]


def _find_gold(leaf: Any, group: Sequence[Any]) -> int:
    gold = leaf.doc_to_target(group[0].doc)
    return int(gold) if not isinstance(gold, str) else leaf.doc_to_choice(group[0].doc).index(gold)


def _build_reference(leaf: Any, asked: Any) -> Any:
    answer = leaf.config.target_delimiter + leaf.doc_to_target(asked.doc)
    return Instance("loglikelihood", asked.doc, (asked.args[0], answer), 0)


@dataclass(frozen=True)
class MergeRecorder:
    """A base, its prepared vectors, a living model and the items of all tasks."""

    config: Config
    prepared: PreparedVectors
    evaluator: ModelEvaluator
    lm: AnswerRecorder
    layouts: dict[str, RequestLayout]

    @staticmethod
    def open(config: Config) -> MergeRecorder:
        """Open models and tasks of `config`; the items are those of its search split."""
        assert config.evaluate is not None
        pool = open_pool(config)
        suite = TaskSuite.build(config.evaluate)
        recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
        prepared = prepare_vectors(open_merger(config, pool, recipe))

        evaluator = ModelEvaluator.open(pool, config.evaluate, suite)
        evaluator.rehearse(config.evaluate)
        parts = suite.build_split("search", evaluator.engine.lm)
        equal = find_equal_items({part.leaf.config.task: part.leaf for each in parts.values() for part in each})
        layouts = {task: RequestLayout.build(each, suite.primary[task].name, equal) for task, each in parts.items()}
        return MergeRecorder(config, prepared, evaluator, AnswerRecorder(evaluator.engine.lm), layouts)

    def measure(self, weights: Sequence[float]) -> Arrays:
        """`TASK/loglikelihood` by request and `TASK/score` by item of the merge at `weights`, in the vectors' order."""
        engine, suite = self.evaluator.engine, self.evaluator.suite
        by_name = dict(zip(self.config.vectors, map(float, weights), strict=True))
        engine.load(self.prepared.stream_merged(by_name, place=engine.place), unchanged=self.prepared.unchanged)

        scores = suite.evaluate(self.lm, "search").items
        known = dict(self.lm.known)
        references = [r for layout in self.layouts.values() if layout.kind == GENERATED for r in layout.requests]
        if references:
            self.lm.loglikelihood(references)
            known |= self.lm.known

        arrays: Arrays = {}
        for task, layout in self.layouts.items():
            values = [known[id(request)] for request in layout.requests]
            arrays[f"{task}/loglikelihood"] = np.array(values, dtype=np.float64)
            arrays[f"{task}/score"] = np.array(scores[task], dtype=np.float32)
        return arrays

    def describe_items(self) -> Arrays:
        """`TASK/offsets`, `gold`, `length` and `document`, as the file of the pool holds them."""
        numbers: dict[bytes, int] = {}
        arrays: Arrays = {}
        for task, layout in self.layouts.items():
            ends = np.cumsum([0, *(len(group) for group in layout.groups)])
            documents = [numbers.setdefault(row, len(numbers)) for row in layout.rows]
            arrays[f"{task}/offsets"] = ends.astype(np.int32)
            arrays[f"{task}/gold"] = np.array(layout.gold, dtype=np.int16)
            arrays[f"{task}/length"] = np.array(layout.length, dtype=np.int16)
            arrays[f"{task}/document"] = np.array(documents, dtype=np.int32)
        return arrays

    def count_positions(self) -> dict[str, tuple[int, int]]:
        """Task -> positions of a merge's scored requests: as the engine runs them, and one sequence a request."""
        chosen = {task: self.lm.find_scoring_plan(layout.requests) for task, layout in self.layouts.items()}
        return {task: (choice.plan.positions, choice.plain_positions) for task, choice in chosen.items()}
