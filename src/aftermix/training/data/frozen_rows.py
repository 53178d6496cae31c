"""Rows of tokens that look untrained and stay so, because adapters or `freeze` leave the embeddings as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from aftermix.training.data.mixture import SequenceMixture
from aftermix.training.data.packing import PackedTokens

# V rows of tokens, H entries of a row.

NEAR_MEAN = 0.01
"""A new row is drawn about the mean of the others, at less than this share of their median distance from it."""
CHUNK_TOKENS = 1 << 24
SHOWN = 5


def describe_frozen_rows(sequences: PackedTokens | SequenceMixture, model: Any, tokenizer: Any) -> list[str]:
    """A line that names the added tokens of the data that cannot be learnt; none where there are none.

    These are tokens whose row, in an embedding or a head that is not trained, is zero, is the same as another row, or
    is as `resize_token_embeddings` of transformers leaves a new one. Nothing is read where both are trained.
    """
    frozen = list(_list_frozen(model))
    if not frozen:
        return []

    counts = _count_tokens(sequences)
    used = [token for token in sorted(tokenizer.added_tokens_decoder) if token < len(counts) and counts[token]]
    untrained = [token for token in used if any(is_untrained(rows, token) for rows in frozen)]
    if not untrained:
        return []

    names = [f"{tokenizer.convert_ids_to_tokens(token)} ({counts[token]} times)" for token in untrained[:SHOWN]]
    more = f" and {len(untrained) - SHOWN} more" if len(untrained) > SHOWN else ""
    told = f"rows of {', '.join(names)}{more} look untrained, and the embeddings are not trained here"
    return [f"{told}: leave out `lora` or `freeze`, or take a base that knows these tokens"]


def is_untrained(rows_VH: torch.Tensor, token: int) -> bool:
    """True for a row that is zero, the same as another one, or next to the mean of all."""
    row = rows_VH[token]
    if not bool(row.any()) or int((rows_VH == row).all(dim=1).sum()) > 1:
        return True
    distances = (rows_VH - rows_VH.mean(dim=0)).norm(dim=1)
    return bool(distances[token] < NEAR_MEAN * distances.median())


def _list_frozen(model: Any) -> Iterator[torch.Tensor]:
    """Embedding and head of `model` that stay as they are, a tied one once."""
    seen: set[int] = set()
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = getattr(module, "weight", None)
        if weight is None or hasattr(module, "lora_A") or weight.requires_grad or id(weight) in seen:
            continue
        seen.add(id(weight))
        yield weight.detach()


def _count_tokens(sequences: PackedTokens | SequenceMixture) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(V,): counts of each token in the data of `sequences`."""
    streams = [sequences.stream] if isinstance(sequences, PackedTokens) else list(sequences.streams.values())
    counts = np.zeros(sequences.highest + 1, dtype=np.int64)
    for stream in streams:
        ids = stream.store.ids
        for start in range(0, len(ids), CHUNK_TOKENS):
            counts += np.bincount(ids[start : start + CHUNK_TOKENS], minlength=len(counts))
    return counts
