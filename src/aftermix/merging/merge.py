"""A merge: which tensors move, what a vector keeps of one, and how blocks combine with any weights.

Arithmetic is float32 (float64 for a tensor that the frame stores so), with one rounding at the end. The path of a merge
is six files: `checkpoints.pool` (aligned inputs), this one, `rules.intra` and `rules.inter` (the method's two rules),
`stream` (every block, in order), `checkpoints.shards` (tensors to bytes). `rules.surveys` is for rules that look at a
whole tensor of all vectors before they combine its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.checkpoints.names import HEADS, build_matcher
from aftermix.checkpoints.pool import ModelPool, is_finite, refuse_non_finite
from aftermix.checkpoints.shards import TensorSpec
from aftermix.config.places import Weight
from aftermix.errors import InputFaultError, MergeError, join_place
from aftermix.merging.blocks import list_block_spans
from aftermix.merging.recipe import MergeRecipe, TensorWeights, Weights, check_weights
from aftermix.merging.rules.exclusive import compute_shifts
from aftermix.merging.rules.intra import Pruner, TensorKey, score_entries
from aftermix.merging.rules.places import ModelPlaces
from aftermix.merging.rules.surveys import Combiner
from aftermix.merging.saliency import ActivationStatistics, choose_ranking, refuse_unmeasured
from aftermix.merging.temporaries import allocate_block, allocate_like, choose_working_type, widen
from aftermix.merging.topk.magnitude import TensorBlocks, TopKMask
from aftermix.merging.topk.whole_model import select_over_model


@dataclass(frozen=True)
class Merger:
    """A pool and a recipe: which tensors move, what a vector keeps of a block, how blocks combine."""

    pool: ModelPool
    recipe: MergeRecipe
    vectors: tuple[str, ...] = ()
    """Vectors in use, in order of name; all of the pool's by default."""
    model_masks: Mapping[str, Mapping[str, TopKMask]] = field(default_factory=dict)
    """By vector and tensor, for rules that select over the whole vector."""
    statistics: Mapping[str, ActivationStatistics] = field(default_factory=dict)
    """By vector, for rules that rank by saliency."""

    @staticmethod
    def build(
        pool: ModelPool,
        recipe: MergeRecipe,
        *,
        vectors: tuple[str, ...] | None = None,
        statistics: Mapping[str, ActivationStatistics] | None = None,
    ) -> Merger:
        """Check that `recipe` can be applied to `pool`, and do once what selects over whole vectors.

        Raises :class:`MergeError` for a recipe that lacks what its method needs.
        """
        used = tuple(sorted(pool.experts if vectors is None else vectors))
        method = recipe.method
        merger = Merger(pool, recipe, used, statistics=statistics or {} if method.needs_statistics else {})
        merger._refuse_unfit()
        if not method.selects_over_model:
            return merger

        # A tied tensor is counted once, under the name that its twin points to.
        moved = [
            info for info in pool.layout if merger.moves(info) and merger.resolve_tied_name(info.name) == info.name
        ]
        masks = {
            vector: select_over_model(
                [(info, merger.open_blocks(info, vector)) for info in moved],
                density=method.collect_options(vector)["density"],
            )
            for vector in used
        }
        return replace(merger, model_masks=masks)

    def _refuse_unfit(self) -> None:
        method = self.recipe.method
        if self.pool.base is None and method.operands == "deltas":
            raise MergeError("base", f"{method.name} needs the base of its vectors", "Add `base: PATH`.")
        if self.pool.base is None and self.recipe.exclude:
            raise MergeError("merge.exclude", "excluded tensors keep the base's values", "Add `base: PATH`.")
        if method.operands == "models" and self.recipe.scale != 1.0:
            found = f"{method.name} averages whole models, lambda {self.recipe.scale:g} has nothing to scale"
            raise MergeError("merge.lambda", found, "Remove it, or use a method on distribution vectors.")

        # Then what depends on the vectors in use.
        method.refuse_other_count(self.vectors)
        method.refuse_other_vectors(self.vectors)
        method.refuse_other_order(self.vectors)
        self._refuse_unfit_densities()
        if method.needs_statistics:
            refuse_unmeasured(method.name, [vector for vector in self.vectors if vector not in self.statistics])
        if method.is_exclusive:
            method.compute_ratios(self.vectors)

    def _refuse_unfit_densities(self) -> None:
        for vector in self.vectors:
            density = self.recipe.method.collect_options(vector).get("density", 1.0)
            if isinstance(density, tuple) and self.recipe.method.selects_over_model:
                where = join_place("vectors", vector, "density")
                raise MergeError(where, "`scope: model` counts over all tensors", "Give one density, or drop `scope`.")
            for info in filter(self.moves, self.pool.layout if isinstance(density, tuple) else ()):
                self._read_here(density, info, vector, "density")

    @cached_property
    def _excluded(self) -> Callable[[str], bool]:
        return build_matcher(self.recipe.exclude, where="merge.exclude")

    def resolve_tied_name(self, name: str) -> str:
        """The name under which a tied tensor is counted and its random choices are drawn."""
        return self.pool.frame.alias.get(name, name)

    def moves(self, info: TensorInfo) -> bool:
        """True for a tensor that the merge changes: it holds real numbers and is not excluded.

        A head that is tied to an excluded embedding is excluded with it, also where the matrix is stored as the head.
        Excluding the head of a tied model does not exclude its embedding.
        """
        names = [info.name, self.resolve_tied_name(info.name)]
        if info.name.endswith(HEADS):
            names += [second for second, stored in self.pool.frame.alias.items() if stored == info.name]
        return info.mergeable and not any(map(self._excluded, names))

    def list_specs(self) -> list[TensorSpec]:
        """Names, shapes and types of the result."""
        return [TensorSpec.from_info(info, self.recipe.dtype) for info in self.pool.layout]

    @cached_property
    def _places(self) -> ModelPlaces:
        return ModelPlaces.find([info.name for info in self.pool.layout])

    def weigh(self, info: TensorInfo, weights: Weights) -> TensorWeights:
        """The weights as they hold for one tensor; a tied one has those of its twin.

        Raises :class:`MergeError` where no rule of a vector fits the tensor.
        """
        return {vector: self._read_here(weight, info, vector, "weight") for vector, weight in weights.items()}

    def _read_here(self, number: Weight, info: TensorInfo, vector: str, key: str) -> float:
        if not isinstance(number, tuple):
            return number
        return self._places.read(number, self.resolve_tied_name(info.name), where=join_place("vectors", vector, key))

    def refuse_unfit_weights(self, weights: Weights) -> None:
        """Raise :class:`MergeError` for weights that the method cannot use, or that leave out a tensor that moves."""
        if not any(isinstance(weight, tuple) for weight in weights.values()):
            check_weights(self.recipe, weights)
            return
        for info in filter(self.moves, self.pool.layout):
            check_weights(self.recipe, self.weigh(info, weights), tensor=info.name)

    def list_active(self, weights: TensorWeights) -> list[str]:
        """Vectors that have a weight, in order of name."""
        return [vector for vector in self.vectors if weights.get(vector, 0.0) != 0.0]

    def read_operand(
        self, info: TensorInfo, vector: str, span: Span, *, base: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One block of what the rules see of `vector`, widened: its difference from the base, or the model itself.

        `base` is the base's block, widened, where the caller has it already.
        """
        out = allocate_block(span[1] - span[0], choose_working_type(info.dtype))
        if self.recipe.method.operands == "models":
            return self._round(self.pool.read_expert_block(info.name, vector, span, out=out))
        if base is None:
            base = widen(self.pool.read_base_block(info.name, span))
        if self.recipe.operand_dtype is not None:
            expert = self._round(self.pool.read_expert_block(info.name, vector, span, out=out))
            return self._round(expert.sub_(self._round(base)))
        return self.pool.read_difference_block(info.name, vector, span, base=base, out=out)

    def _round(self, block: torch.Tensor) -> torch.Tensor:
        """The block in its own type, rounded to that of the operands where the recipe has one, and never in place."""
        return block if (kind := self.recipe.operand_dtype) is None else block.to(kind).to(block.dtype)

    def open_blocks(self, info: TensorInfo, vector: str) -> TensorBlocks:
        """One tensor of `vector` as its rules survey it."""
        runs = partial(self.pool.read_spans, info.name, vector, difference=self.recipe.method.operands == "deltas")
        return TensorBlocks(
            list_block_spans(info.shape),
            lambda span: self.read_operand(info, vector, span),
            runs if self.recipe.operand_dtype is None else None,
        )

    def group_surveys(self, vectors: Sequence[str]) -> list[tuple[str, ...]]:
        """Those of `vectors` that are surveyed together, before the blocks of a tensor are merged."""
        if self.recipe.method.is_exclusive:
            # All vectors have their share whatever their weights: a search prepares them once.
            return [self.vectors] if vectors else []
        return [(vector,) for vector in vectors]

    def build_pruners(self, info: TensorInfo, group: Sequence[str]) -> dict[str, Pruner]:
        """Survey one tensor of the vectors of a group: a pruner for each of them."""
        method, keys = self.recipe.method, {vector: self._build_key(info, vector) for vector in group}
        if method.is_exclusive:
            entries = {v: score_entries(self.open_blocks(info, v), key) for v, key in keys.items()}
            return method.allot_entries(entries, self._shifts[self.resolve_tied_name(info.name)])
        rules = {v: method.bind_intra(v, partial(self._read_here, info=info, vector=v, key="density")) for v in keys}
        return {v: rules[v](self.open_blocks(info, v), key) for v, key in keys.items()}

    @cached_property
    def _shifts(self) -> dict[str, int]:
        return compute_shifts(info.name for info in self.pool.layout)

    def _build_key(self, info: TensorInfo, vector: str) -> TensorKey:
        tensor = self.resolve_tied_name(info.name)
        row = info.shape[-1] if info.shape else 1
        mask = self.model_masks.get(vector, {}).get(tensor)
        statistics = self.statistics.get(vector)
        ranking = choose_ranking(statistics, tensor, info.shape) if statistics else "magnitude"
        return TensorKey(self.recipe.seed, vector, tensor, info.elements, row, mask, ranking)

    def survey(
        self, info: TensorInfo, weights: TensorWeights, *, kept: Mapping[str, TensorBlocks] | None = None
    ) -> Any:
        """Look for what the inter rule has to know of one tensor of the active vectors, whatever their weights.

        `kept` has what the vectors keep where the caller holds that; else the tensors are read, and searched for NaN.
        """
        tensors = [kept[vector] if kept else self._guard_blocks(info, vector) for vector in self.list_active(weights)]
        return self.recipe.method.survey_tensors(tensors, replace(info, name=self.resolve_tied_name(info.name)))

    def _guard_blocks(self, info: TensorInfo, vector: str) -> TensorBlocks:
        """The blocks of a tensor, none of which holds NaN or Inf: a survey would spread it over the whole tensor."""
        blocks = self.open_blocks(info, vector)

        def read(span: Span) -> torch.Tensor:
            block = blocks.read(span)
            if not is_finite(block):
                self.pool.refuse_non_finite_inputs(info.name, span, vectors=[vector])
                refuse_non_finite(block, info.name, f"what vector '{vector}' keeps")
            return block

        return TensorBlocks(blocks.spans, read, blocks.read_runs)

    def build_combiner(self, facts: Any, weights: TensorWeights) -> Combiner:
        """Combiner of blocks of the active vectors, one at least; `facts` are those of :meth:`survey`."""
        active = self.list_active(weights)
        return self.recipe.method.build_combiner(facts, [float(weights[vector]) for vector in active], vectors=active)

    def combine(
        self,
        info: TensorInfo,
        span: Span,
        base: torch.Tensor,
        kept: Mapping[str, torch.Tensor],
        weights: TensorWeights,
        *,
        combiner: Combiner | None = None,
        known_finite: bool = False,
        unrounded: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """One merged block in its stored type, from the base's and what the active vectors keep.

        `combiner` is that of the tensor; a rule with a survey needs it. NaN and Inf pass through every rule, so one
        look at the result sees those of all inputs. `known_finite` says that it cannot hold any. `unrounded` gets the
        block before its rounding.
        """
        active = self.list_active(weights)
        merged = base
        if active:
            combiner = combiner or self.build_combiner(None, weights)
            merged = combiner([kept[v] for v in active], span[0])

        # A single rounding, after the base is added: models replace it, and distribution vectors move it.
        if active and self.recipe.method.operands == "deltas":
            torch.add(self._round(widen(base)), merged, alpha=self.recipe.scale, out=merged)
        result = allocate_like(merged, self.recipe.dtype or info.dtype).copy_(merged)
        if unrounded is not None:
            unrounded.append(merged)

        # The inputs are named where one of them is at fault, the weights where their sum overflows.
        if not known_finite and not is_finite(result):
            self.pool.refuse_non_finite_inputs(info.name, span, vectors=active)
            owner = f"the merge with weights {dict(weights)}, stored as {result.dtype},"
            refuse_non_finite(result, info.name, owner)
        return result

    def read_unmoved(self, info: TensorInfo, span: Span) -> torch.Tensor:
        """One block of a tensor that keeps the base's values, in its stored type."""
        block = self.pool.read_base_block(info.name, span)
        refuse_non_finite(block, info.name, self.pool.frame.label, error=InputFaultError)
        return block.to(self.recipe.dtype or info.dtype) if info.mergeable else block
