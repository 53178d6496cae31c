"""All that decides a merge besides the checkpoints: the recipe, and the weights that it can use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aftermix.config import MergeConfig, VectorConfig
from aftermix.config.places import Weight, describe_weight
from aftermix.errors import MergeError
from aftermix.merging.methods import BoundMethod, bind

Weights = Mapping[str, Weight]
"""Merge weight by vector: a number, or rules by the place of a tensor."""
TensorWeights = Mapping[str, float]
"""The same as it holds for one tensor."""


@dataclass(frozen=True)
class MergeRecipe:
    """All that decides a merge besides the checkpoints and the weights."""

    method: BoundMethod
    exclude: tuple[str, ...] = ()
    seed: int = 0
    scale: float = 1.0
    dtype: torch.dtype | None = None
    operand_dtype: torch.dtype | None = None
    """Type to which what the rules see is rounded, as another tool computes in it."""

    @staticmethod
    def from_config(
        config: MergeConfig, *, vectors: Mapping[str, VectorConfig] | None = None, for_search: bool = False
    ) -> MergeRecipe:
        """Bind `config` and what `vectors` set for themselves; a search excludes more unless the file forbids it."""
        dtype = getattr(torch, config.dtype) if config.dtype else None
        operand_dtype = getattr(torch, config.operand_dtype) if config.operand_dtype else None
        exclude, bound = config.exclusions(for_search=for_search), bind(config, vectors=vectors)
        return MergeRecipe(bound, exclude, config.seed, config.scale, dtype, operand_dtype)


def check_weights(recipe: MergeRecipe, weights: Weights, *, tensor: str | None = None) -> None:
    """Raise :class:`MergeError` for weights that the method cannot use. All 0 is the base, if there is to be one.

    Rules are not looked at: what they come to is known of each `tensor`.
    """
    numbers = [weight for weight in weights.values() if not isinstance(weight, tuple)]
    if len(numbers) < len(weights):
        return
    moves = recipe.method.operands == "models" or any(numbers)
    if recipe.method.averages and moves and sum(numbers) == 0:
        shown = ", ".join(f"{name} {describe_weight(weight)}" for name, weight in weights.items())
        remedy = "Give at least one weight, or use task_arithmetic to return to the base."
        found = f"{recipe.method.name} divides by the sum of weights, which is 0 ({shown})"
        raise MergeError("vectors", f"{found} in '{tensor}'" if tensor else found, remedy)
