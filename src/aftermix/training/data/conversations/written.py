"""Words and tools of a conversation, each of which the template must write: what it passes over is refused by place."""

from __future__ import annotations

from dataclasses import replace

from aftermix.errors import TrainingError
from aftermix.training.data.conversations.text import ConversationText, choose_marker

OTHER_TEMPLATE = "put a chat_template.jinja that writes them into the base's folder"


def refuse_unwritten(conversation: ConversationText, text: str) -> None:
    """Raise :class:`TrainingError` where tools, or the words of a message, change nothing in `text`, the whole's.

    A template passes over roles that it does not know (developer, tool), a second system message, the words beside a
    call, or tools beside a system message. An answer would be learnt without what it answers.
    """
    if conversation.tools and replace(conversation, tools=()).render_or_none() == text:
        remedy = f"Name it in the dataset's `ignore_columns: [tools]`, or {OTHER_TEMPLATE}."
        raise TrainingError(conversation.where, "has 'tools', which the chat template does not write here", remedy)

    for place in _list_missing(conversation, text):
        if conversation.change_message(place, content=choose_marker(text)).render_or_none() == text:
            role = conversation.messages[place]["role"]
            found = f"the chat template does not write the words of this message (role '{role}')"
            remedy = f"Give them to a role that it writes, remove them, or {OTHER_TEMPLATE}."
            raise TrainingError(f"{conversation.where}, message {place + 1}", found, remedy)


def _list_missing(conversation: ConversationText, text: str) -> list[int]:
    """Places of messages whose words may be missing: all are exchanged at once for words that are then looked for."""
    marker = choose_marker(text)
    spoken = [place for place, each in enumerate(conversation.messages) if (each.get("content") or "").strip()]
    exchanged = [
        {**each, "content": f"{marker}{place}y"} if place in spoken else each
        for place, each in enumerate(conversation.messages)
    ]
    written = conversation.exchange_messages(exchanged).render_or_none() or ""
    return [place for place in spoken if f"{marker}{place}y" not in written]
