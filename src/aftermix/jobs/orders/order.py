"""The orders: the merge at a point of a search, a baseline, other vectors than the file's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config
from aftermix.config.places import place_weights
from aftermix.jobs.orders.opened import MergedTensors, OpenedMerges, Place
from aftermix.jobs.search.baselines import BaselineMerge
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe, Weights
from aftermix.merging.stream import stream_merged_tensors
from aftermix.runs.trials import Point


@dataclass(frozen=True)
class PointOrder:
    """The file's merge at a point, its settings in place of the file's."""

    point: Point

    def stream(self, merges: OpenedMerges, place: Place) -> MergedTensors:
        """The combination of prepared vectors, written where `place` says; else all inputs are read."""
        settings, weights = self.point.settings, place_weights(merges.config.vectors, self.point.weights)
        if merges.prepared is None:
            return MergedTensors(stream_merged_tensors(merges.build_merger(settings), weights))
        prepared = merges.prepared.with_recipe(merges.build_recipe(settings))
        return MergedTensors(prepared.stream_merged(weights, place=place), prepared.unchanged)


@dataclass(frozen=True)
class FileOrder:
    """The file's merge at `weights`, every tensor given."""

    weights: Weights

    def stream(self, merges: OpenedMerges, place: Place) -> MergedTensors:
        """The merge as one to disk reads it."""
        del place
        return MergedTensors(stream_merged_tensors(merges.merger, self.weights))


@dataclass(frozen=True)
class BaselineOrder:
    """A composition under its own method, every tensor given: it may differ where the search does not."""

    baseline: BaselineMerge

    def stream(self, merges: OpenedMerges, place: Place) -> MergedTensors:
        """The merge of the baseline's vectors by its own method."""
        baseline = self.baseline
        if baseline.as_the_file:
            return FileOrder(baseline.weights).stream(merges, place)
        recipe = MergeRecipe.from_config(baseline.build_merge_config(merges.config.merge), for_search=True)
        merger = Merger.build(merges.merger.pool, recipe, vectors=tuple(baseline.weights))
        return MergedTensors(stream_merged_tensors(merger, baseline.weights))


@dataclass(frozen=True)
class OtherVectorsOrder:
    """The merge of another file of the same base at `weights`, every tensor given."""

    config: Config
    weights: Mapping[str, float]

    def stream(self, merges: OpenedMerges, place: Place) -> MergedTensors:
        """Its models, opened anew."""
        del merges, place
        recipe = MergeRecipe.from_config(self.config.merge, vectors=self.config.vectors)
        merger = Merger.build(open_pool(self.config), recipe)
        return MergedTensors(stream_merged_tensors(merger, self.weights))


@dataclass(frozen=True)
class FrameOrder:
    """The model whose architecture is scored, with the values that it has: the base where there is one."""

    def stream(self, merges: OpenedMerges, place: Place) -> MergedTensors:
        """No tensor: all keep their values."""
        del place
        return MergedTensors((), frozenset(info.name for info in merges.merger.pool.layout))
