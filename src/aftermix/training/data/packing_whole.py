"""Examples packed whole: as many into a sequence as fit, none cut, since an answer without its question teaches little.

The examples of an epoch, in its seeded order, are dealt with in groups of `WINDOW`. Within a group the longest goes
first, each into the sequence with the least room that still takes it (best fit, decreasing).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aftermix.errors import TrainingError
from aftermix.training.data.collate import TokenSequence
from aftermix.training.data.packing import DocumentPiece, EpochOrders, build_sequence
from aftermix.training.data.token_store import TokenStore

WINDOW = 4096
LONGER = ("refuse", "cut", "skip")


def pack_best_fit(lengths: Sequence[int], *, context: int) -> list[list[int]]:
    """Places in `lengths`, grouped so that no group's sum is above `context`; groups in order of their first place.

    >>> pack_best_fit([5, 3, 4, 2], context=7)
    [[0, 3], [1, 2]]
    """
    groups: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, group), ascending
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        at = bisect_left(room, (lengths[place], -1))
        if at == len(room):
            left, group = context, len(groups)
            groups.append([])
        else:
            left, group = room.pop(at)

        groups[group].append(place)
        insort(room, (left - lengths[place], group))

    return sorted(sorted(group) for group in groups)


@dataclass(frozen=True, eq=False)
class WholeStream:
    """Whole examples in sequences of at most `context` tokens, epoch after epoch."""

    store: TokenStore
    context: int
    seed: int
    masked: bool = False
    """True: attention stays within an example."""
    longer: str = "refuse"
    """`cut` makes several of an example that is longer than the context, `skip` leaves it out."""
    where: str = "data"
    may_cut: bool = False
    skipped: int = field(init=False)
    """Examples left out of every epoch."""
    _orders: EpochOrders = field(init=False)
    _rows: dict[int, list[list[DocumentPiece]]] = field(init=False, default_factory=dict)
    _firsts: list[int] = field(init=False, default_factory=lambda: [0])
    """Index of the first sequence of each epoch, as far as known."""

    def __post_init__(self) -> None:
        long = self.store.lengths[self.store.lengths > self.context]
        if len(long) and self.longer == "refuse":
            found = f"{len(long)} of {self.store.documents} examples are longer than {self.context} tokens, up to "
            longest = int(self.store.numbers[self.store.lengths.argmax()]) + 1
            remedy = "Raise `train.context`, or set `long_examples:` to `cut` or `skip`. "
            remedy += f"The longest is example {longest} in order of the data."
            raise TrainingError(self.where, f"{found}{int(long.max())}", remedy)

        if self.longer == "skip" and len(long) == self.store.documents:
            found = f"every example is longer than {self.context} tokens"
            raise TrainingError(self.where, found, "Raise `train.context`, or set `long_examples: cut`.")

        object.__setattr__(self, "skipped", len(long) if self.longer == "skip" else 0)
        object.__setattr__(self, "_orders", EpochOrders(self.store, self.seed))

    @property
    def tokens_per_epoch(self) -> int:
        lengths = self.store.lengths
        return int(lengths[lengths <= self.context].sum() if self.longer == "skip" else lengths.sum())

    def count_tokens(self, index: int) -> int:
        return sum(map(len, self._find_pieces(index)))

    def read_sequence(self, index: int) -> TokenSequence:
        return build_sequence(self.store, self._find_pieces(index), masked=self.masked)

    def count_epochs(self, tokens: int) -> float:
        return tokens / self.tokens_per_epoch

    def count_documents(self, tokens: int) -> int:
        return sum(piece.start == 0 for at in range(self.count_sequences(tokens)) for piece in self._find_pieces(at))

    def count_sequences(self, tokens: int | None) -> int:
        if tokens is None:
            return self._find_first(1)

        # Whole epochs at once, and only the rest sequence by sequence.
        epochs, rest = divmod(tokens, self.tokens_per_epoch)
        count = self._find_first(epochs)
        while rest > 0:
            rest -= self.count_tokens(count)
            count += 1
        return count

    def _find_pieces(self, index: int) -> list[DocumentPiece]:
        epoch = 0
        while self._find_first(epoch + 1) <= index:
            epoch += 1
        return self._pack_epoch(epoch)[index - self._find_first(epoch)]

    def _find_first(self, epoch: int) -> int:
        while len(self._firsts) <= epoch:
            self._firsts.append(self._firsts[-1] + len(self._pack_epoch(len(self._firsts) - 1)))
        return self._firsts[epoch]

    def _pack_epoch(self, epoch: int) -> list[list[DocumentPiece]]:
        """The sequences of an epoch; of the last one asked for they are kept."""
        if epoch not in self._rows:
            self._rows.clear()

            order, _ = self._orders[epoch]
            groups = [self._group_documents(order[start : start + WINDOW]) for start in range(0, len(order), WINDOW)]
            self._rows[epoch] = [row for group in groups for row in group]
        return self._rows[epoch]

    def _group_documents(self, documents: NDArray[np.int64]) -> list[list[DocumentPiece]]:
        lengths = self.store.lengths
        pieces = [
            piece for document in documents.tolist() for piece in self._cut_document(document, int(lengths[document]))
        ]
        return [[pieces[at] for at in group] for group in pack_best_fit([len(p) for p in pieces], context=self.context)]

    def _cut_document(self, document: int, length: int) -> list[DocumentPiece]:
        if length > self.context and self.longer == "skip":
            return []
        starts = range(0, length, self.context)
        return [DocumentPiece(document, start, min(start + self.context, length)) for start in starts]
