"""One tensor of a merge, whole: merged in its stored type, or its difference from the base."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from aftermix.checkpoints.model import TensorInfo, read_tensor
from aftermix.checkpoints.pool import refuse_non_finite
from aftermix.merging.blocks import list_block_spans
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import Weights
from aftermix.merging.stream import BlockTask, TensorPlan
from aftermix.merging.temporaries import widen


def compute_merged_tensor(
    merger: Merger, info: TensorInfo, weights: Weights, threads: ThreadPoolExecutor
) -> torch.Tensor:
    """The tensor as a merge to disk has it."""
    plan = TensorPlan.start(merger, info, weights, threads).wait()
    tasks = [BlockTask(merger, plan, span) for span in list_block_spans(info.shape)]
    return torch.cat([piece.values for piece in threads.map(BlockTask.run, tasks)]).view(info.shape)


def compute_merged_difference(
    merger: Merger, info: TensorInfo, weights: Weights, threads: ThreadPoolExecutor
) -> torch.Tensor:
    """Merged tensor minus base, before any rounding to the stored type. Raises :class:`CheckpointError` for NaN."""
    plan = TensorPlan.start(merger, info, weights, threads).wait()
    active = merger.list_active(plan.weights)
    combiner = plan.combiner or merger.build_combiner(None, plan.weights)
    of_models = merger.recipe.method.operands == "models"
    difference = torch.empty(info.elements)

    for start, stop in list_block_spans(info.shape):
        base = widen(merger.pool.read_base_block(info.name, (start, stop)))
        kept = [plan.pruners[v](merger.read_operand(info, v, (start, stop), base=base), start) for v in active]
        merged = combiner(kept, start)
        difference[start:stop] = merged - base if of_models else merged * merger.recipe.scale

    refuse_non_finite(difference, info.name, f"the merge with weights {dict(weights)}")
    return difference.view(info.shape)


def read_base_tensor(merger: Merger, info: TensorInfo) -> torch.Tensor:
    """The base's tensor, for what stands beside a tensor that moves."""
    return read_tensor(merger.pool.frame, info.name).to(merger.recipe.dtype or info.dtype)
