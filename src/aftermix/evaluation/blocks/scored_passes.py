"""Log-likelihoods of requests from forward passes: each gives log-probabilities of the targets that it scores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from aftermix.evaluation.blocks.plan_blocks import PlanBlocks
from aftermix.runs.answers.blocks import Arrays


class ScoringPass(Protocol):
    """One forward pass of a plan."""

    @property
    def positions(self) -> int:
        """Positions that it computes."""

    @property
    def requests(self) -> Sequence[int]:
        """Request of each target."""


class PassPlan(Protocol):
    """A plan whose passes are run in order."""

    @property
    def requests(self) -> int:
        """Number of requests."""

    @property
    def passes(self) -> Sequence[ScoringPass]:
        """All passes, in the order in which they are run."""

    @property
    def content_hash(self) -> str:
        """Hash of all that it computes."""


@dataclass(frozen=True)
class PassAnswers:
    """Answers of one pass, a target after the other."""

    values: list[float]
    """Log-probabilities, of float32."""
    greedy: list[bool]
    """True where the target is the first of the largest logits."""


RunPasses = Callable[[Sequence[bool]], Iterator[PassAnswers]]
"""Answers of the wanted passes, in order."""


def score_passes(plan: PassPlan, run: RunPasses, *, engine: str = "") -> list[tuple[float, bool]]:
    """For each request the log-likelihood of its continuation, and whether greedy decoding would give it.

    Log-probabilities are summed in float64, exactly, so that their order decides nothing. Blocks that are there are not
    computed again.
    """
    passes = plan.passes
    blocks = PlanBlocks.open([each.positions for each in passes], lambda: plan.content_hash, engine=engine)
    answers: dict[int, PassAnswers] = {}
    for number, block in enumerate(blocks.blocks):
        kept = blocks.find(number)
        if kept is not None:
            answers |= _unpack(kept, passes, block)

    ends = {block[-1]: number for number, block in enumerate(blocks.blocks)}
    places = [place for place in range(len(passes)) if place not in answers]
    for place, found in zip(places, run([place not in answers for place in range(len(passes))]), strict=True):
        answers[place] = found
        if place in ends:
            ended = [answers[each] for each in blocks.blocks[ends[place]]]
            blocks.keep(ends[place], partial(_pack, ended))
    return _join(plan, [answers[place] for place in range(len(passes))])


def _join(plan: PassPlan, answers: Sequence[PassAnswers]) -> list[tuple[float, bool]]:
    tokens: dict[int, list[float]] = defaultdict(list)
    greedy = [True] * plan.requests
    for each, found in zip(plan.passes, answers, strict=True):
        for request, value, first in zip(each.requests, found.values, found.greedy, strict=True):
            tokens[request].append(value)
            greedy[request] &= first
    return [(math.fsum(tokens[request]), greedy[request]) for request in range(plan.requests)]


def _pack(answers: Sequence[PassAnswers]) -> Arrays:
    return {
        "values": np.array([value for each in answers for value in each.values], np.float32),
        "greedy": np.array([first for each in answers for first in each.greedy], np.uint8),
    }


def _unpack(kept: Arrays, passes: Sequence[ScoringPass], block: range) -> dict[int, PassAnswers]:
    """The answers of the passes of `block`, whose hash says that they are of these."""
    found, start = {}, 0
    for place in block:
        end = start + len(passes[place].requests)
        values, greedy = kept["values"][start:end], kept["greedy"][start:end]
        found[place] = PassAnswers(values.tolist(), greedy.astype(bool).tolist())
        start = end
    return found
