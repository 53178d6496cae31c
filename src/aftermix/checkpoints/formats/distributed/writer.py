"""A distributed checkpoint written by PyTorch's own writer, tensor by tensor, so that what loads one loads it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.formats.distributed.metadata import StoredTensor
from aftermix.checkpoints.writer import stage_folder, write_companions


def write_distributed(
    folder: Path,
    tensors: Iterable[StoredTensor],
    *,
    read: Callable[[str], torch.Tensor],
    companions: Mapping[str, bytes | Callable[[], bytes]],
) -> Path:
    """Write `tensors` under the paths that they had, each asked of `read` by its key when its turn comes.

    One process writes one file. The new folder `folder` appears complete or not at all. Raises
    :class:`CheckpointError` when it holds anything.
    """
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    class StreamingPlanner(DefaultSavePlanner):
        def lookup_object(self, index: Any) -> Any:
            return read(index.fqn)

    state: dict[Any, Any] = {}
    for tensor in tensors:
        _nest(state, tensor)
    with stage_folder(folder) as hidden:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process alone
            writer = FileSystemWriter(hidden, single_file_per_rank=True)
            save(state, storage_writer=writer, planner=StreamingPlanner(), no_dist=True)
        write_companions(hidden, companions)
    return folder


def _nest(state: dict[Any, Any], tensor: StoredTensor) -> None:
    """Put the tensor, without its values, to its place in the nested state."""
    level = state
    for part in tensor.path[:-1]:
        level = level.setdefault(part, {})
    level[tensor.path[-1]] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
