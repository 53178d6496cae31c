"""Tool calls as a template takes them, however the data spells them.

Arguments are objects or the JSON text of one (as OpenAI's interface gives them). The template gets objects, since most
templates write JSON themselves and would write a text's quotes once more. One that fails on objects, or writes
Python's form of them, gets the JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aftermix.errors import TrainingError
from aftermix.training.data.conversations.text import ConversationText, choose_marker
from aftermix.training.data.files import RecordFields


def settle_calls(conversation: ConversationText) -> ConversationText:
    """The conversation with calls in the form that its template writes properly.

    Raises :class:`TrainingError` for calls that are no list of objects, and for arguments that begin as JSON but are
    none.
    """
    if not any(message.get("tool_calls") for message in conversation.messages):
        return conversation

    placed = [(f"{conversation.where}, message {number}", each) for number, each in enumerate(conversation.messages, 1)]
    read = [_read_calls(where, message) for where, message in placed]
    as_objects, as_text = (
        _fill_contents(conversation.exchange_messages([_change_arguments(message, change) for message in read]))
        for change in (_parse_json, _write_json)
    )
    return as_objects if _writes_objects(as_objects, as_text) else as_text


def _fill_contents(conversation: ConversationText) -> ConversationText:
    """The conversation with empty words beside calls that have none, where its template refuses it for the lack."""
    bare = [bool(message.get("tool_calls")) and message.get("content") is None for message in conversation.messages]
    if not any(bare) or conversation.render_or_none() is not None:
        return conversation
    filled = conversation.exchange_messages(
        [
            {**message, "content": ""} if lacks else message
            for message, lacks in zip(conversation.messages, bare, strict=True)
        ]
    )
    return filled if filled.render_or_none() is not None else conversation


def read_tools(where: str, value: Any) -> list[RecordFields]:
    """The schemas of a record's `tools`: a list of objects, or the JSON text of the list or of its elements.

    `parameters` may be JSON text as well. Raises :class:`TrainingError` for anything else.
    """
    value = parse_json_text(value) if isinstance(value, str) else value
    tools = read_objects(value) if value else []
    if tools is None:
        found = f"expected a list of objects in 'tools', found {describe_kind(value)}"
        remedy = "Write `[{type: function, function: {name: ..., parameters: {...}}}, ...]`, or that as JSON text."
        raise TrainingError(where, found, remedy)
    return [_change_field(tool, "parameters", _parse_json) for tool in tools]


def read_objects(value: Any) -> list[RecordFields] | None:
    """The objects of a list, or of JSON text of the list or of its elements; None for anything else.

    A key that is null is one that the object does not have: chat templates take it so.
    """
    value = parse_json_text(value) if isinstance(value, str) else value
    if not isinstance(value, list):
        return None

    entries = [parse_json_text(entry) if isinstance(entry, str) else entry for entry in value]
    if not all(isinstance(entry, dict) for entry in entries):
        return None
    return [{key: field for key, field in entry.items() if field is not None} for entry in entries]


def describe_kind(value: Any) -> str:
    """The type of `value` for a message, of a list that of the first element that is no object."""
    if isinstance(value, list):
        strangers = [type(entry).__name__ for entry in value if not isinstance(entry, dict)]
        return f"a list of {strangers[0]}" if strangers else "list"
    return type(value).__name__


def parse_json_text(text: str) -> Any:
    """The value of the JSON `text`, read once more where that is JSON text again; `text` where it is none.

    >>> parse_json_text('{"town": "Bonn"}')
    {'town': 'Bonn'}
    >>> parse_json_text('Bonn')
    'Bonn'
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return parse_json_text(value) if isinstance(value, str) and value != text else value


def _read_calls(where: str, message: RecordFields) -> RecordFields:
    """The message with its calls as a list of objects, checked."""
    calls = message.get("tool_calls")
    if not calls:
        return message

    objects = read_objects(calls)
    if objects is None:
        found = f"expected a list of objects in 'tool_calls', found {describe_kind(calls)}"
        remedy = "Write `[{type: function, function: {name: ..., arguments: {...}}}, ...]`, or that as JSON text."
        raise TrainingError(where, found, remedy)

    changed = {**message, "tool_calls": objects}
    _change_arguments(changed, lambda value: _refuse_broken(where, value))
    return changed


def _refuse_broken(where: str, value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("{") and not isinstance(_parse_json(value), dict):
        found = f"the 'arguments' of a call begin as an object of JSON and are none: {value[:60]}"
        raise TrainingError(where, found, "Write an object, or its JSON text.")
    return value


def _change_arguments(message: RecordFields, change: Callable[[Any], Any]) -> RecordFields:
    calls = message.get("tool_calls")
    changed = [_change_field(call, "arguments", change) for call in calls or []]
    return {**message, "tool_calls": changed} if calls else message


def _change_field(entry: RecordFields, field: str, change: Callable[[Any], Any]) -> RecordFields:
    """A call or a schema with another `field`, be it in its `function` or beside its name."""
    if isinstance(entry.get("function"), dict):
        return {**entry, "function": _change_field(entry["function"], field, change)}
    return {**entry, field: change(entry[field])} if field in entry else entry


def _parse_json(value: Any) -> Any:
    """Objects and lists that a text spells; no text at all is a call without arguments; other text is as it is."""
    if not isinstance(value, str):
        return value
    parsed = parse_json_text(value) if value.strip() else {}
    return parsed if isinstance(parsed, dict | list) else value


def _write_json(value: Any) -> Any:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _writes_objects(as_objects: ConversationText, as_text: ConversationText) -> bool:
    """True unless the template fails on objects alone, or writes them as Python does."""
    text = as_objects.render_or_none()
    if text is None:
        return as_text.render_or_none() is None

    marker = choose_marker(text)
    probe = as_objects.exchange_messages(
        [_change_arguments(message, lambda _: {marker: marker}) for message in as_objects.messages]
    )
    return f"'{marker}': '{marker}'" not in (probe.render_or_none() or "")
