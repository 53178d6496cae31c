"""Examples as tokens, and which of them the loss is on: all of a document, the answers alone of anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aftermix.errors import TrainingError
from aftermix.training.data.chat import encode_conversation, refuse_without_template
from aftermix.training.data.examples import Example

Tokens = NDArray[np.int32]
Encode = Callable[[list[str]], list[list[int]]]
"""Token ids of each text, with the boundary tokens."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """One example of `n` tokens."""

    ids: Tokens
    """(n,) int32."""
    answered: NDArray[np.bool_] | None = None
    """(n,): where the loss is; None: everywhere."""


EncodeExamples = Callable[[Sequence[Example]], list[Encoded]]


def example_encoder(tokenizer: Any, *, format: str, where: str) -> EncodeExamples:  # noqa: A002 - the key's name
    """Encoder of the examples of a format.

    `text`: the tokens, then the end of text. `chat`: what the tokenizer's `apply_chat_template` gives, see
    :mod:`aftermix.training.data.chat`. `completion`: the prompt's tokens exactly as the model will meet them when it is
    asked, then the completion's, then the end of text; the loss is on the last two. Raises :class:`TrainingError`
    when the tokenizer lacks what the format needs.
    """
    if format == "chat":
        refuse_without_template(tokenizer, where=where)
        return lambda batch: [Encoded(*encode_conversation(tokenizer, example)) for example in batch]

    end = end_token(tokenizer, where=where)
    if format == "completion":
        return lambda batch: _completions(tokenizer, end, batch)
    return lambda batch: [Encoded(ids) for ids in _documents(tokenizer, end, [example.text for example in batch])]


def end_token(tokenizer: Any, *, where: str) -> int:
    """The end-of-text token, which stands between documents. Raises :class:`TrainingError` when there is none."""
    if tokenizer.eos_token_id is None:
        remedy = "Name its `eos_token` in tokenizer_config.json: it stands between documents."
        raise TrainingError(where, "the tokenizer has no end-of-text token", remedy)
    return int(tokenizer.eos_token_id)


def token_ids(tokenizer: Any, texts: list[str], *, special: bool = True) -> list[list[int]]:
    """Token ids of each text, with what the tokenizer itself sets before and behind where `special`."""
    options = {"return_attention_mask": False, "verbose": False, "add_special_tokens": special}
    rows: list[list[int]] = tokenizer(texts, **options)["input_ids"]
    return rows


def _documents(tokenizer: Any, end: int, texts: list[str]) -> list[Tokens]:
    return [_ended(ids, end) for ids in token_ids(tokenizer, texts)]


def _ended(ids: list[int], end: int) -> Tokens:
    return np.asarray(ids if ids and ids[-1] == end else [*ids, end], dtype=np.int32)


def _completions(tokenizer: Any, end: int, batch: Sequence[Example]) -> list[Encoded]:
    prompts = [_open_ended(ids, end) for ids in token_ids(tokenizer, [example.prompt for example in batch])]
    joint = _documents(tokenizer, end, [example.prompt + example.text for example in batch])
    alone = token_ids(tokenizer, [example.text for example in batch], special=False)
    return [_completion(*parts, end=end) for parts in zip(prompts, joint, alone, strict=True)]


def _open_ended(ids: list[int], end: int) -> list[int]:
    # Behind the first place only: a start token may be the same token as the end.
    return ids[:-1] if len(ids) > 1 and ids[-1] == end else ids


def _completion(prompt: list[int], joint: Tokens, alone: list[int], *, end: int) -> Encoded:
    """Prompt and completion in one piece, unless a token would cross from one into the other."""
    crosses = joint[: len(prompt)].tolist() != prompt
    ids = _ended([*prompt, *alone], end) if crosses else joint
    return Encoded(ids, np.arange(len(ids)) >= len(prompt))
