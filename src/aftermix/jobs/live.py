"""One living model, one task suite and vectors prepared once: what every measured merge of a search goes through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from aftermix.checkpoints.companions import tokenizer_folder
from aftermix.checkpoints.pool import Pool
from aftermix.config import Config, EvaluateConfig, Split
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import TaskSuite
from aftermix.jobs.baselines import Baseline
from aftermix.merging.merge import Merger, Recipe, merged_tensors
from aftermix.merging.prepared import PreparedVectors
from aftermix.merging.resident import ResidentVectors
from aftermix.search.records import Measurement, Weights


@dataclass(frozen=True)
class LiveScorer:
    """An engine that holds the base's weights at first, and the tasks it is scored on."""

    engine: HuggingFaceEngine
    suite: TaskSuite

    @staticmethod
    def open(pool: Pool, config: EvaluateConfig, suite: TaskSuite) -> LiveScorer:
        """Load the frame's model, with the tokenizer that the result will have."""
        engine = HuggingFaceEngine.open(pool.frame, tokenizer_folder=tokenizer_folder(pool), config=config)
        return LiveScorer(engine, suite)

    def measure(
        self,
        tensors: Iterable[tuple[str, torch.Tensor]],
        split: Split,
        *,
        unchanged: frozenset[str] = frozenset(),
    ) -> Measurement:
        """Put `tensors` into the model and score it; those named `unchanged` take the base's values."""
        started = perf_counter()
        self.engine.load(tensors, unchanged=unchanged)
        loaded = perf_counter()
        measured = self.suite.evaluate(self.engine.lm, split)
        return Measurement(measured.items, {"combine": loaded - started, "evaluate": perf_counter() - loaded})


@dataclass(frozen=True)
class Bench:
    """What a search measures with: its configuration, prepared vectors and a living model."""

    config: Config
    prepared: PreparedVectors | ResidentVectors
    live: LiveScorer
    prepare_s: float

    @property
    def tasks(self) -> list[str]:
        """Evaluated tasks, in the file's order."""
        return list(self.live.suite.tasks)

    @property
    def recipe(self) -> Recipe:
        """The merge that is searched."""
        return self.prepared.merger.recipe

    def measure(self, weights: Weights, split: Split) -> Measurement:
        """Score the merge at `weights` on one split."""
        merged = self.prepared.merged(weights, place=self.live.engine.place)
        return self.live.measure(merged, split, unchanged=self.prepared.unchanged)

    def measure_baseline(self, baseline: Baseline, split: Split) -> Measurement:
        """Score a composition under its own method, every tensor given: it may differ where the search does not."""
        recipe = Recipe.of(baseline.merge_config(self.config.merge), for_search=True)
        merger = Merger.of(self.prepared.merger.pool, recipe, vectors=tuple(baseline.weights))
        return self.live.measure(merged_tensors(merger, baseline.weights), split)


def split_record(suite: TaskSuite) -> dict[str, Any]:
    """The items of each split by task, as `items/split.json` holds them."""
    return {
        name: {
            "search": list(items.search),
            "select": list(items.select),
            "test": list(items.test),
            "overlap": items.overlap,
            "note": items.note,
        }
        for name, items in suite.tasks.items()
    }
