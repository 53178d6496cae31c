"""A merge as a stream of named tensors: prepare each vector once, combine with any weights.

Every tensor of the frame comes out once, in order of name and in its stored type. Arithmetic is float32, with one
rounding at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from aftermix.checkpoints.names import matcher
from aftermix.checkpoints.pool import Pool, refuse_non_finite
from aftermix.checkpoints.reader import TensorInfo
from aftermix.checkpoints.shards import TensorSpec
from aftermix.config import SEARCH_EXCLUDE, MergeConfig
from aftermix.errors import MergeError
from aftermix.merging.intra import Place
from aftermix.merging.methods import BoundMethod, bind
from aftermix.merging.model_scope import counts_over_model

Weights = Mapping[str, float]


@dataclass(frozen=True)
class Recipe:
    """All that decides a merge besides the checkpoints and the weights."""

    method: BoundMethod
    exclude: tuple[str, ...] = ()
    seed: int = 0
    scale: float = 1.0
    dtype: torch.dtype | None = None

    @staticmethod
    def of(config: MergeConfig, *, for_search: bool = False) -> Recipe:
        """Bind `config`; a search excludes embeddings, head and rotary tensors unless the file says otherwise."""
        default = SEARCH_EXCLUDE if for_search else ()
        exclude = default if config.exclude is None else config.exclude
        dtype = getattr(torch, config.dtype) if config.dtype else None
        return Recipe(bind(config), exclude, config.seed, config.scale, dtype)


@dataclass(frozen=True)
class Merger:
    """A pool and a recipe: which tensors move, and how one of them is prepared and combined."""

    pool: Pool
    recipe: Recipe
    vectors: tuple[str, ...] = ()
    """Vectors in use, in order of name; all of the pool's by default."""
    model_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By vector and tensor, for rules that select over the whole model."""

    @staticmethod
    def of(pool: Pool, recipe: Recipe, *, vectors: tuple[str, ...] | None = None) -> Merger:
        """Check that `recipe` can be applied to `pool`, and count once what is selected over the whole model."""
        used = tuple(sorted(pool.experts if vectors is None else vectors))
        if pool.base is None and recipe.method.operands == "deltas":
            raise MergeError("base", f"{recipe.method.name} needs the base of its vectors", "Add `base: PATH`.")
        if pool.base is None and recipe.exclude:
            raise MergeError("merge.exclude", "excluded tensors keep the base's values", "Add `base: PATH`.")
        if recipe.method.operands == "models" and recipe.scale != 1.0:
            found = f"{recipe.method.name} averages whole models, lambda {recipe.scale:g} has nothing to scale"
            raise MergeError("merge.lambda", found, "Remove it, or use a method on distribution vectors.")
        merger = Merger(pool, recipe, used)
        if recipe.method.selects_over_model:
            moved = sorted({merger.canonical(info.name) for info in pool.layout if merger.moves(info)})
            density = float(recipe.method.options["density"])
            counts = {vector: counts_over_model(pool, vector, moved, density=density) for vector in used}
            return Merger(pool, recipe, used, counts)
        return merger

    @cached_property
    def _excluded(self) -> Callable[[str], bool]:
        return matcher(self.recipe.exclude, where="merge.exclude")

    def canonical(self, name: str) -> str:
        """The name under which a tied tensor is counted and its random choices are drawn."""
        return self.pool.frame.alias.get(name, name)

    def moves(self, info: TensorInfo) -> bool:
        """Whether the merge changes this tensor: it holds real numbers and is not excluded.

        A head that is tied to an excluded embedding is excluded with it. Excluding the head of a tied model does not
        exclude its embedding.
        """
        return info.mergeable and not self._excluded(info.name) and not self._excluded(self.canonical(info.name))

    def layout(self) -> list[TensorSpec]:
        """Names, shapes and types of the result."""
        return [TensorSpec.of(info, self.recipe.dtype) for info in self.pool.layout]

    def prepare(self, info: TensorInfo, vector: str, base: torch.Tensor | None) -> torch.Tensor:
        """What `vector` keeps of one tensor, float32; `base` is the frame's tensor in float32, unused for models."""
        if self.recipe.method.operands == "models" or base is None:
            return self.pool.expert_tensor(info.name, vector)
        tensor = self.canonical(info.name)
        place = Place(self.recipe.seed, vector, tensor, self.model_counts.get(vector, {}).get(tensor))
        return self.recipe.method.intra(self.pool.delta(info.name, vector, base), place)

    def combine(
        self, info: TensorInfo, base: torch.Tensor, kept: Mapping[str, torch.Tensor], weights: Weights
    ) -> torch.Tensor:
        """One merged tensor in its stored type, from the base's as stored and the kept tensors of active vectors."""
        dtype = self.recipe.dtype or info.dtype
        active = [vector for vector in self.vectors if weights.get(vector, 0.0) != 0.0]
        if not active:
            return base.to(dtype)
        merged = self.recipe.method.inter([kept[v] for v in active], [float(weights[v]) for v in active])
        if self.recipe.method.operands == "deltas":
            merged = torch.add(base.to(torch.float32), merged, alpha=self.recipe.scale)
        result = merged.to(dtype)
        refuse_non_finite(result, info.name, f"the merge with weights {dict(weights)}, stored as {dtype},")
        return result


def check_weights(recipe: Recipe, weights: Weights) -> None:
    """Raise :class:`MergeError` for weights that the method cannot use."""
    if recipe.method.averages and sum(weights.values()) == 0:
        shown = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        remedy = "Give at least one weight, or use task_arithmetic to return to the base."
        raise MergeError("vectors", f"{recipe.method.name} divides by the sum of weights, which is 0 ({shown})", remedy)


def merged_tensors(merger: Merger, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the result, reading one tensor of each model at a time."""
    check_weights(merger.recipe, weights)
    for info in merger.pool.layout:
        base = merger.pool.base_tensor(info.name)
        if not merger.moves(info):
            yield info.name, base.to(merger.recipe.dtype or info.dtype) if info.mergeable else base
            continue
        wide = base.to(torch.float32)
        active = [vector for vector in merger.vectors if weights.get(vector, 0.0) != 0.0]
        kept = {vector: merger.prepare(info, vector, wide) for vector in active}
        yield info.name, merger.combine(info, base, kept, weights)
