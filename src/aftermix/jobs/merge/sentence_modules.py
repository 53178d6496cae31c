"""Weights of sentence-transformers' modules, merged by the recipe of the model that they stand behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import safetensors.torch

from aftermix.checkpoints.companions.module_weights import ModuleWeights
from aftermix.checkpoints.companions.sentence_modules import MODULE_WEIGHTS
from aftermix.checkpoints.pool import ModelPool
from aftermix.merging.merge import Merger, stream_merged_tensors
from aftermix.merging.recipe import Weights
from aftermix.merging.saliency import MissingStatistics


def plan_merged_modules(merger: Merger, weights: Weights) -> dict[str, Callable[[], bytes]]:
    """By file name, a function that merges one module's weights and gives the content of its file.

    A module is a model of its own: what selects over a whole vector selects over the module, and saliency, of which
    there are no statistics, is magnitude there.
    """
    return {
        f"{module.name}/{MODULE_WEIGHTS}": partial(_merge_module, module, merger, weights)
        for module in merger.pool.modules
    }


def _merge_module(module: ModuleWeights, model: Merger, weights: Weights) -> bytes:
    recipe = model.recipe
    own = ModelPool(module.base if model.pool.base is not None else None, dict(module.experts))
    names = frozenset(module.base.tensors)
    statistics = {vector: MissingStatistics(names) for vector in own.experts} if recipe.method.needs_statistics else {}

    merger = Merger.build(own, recipe, vectors=model.vectors, statistics=statistics)
    merged = {name.removeprefix(f"{module.name}/"): tensor for name, tensor in stream_merged_tensors(merger, weights)}
    return safetensors.torch.save(merged, metadata={"format": "pt"})
