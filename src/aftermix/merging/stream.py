"""A merge as a stream of blocks of named tensors: surveys ahead, blocks on all threads, their order kept.

Every tensor of the frame comes out once, in order of name and in its stored type.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.checkpoints.shards import TensorPiece
from aftermix.merging.blocks import list_block_spans, run_in_order, start_threads
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import TensorWeights, Weights
from aftermix.merging.rules.intra import Pruner
from aftermix.merging.rules.surveys import Combiner
from aftermix.merging.temporaries import widen
from aftermix.merging.watchers.merged_block import MergedBlock, Watch

SURVEYS_AHEAD = 2
"""Tensors whose surveys are in work before the blocks of an earlier one are."""


def stream_merged_pieces(
    merger: Merger, weights: Weights, *, threads: int | None = None, watch: Watch | None = None
) -> Iterator[TensorPiece]:
    """The result block by block, in order: what is written to disk. Memory is a few blocks for each thread."""
    merger.refuse_unfit_weights(weights)
    threads = threads or torch.get_num_threads()
    with start_threads(threads) as pool:
        plans = _survey_ahead(merger, weights, pool)
        tasks = (BlockTask(merger, plan, span, watch) for plan in plans for span in list_block_spans(plan.info.shape))
        yield from run_in_order(pool, BlockTask.run, tasks, threads=threads)


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

    empty = [spec for spec in specs.values() if not spec.elements]  # which has no pieces
    yield from ((spec.name, torch.empty(spec.shape, dtype=spec.dtype)) for spec in empty)


def _survey_ahead(merger: Merger, weights: Weights, pool: ThreadPoolExecutor) -> Iterator[TensorPlan]:
    """Plan every tensor of the frame, and survey a few ahead of the blocks that need it, so that no thread waits."""
    ahead: deque[TensorPlan] = deque()
    for info in merger.pool.layout:
        ahead.append(TensorPlan.start(merger, info, weights, pool))
        if len(ahead) > SURVEYS_AHEAD:
            yield ahead.popleft().wait()

    while ahead:
        yield ahead.popleft().wait()


@dataclass
class TensorPlan:
    """One tensor of the result: its surveys in work, and once they are waited for, what its blocks take."""

    info: TensorInfo
    moves: bool
    weights: TensorWeights
    surveys: list[Future[dict[str, Pruner]]]
    combining: Future[Combiner] | None
    pruners: dict[str, Pruner] = field(default_factory=dict)
    combiner: Combiner | None = None

    @staticmethod
    def start(merger: Merger, info: TensorInfo, weights: Weights, pool: ThreadPoolExecutor) -> TensorPlan:
        """Hand the surveys of a tensor to the threads; what keeps the base's values has none."""
        moves = merger.moves(info)
        own = merger.weigh(info, weights) if moves else {}
        vectors = merger.list_active(own)
        surveys = [pool.submit(merger.build_pruners, info, group) for group in merger.group_surveys(vectors)]
        combining = pool.submit(_build_combiner, merger, info, own) if vectors else None
        return TensorPlan(info, moves, own, surveys, combining)

    def wait(self) -> TensorPlan:
        """The plan itself, when its pruners and its combiner are there."""
        for survey in self.surveys:
            self.pruners |= survey.result()
        self.combiner = self.combining.result() if self.combining else None
        return self


def _build_combiner(merger: Merger, info: TensorInfo, weights: TensorWeights) -> Combiner:
    return merger.build_combiner(merger.survey(info, weights), weights)


@dataclass(frozen=True)
class BlockTask:
    """One block of the result to compute, of a tensor that has been surveyed."""

    merger: Merger
    plan: TensorPlan
    span: Span
    watch: Watch | None = None

    def run(self) -> TensorPiece:
        """The block: merged, or the base's where no vector moves the tensor."""
        info, span = self.plan.info, self.span
        block = self._merge() if self.plan.moves else self.merger.read_unmoved(info, span)
        return TensorPiece(info.name, span[0], block)

    def _merge(self) -> torch.Tensor:
        merger, info, span, pruners = self.merger, self.plan.info, self.span, self.plan.pruners
        weights = self.plan.weights
        active = merger.list_active(weights)
        base = merger.pool.read_base_block(info.name, span)
        base = widen(base) if merger.recipe.method.operands == "deltas" and active else base
        kept = {v: pruners[v](merger.read_operand(info, v, span, base=base), span[0]) for v in active}

        exact: list[torch.Tensor] = []
        merged = merger.combine(info, span, base, kept, weights, combiner=self.plan.combiner, unrounded=exact)
        if self.watch is not None:
            self.watch(MergedBlock(info, span, pruners, kept, merged, exact[0], base))
        return merged
