"""Prompts that are continued together, and the end of a continuation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from transformers import GenerationConfig, StoppingCriteria

from aftermix.errors import EvaluationError, describe_cause
from aftermix.evaluation.blocks.plan_blocks import hash_plan
from aftermix.evaluation.loading import THINK_END
from aftermix.runs.answers.blocks import Arrays


@dataclass(frozen=True)
class GenerationSettings:
    """Settings that prompts share which are continued together."""

    stops: tuple[str, ...]
    max_new_tokens: int
    options: dict[str, Any]
    """Of transformers' `generate`."""
    think_end: str | int | None = None
    """Text, or number of a token, that ends what is thought and not answered."""


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that are continued together."""

    requests: tuple[int, ...]
    tokens_BT: torch.Tensor
    mask_BT: torch.Tensor
    tokens: int
    """Prompt tokens without padding."""
    settings: GenerationSettings

    @property
    def most_positions(self) -> int:
        """Positions that the batch computes where every answer is at its longest, padding included."""
        return self.tokens_BT.numel() + len(self.requests) * self.settings.max_new_tokens


@dataclass(frozen=True)
class BatchAnswers:
    """Answers to the prompts of a batch."""

    texts: tuple[str, ...]
    tokens: int
    """Tokens that were generated."""
    positions: int
    """Positions that were computed for them, padding included."""


def pack_answers(answers: Sequence[BatchAnswers]) -> Arrays:
    """The answers of some batches as one array of bytes."""
    values = [[list(batch.texts), batch.tokens, batch.positions] for batch in answers]
    return {"answers": np.frombuffer(json.dumps(values).encode(), np.uint8)}


def unpack_answers(arrays: Arrays) -> list[BatchAnswers]:
    """Inverse of :func:`pack_answers`."""
    return [BatchAnswers(tuple(texts), *counts) for texts, *counts in json.loads(arrays["answers"].tobytes())]


@dataclass(frozen=True)
class GenerationPlan:
    """All prompt batches of a set of requests."""

    requests: int
    batches: tuple[PromptBatch, ...]
    prompt_tokens: int
    truncated: int

    @cached_property
    def content_hash(self) -> str:
        """Hash of all that the plan generates."""
        return hash_plan(self)

    @property
    def most_tokens(self) -> int:
        """Prompt tokens, and every answer at its longest."""
        return self.prompt_tokens + sum(len(batch.requests) * batch.settings.max_new_tokens for batch in self.batches)


def settle_generation(request: Any, *, default: int, max_length: int, end: str | None) -> GenerationSettings:
    """Stop texts, length (without its own, `default`) and options of all requests that are continued as `request` is.

    `end` is the text that ends a turn. Raises :class:`EvaluationError` for answers that leave no room for a prompt, and
    as :func:`refuse_clashing_options`.
    """
    given = dict(request.args[1])
    think_end = given.pop(THINK_END, None)
    options = dict(normalize_gen_kwargs(given, default))
    stops = handle_stop_sequences(options.pop("until", None), eos=end)
    max_new_tokens = int(options.pop("max_gen_toks"))
    if max_new_tokens >= max_length:
        raise EvaluationError(
            f"task '{request.task_name}'",
            f"generates up to {max_new_tokens} tokens, but the model's length is {max_length}",
            "Lower the task's `max_gen_toks`, or raise `evaluate.max_length`.",
        )

    if not options["do_sample"]:
        options.pop("temperature", None)
    refuse_clashing_options(options, task=request.task_name)
    return GenerationSettings(tuple(stop for stop in stops if stop), max_new_tokens, options, think_end)


def refuse_clashing_options(options: Mapping[str, Any], *, task: str) -> None:
    """Raise :class:`EvaluationError` for options that transformers' `generate` does not know or cannot combine."""
    settings: Any = GenerationConfig
    remedy = "Correct the task's `generation_kwargs`."
    unknown = sorted(name for name in options if not hasattr(settings(), name))
    if unknown:
        raise EvaluationError(f"task '{task}'", f"its generation option '{unknown[0]}' is not known", remedy)
    try:
        settings(**options).validate()
    except ValueError as error:
        found = f"its generation options clash ({describe_cause(error)})"
        raise EvaluationError(f"task '{task}'", found, remedy) from error


class StopOnText(StoppingCriteria):
    """A sequence is done when its generated end holds a stop text.

    Only sequences still running are looked at, and decoded only when their last token could end a stop text. `endings`
    remembers which tokens could; it belongs to the tokenizer and these stop texts.
    """

    def __init__(
        self, tokenizer: Any, stops: Sequence[str], *, prompt_length: int, sequences: int, endings: dict[int, bool]
    ) -> None:
        self.tokenizer = tokenizer
        self.stops = stops
        self.last_characters = {stop[-1] for stop in stops}
        self.prompt_length = prompt_length
        # Every token adds at least one byte, so a stop text that ends here began within so many tokens.
        self.window = 1 + max((len(stop.encode()) for stop in stops), default=0)
        self.running = list(range(sequences))
        self.sequences = sequences
        self.endings = endings

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ARG002
        """Mark the sequences that are done."""
        recent = input_ids[:, max(self.prompt_length, input_ids.shape[1] - self.window) :].tolist()
        self.running = [index for index in self.running if not self._has_ended(recent[index])]
        done = torch.ones(self.sequences, dtype=torch.bool, device=input_ids.device)
        done[self.running] = False
        return done

    def _has_ended(self, tokens: list[int]) -> bool:
        if tokens[-1] not in self.endings:
            text = self.tokenizer.decode(tokens[-1:])
            # A token of some bytes of a character decodes to U+FFFD: it may complete any character.
            self.endings[tokens[-1]] = "\ufffd" in text or not self.last_characters.isdisjoint(text)
        if not self.endings[tokens[-1]]:
            return False
        text = self.tokenizer.decode(tokens)
        return any(stop in text for stop in self.stops)
