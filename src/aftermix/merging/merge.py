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

from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.checkpoints.names import build_matcher
from aftermix.checkpoints.pool import Pool, is_finite, refuse_non_finite
from aftermix.checkpoints.shards import TensorPiece, TensorSpec
from aftermix.config import MergeConfig, VectorConfig
from aftermix.errors import MergeError
from aftermix.merging.blocks import list_block_spans, run_in_order, start_threads
from aftermix.merging.methods import BoundMethod, bind
from aftermix.merging.rules.exclusive import compute_shifts
from aftermix.merging.rules.intra import Pruner, TensorKey, score_entries
from aftermix.merging.rules.surveys import Combiner
from aftermix.merging.saliency import ActivationStatistics, choose_ranking, refuse_unmeasured
from aftermix.merging.temporaries import allocate_block, allocate_like
from aftermix.merging.topk.magnitude import TensorBlocks, TopKMask
from aftermix.merging.topk.whole_model import select_over_model

Weights = Mapping[str, float]
Watch = Callable[["MergedBlock"], None]
"""Is shown every block of the tensors that move, on the thread that made it."""
SURVEYS_AHEAD = 2
"""Tensors whose surveys are in work before the blocks of an earlier one are."""


@dataclass(frozen=True)
class MergeRecipe:
    """All that decides a merge besides the checkpoints and the weights."""

    method: BoundMethod
    exclude: tuple[str, ...] = ()
    seed: int = 0
    scale: float = 1.0
    dtype: torch.dtype | None = None

    @staticmethod
    def from_config(
        config: MergeConfig, *, vectors: Mapping[str, VectorConfig] | None = None, for_search: bool = False
    ) -> MergeRecipe:
        """Bind `config` and what `vectors` set for themselves; a search excludes more unless the file forbids it."""
        dtype = getattr(torch, config.dtype) if config.dtype else None
        return MergeRecipe(
            bind(config, vectors=vectors), config.exclusions(for_search=for_search), config.seed, config.scale, dtype
        )


@dataclass(frozen=True)
class Merger:
    """A pool and a recipe: which tensors move, what a vector keeps of a block, how blocks combine."""

    pool: Pool
    recipe: MergeRecipe
    vectors: tuple[str, ...] = ()
    """Vectors in use, in order of name; all of the pool's by default."""
    model_masks: Mapping[str, Mapping[str, TopKMask]] = field(default_factory=dict)
    """By vector and tensor, for rules that select over the whole vector."""
    statistics: Mapping[str, ActivationStatistics] = field(default_factory=dict)
    """By vector, for rules that rank by saliency."""

    @staticmethod
    def build(
        pool: Pool,
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
        if method.needs_statistics:
            refuse_unmeasured(method.name, [vector for vector in self.vectors if vector not in self.statistics])
        if method.is_exclusive:
            method.compute_ratios(self.vectors)

    @cached_property
    def _excluded(self) -> Callable[[str], bool]:
        return build_matcher(self.recipe.exclude, where="merge.exclude")

    def resolve_tied_name(self, name: str) -> str:
        """The name under which a tied tensor is counted and its random choices are drawn."""
        return self.pool.frame.alias.get(name, name)

    def moves(self, info: TensorInfo) -> bool:
        """True for a tensor that the merge changes: it holds real numbers and is not excluded.

        A head that is tied to an excluded embedding is excluded with it. Excluding the head of a tied model does not
        exclude its embedding.
        """
        return (
            info.mergeable and not self._excluded(info.name) and not self._excluded(self.resolve_tied_name(info.name))
        )

    def list_specs(self) -> list[TensorSpec]:
        """Names, shapes and types of the result."""
        return [TensorSpec.from_info(info, self.recipe.dtype) for info in self.pool.layout]

    def list_active(self, weights: Weights) -> list[str]:
        """Vectors that have a weight, in order of name."""
        return [vector for vector in self.vectors if weights.get(vector, 0.0) != 0.0]

    def read_operand(
        self, info: TensorInfo, vector: str, span: Span, *, base: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One block of what the rules see of `vector`, float32: its difference from the base, or the model itself.

        `base` is the base's block in float32 where the caller has it already.
        """
        out = allocate_block(span[1] - span[0])
        if self.recipe.method.operands == "models":
            return self.pool.read_expert_block(info.name, vector, span, out=out)
        if base is None:
            base = widen(self.pool.read_base_block(info.name, span))
        return self.pool.read_difference_block(info.name, vector, span, base=base, out=out)

    def open_blocks(self, info: TensorInfo, vector: str) -> TensorBlocks:
        """One tensor of `vector` as its rules survey it."""
        return TensorBlocks(
            list_block_spans(info.shape),
            lambda span: self.read_operand(info, vector, span),
            partial(self.pool.read_spans, info.name, vector, difference=self.recipe.method.operands == "deltas"),
        )

    def list_surveys(self, info: TensorInfo, vectors: Sequence[str]) -> list[Callable[[], dict[str, Pruner]]]:
        """Surveys that precede the merging of one tensor's blocks; together they give a pruner for each vector."""
        if self.recipe.method.is_exclusive:
            # All vectors have their share whatever their weights: a search prepares them once.
            return [partial(self._allot_entries, info)] if vectors else []
        return [partial(self._build_pruner, info, vector) for vector in vectors]

    def _allot_entries(self, info: TensorInfo) -> dict[str, Pruner]:
        entries = {v: score_entries(self.open_blocks(info, v), self._build_key(info, v)) for v in self.vectors}
        shift = self._shifts[self.resolve_tied_name(info.name)]
        return self.recipe.method.allot_entries(entries, shift)

    @cached_property
    def _shifts(self) -> dict[str, int]:
        return compute_shifts(info.name for info in self.pool.layout)

    def _build_pruner(self, info: TensorInfo, vector: str) -> dict[str, Pruner]:
        return {
            vector: self.recipe.method.bind_intra(vector)(self.open_blocks(info, vector), self._build_key(info, vector))
        }

    def _build_key(self, info: TensorInfo, vector: str) -> TensorKey:
        tensor = self.resolve_tied_name(info.name)
        row = info.shape[-1] if info.shape else 1
        mask = self.model_masks.get(vector, {}).get(tensor)
        statistics = self.statistics.get(vector)
        ranking = choose_ranking(statistics, tensor, info.shape) if statistics else "magnitude"
        return TensorKey(self.recipe.seed, vector, tensor, info.elements, row, mask, ranking)

    def survey(self, info: TensorInfo, weights: Weights, *, kept: Mapping[str, TensorBlocks] | None = None) -> Any:
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

    def build_combiner(self, facts: Any, weights: Weights) -> Combiner:
        """Combiner of blocks of the active vectors, one at least; `facts` are those of :meth:`survey`."""
        active = self.list_active(weights)
        return self.recipe.method.build_combiner(facts, [float(weights[vector]) for vector in active], vectors=active)

    def combine(
        self,
        info: TensorInfo,
        span: Span,
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
        active = self.list_active(weights)
        merged = base
        if active:
            combiner = combiner or self.build_combiner(None, weights)
            merged = combiner([kept[v] for v in active], span[0])

        # A single rounding, after the base is added: models replace it, and distribution vectors move it.
        if active and self.recipe.method.operands == "deltas":
            torch.add(widen(base), merged, alpha=self.recipe.scale, out=merged)
        result = allocate_like(merged, self.recipe.dtype or info.dtype).copy_(merged)

        # The inputs are named where one of them is at fault, the weights where their sum overflows.
        if not known_finite and not is_finite(result):
            self.pool.refuse_non_finite_inputs(info.name, span, vectors=active)
            owner = f"the merge with weights {dict(weights)}, stored as {result.dtype},"
            refuse_non_finite(result, info.name, owner)
        return result

    def read_unmoved(self, info: TensorInfo, span: Span) -> torch.Tensor:
        """One block of a tensor that keeps the base's values, in its stored type."""
        block = self.pool.read_base_block(info.name, span)
        refuse_non_finite(block, info.name, self.pool.frame.label)
        return block.to(self.recipe.dtype or info.dtype) if info.mergeable else block


def widen(block: torch.Tensor) -> torch.Tensor:
    """The block in float32; itself when it is."""
    return block if block.dtype == torch.float32 else allocate_like(block, torch.float32).copy_(block)


def check_weights(recipe: MergeRecipe, weights: Weights) -> None:
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
    span: Span
    pruners: Mapping[str, Pruner]
    """Of every vector that was surveyed: those of weight 0 are among them where vectors share a tensor out."""
    kept: Mapping[str, torch.Tensor]
    """Of the vectors that have a weight."""
    merged: torch.Tensor


def stream_merged_pieces(
    merger: Merger, weights: Weights, *, threads: int | None = None, watch: Watch | None = None
) -> Iterator[TensorPiece]:
    """The result block by block, in order: what is written to disk. Memory is a few blocks for each thread."""
    check_weights(merger.recipe, weights)
    threads = threads or torch.get_num_threads()
    with start_threads(threads) as pool:
        yield from run_in_order(pool, lambda work: work(), _stream_tasks(merger, weights, pool, watch), threads=threads)


def _stream_tasks(
    merger: Merger, weights: Weights, pool: ThreadPoolExecutor, watch: Watch | None
) -> Iterator[Callable[[], TensorPiece]]:
    """Work that is left for each block, once the vectors' tensors have been surveyed.

    The surveys of a few tensors run ahead of the blocks that need them, so that no thread waits for one.
    """
    ahead: deque[tuple[TensorInfo, list[Future[dict[str, Pruner]]], Future[Combiner] | None]] = deque()
    for info in merger.pool.layout:
        vectors = merger.list_active(weights) if merger.moves(info) else []
        surveys = [pool.submit(survey) for survey in merger.list_surveys(info, vectors)]
        ahead.append((info, surveys, pool.submit(_build_combiner, merger, info, weights) if vectors else None))
        if len(ahead) > SURVEYS_AHEAD:
            yield from _stream_tensor_tasks(merger, weights, *ahead.popleft(), watch)

    while ahead:
        yield from _stream_tensor_tasks(merger, weights, *ahead.popleft(), watch)


def _build_combiner(merger: Merger, info: TensorInfo, weights: Weights) -> Combiner:
    return merger.build_combiner(merger.survey(info, weights), weights)


def _stream_tensor_tasks(
    merger: Merger,
    weights: Weights,
    info: TensorInfo,
    surveys: list[Future[dict[str, Pruner]]],
    combining: Future[Combiner] | None,
    watch: Watch | None,
) -> Iterator[Callable[[], TensorPiece]]:
    pruners = {vector: keeper for survey in surveys for vector, keeper in survey.result().items()}
    combiner = combining.result() if combining else None

    for span in list_block_spans(info.shape):
        if merger.moves(info):
            yield partial(_merge_piece, merger, info, span, pruners, combiner, weights, watch)
        else:
            yield partial(_read_unmoved_piece, merger, info, span)


def _read_unmoved_piece(merger: Merger, info: TensorInfo, span: Span) -> TensorPiece:
    return TensorPiece(info.name, span[0], merger.read_unmoved(info, span))


def _merge_piece(
    merger: Merger,
    info: TensorInfo,
    span: Span,
    pruners: Mapping[str, Pruner],
    combiner: Combiner | None,
    weights: Weights,
    watch: Watch | None,
) -> TensorPiece:
    active = [vector for vector in merger.list_active(weights) if vector in pruners]
    base = merger.pool.read_base_block(info.name, span)
    base = widen(base) if merger.recipe.method.operands == "deltas" and active else base
    kept = {v: pruners[v](merger.read_operand(info, v, span, base=base), span[0]) for v in active}

    merged = merger.combine(info, span, base, kept, weights, combiner=combiner)
    if watch is not None:
        watch(MergedBlock(info, span, pruners, kept, merged))
    return TensorPiece(info.name, span[0], merged)


def stream_merged_tensors(merger: Merger, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """The result tensor by tensor: what goes into a live model. Memory is one whole tensor."""
    whole: dict[str, torch.Tensor] = {}
    specs = {spec.name: spec for spec in merger.list_specs()}

    for piece in stream_merged_pieces(merger, weights):
        spec = specs[piece.name]
        if piece.name not in whole:
            whole[piece.name] = torch.empty(spec.elements, dtype=spec.dtype)
        whole[piece.name][piece.start : piece.start + piece.values.numel()] = piece.values
        if piece.start + piece.values.numel() == spec.elements:
            yield piece.name, whole.pop(piece.name).view(spec.shape)

    # A tensor without elements has no pieces.
    yield from ((spec.name, torch.empty(spec.shape, dtype=spec.dtype)) for spec in specs.values() if not spec.elements)
