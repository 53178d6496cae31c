"""Examples as tokens, and which of them the loss is on: all of a document, the answers alone of anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aftermix.errors import TrainingError
from aftermix.training.data.conversations.encode import encode_conversation, refuse_without_template
from aftermix.training.data.examples import TrainingExample

TokenIds = NDArray[np.int32]
TextEncoder = Callable[[list[str]], list[list[int]]]
"""Token ids of each text, with the boundary tokens."""


@dataclass(frozen=True, eq=False)
class EncodedExample:
    """One example of `n` tokens."""

    ids: TokenIds
    """(n,) int32."""
    answered: NDArray[np.bool_] | None = None
    """(n,): where the loss is; None: everywhere."""
    thoughts: int = 0
    """Thoughts in a conversation."""
    thoughts_left_out: int = 0
    """Of these, those that the chat template does not write."""


ExampleEncoder = Callable[[Sequence[TrainingExample]], list[EncodedExample]]


def build_example_encoder(
    tokenizer: Any,
    *,
    format: str,  # noqa: A002 - the key's name
    where: str,
    date: str | None = None,
) -> ExampleEncoder:
    """Encoder of the examples of a format.

    `text`: the tokens, then the end of text. `chat`: what the tokenizer's `apply_chat_template` gives, see
    :mod:`aftermix.training.data.conversations`. `completion`: the prompt's tokens exactly as the model will meet them
    when it is asked, then the completion's, then the end of text; the loss is on the last two. Raises
    :class:`TrainingError` when the tokenizer lacks what the format needs.
    """
    if format == "chat":
        refuse_without_template(tokenizer, where=where)
        return lambda batch: [
            EncodedExample(**vars(encode_conversation(tokenizer, example, date=date))) for example in batch
        ]

    end = find_end_token(tokenizer, where=where)
    if format == "completion":
        return lambda batch: _encode_completions(tokenizer, end, batch)
    return lambda batch: [
        EncodedExample(ids) for ids in _encode_documents(tokenizer, end, [example.text for example in batch])
    ]


def find_end_token(tokenizer: Any, *, where: str) -> int:
    """The end-of-text token, which stands between documents. Raises :class:`TrainingError` when there is none."""
    if tokenizer.eos_token_id is None:
        remedy = "Name its `eos_token` in tokenizer_config.json: it stands between documents."
        raise TrainingError(where, "the tokenizer has no end-of-text token", remedy)
    return int(tokenizer.eos_token_id)


def tokenise_texts(tokenizer: Any, texts: list[str], *, special: bool = True) -> list[list[int]]:
    """Token ids of each text, with what the tokenizer itself sets before and behind where `special`."""
    options = {"return_attention_mask": False, "verbose": False, "add_special_tokens": special}
    rows: list[list[int]] = tokenizer(texts, **options)["input_ids"]
    return rows


def _encode_documents(tokenizer: Any, end: int, texts: list[str]) -> list[TokenIds]:
    return [_append_end(ids, end) for ids in tokenise_texts(tokenizer, texts)]


def _append_end(ids: list[int], end: int) -> TokenIds:
    return np.asarray(ids if ids and ids[-1] == end else [*ids, end], dtype=np.int32)


def _encode_completions(tokenizer: Any, end: int, batch: Sequence[TrainingExample]) -> list[EncodedExample]:
    prompts = [_drop_end(ids, end) for ids in tokenise_texts(tokenizer, [example.prompt for example in batch])]
    joint = _encode_documents(tokenizer, end, [example.prompt + example.text for example in batch])
    alone = tokenise_texts(tokenizer, [example.text for example in batch], special=False)
    return [_join_completion(*parts, end=end) for parts in zip(prompts, joint, alone, strict=True)]


def _drop_end(ids: list[int], end: int) -> list[int]:
    # Behind the first place only: a start token may be the same token as the end.
    return ids[:-1] if len(ids) > 1 and ids[-1] == end else ids


def _join_completion(prompt: list[int], joint: TokenIds, alone: list[int], *, end: int) -> EncodedExample:
    """Prompt and completion in one piece, unless a token would cross from one into the other."""
    crosses = joint[: len(prompt)].tolist() != prompt
    ids = _append_end([*prompt, *alone], end) if crosses else joint
    return EncodedExample(ids, np.arange(len(ids)) >= len(prompt))
