"""The documents that a training leaves out to be measured on: chosen by their content, so that equal ones go together.

Each document is hashed with its labels, under the seed; those with the smallest hashes are held out, until they are the
share that is asked for. So equal documents are held out or trained on together, whichever file or domain they lie in,
and the choice does not depend on their order. What one domain of a mixture holds out, no other trains on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import xxhash
from numpy.typing import NDArray

from aftermix.seeds import derived_seed
from aftermix.training.data.collate import TokenSequence
from aftermix.training.data.packing import SequenceStream
from aftermix.training.data.token_store import TokenStore

MOST_TOKENS = 200_000
"""Of the held-out documents of one domain: enough for a standard error of about a hundredth of a nat."""


@dataclass(frozen=True)
class HeldOutSplit:
    """One domain's documents in two parts."""

    trained: TokenStore
    held: TokenStore | None
    """None where nothing is held out: nothing was asked for, or the data is a single document over and over."""

    @property
    def documents(self) -> int:
        """Documents held out."""
        return len(self.held.ends) if self.held is not None else 0


def split_documents(
    stores: Mapping[str, TokenStore], share: float, *, seed: int, longest: Mapping[str, int] | None = None
) -> dict[str, HeldOutSplit]:
    """The documents of each domain in those that are trained on and those that are not; `share` of them by number.

    At least one document of a domain is held out, and at most as many as hold `MOST_TOKENS` (one larger document
    alone is); never all. Of a domain in `longest`, longer documents are trained on whatever they are: packing leaves
    them out.
    """
    if not share:
        return {name: HeldOutSplit(store, None) for name, store in stores.items()}

    hashes = {name: _hash_documents(store, seed) for name, store in stores.items()}
    chosen = [
        _choose_hashes(hashes[name], store, share, longest=(longest or {}).get(name)) for name, store in stores.items()
    ]
    left_out = np.unique(np.concatenate(chosen))
    return {name: _split_store(store, np.isin(hashes[name], left_out)) for name, store in stores.items()}


def collect_sequences(stream: SequenceStream) -> list[TokenSequence]:
    """The sequences of one epoch of `stream` in which anything is predicted, up to `MOST_TOKENS`."""
    left, found = min(stream.store.tokens, MOST_TOKENS), []
    for index in range(stream.count_sequences(None)):
        sequence = stream.read_sequence(index)
        sequence = sequence.truncate(min(len(sequence), left))
        left -= len(sequence)
        if sequence.predictions > 0:
            found.append(sequence)
        if left <= 0:
            break
    return found


def _hash_documents(store: TokenStore, seed: int) -> NDArray[np.uint64]:
    """(d,) hash of the tokens of each document and of which of them are learnt."""
    key = derived_seed(seed, "held out")
    found = np.empty(len(store.ends), dtype=np.uint64)
    for document in range(len(found)):
        span = store.locate_document(document)
        digest = xxhash.xxh3_64(np.ascontiguousarray(store.ids[span]).data, seed=key)
        if store.answered is not None:
            digest.update(np.ascontiguousarray(store.answered[span]).data)
        found[document] = digest.intdigest()
    return found


def _choose_hashes(
    hashes_d: NDArray[np.uint64], store: TokenStore, share: float, *, longest: int | None
) -> NDArray[np.uint64]:
    """The smallest hashes, by whole groups of equal documents, that reach `share` of the documents."""
    if longest is not None:
        fitting = store.lengths <= longest
        hashes_d, lengths = hashes_d[fitting], store.lengths[fitting]
    else:
        lengths = store.lengths
    groups, of_document, counts = np.unique(hashes_d, return_inverse=True, return_counts=True)
    if len(groups) < 2:
        return groups[:0]

    documents = np.cumsum(counts)
    tokens = np.cumsum(np.bincount(of_document.reshape(-1), weights=lengths, minlength=len(groups)))
    enough = int(np.searchsorted(documents, share * len(hashes_d))) + 1  # the group that reaches the share, too
    fitting_groups = int(np.searchsorted(tokens, MOST_TOKENS, side="right"))
    return groups[: max(1, min(enough, fitting_groups, len(groups) - 1))]


def _split_store(store: TokenStore, is_held: NDArray[np.bool_]) -> HeldOutSplit:
    if not is_held.any() or is_held.all():
        return HeldOutSplit(store, None)
    held = store.select(is_held)
    # What is measured is a whole of its own, also where not all of the dataset was tokenised.
    return HeldOutSplit(store.select(~is_held), replace(held, left_out=held.documents - len(held.ends)))
