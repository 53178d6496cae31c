"""Weights of sentence-transformers' modules, merged by the recipe of the model that they stand behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import safetensors.torch

from aftermix.checkpoints.companions.module_weights import ModuleWeights
from aftermix.checkpoints.companions.sentence_modules import MODULE_WEIGHTS
from aftermix.checkpoints.model import hold_equal, read_tensor
from aftermix.checkpoints.names import build_matcher
from aftermix.checkpoints.pool import ModelPool
from aftermix.config import MergeConfig
from aftermix.errors import Problem
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import Weights
from aftermix.merging.saliency import MissingStatistics
from aftermix.merging.stream import stream_merged_tensors


def find_unscored_modules(pool: ModelPool, config: MergeConfig) -> list[Problem]:
    """Problems of modules that a search would merge and not score: those that training changed, unless excluded.

    A live model is that of transformers, which ends before them.
    """
    patterns = config.exclusions(for_search=True)
    excluded = build_matcher(patterns, where="merge.exclude")
    kept = ", ".join(f'"{pattern}"' for pattern in patterns)
    problems = []
    for module in pool.modules:
        names = [name for name in module.base.tensors if not excluded(name)]
        for vector, expert in module.experts.items():
            if all(hold_equal(read_tensor(module.base, name), read_tensor(expert, name)) for name in names):
                continue
            found = f"{module.name} of vector '{vector}' differs from the base's, and a search does not score it"
            remedy = (
                f'Keep the base\'s: `exclude: [{kept}{", " if kept else ""}"{module.name}/*"]`, or merge by weights.'
            )
            problems.append(Problem(expert.label, found, remedy))
    return problems


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
