"""Batches of token sequences, made once for a set of requests and scored for every candidate.

B sequences of a batch, T positions, P positions whose logits are needed, S scored tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import compress, pairwise

import torch

from aftermix.evaluation.blocks.plan_blocks import hash_plan
from aftermix.evaluation.blocks.scored_passes import PassAnswers, score_passes
from aftermix.evaluation.engines.prefix_tree import Pair

CACHED_LOGITS = 2**18
"""Logits that stay in the cache of a CPU core while several functions read them."""


@dataclass(frozen=True)
class ScoringBatch:
    """Sequences of similar length, padded on the right, and where their scored tokens are."""

    tokens_BT: torch.Tensor
    positions_P: torch.Tensor
    """Ascending positions at which any sequence of the batch has a scored token."""
    row_S: torch.Tensor
    column_S: torch.Tensor
    """Index into `positions_P`."""
    target_S: torch.Tensor
    spans: tuple[tuple[int, int, int], ...]
    """(request, first, last + 1) into the S scored tokens."""

    @property
    def positions(self) -> int:
        """Positions that the pass computes, padding included."""
        return self.tokens_BT.numel()

    @cached_property
    def requests(self) -> tuple[int, ...]:
        """Request of each scored token."""
        return tuple(request for request, first, last in self.spans for _ in range(first, last))


@dataclass(frozen=True)
class ScoringPlan:
    """All batches of a set of requests."""

    requests: int
    batches: tuple[ScoringBatch, ...]
    tokens: int
    """Tokens of all sequences without padding."""
    truncated: int

    @property
    def positions(self) -> int:
        """Positions that the batches compute, padding included."""
        return sum(batch.positions for batch in self.batches)

    @property
    def passes(self) -> tuple[ScoringBatch, ...]:
        """The batches."""
        return self.batches

    @cached_property
    def content_hash(self) -> str:
        """Hash of all that the plan computes."""
        return hash_plan(self)


def build_scoring_plan(pairs: Sequence[Pair], *, batch_size: int, max_length: int, device: torch.device) -> ScoringPlan:
    """Group, sort and pad `pairs` as lm-eval's Hugging Face model does.

    Requests whose input (context and continuation without its last token) is the same share one sequence. Sequences go
    longest first, so padding is small and a batch that does not fit in memory fails at once; what exceeds `max_length`
    is cut on the left.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for request, (context, continuation) in enumerate(pairs):
        groups.setdefault((*context, *continuation[:-1]), []).append(request)

    order = sorted(groups.items(), key=lambda entry: (-len(entry[0]), _list_longest_tokens(entry[1], pairs)))
    batches, tokens, truncated = [], 0, 0
    for start in range(0, len(order), batch_size):
        chunk = [(key[-max_length:], members) for key, members in order[start : start + batch_size]]
        batches.append(_pad_batch(chunk, pairs, device=device))
        tokens += sum(len(inputs) for inputs, _ in chunk)

    truncated = sum(len(members) for key, members in order if len(key) > max_length)
    return ScoringPlan(requests=len(pairs), batches=tuple(batches), tokens=tokens, truncated=truncated)


def count_plain_positions(pairs: Sequence[Pair], *, batch_size: int, max_length: int) -> int:
    """Positions of the batches that :func:`build_scoring_plan` makes of `pairs`, from lengths alone.

    >>> count_plain_positions([([1, 2], [3, 4]), ([1, 2], [3, 5]), ([1], [2])], batch_size=2, max_length=8)
    6
    """
    inputs = {(*context, *continuation[:-1]) for context, continuation in pairs}
    lengths = sorted((min(len(tokens), max_length) for tokens in inputs), reverse=True)
    return sum(
        lengths[start] * len(lengths[start : start + batch_size]) for start in range(0, len(lengths), batch_size)
    )


def _list_longest_tokens(members: Sequence[int], pairs: Sequence[Pair]) -> tuple[int, ...]:
    """All tokens of the member with the longest continuation: what lm-eval breaks ties of length by."""
    context, continuation = pairs[max(members, key=lambda request: len(pairs[request][1]))]
    return (*context, *continuation)


def _pad_batch(
    chunk: Sequence[tuple[tuple[int, ...], list[int]]], pairs: Sequence[Pair], *, device: torch.device
) -> ScoringBatch:
    longest = max(len(inputs) for inputs, _ in chunk)
    tokens_BT = torch.tensor([[*inputs, *([0] * (longest - len(inputs)))] for inputs, _ in chunk])

    rows: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    spans: list[tuple[int, int, int]] = []
    for row, (inputs, members) in enumerate(chunk):
        for request in members:
            continuation = pairs[request][1]
            spans.append((request, len(targets), len(targets) + len(continuation)))
            rows.extend([row] * len(continuation))
            places.extend(range(len(inputs) - len(continuation), len(inputs)))
            targets.extend(continuation)

    # Logits are computed once for a position, whichever sequences of the batch need it.
    positions = sorted(set(places))
    column = {position: index for index, position in enumerate(positions)}
    return ScoringBatch(
        tokens_BT=tokens_BT.to(device),
        positions_P=torch.tensor(positions, device=device),
        row_S=torch.tensor(rows, device=device),
        column_S=torch.tensor([column[place] for place in places], device=device),
        target_S=torch.tensor(targets, device=device),
        spans=tuple(spans),
    )


Logits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(tokens_BT, positions_P) -> logits_BPV."""


def score_plan(plan: ScoringPlan, logits_of: Logits, *, engine: str = "") -> list[tuple[float, bool]]:
    """For each request the log-likelihood of its continuation, and whether greedy decoding would give it.

    Log-softmax in float32 over the whole vocabulary, summed in float64. lm-eval takes both in the model's type unless
    told otherwise; in bfloat16 that rounds log-likelihoods to about 1% and makes ties between choices.
    """
    return score_passes(plan, partial(_run_batches, plan, logits_of), engine=engine)


def _run_batches(plan: ScoringPlan, logits_of: Logits, wanted: Sequence[bool]) -> Iterator[PassAnswers]:
    for batch in compress(plan.batches, wanted):
        logits_SV = logits_of(batch.tokens_BT, batch.positions_P)[batch.row_S, batch.column_S]
        yield answer_targets(logits_SV, torch.arange(len(logits_SV), device=logits_SV.device), batch.target_S)


def answer_targets(logits_SV: torch.Tensor, entry_Q: torch.Tensor, target_Q: torch.Tensor) -> PassAnswers:
    """Log-probabilities of targets, and whether each is the first of the largest logits; `entry_Q`: rows, ascending.

    On a CPU a few rows are taken at a time, which are still in its cache when they are read again.
    """
    rows, vocabulary = logits_SV.shape
    at_once = max(1, CACHED_LOGITS // vocabulary if logits_SV.device.type == "cpu" else rows)
    starts = range(0, rows, at_once)
    bounds = torch.searchsorted(entry_Q, torch.tensor([*starts, rows], device=entry_Q.device)).tolist()

    answers = PassAnswers([], [])
    for start, (first, last) in zip(starts, pairwise(bounds), strict=True):
        some_SV = logits_SV[start : start + at_once]
        of_some_Q, targets_Q = entry_Q[first:last] - start, target_Q[first:last]
        log_SV = torch.log_softmax(some_SV, dim=-1, dtype=torch.float32)
        answers.values.extend(log_SV[of_some_Q, targets_Q].tolist())
        answers.greedy.extend(is_greedy(some_SV, of_some_Q, targets_Q))
    return answers


def is_greedy(logits_SV: torch.Tensor, entry_Q: torch.Tensor, target_Q: torch.Tensor) -> list[bool]:
    """Say of each target if it is the first of the largest logits."""
    # Most targets are not the largest, and finding a maximum is cheaper than finding where it is.
    largest_Q = logits_SV[entry_Q, target_Q] == logits_SV.amax(dim=-1)[entry_Q]
    if bool(largest_Q.any()):
        largest_Q[largest_Q.clone()] = logits_SV[entry_Q[largest_Q]].argmax(dim=-1) == target_Q[largest_Q]
    greedy: list[bool] = largest_Q.tolist()
    return greedy
