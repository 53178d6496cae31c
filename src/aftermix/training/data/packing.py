"""Documents as one stream of tokens, cut into sequences of the context length without losing a token.

The stream is every document's tokens (with the start token where the tokenizer sets one) and the end-of-text token,
document after document in a seeded order; the next epoch has another order. Sequences are cut without overlap, so the
stream is their concatenation, and only the last may be short. The first token of a sequence is context alone, as
everywhere: a sequence of `n` tokens has `n - 1` predictions. Examples whose answers alone are learnt are not cut but
packed whole, see :mod:`aftermix.training.data.packing_whole`.

A sequence is a function of its index: nothing has to be gone through to reach it, and a resumed run needs no iterator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.errors import TrainingError
from aftermix.training.data.collate import IGNORED, TokenSequence
from aftermix.training.data.encoding import EncodedExample, TextEncoder
from aftermix.training.data.examples import TextDocuments
from aftermix.training.data.token_store import TokenStore
from aftermix.training.data.tokenise import order_documents

KEPT_EPOCHS = 2


@dataclass(frozen=True)
class DocumentPiece:
    """Tokens `start` to `stop` (not included) of a document of a store."""

    document: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class SequenceStream(Protocol):
    """Sequences of one dataset without end, epoch after epoch."""

    @property
    def store(self) -> TokenStore: ...

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""

    @property
    def may_cut(self) -> bool:
        """True when a sequence can end anywhere, so that a budget is met to the token."""

    @property
    def tokens_per_epoch(self) -> int | None:
        """Tokens of the whole dataset; None when fewer were tokenised."""

    def count_tokens(self, index: int) -> int:
        """Tokens of a sequence."""

    def read_sequence(self, index: int) -> TokenSequence:
        """A sequence."""

    def count_epochs(self, tokens: int) -> float:
        """Passes through the dataset that so many tokens make."""

    def count_documents(self, tokens: int) -> int:
        """Documents that begin within so many tokens, counted anew in every epoch."""

    def count_sequences(self, tokens: int | None) -> int:
        """Number of sequences that hold so many tokens; None: of one epoch."""


@dataclass
class EpochOrders:
    """Seeded orders of a store's documents; the last few are kept."""

    store: TokenStore
    seed: int
    _kept: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)

    def __getitem__(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Documents of the store in the order of the epoch, and after each the tokens so far."""
        if epoch not in self._kept:
            while len(self._kept) >= KEPT_EPOCHS:
                del self._kept[min(self._kept)]

            place = np.full(self.store.documents, -1, dtype=np.int64)
            place[self.store.numbers] = np.arange(len(self.store.numbers))
            order = place[order_documents(self.store.documents, seed=self.seed, epoch=epoch)]
            # Where only the first documents of the first epoch were tokenised, they are the beginning of its order.
            order = order[order >= 0]

            self._kept[epoch] = order, np.cumsum(self.store.lengths[order])
        return self._kept[epoch]


@dataclass(frozen=True, eq=False)
class CutStream:
    """Documents one after another, cut every `context` tokens."""

    store: TokenStore
    context: int
    seed: int
    masked: bool = False
    """True: attention stays within a document."""
    may_cut: bool = True
    orders: EpochOrders = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "orders", EpochOrders(self.store, self.seed))

    @property
    def tokens_per_epoch(self) -> int | None:
        return self.store.tokens if self.store.complete else None

    def count_tokens(self, index: int) -> int:  # noqa: ARG002 - all have the same
        return self.context

    def count_sequences(self, tokens: int | None) -> int:
        return -(-(self.store.tokens if tokens is None else tokens) // self.context)

    def read_sequence(self, index: int) -> TokenSequence:
        return build_sequence(
            self.store, self.find_pieces(index * self.context, (index + 1) * self.context), masked=self.masked
        )

    def find_pieces(self, start: int, stop: int) -> list[DocumentPiece]:
        """Pieces that lie between two places of the stream."""
        pieces: list[DocumentPiece] = []
        while start < stop:
            epoch, within = divmod(start, self.store.tokens)
            assert epoch == 0 or self.store.complete, "a second epoch of a part"  # noqa: S101 - budgets see to it

            order, ends = self.orders[epoch]
            at = int(np.searchsorted(ends, within, side="right"))
            document = int(order[at])
            begin = int(ends[at]) - int(self.store.lengths[document])

            last = min(int(ends[at]), within + stop - start)
            pieces.append(DocumentPiece(document, within - begin, last - begin))
            start += last - within
        return pieces

    def count_epochs(self, tokens: int) -> float:
        if self.store.complete:
            return tokens / self.store.tokens
        return self._estimate_epochs(tokens)

    def count_documents(self, tokens: int) -> int:
        epoch, within = divmod(tokens, self.store.tokens)
        _, ends = self.orders[epoch]
        partly = int(np.searchsorted(ends, within, side="left")) + 1 if within else 0
        return epoch * len(ends) + partly

    def _estimate_epochs(self, tokens: int) -> float:
        """Characters of the documents used over characters of all, the last document counted by its tokens used."""
        order, ends = self.orders[0]
        last = int(np.searchsorted(ends, tokens, side="left"))

        characters = self.store.characters[order[: last + 1]].astype(np.float64)
        length = int(self.store.lengths[order[last]])
        used = characters[:last].sum() + characters[last] * (tokens - (int(ends[last]) - length)) / length
        return float(used / self.store.characters_of_all)


def build_sequence(store: TokenStore, pieces: Sequence[DocumentPiece], *, masked: bool) -> TokenSequence:
    """The tokens of `pieces` one behind the other; positions restart in each where `masked`.

    The first token of a piece is no prediction then, nor where only answers are learnt: what stands before it belongs
    to something else.
    """
    starts = [store.locate_document(piece.document).start for piece in pieces]
    spans = [slice(at + piece.start, at + piece.stop) for at, piece in zip(starts, pieces, strict=True)]
    ids = torch.from_numpy(np.concatenate([store.ids[span] for span in spans]).astype(np.int64))

    labels = ids.clone()
    if store.answered is not None:
        labels[torch.from_numpy(~np.concatenate([store.answered[span] for span in spans]))] = IGNORED
    if masked or store.answered is not None:
        labels[np.cumsum([0, *map(len, pieces[:-1])])] = IGNORED

    positions = torch.cat([torch.arange(len(piece)) for piece in pieces]) if masked else None
    return TokenSequence(ids, labels, positions)


def find_unlabelled(
    sequences: Sequence[TokenSequence], lengths: NDArray[np.int64], answers_alone: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(n,) True where a sequence has no label. Those of which all is learnt, not `answers_alone`, are not read."""
    without = lengths < 2  # the first token is context alone
    for index in np.flatnonzero(answers_alone & ~without).tolist():
        without[index] = sequences[index].predictions == 0
    return without


@dataclass(frozen=True, eq=False)
class PackedTokens(Sequence[TokenSequence]):
    """The first `tokens` tokens of one dataset's sequences."""

    stream: SequenceStream
    tokens: int
    """All of them, in the text of prompts too."""
    lengths: NDArray[np.int64]
    """Tokens of each sequence."""

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
        return self.stream.context

    @property
    def highest(self) -> int:
        """The largest token id of the dataset."""
        return self.stream.store.highest

    @property
    def masked(self) -> bool:
        """True when attention stays within a document."""
        return self[0].positions is not None

    @property
    def epochs(self) -> float:
        """Passes through the dataset: in tokens, or in characters where not all was tokenised."""
        return self.stream.count_epochs(self.tokens)

    @property
    def documents(self) -> int:
        """Documents begun, counted anew in every epoch."""
        return self.stream.count_documents(self.tokens)

    @property
    def tokens_per_epoch(self) -> int | None:
        """Tokens of the whole dataset; None when fewer were tokenised."""
        return self.stream.tokens_per_epoch

    @cached_property
    def unlabelled(self) -> NDArray[np.bool_]:
        """(n,) True where a sequence holds no token that is learnt."""
        return find_unlabelled(self, self.lengths, np.full(len(self), self.stream.store.answered is not None))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TokenSequence:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.stream.read_sequence(index).truncate(int(self.lengths[index]))


def pack_stream(stream: SequenceStream, *, tokens: int | None, where: str) -> PackedTokens:
    """The first `tokens` tokens of `stream` (None: exactly one epoch), to the next whole sequence where none is cut.

    A smaller dataset is repeated, each epoch in its own order. Raises :class:`TrainingError` when the dataset, or
    what is asked for, does not fill one sequence.
    """
    if tokens is not None and tokens < stream.context:
        found = f"asks for {tokens} tokens, less than one sequence of {stream.context}"
        raise TrainingError(where, found, "Raise `tokens:` or lower `train.context`.")

    available = stream.store.tokens
    if stream.may_cut and available < stream.context:
        found = f"holds {available} tokens, less than one sequence of {stream.context}"
        raise TrainingError(where, found, "Lower `train.context` or name a larger dataset.")

    lengths = np.fromiter((stream.count_tokens(index) for index in range(stream.count_sequences(tokens))), np.int64)
    wanted = int(lengths.sum())
    if stream.may_cut:
        wanted = available if tokens is None else tokens
        lengths[-1] -= int(lengths.sum()) - wanted

    return PackedTokens(stream, wanted, lengths)


def pack_documents(
    documents: TextDocuments, encode: TextEncoder, *, context: int, tokens: int | None, seed: int
) -> PackedTokens:
    """:func:`pack_stream` for documents in memory; `encode` gives the token ids of a text with its boundary tokens."""
    encoded = [EncodedExample(np.asarray(ids, dtype=np.int32)) for ids in encode(documents.texts)]
    store = TokenStore.collect(encoded, characters=map(len, documents.texts), empty=documents.empty)
    return pack_stream(CutStream(store, context, seed), tokens=tokens, where=str(documents.path))
