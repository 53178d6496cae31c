"""Conversations as tokens, those of `apply_chat_template`, and which of these are the assistant's."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aftermix.errors import TrainingError
from aftermix.training.data.conversations.answers import build_unwritten_error, find_answers
from aftermix.training.data.conversations.calls import settle_calls
from aftermix.training.data.conversations.keys import drop_loss_keys, read_learnt, refuse_unread_keys
from aftermix.training.data.conversations.marks import count_marks_by_answer, find_marked_answers, has_marks
from aftermix.training.data.conversations.text import CharacterSpan, ConversationText
from aftermix.training.data.conversations.thoughts import count_thoughts
from aftermix.training.data.conversations.written import refuse_unwritten
from aftermix.training.data.examples import TrainingExample


def refuse_without_template(tokenizer: Any, *, where: str) -> None:
    """Raise :class:`TrainingError` when `tokenizer` cannot write conversations, or not say where its tokens stand."""
    if not isinstance(tokenizer.chat_template, str):
        several = isinstance(tokenizer.chat_template, dict)
        found = "the tokenizer has several chat templates" if several else "the tokenizer has no chat template"
        remedy = "Put its chat_template.jinja into the base's folder, or write the data with `format: completion`."
        raise TrainingError(where, found, remedy)
    if not tokenizer.is_fast:
        found = "the tokenizer does not say where in the text a token stands"
        raise TrainingError(where, found, "Convert it to a fast tokenizer (tokenizer.json).")


@dataclass(frozen=True, eq=False)
class EncodedConversation:
    """One conversation of `n` tokens."""

    ids: NDArray[np.int32]
    """(n,)."""
    answered: NDArray[np.bool_]
    """(n,): the tokens that are learnt."""
    thoughts: int
    """Thoughts of the assistant in the record."""
    thoughts_left_out: int
    """Of these, those that the template does not write."""


def encode_conversation(tokenizer: Any, example: TrainingExample, *, date: str | None = None) -> EncodedConversation:
    """The tokens of the conversation, and which of them are learnt: those of the assistant's answers.

    A token that is partly the answer's counts as the answer's, unless only white space of it is: that of an opening
    or of the next message, which took in the white space at the answer's edge, does not. An answer of `weight: 0`,
    `train: false` or the like is not learnt. Raises :class:`TrainingError` for what the template refuses or does not
    write, and for a conversation whose answers cannot be found. A template that asks for today's date is given `date`.
    """
    learnt = read_learnt(example.where, example.messages)
    messages = drop_loss_keys(example.messages)
    conversation = settle_calls(ConversationText(tokenizer, example.where, messages, example.tools, date))
    text = conversation.render()
    refuse_unread_keys(conversation, text)
    spans = _find_learnt(conversation, text, learnt)
    refuse_unwritten(conversation, text)

    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    answered = _mark_tokens(text, encoded["offset_mapping"], spans)
    if not answered.any():
        raise build_unwritten_error(example.where)
    thoughts = count_thoughts(conversation, text)
    return EncodedConversation(np.asarray(encoded["input_ids"], dtype=np.int32), answered, *thoughts)


def _find_learnt(conversation: ConversationText, text: str, learnt: list[bool]) -> list[CharacterSpan]:
    """The stretches of `text` of the answers that are `learnt`."""
    if not has_marks(conversation.tokenizer.chat_template):
        return list(compress(find_answers(conversation, text), learnt))

    spans = find_marked_answers(conversation, text)
    if all(learnt):
        return spans
    counts = count_marks_by_answer(conversation, len(spans))
    return list(compress(spans, (flag for flag, count in zip(learnt, counts, strict=True) for _ in range(count))))


def _mark_tokens(text: str, offsets: list[CharacterSpan], spans: list[CharacterSpan]) -> NDArray[np.bool_]:
    """(n,) true for the tokens that, by their characters in `text`, are of one of `spans`."""
    places = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    answered = np.zeros(len(places), dtype=np.bool_)

    for start, end in spans:
        overlaps = (places[:, 0] < end) & (places[:, 1] > start)
        crosses = overlaps & ((places[:, 0] < start) | (places[:, 1] > end))
        for token in np.flatnonzero(crosses):
            first, last = places[token]
            overlaps[token] = bool(text[max(first, start) : min(last, end)].strip())
        answered |= overlaps
    return answered
