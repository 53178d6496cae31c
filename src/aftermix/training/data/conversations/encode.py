"""Conversations as tokens, those of `apply_chat_template`, and which of these are the assistant's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aftermix.errors import TrainingError
from aftermix.training.data.conversations.answers import build_unwritten_error, find_answers
from aftermix.training.data.conversations.calls import settle_calls
from aftermix.training.data.conversations.marks import find_marked_answers, has_marks
from aftermix.training.data.conversations.text import CharacterSpan, ConversationText
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


def encode_conversation(tokenizer: Any, example: TrainingExample) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Token ids (n,) of the conversation, and (n,) which of them are the assistant's.

    A token that is partly the answer's counts as the answer's, unless only white space of it is: that of an opening
    or of the next message, which took in the white space at the answer's edge, does not. Raises
    :class:`TrainingError` for what the template refuses, and for one whose answers cannot be found.
    """
    conversation = settle_calls(ConversationText(tokenizer, example.where, example.messages, example.tools))
    text = conversation.render()
    find = find_marked_answers if has_marks(tokenizer.chat_template) else find_answers
    spans = find(conversation, text)

    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    answered = _mark_tokens(text, encoded["offset_mapping"], spans)
    if not answered.any():
        raise build_unwritten_error(example.where)
    return np.asarray(encoded["input_ids"], dtype=np.int32), answered


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
