"""A merge as a stream of blocks of named tensors: survey each vector once, combine with any weights.

Every tensor of the frame comes out once, in order of name and in its stored type. Arithmetic is float32, with one
rounding at the end. The path of a merge is five files: `checkpoints.pool` (aligned inputs), this one, `rules.intra`
and `rules.inter` (the method's two rules), `checkpoints.shards` (tensors to bytes). `rules.surveys` is for rules that
look at a whole tensor of all vectors before they combine its blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from aftermix.checkpoints.model import Bounds, TensorInfo
from aftermix.checkpoints.names import matcher
from aftermix.checkpoints.pool import Pool, is_finite, refuse_non_finite
from aftermix.checkpoints.shards import Piece, TensorSpec
from aftermix.config import MergeConfig, VectorConfig
from aftermix.errors import MergeError
from aftermix.merging.blocks import block_bounds, in_order, worker_threads
from aftermix.merging.methods import BoundMethod, bind
from aftermix.merging.rules.exclusive import rotation_shifts
from aftermix.merging.rules.intra import Keeper, Place, candidates_of
from aftermix.merging.rules.surveys import Combiner
from aftermix.merging.saliency import Statistics, ranking_of, refuse_unmeasured
from aftermix.merging.temporaries import fresh, fresh_block
from aftermix.merging.topk.magnitude import Blocks, Cut
from aftermix.merging.topk.whole_model import cuts_over_model

Weights = Mapping[str, float]
Watch = Callable[["MergedBlock"], None]
"""Is shown every block of the tensors that move, on the thread that made it."""
SURVEYS_AHEAD = 2
"""Tensors whose surveys are in work before the blocks of an earlier one are."""


@dataclass(frozen=True)
class Recipe:
    """All that decides a merge besides the checkpoints and the weights."""

    method: BoundMethod
    exclude: tuple[str, ...] = ()
    seed: int = 0
    scale: float = 1.0
    dtype: torch.dtype | None = None

    @staticmethod
    def of(
        config: MergeConfig, *, vectors: Mapping[str, VectorConfig] | None = None, for_search: bool = False
    ) -> Recipe:
        """Bind `config` and what `vectors` set for themselves; a search excludes more unless the file forbids it."""
        dtype = getattr(torch, config.dtype) if config.dtype else None
        return Recipe(
            bind(config, vectors=vectors), config.exclusions(for_search=for_search), config.seed, config.scale, dtype
        )


@dataclass(frozen=True)
class Merger:
    """A pool and a recipe: which tensors move, what a vector keeps of a block, how blocks combine."""

    pool: Pool
    recipe: Recipe
    vectors: tuple[str, ...] = ()
    """Vectors in use, in order of name; all of the pool's by default."""
    model_cuts: Mapping[str, Mapping[str, Cut]] = field(default_factory=dict)
    """By vector and tensor, for rules that select over the whole vector."""
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    """By vector, for rules that rank by saliency."""

    @staticmethod
    def of(
        pool: Pool,
        recipe: Recipe,
        *,
        vectors: tuple[str, ...] | None = None,
        statistics: Mapping[str, Statistics] | None = None,
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
        moved = [info for info in pool.layout if merger.moves(info) and merger.canonical(info.name) == info.name]
        cuts = {
            vector: cuts_over_model(
                [(info, merger.blocks_of(info, vector)) for info in moved], density=method.options_of(vector)["density"]
            )
            for vector in used
        }
        return replace(merger, model_cuts=cuts)

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
        if method.needs_statistics:
            refuse_unmeasured(method.name, [vector for vector in self.vectors if vector not in self.statistics])
        if method.joint:
            method.ratios(self.vectors)

    @cached_property
    def _excluded(self) -> Callable[[str], bool]:
        return matcher(self.recipe.exclude, where="merge.exclude")

    def canonical(self, name: str) -> str:
        """The name under which a tied tensor is counted and its random choices are drawn."""
        return self.pool.frame.alias.get(name, name)

    def moves(self, info: TensorInfo) -> bool:
        """True for a tensor that the merge changes: it holds real numbers and is not excluded.

        A head that is tied to an excluded embedding is excluded with it. Excluding the head of a tied model does not
        exclude its embedding.
        """
        return info.mergeable and not self._excluded(info.name) and not self._excluded(self.canonical(info.name))

    def layout(self) -> list[TensorSpec]:
        """Names, shapes and types of the result."""
        return [TensorSpec.of(info, self.recipe.dtype) for info in self.pool.layout]

    def active(self, weights: Weights) -> list[str]:
        """Vectors that have a weight, in order of name."""
        return [vector for vector in self.vectors if weights.get(vector, 0.0) != 0.0]

    def operand(
        self, info: TensorInfo, vector: str, bounds: Bounds, *, base: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One block of what the rules see of `vector`, float32: its difference from the base, or the model itself.

        `base` is the base's block in float32 where the caller has it already.
        """
        out = fresh_block(bounds[1] - bounds[0])
        if self.recipe.method.operands == "models":
            return self.pool.expert_block(info.name, vector, bounds, out=out)
        if base is None:
            base = widened(self.pool.base_block(info.name, bounds))
        return self.pool.difference_block(info.name, vector, bounds, base=base, out=out)

    def blocks_of(self, info: TensorInfo, vector: str) -> Blocks:
        """One tensor of `vector` as its rules survey it."""
        return Blocks(
            block_bounds(info.shape),
            lambda bounds: self.operand(info, vector, bounds),
            partial(self.pool.sample, info.name, vector, difference=self.recipe.method.operands == "deltas"),
        )

    def surveys(self, info: TensorInfo, vectors: Sequence[str]) -> list[Callable[[], dict[str, Keeper]]]:
        """Surveys that precede the merging of one tensor's blocks; together they give a pruner for each vector."""
        if self.recipe.method.joint:
            # All vectors have their share whatever their weights: a search prepares them once.
            return [partial(self._shared_out, info)] if vectors else []
        return [partial(self._keeper, info, vector) for vector in vectors]

    def _shared_out(self, info: TensorInfo) -> dict[str, Keeper]:
        candidates = {v: candidates_of(self.blocks_of(info, v), self._place(info, v)) for v in self.vectors}
        shift = self._shifts[self.canonical(info.name)]
        return self.recipe.method.shared_out(candidates, shift)

    @cached_property
    def _shifts(self) -> dict[str, int]:
        return rotation_shifts(info.name for info in self.pool.layout)

    def _keeper(self, info: TensorInfo, vector: str) -> dict[str, Keeper]:
        return {vector: self.recipe.method.intra_of(vector)(self.blocks_of(info, vector), self._place(info, vector))}

    def _place(self, info: TensorInfo, vector: str) -> Place:
        tensor = self.canonical(info.name)
        row = info.shape[-1] if info.shape else 1
        cut = self.model_cuts.get(vector, {}).get(tensor)
        measured = self.statistics.get(vector)
        ranking = ranking_of(measured, tensor, info.shape) if measured else "magnitude"
        return Place(self.recipe.seed, vector, tensor, info.elements, row, cut, ranking)

    def survey(self, info: TensorInfo, weights: Weights, *, kept: Mapping[str, Blocks] | None = None) -> Any:
        """Look for what the inter rule has to know of one tensor of the active vectors, whatever their weights.

        `kept` has what the vectors keep where the caller holds that; else the tensors are read, and searched for NaN.
        """
        tensors = [kept[vector] if kept else self._searched(info, vector) for vector in self.active(weights)]
        return self.recipe.method.survey(tensors, replace(info, name=self.canonical(info.name)))

    def _searched(self, info: TensorInfo, vector: str) -> Blocks:
        """The blocks of a tensor, none of which holds NaN or Inf: a survey would spread it over the whole tensor."""
        blocks = self.blocks_of(info, vector)

        def read(bounds: Bounds) -> torch.Tensor:
            block = blocks.read(bounds)
            if not is_finite(block):
                self.pool.refuse_non_finite_inputs(info.name, bounds, vectors=[vector])
                refuse_non_finite(block, info.name, f"what vector '{vector}' keeps")
            return block

        return Blocks(blocks.bounds, read, blocks.read_runs)

    def combiner(self, facts: Any, weights: Weights) -> Combiner:
        """Combiner of blocks of the active vectors, one at least; `facts` are those of :meth:`survey`."""
        active = self.active(weights)
        return self.recipe.method.combiner(facts, [float(weights[vector]) for vector in active], vectors=active)

    def combine(
        self,
        info: TensorInfo,
        bounds: Bounds,
        base: torch.Tensor,
        kept: Mapping[str, torch.Tensor],
        weights: Weights,
        *,
        combiner: Combiner | None = None,
        known_finite: bool = False,
    ) -> torch.Tensor:
        """One merged block in its stored type, from the base's and what the active vectors keep.

        `combiner` is that of the tensor; a rule with a survey needs it. NaN and Inf pass through every rule, so one
        look at the result sees those of all inputs. `known_finite` says that it cannot hold any.
        """
        active = self.active(weights)
        merged = base
        if active:
            combiner = combiner or self.combiner(None, weights)
            merged = combiner([kept[v] for v in active], bounds[0])

        # A single rounding, after the base is added: models replace it, and distribution vectors move it.
        if active and self.recipe.method.operands == "deltas":
            torch.add(widened(base), merged, alpha=self.recipe.scale, out=merged)
        result = fresh(merged, self.recipe.dtype or info.dtype).copy_(merged)

        # The inputs are named where one of them is at fault, the weights where their sum overflows.
        if not known_finite and not is_finite(result):
            self.pool.refuse_non_finite_inputs(info.name, bounds, vectors=active)
            owner = f"the merge with weights {dict(weights)}, stored as {result.dtype},"
            refuse_non_finite(result, info.name, owner)
        return result

    def unmoved(self, info: TensorInfo, bounds: Bounds) -> torch.Tensor:
        """One block of a tensor that keeps the base's values, in its stored type."""
        block = self.pool.base_block(info.name, bounds)
        refuse_non_finite(block, info.name, self.pool.frame.label)
        return block.to(self.recipe.dtype or info.dtype) if info.mergeable else block


def widened(block: torch.Tensor) -> torch.Tensor:
    """The block in float32; itself when it is."""
    return block if block.dtype == torch.float32 else fresh(block, torch.float32).copy_(block)


def check_weights(recipe: Recipe, weights: Weights) -> None:
    """Raise :class:`MergeError` for weights that the method cannot use. All 0 is the base, if there is to be one."""
    moves = recipe.method.operands == "models" or any(weights.values())
    if recipe.method.averages and moves and sum(weights.values()) == 0:
        shown = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        remedy = "Give at least one weight, or use task_arithmetic to return to the base."
        raise MergeError("vectors", f"{recipe.method.name} divides by the sum of weights, which is 0 ({shown})", remedy)


@dataclass(frozen=True)
class MergedBlock:
    """One block of the result with all that it was made of, for a look at it; nothing of it may be changed."""

    info: TensorInfo
    bounds: Bounds
    keepers: Mapping[str, Keeper]
    """Of every vector that was surveyed: those of weight 0 are among them where vectors share a tensor out."""
    kept: Mapping[str, torch.Tensor]
    """Of the vectors that have a weight."""
    merged: torch.Tensor


def merged_pieces(
    merger: Merger, weights: Weights, *, threads: int | None = None, watch: Watch | None = None
) -> Iterator[Piece]:
    """The result block by block, in order: what is written to disk. Memory is a few blocks for each thread."""
    check_weights(merger.recipe, weights)
    threads = threads or torch.get_num_threads()
    with worker_threads(threads) as pool:
        yield from in_order(pool, lambda work: work(), _works(merger, weights, pool, watch), threads=threads)


def _works(
    merger: Merger, weights: Weights, pool: ThreadPoolExecutor, watch: Watch | None
) -> Iterator[Callable[[], Piece]]:
    """Work that is left for each block, once the vectors' tensors have been surveyed.

    The surveys of a few tensors run ahead of the blocks that need them, so that no thread waits for one.
    """
    ahead: deque[tuple[TensorInfo, list[Future[dict[str, Keeper]]], Future[Combiner] | None]] = deque()
    for info in merger.pool.layout:
        vectors = merger.active(weights) if merger.moves(info) else []
        keepers = [pool.submit(survey) for survey in merger.surveys(info, vectors)]
        ahead.append((info, keepers, pool.submit(_combiner_of, merger, info, weights) if vectors else None))
        if len(ahead) > SURVEYS_AHEAD:
            yield from _works_of_tensor(merger, weights, *ahead.popleft(), watch)

    while ahead:
        yield from _works_of_tensor(merger, weights, *ahead.popleft(), watch)


def _combiner_of(merger: Merger, info: TensorInfo, weights: Weights) -> Combiner:
    return merger.combiner(merger.survey(info, weights), weights)


def _works_of_tensor(
    merger: Merger,
    weights: Weights,
    info: TensorInfo,
    surveys: list[Future[dict[str, Keeper]]],
    combining: Future[Combiner] | None,
    watch: Watch | None,
) -> Iterator[Callable[[], Piece]]:
    keepers = {vector: keeper for survey in surveys for vector, keeper in survey.result().items()}
    combiner = combining.result() if combining else None

    for bounds in block_bounds(info.shape):
        if merger.moves(info):
            yield partial(_merged_piece, merger, info, bounds, keepers, combiner, weights, watch)
        else:
            yield partial(_unmoved_piece, merger, info, bounds)


def _unmoved_piece(merger: Merger, info: TensorInfo, bounds: Bounds) -> Piece:
    return Piece(info.name, bounds[0], merger.unmoved(info, bounds))


def _merged_piece(
    merger: Merger,
    info: TensorInfo,
    bounds: Bounds,
    keepers: Mapping[str, Keeper],
    combiner: Combiner | None,
    weights: Weights,
    watch: Watch | None,
) -> Piece:
    active = [vector for vector in merger.active(weights) if vector in keepers]
    base = merger.pool.base_block(info.name, bounds)
    base = widened(base) if merger.recipe.method.operands == "deltas" and active else base
    kept = {v: keepers[v](merger.operand(info, v, bounds, base=base), bounds[0]) for v in active}

    merged = merger.combine(info, bounds, base, kept, weights, combiner=combiner)
    if watch is not None:
        watch(MergedBlock(info, bounds, keepers, kept, merged))
    return Piece(info.name, bounds[0], merged)


def merged_tensors(merger: Merger, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """The result tensor by tensor: what goes into a live model. Memory is one whole tensor."""
    whole: dict[str, torch.Tensor] = {}
    specs = {spec.name: spec for spec in merger.layout()}

    for piece in merged_pieces(merger, weights):
        spec = specs[piece.name]
        if piece.name not in whole:
            whole[piece.name] = torch.empty(spec.elements, dtype=spec.dtype)
        whole[piece.name][piece.start : piece.start + piece.values.numel()] = piece.values
        if piece.start + piece.values.numel() == spec.elements:
            yield piece.name, whole.pop(piece.name).view(spec.shape)

    # A tensor without elements has no pieces.
    yield from ((spec.name, torch.empty(spec.shape, dtype=spec.dtype)) for spec in specs.values() if not spec.elements)
