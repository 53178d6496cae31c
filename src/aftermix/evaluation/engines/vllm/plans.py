"""Plan of log-likelihoods for vLLM: sequences without padding, in the batches in which they are handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from aftermix.evaluation.blocks.plan_blocks import hash_plan
from aftermix.evaluation.engines.prefix_tree import Pair

MOST_MEMBERS = 128
"""Requests that share a sequence: vLLM looks up no more tokens at one position."""


@dataclass(frozen=True)
class SharedSequence:
    """Tokens that the model reads once, and the requests that are scored on them."""

    tokens: tuple[int, ...]
    members: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    """Of each member: all but its last token end the sequence."""

    @property
    def is_read_from_cache(self) -> bool:
        """True where no position but the last is scored: vLLM then reads the beginning from its cache, if it can."""
        return all(len(continuation) == 1 for continuation in self.continuations)


@dataclass(frozen=True)
class SequenceBatch:
    """Sequences that are handed to vLLM together."""

    sequences: tuple[SharedSequence, ...]

    @property
    def positions(self) -> int:
        """Positions of all sequences."""
        return sum(len(sequence.tokens) for sequence in self.sequences)

    @cached_property
    def requests(self) -> tuple[int, ...]:
        """Request of each scored token."""
        return tuple(
            member
            for sequence in self.sequences
            for member, continuation in zip(sequence.members, sequence.continuations, strict=True)
            for _ in continuation
        )


@dataclass(frozen=True)
class SequencePlan:
    """All batches of a set of requests."""

    requests: int
    batches: tuple[SequenceBatch, ...]
    truncated: int

    @property
    def positions(self) -> int:
        """Positions of all sequences; what vLLM then finds in its cache is counted, too."""
        return sum(batch.positions for batch in self.batches)

    @property
    def tokens(self) -> int:
        """The same: nothing is padded."""
        return self.positions

    @property
    def passes(self) -> tuple[SequenceBatch, ...]:
        """The batches."""
        return self.batches

    @cached_property
    def content_hash(self) -> str:
        """Hash of all that the plan computes."""
        return hash_plan(self)


def build_sequence_plan(pairs: Sequence[Pair], *, batch_size: int, max_length: int) -> SequencePlan:
    """Requests whose input (context and continuation without its last token) is the same share a sequence.

    Sequences stand in the order of their first requests, so that those of one document are neighbours. What exceeds
    `max_length` is cut on the left.

    >>> plan = build_sequence_plan([([1, 2], [3]), ([1, 2], [4]), ([5], [6, 7])], batch_size=8, max_length=9)
    >>> [(each.tokens, each.members) for each in plan.batches[0].sequences], plan.positions
    ([((1, 2), (0, 1)), ((5, 6), (2,))], 4)
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for request, (context, continuation) in enumerate(pairs):
        groups.setdefault((*context, *continuation[:-1]), []).append(request)

    sequences = [
        SharedSequence(tokens[-max_length:], tuple(members), tuple(tuple(pairs[request][1]) for request in members))
        for tokens, requests in groups.items()
        for members in _cut(requests)
    ]
    chunks = [tuple(sequences[start : start + batch_size]) for start in range(0, len(sequences), batch_size)]
    truncated = sum(len(members) for tokens, members in groups.items() if len(tokens) > max_length)
    return SequencePlan(len(pairs), tuple(map(SequenceBatch, chunks)), truncated)


def _cut(requests: Sequence[int]) -> list[Sequence[int]]:
    return [requests[start : start + MOST_MEMBERS] for start in range(0, len(requests), MOST_MEMBERS)]
