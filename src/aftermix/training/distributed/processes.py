"""The processes of one training run: how many, which one this is, and whole tensors out of their shards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

WRAPPER = "_checkpoint_wrapped_module."
"""Part that activation checkpointing puts into the names of the tensors below it."""


def count_processes() -> int:
    """Processes of this run: those that `torchrun` or `accelerate launch` started, else 1."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def read_process_index() -> int:
    """Number of this process; 0 writes files and speaks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def wait_for_all() -> None:
    """Return when every process has come here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def gather_state(model: Any) -> dict[str, torch.Tensor]:
    """The state dict of `model` on the CPU, sharded tensors gathered: all of it on process 0, none on the others.

    Every process must call it.
    """
    first = read_process_index() == 0
    shards: Mapping[str, Any] = model.state_dict()

    state: dict[str, torch.Tensor] = {}
    for name, tensor in shards.items():
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        if first:
            state[name.replace(WRAPPER, "")] = whole.detach().cpu()
    return state


def reshard_modules(model: Any) -> None:
    """Give back the gathered tensors of every sharded module of `model`.

    FSDP2 keeps those of the outermost module after a forward pass, for the backward pass to come. Where none comes, the
    next forward pass would compute with them, whatever an optimizer has done to the shards.
    """
    for module in model.modules():
        reshard = getattr(module, "reshard", None)
        if callable(reshard):
            reshard()
