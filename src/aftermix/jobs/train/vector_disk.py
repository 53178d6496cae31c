"""Bytes of what a training writes beside the models that serve: vectors, and adapters as PEFT stores them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from aftermix.checkpoints.model import TensorInfo
from aftermix.checkpoints.names import EMBEDDINGS, HEADS

FACTOR_BYTES = torch.float32.itemsize


def count_vector_bytes(
    tensors: Collection[TensorInfo], experts: Collection[str], ranks: Mapping[str, int], *, vector: str
) -> int:
    """The most bytes that lie beside the models of `experts`, from the tensors of their base.

    A vector holds each number that training moves in the type `vector` (`none` for none): of adapters, whose ranks by
    expert are `ranks`, the matrices but embeddings and head. An adapter of rank r has r (rows + columns) factors a
    matrix, in float32.
    """
    width = 0 if vector == "none" else getattr(torch, vector).itemsize
    moved = [info for info in tensors if info.mergeable]
    adapted = [info for info in moved if len(info.shape) == 2 and not info.name.endswith((*EMBEDDINGS, *HEADS))]
    sides = sum(sum(info.shape) for info in adapted)

    whole, low = (width * sum(info.elements for info in infos) for infos in (moved, adapted))
    return sum(low + FACTOR_BYTES * ranks[name] * sides if name in ranks else whole for name in experts)
