"""Merges measured one by one in a living model: log-likelihoods of all requests, and the score of every item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config
from aftermix.evaluation.documents.rows import find_equal_items
from aftermix.evaluation.kept.tasks import KeptTask
from aftermix.evaluation.suites.harness_suite import HarnessSuite
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.jobs.merge.statistics import open_merger
from aftermix.merging.prepared import PreparedVectors, prepare_vectors
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.answers.requests import TaskRequests

Arrays = dict[str, np.ndarray]
KINDS = {"choice": "multiple_choice", "reference": "generate_until"}
"""Kinds of tasks that a pool can hold, as the product and as lm-eval call them."""


@dataclass(frozen=True)
class MergeRecorder:
    """A base, its prepared vectors, a living model and the items of all tasks, which are those of the search split."""

    config: Config
    prepared: PreparedVectors
    evaluator: ModelEvaluator
    kept: Mapping[str, KeptTask]
    requests: Mapping[str, TaskRequests]
    equal: Mapping[str, bytes]
    """Item -> its row, for items whose row another has, too."""

    @staticmethod
    def open(config: Config) -> MergeRecorder:
        """Open models and tasks. Raises `ValueError` for a task whose scores do not follow from what is recorded."""
        assert config.evaluate is not None
        pool = open_pool(config)
        suite = HarnessSuite.build(config.evaluate)
        recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
        prepared = prepare_vectors(open_merger(config, pool, recipe))

        evaluator = ModelEvaluator.open(pool, config.evaluate, suite, keeps_answers=True)
        evaluator.rehearse(config.evaluate)
        lm = evaluator.engine.lm
        requests = suite.tabulate_requests(lm)
        others = [task for task, each in requests.items() if each.kind not in KINDS]
        if others:
            raise ValueError(f"a pool holds choices and answers with a reference; neither are {', '.join(others)}")

        parts = [part for each in suite.build_split("search", lm).values() for part in each]
        equal = find_equal_items({part.leaf.config.task: part.leaf for part in parts})
        kept = suite.keep_split("search", lm).tasks
        return MergeRecorder(config, prepared, evaluator, kept, requests, equal)

    @property
    def items(self) -> dict[str, list[str]]:
        """Task -> its items, in order."""
        return {task: [each.item for each in kept.items] for task, kept in self.kept.items()}

    def measure(self, weights: Sequence[float]) -> Arrays:
        """`TASK/loglikelihood` by request and `TASK/score` by item of the merge at `weights`, in the vectors' order."""
        by_name = dict(zip(self.config.vectors, map(float, weights), strict=True))
        merged = self.prepared.stream_merged(by_name, place=self.evaluator.engine.place)
        measured = self.evaluator.evaluate(merged, "search", unchanged=self.prepared.unchanged)
        assert measured.answers is not None

        arrays: Arrays = {}
        for task, answers in measured.answers.items():
            arrays[f"{task}/loglikelihood"] = answers.loglikelihood
            arrays[f"{task}/score"] = np.array(measured.items[task], dtype=np.float32)
        return arrays

    def describe_items(self) -> Arrays:
        """`TASK/offsets`, `gold`, `length` and `document`, as the file of the pool holds them."""
        numbers: dict[bytes, int] = {}
        arrays: Arrays = {}
        for task, items in self.items.items():
            of_split, unit = self.requests[task].splits["search"], self.requests[task].length
            lengths = {None: np.ones(of_split.requests), "characters": of_split.characters_R, "bytes": of_split.bytes_R}
            rows = [self.equal.get(item, item.encode()) for item in items]

            arrays[f"{task}/offsets"] = of_split.offsets.astype(np.int32)
            # A reference answer is the one request of its item.
            arrays[f"{task}/gold"] = of_split.gold.clip(0).astype(np.int16)
            arrays[f"{task}/length"] = lengths[unit].astype(np.int16)
            arrays[f"{task}/document"] = np.array([numbers.setdefault(row, len(numbers)) for row in rows], np.int32)
        return arrays

    def count_positions(self) -> dict[str, tuple[int, int]]:
        """Task -> positions of a merge's scored requests: as the engine runs them, and one sequence a request."""
        lm = self.evaluator.engine.lm
        asked = {task: [each for item in kept.items for each in item.scored] for task, kept in self.kept.items()}
        chosen = {task: lm.find_scoring_plan(requests) for task, requests in asked.items()}
        return {task: (choice.plan.positions, choice.plain_positions) for task, choice in chosen.items()}
