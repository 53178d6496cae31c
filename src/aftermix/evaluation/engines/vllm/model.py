"""An lm-eval model answered by a living vLLM engine; tokens, cuts and counts are the Hugging Face engine's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

import torch

from aftermix.errors import EvaluationError
from aftermix.evaluation.blocks.scored_passes import PassAnswers, score_passes
from aftermix.evaluation.engines.generation import BatchAnswers, GenerationPlan, PromptBatch
from aftermix.evaluation.engines.live_model import SAMPLING_SEED, HarnessModel
from aftermix.evaluation.engines.plan_choice import ChosenPlan
from aftermix.evaluation.engines.prefix_tree import Pair
from aftermix.evaluation.engines.vllm.plans import (
    SequenceBatch,
    SequencePlan,
    SharedSequence,
    build_sequence_plan,
)
from aftermix.evaluation.engines.vllm.sampling import build_sampling_options

HANDED_OVER = 32
"""Requests that are handed to vLLM together, in units of `evaluate.batch_size`: it batches them itself."""
OWN_PLAN = "vLLM plans its own batches"


@dataclass(frozen=True)
class UnpaddedBatch(PromptBatch):
    """Prompts that vLLM continues together, each at its own length."""

    @property
    def most_positions(self) -> int:
        """Positions where every answer is at its longest."""
        return self.tokens + len(self.requests) * self.settings.max_new_tokens


class VllmModel(HarnessModel):
    """lm-eval's model for a vLLM engine: planned around an `empty` model without weights, answered by `llm`.

    `tokens` and positions count what is handed to vLLM; what it then finds in its cache is not taken off.
    """

    def __init__(self, empty: Any, tokenizer: Any, llm: Any, *, engine: str, batch_size: int, **options: Any) -> None:
        super().__init__(empty, tokenizer, batch_size=batch_size * HANDED_OVER, **options)
        self._llm = llm
        self._engine = engine
        self._device = torch.device("cpu")  # of plans; the empty model's is none

    def attach(self, llm: Any) -> None:
        """Answer by `llm` from here on."""
        self._llm = llm

    def describe_engine(self) -> str:
        """Version and type of the engine, which decide the rounding of an answer."""
        return f"{self._engine}, requests handed over by {self.batch_size}"

    def score_pairs(self, pairs: Sequence[Pair]) -> list[float]:
        """Log-likelihoods of continuations in tokens, outside any plan that is kept."""
        plan = build_sequence_plan(pairs, batch_size=len(pairs), max_length=self.max_length)
        return [value for value, _ in score_passes(plan, partial(self._run_batches, plan))]

    @property
    def reason_against_trees(self) -> str | None:
        """Words on why no beginnings are planned to be shared."""
        return OWN_PLAN

    def _plan_pairs(self, pairs: Sequence[Pair], *, batch_size: int) -> ChosenPlan:
        self._refuse_unknown_tokens(token for pair in pairs for part in pair for token in part)
        plan = build_sequence_plan(pairs, batch_size=batch_size, max_length=self.max_length)
        return ChosenPlan(plan, plan.positions, OWN_PLAN)

    def _run_plan(self, plan: Any) -> list[tuple[float, bool]]:
        return score_passes(plan, partial(self._run_batches, plan), engine=self.describe_engine())

    def _run_batches(self, plan: SequencePlan, wanted: Sequence[bool]) -> Iterator[PassAnswers]:
        for batch in compress(plan.batches, wanted):
            yield self._score_batch(batch)

    def _score_batch(self, batch: SequenceBatch) -> PassAnswers:
        """One generated token a sequence, with the log-probabilities of the last tokens of its members."""
        from vllm import SamplingParams

        asked = [
            SamplingParams(
                temperature=0.0,
                max_tokens=1,
                detokenize=False,
                logprob_token_ids=sorted({continuation[-1] for continuation in sequence.continuations}),
                prompt_logprobs=None if sequence.is_read_from_cache else 1,
            )
            for sequence in batch.sequences
        ]
        prompts = [{"prompt_token_ids": list(sequence.tokens)} for sequence in batch.sequences]
        outputs = self._llm.generate(prompts, asked, use_tqdm=False)

        values: list[float] = []
        greedy: list[bool] = []
        for sequence, output in zip(batch.sequences, outputs, strict=True):
            for value, is_first in _read_members(sequence, output):
                values.append(value)
                greedy.append(is_first)
        return PassAnswers(values, greedy)

    def _prompt_batch(self, requests: Sequence[Any], indices: Sequence[int], settings: Any) -> PromptBatch:
        return UnpaddedBatch(**vars(super()._prompt_batch(requests, indices, settings)))

    def _answer_batch(self, plan: GenerationPlan, number: int) -> BatchAnswers:
        from vllm import SamplingParams

        batch = plan.batches[number]
        options = build_sampling_options(batch.settings, self.model.generation_config)
        prompts = [
            {"prompt_token_ids": tokens_T[mask_T.bool()].tolist()}
            for tokens_T, mask_T in zip(batch.tokens_BT, batch.mask_BT, strict=True)
        ]
        asked = [SamplingParams(seed=SAMPLING_SEED + request, **options) for request in batch.requests]
        outputs = self._llm.generate(prompts, asked, use_tqdm=False)

        generated = [list(output.outputs[0].token_ids) for output in outputs]
        texts = tuple(self._read_answer(tokens, batch.settings) for tokens in generated)
        tokens = sum(map(len, generated))
        return BatchAnswers(texts, tokens, batch.tokens + tokens)


def _read_members(sequence: SharedSequence, output: Any) -> Iterator[tuple[float, bool]]:
    """Log-probability of every scored token of a sequence, member after member, and whether it is the likeliest."""
    if len(output.prompt_token_ids) != len(sequence.tokens):
        found = f"read {len(output.prompt_token_ids)} tokens of a prompt of {len(sequence.tokens)}"
        raise EvaluationError("vllm", found, "Lower `evaluate.max_length`.")

    first, likely = output.outputs[0].token_ids[0], output.outputs[0].logprobs[0]
    for continuation in sequence.continuations:
        start = len(sequence.tokens) - len(continuation) + 1
        for place, token in enumerate(continuation[:-1], start):
            entry = output.prompt_logprobs[place]
            yield entry[token].logprob, _find_likeliest(entry) == token
        value = likely[continuation[-1]].logprob if continuation[-1] in likely else math.nan
        yield value, first == continuation[-1]


def _find_likeliest(entry: Any) -> int:
    """The token with the largest log-probability; of equal ones the first."""
    return int(min(entry, key=lambda token: (-entry[token].logprob, token)))
