"""Keys of messages: those that say which answers are learnt, and those that a template must write."""

from __future__ import annotations

from collections.abc import Sequence

from aftermix.errors import TrainingError
from aftermix.training.data.conversations.text import ConversationText
from aftermix.training.data.files import RecordFields

OF_LOSS = {
    "weight": "0 or 1",
    "train": "true or false",
    "training": "true or false",
    "trainable": "true or false",
    "loss": "true or false",
    "loss_mask": "0 or 1",
}
"""Keys that say whether an answer is learnt, and their values; null says nothing."""
WRITTEN_OR_COUNTED = ("role", "content", "reasoning_content", "reasoning", "thinking")
"""Keys that need not change the text: empty ones do not, and thoughts that are left out are counted."""
OF_TOOLS = ("name", "tool_call_id")
"""Keys by which the result of a tool finds its call, which a template may do without."""


def read_learnt(where: str, messages: Sequence[RecordFields]) -> list[bool]:
    """The answers that are learnt, one entry for each message of the assistant.

    An answer of `weight: 0`, `train: false` or another of :data:`OF_LOSS` is not. Raises :class:`TrainingError` for
    another value, for one at somebody else's message that asks to learn it, and where no answer is left.
    """
    learnt = []
    for number, message in enumerate(messages, 1):
        of_message = _read_flags(f"{where}, message {number}", message)
        if message["role"] == "assistant":
            learnt.append(all(of_message))
        elif any(of_message):
            found = f"asks to learn a message of the role '{message['role']}' ({_name_flags(message)})"
            remedy = f"Remove {_name_flags(message)}: the loss is on the assistant's messages alone."
            raise TrainingError(f"{where}, message {number}", found, remedy)

    if not any(learnt):
        keys = sorted({key for message in messages for key in OF_LOSS if message.get(key) is not None})
        named = " or ".join(f"'{key}'" for key in keys)
        found = "every answer has `weight: 0` or `train: false`, so nothing of it is learnt"
        if not {"weight", "train"} & set(keys):
            found = f"every answer has {named} of 0 or false, so nothing of it is learnt"
        raise TrainingError(where, found, f"Remove the record, or name {named} in `ignore_columns:`.")
    return learnt


def drop_loss_keys(messages: Sequence[RecordFields]) -> tuple[RecordFields, ...]:
    """The messages as a template shall see them."""
    return tuple({key: value for key, value in message.items() if key not in OF_LOSS} for message in messages)


def refuse_unread_keys(conversation: ConversationText, text: str) -> None:
    """Raise :class:`TrainingError` for a key of a message that changes nothing in the `text` of the conversation.

    What is false or empty says nothing, so it may be left out.
    """
    places: dict[str, int] = {}
    for number, message in enumerate(conversation.messages, 1):
        free = (*WRITTEN_OR_COUNTED, *(OF_TOOLS if message["role"] == "tool" else ()))
        for key, value in message.items():
            if value and key not in free:
                places.setdefault(key, number)

    for key, number in places.items():
        without = [{name: value for name, value in each.items() if name != key} for each in conversation.messages]
        if conversation.exchange_messages(without).render_or_none() == text:
            found = f"holds '{key}', which the chat template does not write"
            remedy = f"Remove it, or name it in the dataset's `ignore_columns: [{key}]`."
            raise TrainingError(f"{conversation.where}, message {number}", found, remedy)


def _read_flags(where: str, message: RecordFields) -> list[bool]:
    flags = []
    for key, values in OF_LOSS.items():
        value = message.get(key)
        if value is None:
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            found = f"expected {values} as '{key}', found {value!r}"
            raise TrainingError(where, found, f"Write {values}, or name '{key}' in `ignore_columns:`.")
        flags.append(bool(value))
    return flags


def _name_flags(message: RecordFields) -> str:
    return " and ".join(f"'{key}'" for key in OF_LOSS if message.get(key))
