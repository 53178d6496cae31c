"""Speeds that a plan measures here and now: of a training, of a merge, and of what other processes do meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import psutil
import torch

from aftermix.checkpoints.hub import locate
from aftermix.config import Config, TrainConfig
from aftermix.errors import AftermixError
from aftermix.jobs.plan.counts import MIXTURE
from aftermix.merging.blocks import list_block_spans
from aftermix.merging.merge import Merger
from aftermix.merging.stream import stream_merged_tensors
from aftermix.training.base_model import open_base

SAMPLE_S = 2.0
"""Seconds of a merge that are measured."""
BUSY_S = 0.5
"""Seconds for which other processes are watched."""


def measure_refill_s(merger: Merger, *, prepared: bool) -> float:
    """Seconds in which a merge comes into the living model: combined from `prepared` vectors, or read anew."""
    combines = prepared and not merger.recipe.method.surveys_tensors
    return _measure_combine_s(merger) if combines else _measure_merge_s(merger)


def measure_mixture_speed(config: Config, build: Callable[[Config], TrainConfig | None]) -> float | None:
    """Tokens a second of training a mixture, whose `train:` is built; None where there is none, or it is refused."""
    try:
        settings = build(config)
        if settings is None or config.base is None:
            return None
        from aftermix.jobs.train.speed import measure_training_speeds

        return measure_training_speeds(settings, open_base(locate(config.base), label=config.base))[MIXTURE]
    except AftermixError:  # the job itself says why, before it begins
        return None


def measure_busy_cores() -> float:
    """Cores' worth of work that all processes do while this one waits."""
    return psutil.cpu_percent(interval=BUSY_S) / 100 * (psutil.cpu_count() or 1)


def _measure_merge_s(merger: Merger) -> float:
    """Seconds of a merge that reads all its inputs, scaled up from as many tensors as a short time allows."""
    started, seen = perf_counter(), 0
    for _, tensor in stream_merged_tensors(merger, dict.fromkeys(merger.vectors, 1.0)):
        seen += tensor.numel()
        if perf_counter() - started > SAMPLE_S:
            break
    return (perf_counter() - started) * sum(spec.elements for spec in merger.list_specs()) / max(seen, 1)


def _measure_combine_s(merger: Merger) -> float:
    """Seconds to combine all moved tensors on all threads, scaled up from one block of the largest one."""
    moved = [info for info in merger.pool.layout if merger.moves(info) and info.elements]
    if not moved:
        return 0.0

    largest = max(moved, key=lambda info: info.elements)
    bounds = list_block_spans(largest.shape)[0]
    base = merger.pool.read_base_block(largest.name, bounds)
    operands = {vector: merger.read_operand(largest, vector, bounds) for vector in merger.vectors}

    started = perf_counter()
    merger.combine(largest, bounds, base, operands, dict.fromkeys(merger.vectors, 1.0))
    elapsed = perf_counter() - started
    share = (bounds[1] - bounds[0]) / sum(info.elements for info in moved)
    return elapsed / share / torch.get_num_threads()
