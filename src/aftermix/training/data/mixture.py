"""Several datasets as one run of sequences, in given shares of the tokens, at every point of the run.

Each domain is packed by itself; what is mixed is the order in which sequences of the domains come. The next sequence
is of the domain whose sequence is due first, among those that are not ahead of their share: with `r` the ratio, `A`
the tokens a domain has given, `l` the tokens of its next sequence and `V` the tokens of all so far, a domain is not
ahead when `A < r (V + l)`, and its sequence is due when the run has `(A + l) / r` tokens. Where all sequences are of
one length this is the earliest-deadline schedule of Baruah et al. (Proportionate progress, 1996), under which no domain
is ever a whole sequence off its share. Ratios are shares of the tokens, see docs/how-to/training-data.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aftermix.errors import TrainingError, ask_meant, join_place
from aftermix.seeds import derived_seed
from aftermix.training.data.collate import TokenSequence
from aftermix.training.data.packing import SequenceStream, find_unlabelled

ROUNDING = 1.001e-3
"""Largest distance from 1 of the sum of ratios: three decimals of three domains."""
UNIT = 1 << 40
FINE = 96
"""Ratios are whole numbers of 1/UNIT and dates whole numbers of 2^-FINE tokens, so that every machine counts alike."""


@dataclass(frozen=True)
class DomainContribution:
    """Tokens, share and epochs that one domain really gives to a run."""

    ratio: float
    tokens: int
    share: float
    epochs: float
    sequences: int
    documents_begun: int


def check_ratios(ratios: Mapping[str, float], known: Collection[str], *, where: str) -> dict[str, float]:
    """The ratios above 0, scaled to add up to exactly 1, in the order given.

    Raises :class:`TrainingError` for an unknown domain, a ratio that is no share, and a sum that is not 1 but for
    rounding.
    """
    for name, ratio in ratios.items():
        if not math.isfinite(ratio) or ratio < 0:
            raise TrainingError(join_place(where, name), f"expected a share of 0 or more, found {ratio}", "Correct it.")
        if ratio > 0 and name not in known:
            found = f"there is no dataset '{name}'; known are: {', '.join(known) or 'none'}"
            remedy = ask_meant("Name its data under `train.sources`, or correct the name.", name, known)
            raise TrainingError(where, found, remedy)

    total = math.fsum(ratios.values())
    if abs(total - 1) > ROUNDING:
        remedy = "Make them add up to 1" + (f": divide each by {total:g}." if total > 0 else ".")
        raise TrainingError(where, f"the ratios add up to {total:g}", remedy)

    return {name: ratio / total for name, ratio in ratios.items() if ratio > 0}


def order_domains(
    ratios: Mapping[str, float], length: Callable[[str, int], int], *, tokens: int, seed: int
) -> list[str]:
    """The domain of each sequence until they hold `tokens`; `length` of a domain's sequence by its number.

    `ratios` are above 0. Domains that are due together come in an order that the seed decides.
    """
    names = sorted(ratios, key=lambda name: derived_seed(seed, "mixture", name))
    share = [max(round(ratios[name] * UNIT), 1) for name in names]
    whole = sum(share)

    count, given, ahead = [0] * len(names), [0] * len(names), [length(name, 0) for name in names]
    due = [(ahead[at] << FINE) // share[at] for at in range(len(names))]

    order: list[str] = []
    total = 0
    while total < tokens:
        ready = [at for at in range(len(names)) if given[at] * whole < share[at] * (total + ahead[at])]
        at = min(ready, key=due.__getitem__)
        order.append(names[at])

        total, given[at], count[at] = total + ahead[at], given[at] + ahead[at], count[at] + 1
        ahead[at] = length(names[at], count[at])
        due[at] = ((given[at] + ahead[at]) << FINE) // share[at]
    return order


@dataclass(frozen=True, eq=False)
class SequenceMixture(Sequence[TokenSequence]):
    """Sequences of several domains in the order of a schedule."""

    streams: dict[str, SequenceStream]
    ratios: dict[str, float]
    domains: tuple[str, ...]
    """Of each sequence."""
    places: NDArray[np.int64]
    """Of each sequence, which of its domain's it is."""
    lengths: NDArray[np.int64]
    """Tokens of each sequence."""

    @property
    def tokens(self) -> int:
        """All of them, in the text of prompts too."""
        return int(self.lengths.sum())

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
        return next(iter(self.streams.values())).context

    @property
    def highest(self) -> int:
        """The largest token id of the datasets."""
        return max(stream.store.highest for stream in self.streams.values())

    @property
    def masked(self) -> bool:
        """True when attention stays within a document."""
        return self[0].positions is not None

    @property
    def documents(self) -> int:
        """Documents begun, counted anew in every epoch."""
        return sum(given.documents_begun for given in self.given.values())

    @cached_property
    def given(self) -> dict[str, DomainContribution]:
        """Contribution of each domain, by name."""
        domains = np.asarray(self.domains)
        contributions = {}
        for name, ratio in self.ratios.items():
            tokens = int(self.lengths[domains == name].sum())
            stream = self.streams[name]

            contributions[name] = DomainContribution(
                ratio,
                tokens,
                tokens / self.tokens,
                stream.count_epochs(tokens),
                int((domains == name).sum()),
                stream.count_documents(tokens),
            )
        return contributions

    @cached_property
    def unlabelled(self) -> NDArray[np.bool_]:
        """(n,) True where a sequence holds no token that is learnt."""
        answers_alone = [self.streams[name].store.answered is not None for name in self.domains]
        return find_unlabelled(self, self.lengths, np.asarray(answers_alone))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TokenSequence:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return (
            self.streams[self.domains[index]].read_sequence(int(self.places[index])).truncate(int(self.lengths[index]))
        )


def mix_streams(
    streams: Mapping[str, SequenceStream], ratios: Mapping[str, float], *, tokens: int, seed: int, where: str
) -> SequenceMixture:
    """The first `tokens` tokens of `streams` in the shares of `ratios`, which :func:`check_ratios` gave.

    The last sequence is cut to meet the budget, unless it is of whole examples. Raises :class:`TrainingError` when a
    domain has, or is given, less than one sequence.
    """
    for name in ratios:
        held, context = streams[name].store.tokens, streams[name].context
        if streams[name].may_cut and held < context:
            found = f"holds {held} tokens, less than one sequence of {context}"
            raise TrainingError(join_place(where, name), found, "Lower `train.context` or name a larger dataset.")

    order = order_domains(ratios, lambda name, index: streams[name].count_tokens(index), tokens=tokens, seed=seed)
    places, lengths = _number_sequences(order, streams)
    surplus = int(lengths.sum()) - tokens
    if surplus and streams[order[-1]].may_cut:
        lengths[-1] -= surplus

    absent = [name for name in ratios if name not in set(order)]
    if absent:
        found = f"a share of {ratios[absent[0]]:g} of {len(order)} sequences gives it none"
        raise TrainingError(f"{where}.{absent[0]}", found, "Raise `tokens:`, lower `train.context`, or set it to 0.")

    return SequenceMixture({name: streams[name] for name in ratios}, dict(ratios), tuple(order), places, lengths)


def _number_sequences(
    order: list[str], streams: Mapping[str, SequenceStream]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of each sequence within its domain, and its tokens."""
    count = dict.fromkeys(streams, 0)
    places = np.empty(len(order), dtype=np.int64)
    for at, name in enumerate(order):
        places[at] = count[name]
        count[name] += 1

    lengths = [streams[name].count_tokens(int(place)) for name, place in zip(order, places, strict=True)]
    return places, np.asarray(lengths, dtype=np.int64)
