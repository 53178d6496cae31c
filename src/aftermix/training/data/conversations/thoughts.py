"""Thoughts of the assistant, and how many of them a template leaves out."""

from __future__ import annotations

import re
from typing import Any

from aftermix.training.data.conversations.text import ConversationText, choose_marker

KEYS = ("reasoning_content", "reasoning", "thinking")
"""Names under which a message holds its thought."""
IN_CONTENT = re.compile(r"(?<=<think>)(.*?\S.*?)(?=</think>)", re.DOTALL)


def count_thoughts(conversation: ConversationText, text: str) -> tuple[int, int]:
    """Thoughts of the conversation, in fields of their own or in `<think>` within the content; those left out.

    Each is exchanged for a word of its own, which is then looked for in what the template writes.
    """
    marker = choose_marker(text)
    messages, count = [], 0
    for message in conversation.messages:
        exchanged = _exchange_thought(message, f"{marker}{count}y") if message["role"] == "assistant" else None
        messages.append(exchanged or message)
        count += exchanged is not None

    if not count:
        return 0, 0
    written = conversation.exchange_messages(messages).render_or_none() or ""
    return count, sum(f"{marker}{number}y" not in written for number in range(count))


def _exchange_thought(message: dict[str, Any], word: str) -> dict[str, Any] | None:
    """The message with `word` as its thought; None where it has none."""
    fields = {key: word for key in KEYS if isinstance(message.get(key), str) and message[key].strip()}
    content = message.get("content")
    if isinstance(content, str) and not fields and IN_CONTENT.search(content):
        fields["content"] = IN_CONTENT.sub(f"\n{word}\n", content, count=1)
    return {**message, **fields} if fields else None
