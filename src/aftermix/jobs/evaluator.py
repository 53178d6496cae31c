"""One living model, one task suite and vectors prepared once: what every measured merge of a search goes through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch

from aftermix.checkpoints.model_files import tokenizer_folder
from aftermix.checkpoints.pool import Pool
from aftermix.config import Config, EvaluateConfig, Split
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import TaskSuite
from aftermix.jobs.merge.statistics import merger_of
from aftermix.jobs.search.baselines import Baseline
from aftermix.jobs.search.settings import leaves_vectors_as_they_are, with_settings
from aftermix.merging.merge import Merger, Recipe, merged_tensors
from aftermix.merging.prepared import PreparedVectors, prepare_vectors
from aftermix.merging.prepared_gpu import ResidentVectors, beside
from aftermix.runs.trials import Measurement, Point, Settings
from aftermix.search.space import Space


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
    """Measuring device of a search: its configuration, its merge and a living model."""

    config: Config
    merger: Merger
    """The merge under the file's own settings."""
    prepared: PreparedVectors | ResidentVectors | None
    """None where searched settings decide what vectors keep: every trial then reads its inputs anew."""
    live: LiveScorer
    prepare_s: float

    @staticmethod
    def open(config: Config, pool: Pool, recipe: Recipe, *, space: Space, suite: TaskSuite) -> Bench:
        """Prepare the vectors, unless `space` has settings that every trial would have to prepare them for, and load
        the model.
        """
        assert config.evaluate is not None  # noqa: S101 - a search requires it; for the type checker
        started = perf_counter()
        merger = merger_of(config, pool, recipe)

        once = leaves_vectors_as_they_are(recipe.method, space.settings)
        prepared = prepare_vectors(merger) if once else None

        live = LiveScorer.open(pool, config.evaluate, suite)
        placed = beside(prepared, live.engine.lm.device) if prepared is not None else None
        return Bench(config, merger, placed, live, prepare_s=perf_counter() - started)

    @property
    def tasks(self) -> list[str]:
        """Evaluated tasks, in the file's order."""
        return list(self.live.suite.tasks)

    def config_at(self, settings: Settings) -> Config:
        """The configuration under the settings of one point."""
        return with_settings(self.config, settings)

    def merger_at(self, settings: Settings) -> Merger:
        """The merge under the settings of one point; masks and noise are those of the file's seed."""
        if not settings:
            return self.merger

        config = self.config_at(settings)
        recipe = Recipe.of(config.merge, vectors=config.vectors, for_search=True)
        if self.prepared is not None:
            return replace(self.merger, recipe=recipe)  # what whole vectors were searched for has not changed
        return Merger.of(self.merger.pool, recipe, statistics=self.merger.statistics)

    def measure(self, point: Point, split: Split) -> Measurement:
        """Score the merge at `point` on one split."""
        merger = self.merger_at(point.settings)
        if self.prepared is None:
            return self.live.measure(merged_tensors(merger, point.weights), split)

        prepared = _under(self.prepared, merger)
        merged = prepared.merged(point.weights, place=self.live.engine.place)
        return self.live.measure(merged, split, unchanged=prepared.unchanged)

    def measure_baseline(self, baseline: Baseline, split: Split) -> Measurement:
        """Score a composition under its own method, every tensor given: it may differ where the search does not."""
        if baseline.as_the_file:
            return self.live.measure(merged_tensors(self.merger, baseline.weights), split)

        recipe = Recipe.of(baseline.merge_config(self.config.merge), for_search=True)
        merger = Merger.of(self.merger.pool, recipe, vectors=tuple(baseline.weights))
        return self.live.measure(merged_tensors(merger, baseline.weights), split)


def _under(prepared: PreparedVectors | ResidentVectors, merger: Merger) -> PreparedVectors | ResidentVectors:
    """`prepared`, combined as `merger` does."""
    if isinstance(prepared, ResidentVectors):
        return replace(prepared, prepared=replace(prepared.prepared, merger=merger))
    return replace(prepared, merger=merger)


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
