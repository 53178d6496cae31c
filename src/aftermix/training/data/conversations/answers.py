"""Places of the answers in the text of a template that marks none of them.

Answer `k` is what the first `k` messages with the opening of an answer (`add_generation_prompt`) lack of the first
`k + 1` messages, wherever a longer conversation begins with the shorter one's text. Some templates write an earlier
answer otherwise than the last one (Qwen3 drops its thought, or opens the last with an empty one) or open an answer
unasked (Llama 3). An answer then begins behind its opening, and ends with the special token that follows its content,
or else where the next message begins: what the template writes behind an answer is seen by exchanging its content.
"""

from __future__ import annotations

import re
from typing import Any

from aftermix.errors import TrainingError
from aftermix.training.data.conversations.text import (
    CharacterSpan,
    ConversationText,
    choose_marker,
    count_common_start,
    list_boundaries,
)


def find_answers(conversation: ConversationText, text: str) -> list[CharacterSpan]:
    """The stretch of `text`, the whole conversation's, that each message of the assistant takes, in order.

    Raises :class:`TrainingError` for an answer that the template drops or that cannot be found.
    """
    spans: list[CharacterSpan] = []
    for place, message in enumerate(conversation.messages):
        if message["role"] == "assistant":
            start = _find_start(conversation, text, place, spans[-1][1] if spans else 0)
            spans.append((start, _find_end(conversation, text, start, place)))
    return spans


def _find_start(conversation: ConversationText, text: str, place: int, cursor: int) -> int:
    """First character of the answer that is message `place`; earlier answers end before `cursor`."""
    earlier = conversation.keep_first(place)
    before, bare = earlier.render_or_none(prompt=True), earlier.render_or_none()
    if before is not None and text.startswith(before):
        return len(before)

    if before is None or bare is None:
        asked = conversation.render_or_none(prompt=True)
        before, bare = (asked, text) if asked is not None and asked.startswith(text) else ("", "")

    start = _find_opening(conversation, text, place, before[len(bare) :], cursor)
    if start is None:
        raise _build_lost_error(conversation, place)
    return start


def _find_opening(conversation: ConversationText, text: str, place: int, opening: str, cursor: int) -> int | None:
    """End of the `opening` that stands before the content of message `place`, or of as much as the template kept.

    It is the nearest one, so words of a user that look like an opening are not taken for it. Where there is none, what
    stands before the content, a thought for example, is no part of the answer.
    """
    changed, marker = _exchange_content(conversation, place, text)
    if changed is None:
        return None
    if marker not in changed:
        raise build_unwritten_error(conversation.where)

    head = changed.partition(marker)[0]
    common = head[: count_common_start(head, text)]
    for cut in list_boundaries(conversation.tokenizer, opening):
        found = common.rfind(opening[:cut], cursor)
        if found >= 0 and opening[:cut].strip():
            return found + cut
    return len(head) if common == head else None


def _find_end(conversation: ConversationText, text: str, start: int, place: int) -> int:
    """End in `text` of the answer that is message `place` and begins at `start`."""
    message, is_last = conversation.messages[place], place + 1 == len(conversation.messages)
    after = text if is_last else conversation.keep_first(place + 1).render_or_none()

    # Calls follow the content, so that a special token behind it does not end the turn.
    content = "" if message.get("tool_calls") else message.get("content") or ""
    at_token = _find_end_of_turn(conversation.tokenizer, text, start, content)

    if after is not None and text.startswith(after) and len(after) >= start:
        opened = is_last and conversation.render_or_none(prompt=True) == text
        # A template that opens an answer unasked has written that opening behind the last answer too.
        return at_token if opened and at_token is not None else len(after)

    end = at_token if at_token is not None else _find_next_message(conversation, text, place)
    if end is None or end < start:
        raise _build_lost_error(conversation, place)
    return end


def _find_end_of_turn(tokenizer: Any, text: str, start: int, content: str) -> int | None:
    """End in `text` of the answer of `content` that begins at `start`; None when it does not stand there."""
    content = content.strip()
    specials = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
    if not content or not specials:
        return None

    answer = re.compile(rf"\s*{re.escape(content)}\s*(?:{'|'.join(specials)})")
    match = answer.match(text, start)
    return match.end() if match else None


def _find_next_message(conversation: ConversationText, text: str, place: int) -> int | None:
    """Place in `text` where the message behind answer `place` begins; None when it cannot be told.

    With another content the answer is the last one's content and closing, and the rest is what `text` ends with.
    """
    changed, marker = _exchange_content(conversation, place, text)
    alone, _ = _exchange_content(conversation.keep_first(place + 1), place, text)
    if changed is None or alone is None or changed.count(marker) != 1 or alone.count(marker) != 1:
        return None

    tail, closing = changed.partition(marker)[2], alone.partition(marker)[2]
    common = count_common_start(tail, closing)
    cuts = [common, *(cut for cut in list_boundaries(conversation.tokenizer, closing) if cut <= common)]
    kept = cuts[0] if common == len(closing) else next(iter(cuts[1:]), None)
    if kept is None or not text.endswith(tail[kept:]):
        return None
    return len(text) - len(tail[kept:])


def _exchange_content(conversation: ConversationText, place: int, text: str) -> tuple[str | None, str]:
    """The text with a marker as the content of message `place`, None where it is refused; and the marker."""
    marker = choose_marker(text)
    return conversation.change_message(place, content=marker).render_or_none(), marker


def build_unwritten_error(where: str) -> TrainingError:
    """The refusal of a conversation of which the template writes no answer."""
    remedy = "Remove the record, or mark the answers in the template with {% generation %}."
    return TrainingError(where, "the chat template writes no answer of it", remedy)


def _build_lost_error(conversation: ConversationText, place: int) -> TrainingError:
    found = f"the chat template writes the text before answer {place + 1} differently when more follows"
    remedy = "Mark the answers in the template with {% generation %} and {% endgeneration %}."
    return TrainingError(f"{conversation.where}, message {place + 1}", found, remedy)
