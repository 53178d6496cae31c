"""Examples of a dataset: documents, conversations, or prompts with completions, each checked where it stands."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftermix.errors import TrainingError
from aftermix.training.data.files import Fields, Placed, data_parts, is_plain_text, records

SHOWN_FIELDS = 8
FIELDS_OF_FORMAT = {"text": (), "chat": ("messages", "tools"), "completion": ("prompt", "completion")}
"""Fields read of a record, by format; `text` reads `text_field` in their place."""


@dataclass(frozen=True)
class Example:
    """One document, or one thing to answer. What is not of its format is empty."""

    where: str
    text: str = ""
    """The document, or the completion."""
    prompt: str = ""
    messages: tuple[Fields, ...] = ()
    tools: tuple[Fields, ...] = ()

    @property
    def characters(self) -> int:
        """Characters (Unicode code points) of its texts."""
        return len(self.text) + len(self.prompt) + sum(len(message.get("content") or "") for message in self.messages)


@dataclass(frozen=True)
class Documents:
    """The texts of one dataset in file order, and how many documents without a single character were left out."""

    path: Path
    texts: list[str]
    empty: int

    @property
    def characters(self) -> int:
        """Characters (Unicode code points) of all texts."""
        return sum(map(len, self.texts))


def read_documents(path: Path, *, text_field: str = "text") -> Documents:
    """Every document of the data at `path`, in memory; :func:`examples` for what need not fit there.

    A file of JSON lines holds one object a line, whose `text_field` is a document; blank lines between objects are
    passed over. Parquet and saved datasets hold one a row. Anything else is one plain-text document. Raises
    :class:`TrainingError` for what is missing, unreadable or empty, and for a record without text, by its place.
    """
    texts = [example.text for example in examples(path, text_field=text_field)]
    filled = [text for text in texts if text]
    refuse_empty(path, len(filled))
    return Documents(path=path, texts=filled, empty=len(texts) - len(filled))


def refuse_empty(path: Path, documents: int) -> None:
    """Raise :class:`TrainingError` when there is no document with text."""
    if not documents:
        raise TrainingError(str(path), "holds no text", "Name a file with at least one document.")


def examples(path: Path, *, format: str = "text", text_field: str = "text") -> Iterator[Example]:  # noqa: A002 - the key
    """The examples of the data at `path`, one by one, empty documents among them.

    `format` is `text`, `chat` (records with `messages`) or `completion` (records with `prompt` and `completion`).
    Raises :class:`TrainingError` at the first record that is not of that format.
    """
    if format != "text":
        _refuse_plain_text(path, format)

    wanted = FIELDS_OF_FORMAT[format] or (text_field,)
    parse = {"text": _document, "chat": _conversation, "completion": _completion}[format]
    for placed in records(path, wanted):
        yield parse(placed, text_field)


def _refuse_plain_text(path: Path, format: str) -> None:  # noqa: A002
    for part in data_parts(path):
        if is_plain_text(part):
            remedy = "Name JSON lines, parquet or a saved dataset, or remove `format:`."
            raise TrainingError(str(part), f"is plain text, which `format: {format}` cannot read", remedy)


def _document(placed: Placed, text_field: str) -> Example:
    where, record = placed
    return Example(where, text=record if isinstance(record, str) else _text(where, record, text_field))


def _completion(placed: Placed, _: str) -> Example:
    where, record = placed
    assert isinstance(record, dict)  # noqa: S101 - plain text was refused
    text = _text(where, record, "completion")
    if not text:
        raise TrainingError(where, "has an empty 'completion'", "Write the answer, or remove the record.")
    return Example(where, text=text, prompt=_text(where, record, "prompt"))


def _conversation(placed: Placed, _: str) -> Example:
    where, record = placed
    assert isinstance(record, dict)  # noqa: S101 - plain text was refused
    messages = _list_of_objects(where, record, "messages", required=True)
    for number, message in enumerate(messages, 1):
        _check_message(f"{where}, message {number}", message)

    if not any(message["role"] == "assistant" for message in messages):
        remedy = "The loss is on the assistant's messages: add one, or remove the record."
        raise TrainingError(where, "has no message of the role 'assistant'", remedy)

    tools = _list_of_objects(where, record, "tools", required=False)
    return Example(where, messages=tuple(messages), tools=tuple(tools))


def _check_message(where: str, message: Fields) -> None:
    _text(where, message, "role")
    if message.get("content") is not None or not message.get("tool_calls"):
        _text(where, message, "content")


def _list_of_objects(where: str, record: Fields, field: str, *, required: bool) -> list[Fields]:
    value = record.get(field)
    if value is None and not required:
        return []
    if field not in record:
        raise _missing(where, record, field)

    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        found = f"expected a list of objects in '{field}', found {_kind(value)}"
        raise TrainingError(
            where, found, "Write a list such as `[{role: ..., content: ...}, ...]`, or remove the line."
        )

    # Columns of structures hold every key in every row, as null where a message does not have it.
    return [{key: entry for key, entry in item.items() if entry is not None} for item in value]


def _text(where: str, record: Fields, field: str) -> str:
    if field not in record:
        raise _missing(where, record, field)

    text = record[field]
    if not isinstance(text, str):
        found = f"expected text in '{field}', found {_kind(text)}"
        raise TrainingError(where, found, "Write a string, or remove the line.")

    # JSON can spell a surrogate that UTF-8 cannot.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TrainingError(where, f"holds half a surrogate pair ({error.reason})", "Repair the text.") from error
    return text


def _missing(where: str, record: Collection[str], field: str) -> TrainingError:
    fields = ", ".join(sorted(record)[:SHOWN_FIELDS]) or "none"
    return TrainingError(where, f"has no field '{field}'; its fields: {fields}", _remedy(set(record), field))


def _remedy(present: set[str], field: str) -> str:
    if "messages" in present:
        return "Set `format: chat` for conversations, or `text_field:` to the field with the text."
    if {"prompt", "completion"} <= present:
        return "Set `format: completion` for these, or `text_field:` to the field with the text."
    if field in ("role", "content", "messages", "prompt", "completion", "tools"):
        return f"Call it '{field}', or set `format:` to what the data holds."
    return "Set `text_field:` to the field with the text."


def _kind(value: Any) -> str:
    if isinstance(value, list):
        strangers = [type(entry).__name__ for entry in value if not isinstance(entry, dict)]
        return f"a list of {strangers[0]}" if strangers else "list"
    return type(value).__name__
