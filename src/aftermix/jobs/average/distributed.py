"""`aftermix average --as-dcp`: the mean of distributed checkpoints, written as one of the same names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from aftermix.checkpoints.formats.distributed.model import (
    DistributedCheckpoint,
    find_distributed_folder,
    open_distributed,
)
from aftermix.checkpoints.formats.distributed.writer import write_distributed
from aftermix.checkpoints.pool import ModelPool
from aftermix.checkpoints.safe_files import InputStamps
from aftermix.config import Config
from aftermix.errors import Problem, refuse_if_any
from aftermix.jobs.merge.merged_tensor import compute_merged_tensor
from aftermix.jobs.merge.statistics import open_merger
from aftermix.merging.blocks import start_threads
from aftermix.merging.recipe import MergeRecipe

SHOWN = 5


def average_as_dcp(config: Config, output: Path, *, companions: Mapping[str, bytes]) -> Path:
    """Write the weighted mean of the checkpoints of `config` as the new folder `output`, tensor by tensor.

    Tensors have the keys and shapes that training saved; state of the optimizer and counters are left out. Raises
    :class:`ManyProblemsError` for a folder that is no distributed checkpoint, and for other tensors than the first's.
    """
    models = _open_all(config)
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors)
    merger = open_merger(config, ModelPool(None, dict(models)), recipe)
    weights = {name: vector.weight for name, vector in config.vectors.items()}
    inputs = InputStamps.take(file for model in models.values() for file in model.files())

    parts = next(iter(models.values())).named.parts
    names = {part.stored.key: name for name, part in parts.items()}
    infos = {info.name: info for info in merger.pool.layout}

    with start_threads(torch.get_num_threads()) as threads, inputs.watch():
        return write_distributed(
            output,
            [part.stored for part in parts.values()],
            read=lambda key: compute_merged_tensor(merger, infos[names[key]], weights, threads),
            companions=companions,
        )


def _open_all(config: Config) -> dict[str, DistributedCheckpoint]:
    problems, models = [], {}
    for name, vector in sorted(config.vectors.items()):
        home = find_distributed_folder(Path(vector.model))
        if home is None:
            found = "expected a distributed checkpoint, found none (no .metadata)"
            problems.append(Problem(vector.model, found, "Leave --as-dcp out: the result is a model folder then."))
            continue
        models[name] = open_distributed(home, label=vector.model, needs_config=False)
    refuse_if_any(problems)

    first = next(iter(models.values()))
    differing = [problem for model in models.values() for problem in _compare(first, model)]
    refuse_if_any(differing[:SHOWN])
    return models


def _compare(first: DistributedCheckpoint, other: DistributedCheckpoint) -> Iterator[Problem]:
    """Tensors that are not in both, or of another shape or type."""
    remedy = "Average checkpoints of one run."
    for name in sorted(first.tensors.keys() ^ other.tensors.keys()):
        yield Problem(name, f"expected in all checkpoints, found in one of {first.label} and {other.label}", remedy)
    for name in sorted(first.tensors.keys() & other.tensors.keys()):
        ours, theirs = first.tensors[name], other.tensors[name]
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            expected = f"expected {ours.shape} of {ours.dtype} as in {first.label}"
            yield Problem(f"{other.label}: {name}", f"{expected}, found {theirs.shape} of {theirs.dtype}", remedy)
