"""Conversations as the tokenizer's chat template writes them, and where in them the assistant speaks.

The tokens are those of `apply_chat_template`. The answers are the stretches that the template marks with
`{% generation %}`; of a template without marks, answer `k` is what the first `k` messages with the opening of an answer
(`add_generation_prompt`) lack of the first `k + 1` messages. That holds only where a longer conversation begins with
the shorter one's text, which is checked for every answer. Some templates write the last answer otherwise than earlier
ones (Qwen3 adds an empty thought to it) or open an answer unasked (Llama 3); an earlier answer is then its content, as
it stands at the answer's opening, to the special token that ends the turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from aftermix.errors import TrainingError
from aftermix.training.data.examples import TrainingExample

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
TEMPLATE_FAULTS = (jinja2.TemplateError, ValueError, TypeError, KeyError, AttributeError, IndexError)

CharacterSpan = tuple[int, int]
"""First character in the text, and the one behind the last."""


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

    A token that is partly the answer's counts as the answer's. Raises :class:`TrainingError` for what the template
    refuses, and for one whose answers cannot be found.
    """
    if MARKS.search(tokenizer.chat_template):
        ids, answered = _encode_marked(tokenizer, example)
    else:
        text = _render_messages(tokenizer, example, len(example.messages))
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = encoded["input_ids"]
        answered = _mark_overlaps(encoded["offset_mapping"], list(_find_answers(tokenizer, example, text)))

    if not answered.any():
        remedy = "Remove the record, or mark the answers in the template with {% generation %}."
        raise TrainingError(example.where, "the chat template writes no answer of it", remedy)
    return np.asarray(ids, dtype=np.int32), answered


def _encode_marked(tokenizer: Any, example: TrainingExample) -> tuple[list[int], NDArray[np.bool_]]:
    out = _apply_template(
        tokenizer, example, list(example.messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return out["input_ids"], np.asarray(out["assistant_masks"], dtype=np.bool_)


def _find_answers(tokenizer: Any, example: TrainingExample, text: str) -> Iterator[CharacterSpan]:
    """The stretches of `text` that are the assistant's."""
    for place, message in enumerate(example.messages):
        if message["role"] == "assistant":
            before = _render_messages(tokenizer, example, place, add_generation_prompt=True)
            yield len(before), _find_end(tokenizer, example, text, before, place)


def _find_end(tokenizer: Any, example: TrainingExample, text: str, before: str, place: int) -> int:
    """End in `text` of the answer that is message `place` and follows `before`."""
    is_last = place + 1 == len(example.messages)
    after = text if is_last else _render_messages(tokenizer, example, place + 1)
    at_token = _find_end_of_turn(tokenizer, text, before, example.messages[place].get("content") or "")

    if text.startswith(after) and after.startswith(before):
        opened = is_last and _render_messages(tokenizer, example, place + 1, add_generation_prompt=True) == text
        # A template that opens an answer unasked has written that opening behind the last answer too.
        return at_token if opened and at_token is not None else len(after)

    if at_token is None:
        found = f"the chat template writes the text before answer {place + 1} differently when more follows"
        remedy = "Mark the answers in the template with {% generation %} and {% endgeneration %}."
        raise TrainingError(f"{example.where}, message {place + 1}", found, remedy)
    return at_token


def _find_end_of_turn(tokenizer: Any, text: str, before: str, content: str) -> int | None:
    """End in `text` of the answer of `content` that follows `before`; None when it does not stand there."""
    content = content.strip()
    specials = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
    if not content or not specials or not text.startswith(before):
        return None

    answer = re.compile(rf"\s*{re.escape(content)}\s*(?:{'|'.join(specials)})")
    match = answer.match(text, len(before))
    return match.end() if match else None


def _render_messages(tokenizer: Any, example: TrainingExample, count: int, **options: Any) -> str:
    """The text of the first `count` messages."""
    if count == 0:
        # Some templates fail on no message at all; where the assistant speaks first, nothing stands before.
        return ""
    text: str = _apply_template(tokenizer, example, list(example.messages[:count]), tokenize=False, **options)
    return text


def _apply_template(tokenizer: Any, example: TrainingExample, messages: list[Any], **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(messages, tools=list(example.tools) or None, **options)
    except TEMPLATE_FAULTS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = "Write the messages as the model's template wants them."
        raise TrainingError(example.where, f"the chat template refuses it ({reason})", remedy) from error


def _mark_overlaps(offsets: list[CharacterSpan], spans: list[CharacterSpan]) -> NDArray[np.bool_]:
    """(n,) true for the tokens that, by their characters, overlap one of `spans`."""
    places = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    answered = np.zeros(len(places), dtype=np.bool_)
    for start, end in spans:
        answered |= (places[:, 0] < end) & (places[:, 1] > start)
    return answered
