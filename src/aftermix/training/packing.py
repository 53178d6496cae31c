"""Documents as one stream of tokens, cut into sequences of the context length without losing a token.

The stream is every document's tokens (with the start token where the tokenizer sets one) and the end-of-text token,
document after document in a seeded order; the next epoch has another order. Sequences are cut without overlap, so the
stream is their concatenation, and only the last may be short. The first token of a sequence is context alone, as
everywhere: a sequence of `n` tokens has `n - 1` predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.errors import TrainingError
from aftermix.seeds import generator
from aftermix.training.data import Documents

Encode = Callable[[list[str]], list[list[int]]]
"""Token ids of each text, with the boundary tokens."""

Tokens = NDArray[np.int32]
ENCODE_BATCH = 256


@dataclass(frozen=True, eq=False)
class PackedTokens(Sequence[torch.Tensor]):
    """The stream, and its sequences of `context` tokens as 1-D int64 tensors; only the last may be shorter."""

    ids: Tokens
    context: int
    epochs: float
    """How often the dataset was gone through: in tokens; below one epoch in characters, as the rest is not encoded."""
    tokens_per_epoch: int | None
    """Tokens of the whole dataset; None when fewer were asked for."""
    documents: int
    """Documents begun, counted anew in every epoch."""

    def __len__(self) -> int:
        return -(-len(self.ids) // self.context)

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = self.ids[index * self.context : (index + 1) * self.context]
        return torch.from_numpy(part.astype(np.int64))


def document_order(count: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch goes through `count` documents: a function of seed and epoch alone."""
    # Raw draws, not `permutation`, whose algorithm NumPy may change between releases.
    draws = generator(seed, "document order", epoch).bit_generator.random_raw(count)
    return np.argsort(draws, kind="stable")


def pack(documents: Documents, encode: Encode, *, context: int, tokens: int | None, seed: int) -> PackedTokens:
    """The first `tokens` tokens (None: exactly one epoch) of the seeded stream over `documents`.

    When the dataset is smaller it is repeated, each epoch in its own order. Raises :class:`TrainingError` when the
    dataset, or what is asked for, does not fill one sequence.
    """
    if tokens is not None and tokens < context:
        found = f"asks for {tokens} tokens, less than one sequence of {context}"
        raise TrainingError(str(documents.path), found, "Raise `tokens:` or lower `train.context`.")
    first = _first_epoch(documents, encode, tokens=tokens, seed=seed)
    encoded = dict(first)
    available = sum(map(len, encoded.values()))
    complete = len(encoded) == len(documents.texts)
    if available < context:
        found = f"holds {available} tokens, less than one sequence of {context}"
        raise TrainingError(str(documents.path), found, "Lower `train.context` or name a larger dataset.")
    wanted = available if tokens is None else tokens
    pieces, used_documents = _stream(encoded, wanted, seed=seed)
    return PackedTokens(
        ids=np.concatenate(pieces),
        context=context,
        epochs=wanted / available if complete else _share_of_characters(documents, first, wanted),
        tokens_per_epoch=available if complete else None,
        documents=used_documents,
    )


def _first_epoch(documents: Documents, encode: Encode, *, tokens: int | None, seed: int) -> list[tuple[int, Tokens]]:
    """Number and tokens of each document in the order of the first epoch, as far as `tokens` reach."""
    order = document_order(len(documents.texts), seed=seed, epoch=0)
    found: list[tuple[int, Tokens]] = []
    total = 0
    for start in range(0, len(order), ENCODE_BATCH):
        batch = order[start : start + ENCODE_BATCH].tolist()
        for number, ids in zip(batch, encode([documents.texts[number] for number in batch]), strict=True):
            if tokens is not None and total >= tokens:
                return found
            found.append((number, np.asarray(ids, dtype=np.int32)))
            total += len(ids)
    return found


def _stream(encoded: dict[int, Tokens], wanted: int, *, seed: int) -> tuple[list[Tokens], int]:
    """Documents in order, epoch after epoch, the last one cut so that exactly `wanted` tokens come."""
    pieces: list[Tokens] = []
    left = wanted
    for number in _numbers(encoded, seed):
        if left <= 0:
            break
        pieces.append(encoded[number][:left])
        left -= len(pieces[-1])
    return pieces, len(pieces)


def _numbers(encoded: dict[int, Tokens], seed: int) -> Iterator[int]:
    """Document numbers without end: the first epoch as it was encoded, then every epoch in its own order."""
    yield from encoded
    epoch = 1
    while True:
        yield from document_order(len(encoded), seed=seed, epoch=epoch).tolist()
        epoch += 1


def _share_of_characters(documents: Documents, first: list[tuple[int, Tokens]], wanted: int) -> float:
    """Characters of the documents used over characters of all, the last document counted by the tokens used of it."""
    number, ids = first[-1]
    before = sum(len(used) for _, used in first[:-1])
    characters = sum(len(documents.texts[used]) for used, _ in first[:-1])
    characters_of_last = len(documents.texts[number]) * (wanted - before) / max(len(ids), 1)
    return float((characters + characters_of_last) / documents.characters)
